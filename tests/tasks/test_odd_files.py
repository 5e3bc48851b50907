"""Files as people have them: every spelling of a list, columns without names, empty columns, broken quotes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isp_mech.errors import InputError
from isp_mech.tasks import read_task, write_task
from isp_mech.tasks.rows import parse_classes

AB = "\"[' A', ' B']\""


def read(tmp_path: Path, text: str, name: str = "t.csv", **settings):
    path = tmp_path / name
    path.write_bytes(text.encode())
    task = read_task(path, **settings)
    again = read_task(write_task(task, tmp_path / f"again.{name}"), metric=task.metric)
    assert again.items == task.items
    return task


def problems(tmp_path: Path, text: str, name: str = "t.csv") -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, name)
    return caught.value.problems


# --- classes -------------------------------------------------------------------------------------------

SPELLINGS = [
    "[' A', ' B']", "(' A', ' B',)", "' A', ' B'", "[''' A''', \"\"\" B\"\"\"]", "[' ' 'A', ' B']", "[r' A', u' B']",
    "[ # two\n ' A',\n ' B', # the second\n]", "[' A',\\\n ' B']", "[(' A'), ' B']", "['\\x20A', '\\N{SPACE}B']",
    "[\" A\", ' B']", "[' A', (' '\n'B')]",
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_any_literal_that_python_reads_as_a_list_of_texts(text):
    assert parse_classes(text) == tuple(ast.literal_eval(text)) == (" A", " B")


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True), st.booleans())
def test_what_python_writes_is_read(texts, as_tuple):
    texts = [text for text in texts if text.encode("utf-8", "ignore").decode() == text]
    assert parse_classes(repr(tuple(texts) if as_tuple else texts)) == tuple(texts)


MARKS = ["'", '"', "'''", '"""', "a", " ", ",", "[", "]", "(", ")", "\\", "\n", "#", "r"]  # fmt: skip


@given(st.lists(st.sampled_from(MARKS), max_size=14))
def test_whatever_is_written_is_what_python_reads_or_refused(pieces):
    text = "".join(pieces)
    try:
        found = parse_classes(text)
    except ValueError as error:
        assert "expected" in str(error)
    else:
        value = ast.literal_eval(text.strip())
        assert found == ((value,) if isinstance(value, str) else tuple(value))


@pytest.mark.parametrize("text", ["[' A' ' B']", "[' A'\n ' B']", "[' A, x' ' B' ' C']"])
def test_a_list_as_numpy_prints_it_is_refused(text):
    with pytest.raises(ValueError, match="texts without commas between as numpy prints them, expected a list of texts"):
        parse_classes(text)


@pytest.mark.parametrize(
    "text",
    ["array([' A', ' B'], dtype=object)", "{' A', ' B'}", "[' A', b' B']", "[' A', 5]", "[' A'; ' B']", "“A”, “B”"],
)
def test_what_is_no_list_of_texts_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a list of texts such as \[' A', ' B'\]"):
        parse_classes(text)


def test_hostile_spellings_are_refused_at_once():
    for text in ("'''" * 100_000, "['a'" + " 'b'" * 3_000_000 + "]", "(" * 60 + "'a'" + ")" * 60, "#" * 10**6):
        with pytest.raises(ValueError, match="expected"):
            parse_classes(text)


# --- columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "extra"), [
    (f",prompt,classes,answer_index\r\n7,Q?,{AB},1\r\n", {"": "7"}),  # the index that pandas writes
    (f"Unnamed: 0,prompt,classes,answer_index\n7,Q?,{AB},1\n", {"Unnamed: 0": "7"}),
    (f"prompt,classes,answer_index,,\nQ?,{AB},1,,\n", {}),
    (f",prompt,classes,answer_index,\n7,Q?,{AB},1,\n", {"": "7"}),
    (f"prompt,classes,answer_index,,\nQ?,{AB},1\n", {}),
    (f"prompt,classes,answer_index\nQ?,{AB},1,,\n", {}),
    (f"\ufeffprompt,classes,answer_index\r\nQ?,{AB},1\r\n", {}),
    (f"prompt,classes,answer_index\rQ?,{AB},1\r", {}),
    (f"prompt,other_prompt,completion,classes,answer_index,anchor\nQ?,,,{AB},1,\n", {}),
])  # fmt: skip
def test_columns_without_a_name_and_empty_ones_do_no_harm(tmp_path, text, extra):
    task = read(tmp_path, text)
    (item,) = task
    assert task.metric == "classification" and item.prompt == "Q?" and item.classes == (" A", " B")
    assert item.answer == 1 and dict(item.extra) == extra and item.other_prompt is None


def test_empty_optional_fields_of_json_and_of_some_rows_alone(tmp_path):
    row = '{"prompt":"Q","classes":["a","b"],"answer_index":1'
    task = read(tmp_path, f'{row},"other_prompt":null,"completion":""}}\r\n{row}}}\r\n', "t.jsonl")
    assert task.metric == "classification" and [i.other_prompt for i in task] == [None, None]
    task = read(tmp_path, f"prompt,other_prompt,classes,answer_index\nQ,P,{AB},0\nR,,{AB},1\n", metric="classification")
    assert [i.other_prompt for i in task] == ["P", None]
    task = read(tmp_path, "prompt,true_answer,anchor\nQ?,5,\nR?,,\n")
    assert task.metric == "numeric" and [dict(i.extra) for i in task] == [{"true_answer": "5"}, {}]
    assert problems(tmp_path, f"prompt,other_prompt,classes,answer_index\nQ,P,{AB},0\nR,,{AB},1\n") == (
        "line 3: field 'other_prompt': found '', expected some text",
    )
    assert problems(tmp_path, "prompt,classes,answer_index\nQ?,,0\n") == (
        "line 2: field 'classes': found '', expected a list of texts such as [' A', ' B']",
    )


def test_columns_without_names_that_hold_texts_and_other_separators_are_named(tmp_path):
    assert problems(tmp_path, f",prompt,classes,answer_index,\n0,Q?,{AB},0,x\n") == (
        "line 1: columns 1, 5 have no name, and texts: expected a name for all but one",
    )
    assert problems(tmp_path, f"prompt,classes,answer_index\nQ?,{AB},0,x\n") == ("line 2: found 4 cells, expected 3",)
    for mark in (";", "\t"):
        text = f"prompt{mark}classes{mark}answer_index\nQ{mark}['a','b']{mark}0\n"
        assert problems(tmp_path, text) == (f"line 1: {mark!r} between the columns, expected commas",)


# --- broken quotes --------------------------------------------------------------------------------------


def test_everything_wrong_is_told_also_behind_rows_with_broken_quotes(tmp_path):
    rows = [
        "prompt,classes,answer_index",
        f"Q?,{AB},7",
        f'"R?,{AB},0',  # not closed: it would swallow the next
        f"S?,{AB},8",
        f'"T?",{AB},0',
        "U?,\"['x']\",0",
        f'"V"?,{AB},0',  # closed too early
        f",{AB},0",
        f'"W?,{AB},0',  # not closed to the end
    ]
    assert sorted(problems(tmp_path, "\n".join(rows) + "\n")) == [
        "line 2: field 'answer_index': found 7, expected a whole number from 0 to 1",
        "line 3: broken CSV: ',' expected after '\"'",
        "line 4: field 'answer_index': found 8, expected a whole number from 0 to 1",
        "line 6: field 'classes': found 1 (['x']), expected at least 2",
        "line 7: broken CSV: ',' expected after '\"'",
        "line 8: field 'prompt': found '', expected some text",
        "line 9: broken CSV: ',' expected after '\"'",
    ]


def test_nothing_is_said_of_the_rest_of_a_broken_row(tmp_path):
    text = f'prompt,classes,answer_index\n"a\nb "c" d\ne",{AB},0\nS?,{AB},8\n'
    assert problems(tmp_path, text) == (
        "line 2: broken CSV: ',' expected after '\"'",
        "line 5: field 'answer_index': found 8, expected a whole number from 0 to 1",
    )


def test_a_file_of_nothing_but_open_quotes_is_given_up_soon(tmp_path):
    text = "prompt,classes,answer_index\n" + '"a,b\n' * 200_001
    found = problems(tmp_path, text)
    assert len(found) == 50 and all("broken CSV" in line for line in found)
