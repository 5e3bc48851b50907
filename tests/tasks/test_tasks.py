from __future__ import annotations

import csv
import json
import pickle
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isp_mech.errors import InputError
from isp_mech.tasks import METRICS, Item, Task, read_task, text_files, write_task
from isp_mech.tasks.items import NEEDS

PRIZE = Path(__file__).parents[3] / "shared" / "data" / "prize"
IN_A_FOLDER = [HealthCheck.function_scoped_fixture]

GOOD = {"prompt": "Q: 2+2? A:", "classes": [" 4", " 5"], "answer_index": 0}


def jsonl(tmp_path, *lines, name="task.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else (x if isinstance(x, str) else json.dumps(x)).encode() for x in lines)
        + b"\n"
    )
    return path


def problems(path, **settings) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read_task(path, **settings)
    assert str(caught.value).startswith(str(path))
    return caught.value.problems


# ---- the prize's own files


@pytest.mark.parametrize(
    ("name", "n", "classes"),
    [
        ("neqa", 300, (" A", " B")),
        ("hindsight-neglect", 315, (" Y", " N")),
    ],
)
def test_the_prize_files_are_read_and_written_without_loss(name, n, classes, tmp_path):
    source = PRIZE / f"{name}_classification.jsonl"
    if not source.exists():
        pytest.skip(f"the prize's data are not at {source}")
    task = read_task(source)
    assert (task.name, task.metric, len(task), task.equally_likely) == (name, "classification", n, True)
    assert {item.classes for item in task} == {classes} and "arXiv 2306.09479" in task.citation
    assert [item.id for item in task] == [str(i) for i in range(n)]
    before = [json.loads(line) for line in source.read_text("utf-8").split("\n") if line]
    assert [item.prompt for item in task] == [row["prompt"] for row in before]
    assert list(task[0].extra.items()) == [("round", 1), ("part", 1)]
    written = write_task(task, tmp_path / "again.jsonl")
    after = [json.loads(line) for line in written.read_text("utf-8").split("\n") if line]
    assert after == before and [list(row) for row in after] == [list(row) for row in before]

    in_cells = write_task(task, tmp_path / "again.csv")
    with open(in_cells, encoding="utf-8", newline="") as file:
        cells = list(csv.reader(file))
    assert cells == [list(before[0]), *([str(value) for value in row.values()] for row in before)]
    again = read_task(in_cells)
    assert [(i.prompt, i.classes, i.answer) for i in again] == [(i.prompt, i.classes, i.answer) for i in task]
    assert write_task(again, tmp_path / "third.csv").read_bytes() == in_cells.read_bytes()


def test_the_matched_questions_are_no_task():
    source = PRIZE / "neqa-100-plain.jsonl"
    if not source.exists():
        pytest.skip(f"the prize's data are not at {source}")
    assert problems(source) == (
        "found 'question', 'choices', 'answer': expected prompt with classes and answer_index (classification; logodds "
        "with other_prompt), with completion (sequence_prob), or with true_answer or anchor (numeric)",
    )


# ---- the five metrics


def test_the_metric_is_read_from_the_fields(tmp_path):
    logodds = {**GOOD, "other_prompt": "Q: 3+2? A:"}
    task = read_task(jsonl(tmp_path, logodds))
    assert task.metric == "logodds" and task[0].other_prompt == "Q: 3+2? A:"
    assert read_task(jsonl(tmp_path, logodds), metric="absolute_logodds").metric == "absolute_logodds"
    assert read_task(jsonl(tmp_path, logodds), metric="classification")[0].other_prompt == "Q: 3+2? A:"
    task = read_task(jsonl(tmp_path, {"prompt": "To be or not to be,", "completion": " that is"}))
    assert task.metric == "sequence_prob" and task[0].classes == (" that is",) and task[0].answer == 0
    task = read_task(jsonl(tmp_path, {"prompt": "How many?", "true_answer": 5, "anchor": 100}))
    assert task.metric == "numeric" and task[0].classes == () and task[0].extra == {"true_answer": 5, "anchor": 100}
    assert read_task(jsonl(tmp_path, {"prompt": "How many?"}), metric="numeric").metric == "numeric"
    assert set(NEEDS) == set(METRICS)


def test_name_citation_and_spaces(tmp_path):
    path = jsonl(tmp_path, GOOD, name="Redefine_Math_classification.jsonl")
    task = read_task(path)
    assert task.name == "Redefine_Math" and task.citation.startswith("Xudong Shen")
    assert task[0].classes == (" 4", " 5") and task.source == str(path) and task.equally_likely is False
    assert read_task(path, name="mine").name == "mine" and read_task(path, name="mine").citation == ""


@pytest.mark.parametrize(
    ("classes", "likely"),
    [
        ([" A", " B"], True),
        ([" B", " A", " C"], True),
        ([" Y", " N"], True),
        (["(A)", "(B)"], True),
        (["No", "yes"], True),
        ([" A", " C"], False),
        ([" 4", " 3"], False),
        ([" cat", " dog"], False),
        (["A", "a "], False),
    ],
)
def test_guessing_has_a_meaning_for_labels_only(classes, likely):
    task = Task("t", (Item("0", "p", (" A", " B")), Item("1", "p", tuple(classes))))
    assert task.equally_likely is likely
    assert Task("t", task.items, equally_likely=not likely).equally_likely is not likely


# ---- what is wrong with a file


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"classes": [" 4"]}, "field 'classes': found 1 ([' 4']), expected at least 2"),
        ({"classes": []}, "field 'classes': found 0 ([]), expected at least 2"),
        ({"classes": [" 4", " 4"]}, "field 'classes': found the class ' 4' more than once, expected different classes"),
        ({"classes": [" 4", ""]}, "field 'classes': found the class '', expected non-empty texts"),
        ({"classes": [" 4", 5]}, "field 'classes': found the class 5, expected non-empty texts"),
        (
            {"classes": "[' 4', 5]"},
            "field 'classes': found \"[' 4', 5]\", expected a list of texts such as [' A', ' B']",
        ),
        (
            {"classes": "__import__('os').getcwd()"},
            "field 'classes': found \"__import__('os').getcwd()\", expected a list of texts such as [' A', ' B']",
        ),
        ({"classes": {"a": 1}}, "field 'classes': found {'a': 1}, expected a list of texts such as [' A', ' B']"),
        ({"classes": "('a')"}, "field 'classes': found 1 (['a']), expected at least 2"),
        ({"answer_index": 2}, "field 'answer_index': found 2, expected a whole number from 0 to 1"),
        ({"answer_index": -1}, "field 'answer_index': found -1, expected a whole number from 0 to 1"),
        ({"answer_index": 0.5}, "field 'answer_index': found 0.5, expected a whole number from 0 to 1"),
        ({"answer_index": True}, "field 'answer_index': found True, expected a whole number from 0 to 1"),
        ({"answer_index": "1"}, "field 'answer_index': found '1', expected a whole number from 0 to 1"),
        ({"answer_index": None}, "field 'answer_index': found None, expected a whole number from 0 to 1"),
        ({"prompt": ""}, "field 'prompt': found '', expected some text"),
        ({"prompt": " \n"}, "field 'prompt': found ' \\n', expected some text"),
        ({"prompt": 7}, "field 'prompt': found 7, expected some text"),
        ({"prompt": "\ud800"}, "field 'prompt': found '\\ud800', expected some text"),
        ({"note": ["\udfff"]}, "field 'note': found ['\\udfff'], which has half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_named_with_what_was_found_and_expected(row, found, tmp_path):
    assert problems(jsonl(tmp_path, GOOD, {**GOOD, **row}, GOOD)) == (f"line 2: {found}",)


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    path = jsonl(
        tmp_path,
        GOOD,
        {"prompt": "", "classes": ["x"], "answer_index": 9},
        '{"prompt": "a", ',
        "[1, 2]",
        {"classes": ["a", "b"]},
        GOOD,
    )
    assert problems(path) == (
        "line 3: broken JSON at column 17: Expecting property name enclosed in double quotes",
        "line 4: found [1, 2], expected an object with fields",
        "line 2: field 'prompt': found '', expected some text",
        "line 2: field 'classes': found 1 (['x']), expected at least 2",
        "line 2: field 'answer_index': found 9, expected a whole number from 0 to 0",
        "line 5: missing field 'prompt'",
        "line 5: missing field 'answer_index'",
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"prompt": "a\xff"}', "line 7: byte 0xff at offset {offset} of the file is not UTF-8, expected UTF-8"),
        (b"{oh}", "line 7: broken JSON at column 2: Expecting property name enclosed in double quotes"),
        (b'{"prompt": NaN}', "line 7: broken JSON: NaN is not JSON"),
        (b'{"prompt": "a", "prompt": "b"}', "line 7: broken JSON: the field 'prompt' is given twice"),
        (
            b"1" * 5000,
            "line 7: broken JSON: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits",
        ),
        (b"[" * 50_000, "line 7: JSON nested too deep, expected at most 100 levels"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "line 7: JSON nested too deep, expected at most 100 levels"),
        (b'"' + b"x" * 5_000_000 + b'"', "line 7: 5000002 characters, expected at most 4194304"),
    ],
)
def test_the_seventh_line_is_named(line, found, tmp_path):
    path = jsonl(tmp_path, *[GOOD] * 6, line)
    assert problems(path) == (found.replace("{offset}", str(path.read_bytes().find(b"\xff"))),)


def test_missing_columns_and_empty_files(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("prompt,answer_index\nWhy?,0\n")
    assert problems(path) == ("missing column 'classes' in every row: found 'prompt', 'answer_index'",)
    assert problems(jsonl(tmp_path, {"prompt": "p", "answer_index": 0})) == (
        "missing field 'classes' in every row: found 'prompt', 'answer_index'",
    )
    for text in ("", "\n\n", "prompt,classes,answer_index\n"):
        path.write_text(text)
        assert problems(path) == ("no rows: expected at least one",)


def test_logodds_and_the_others_have_needs_of_their_own(tmp_path):
    path = jsonl(tmp_path, {**GOOD, "other_prompt": " ", "classes": ["a", "b", "c"]})
    assert problems(path) == (
        "line 1: field 'other_prompt': found ' ', expected some text",
        "line 1: field 'classes': found 3 (['a', 'b', 'c']), expected exactly 2",
    )
    assert problems(jsonl(tmp_path, {"prompt": "p", "completion": ""})) == (
        "line 1: field 'completion': found '', expected some text",
    )
    assert problems(jsonl(tmp_path, GOOD), metric="sequence_prob") == (
        "missing field 'completion' in every row: found 'prompt', 'classes', 'answer_index'",
    )
    assert problems(jsonl(tmp_path, {**GOOD, "completion": "x"}), metric="sequence_prob") == (
        "line 1: field 'classes' does not go with metric 'sequence_prob'",
        "line 1: field 'answer_index' does not go with metric 'sequence_prob'",
    )
    assert problems(jsonl(tmp_path, {"prompt": "p", "true_answer": "many"})) == (
        "line 1: field 'true_answer': found 'many', expected a number",
    )


def test_csv_is_read_as_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        "\ufeffprompt,classes,answer_index,note,\r\n"
        '"a ""b"",\nc \u2028","[\' 4\', \'None\']",1,007,\r\n'
        '\r\nNA,"(\' A\', "" B"",)",0,,x\n'.encode()
    )
    task = read_task(path)
    assert [item.prompt for item in task] == ['a "b",\nc \u2028', "NA"]
    assert [item.classes for item in task] == [(" 4", "None"), (" A", " B")]
    assert [dict(item.extra) for item in task] == [{"note": "007", "": ""}, {"note": "", "": "x"}]
    long = replace(task, items=(replace(task[0], prompt="x" * 200_000),))
    assert read_task(write_task(long, path)) == long and csv.field_size_limit() == 131072


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("prompt,classes,answer_index\n\"a\nb\",\"['x','y']\",0\nc,d\n", ("line 4: found 2 cells, expected 3",)),
        ("prompt,classes,answer_index\na,\"['x','y']\"z,0\n", ("line 2: broken CSV: ',' expected after '\"'",)),
        ('prompt,classes,answer_index\n"a', ("line 2: broken CSV: unexpected end of data",)),
        ("prompt,prompt,classes,answer_index\na,b,\"['x','y']\",0\n", ("line 1: the column 'prompt' is given twice",)),
        (
            "prompt,classes,answer_index\na,\"['x','y']\",1.0\n",
            ("line 2: field 'answer_index': found '1.0', expected a whole number from 0 to 1",),
        ),
        (
            "prompt,classes,answer_index\na,\"['x','y']\",99999999999\n",
            ("line 2: field 'answer_index': found '99999999999', expected a whole number from 0 to 1",),
        ),
    ],
)
def test_bad_csv_is_named_by_line(text, found, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert problems(path) == found


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    assert problems(tmp_path / "none.jsonl") == ("no such file",)
    assert problems(tmp_path) == ("a folder: expected a file ending in .csv or .jsonl",)
    (tmp_path / "t.tsv").write_text("x")
    assert problems(tmp_path / "t.tsv") == ("suffix '.tsv': expected .csv or .jsonl",)
    assert problems(jsonl(tmp_path, GOOD), metric="accuracy") == (
        "metric 'accuracy': expected one of classification, sequence_prob, logodds, absolute_logodds, numeric",
    )
    (tmp_path / "wide.csv").write_bytes("prompt".encode("utf-16"))
    assert problems(tmp_path / "wide.csv") == ("UTF-16, by its byte order mark: expected UTF-8",)
    monkeypatch.setattr(text_files, "MAX_BYTES", 10)
    assert problems(jsonl(tmp_path, GOOD)) == ("over 0 MB: expected a smaller file, split it",)
    with pytest.raises(InputError, match="suffix '.txt': expected .csv or .jsonl"):
        write_task(Task("t", (Item("0", "p", ("a", "b")),)), tmp_path / "t.txt")
    assert not (tmp_path / "t.txt").exists()


def test_many_classes_are_refused_without_being_built(tmp_path):
    many = repr(["x"] * 300_000)
    assert problems(jsonl(tmp_path, {**GOOD, "classes": many})) == (
        "line 1: field 'classes': found over 10000 classes, expected fewer",
    )
    assert problems(jsonl(tmp_path, {**GOOD, "classes": ["x"] * 300_000})) == (
        "line 1: field 'classes': found 300000 classes, expected at most 10000",
    )
    for hostile in ("[" * 100_000, "['" + "\\" * 99_999, "['a'" + " " * 100_000 + "x", "['a'" + ",'a'" * 100_000):
        assert len(problems(jsonl(tmp_path, {**GOOD, "classes": hostile}))) == 1


# ---- ids


def test_ids_of_the_file_are_kept(tmp_path):
    assert [i.id for i in read_task(jsonl(tmp_path, {"id": "x", **GOOD}, {"id": "y", **GOOD}))] == ["x", "y"]
    task = read_task(jsonl(tmp_path, {"id": 5, **GOOD}, {"id": 7, **GOOD}))
    assert [i.id for i in task] == ["5", "7"] and task[0].extra == {"id": 5}
    assert json.loads(write_task(task, tmp_path / "u.jsonl").read_text().split("\n")[1])["id"] == 7
    same = [{"id": "x", **GOOD}, {"id": "x", **GOOD}]
    task = read_task(jsonl(tmp_path, *same))
    assert [i.id for i in task] == ["0", "1"]
    written = write_task(task, tmp_path / "u.jsonl").read_text()
    assert [json.loads(line) for line in written.splitlines()] == same
    assert [i.id for i in read_task(write_task(task.take([1]), tmp_path / "u.jsonl"))] == ["x"]


# ---- items and tasks in memory


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": ""}, "id ''"),
        ({"prompt": " "}, "prompt ' ': expected some text"),
        ({"other_prompt": ""}, "other_prompt ''"),
        ({"classes": ("a", "a")}, "expected different, non-empty texts"),
        ({"classes": ("a", "")}, "expected different"),
        ({"answer": 2}, "answer 2: expected 0 to 1"),
        ({"answer": -1}, "answer -1"),
        ({"extra": {"classes": 1}}, "extra fields may not be called classes"),
        ({"prompt": "\ud800"}, "UTF-8"),
    ],
)
def test_an_item_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Item(**{"id": "0", "prompt": "p", "classes": ("a", "b"), **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": ()}, "at least one item"),
        ({"metric": "loss"}, "metric 'loss': expected one of"),
        ({"items": (Item("0", "p", ("a", "b")),) * 2}, "ids are repeated"),
        ({"items": (Item("0", "p", ("a",)),)}, "found 1 classes, expected at least 2"),
        ({"metric": "logodds"}, "expected other_prompt"),
        ({"metric": "numeric"}, "found 2 classes, expected none"),
        ({"metric": "sequence_prob"}, "found 2 classes, expected exactly 1"),
        ({"metric": "logodds", "items": (Item("0", "p", ("a", "b", "c"), 0, "q"),)}, "expected exactly 2"),
        (
            {"metric": "sequence_prob", "items": (Item("0", "p", ("a",), extra={"completion": 1}),)},
            "not an extra field",
        ),
    ],
)
def test_a_task_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Task(**{"name": "t", "items": (Item("0", "p", ("a", "b")),), **settings})


def test_a_task_is_a_sequence_and_pickles():
    task = Task("t", tuple(Item(str(i), "p", ("a", "b"), i % 2, extra={"n": i}) for i in range(3)))
    assert len(task) == 3 and task[1].answer == 1 and [i.id for i in task.take([2, 0])] == ["2", "0"]
    assert pickle.loads(pickle.dumps(task)) == task


# ---- properties

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
prompts = texts.filter(lambda text: text.strip())
KNOWN = ("id", "prompt", "other_prompt", "classes", "answer_index", "completion", "true_answer", "anchor")
names = texts.filter(lambda name: name not in KNOWN)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def any_task(draw, extras):
    metric = draw(st.sampled_from(METRICS))
    bounds = {"classification": (2, 5), "sequence_prob": (1, 1), "numeric": (0, 0)}.get(metric, (2, 2))
    keys = draw(st.lists(names, max_size=2, unique=True))
    items = []
    for name in draw(st.lists(prompts, min_size=1, max_size=4, unique=True)):
        classes = tuple(draw(st.lists(texts, min_size=bounds[0], max_size=bounds[1], unique=True)))
        other = draw(prompts) if "logodds" in metric else None
        answer = draw(st.integers(0, max(len(classes) - 1, 0)))
        items.append(Item(name, draw(prompts), classes, answer, other, {key: draw(extras) for key in keys}))
    if draw(st.booleans()):
        items = [replace(item, id=str(i)) for i, item in enumerate(items)]
    return Task("t", tuple(items), metric)


@settings(suppress_health_check=IN_A_FOLDER)
@given(any_task(values))
def test_any_task_is_read_back_equal_from_jsonl(tmp_path, task):
    path = write_task(task, tmp_path / "t.jsonl")
    again = read_task(path, metric=task.metric)
    assert again == task
    assert write_task(again, tmp_path / "u.jsonl").read_bytes() == path.read_bytes()


@settings(suppress_health_check=IN_A_FOLDER)
@given(any_task(texts | st.just("")))
def test_any_task_is_read_back_equal_from_csv(tmp_path, task):
    path = write_task(task, tmp_path / "t.csv")
    again = read_task(path, metric=task.metric)
    assert again == task
    assert write_task(again, tmp_path / "u.csv").read_bytes() == path.read_bytes()


hostile = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [
            b"prompt",
            b"classes",
            b"answer_index",
            b"completion",
            b"other_prompt",
            b"id",
            b",",
            b"\n",
            b"\r",
            b'"',
            b"'",
            b"[",
            b"]",
            b"{",
            b"}",
            b":",
            b" ",
            b"0",
            b"-1",
            b"1e999",
            b"\\",
            b"\\ud800",
            b"\xff",
            b"\xef\xbb\xbf",
            b"\x00",
            b"\x1b[31m",
            b'{"prompt":"p","classes":"[\' A\',\' B\']","answer_index":0}\n',
            b'"classes": ["a", "b"]',
            b"NaN",
            b"null",
            b"prompt,classes,answer_index\n",
            b"\"['a', 'b']\"",
        ]
    ),
    max_size=20,
).map(b"".join)


@settings(deadline=1000, suppress_health_check=IN_A_FOLDER)
@given(hostile, st.sampled_from([".csv", ".jsonl"]), st.sampled_from([None, *METRICS]))
def test_any_bytes_are_a_task_or_one_clear_error(tmp_path, data, suffix, metric):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(data)
    try:
        task = read_task(path, metric=metric)
    except InputError as error:
        assert error.problems and all(error.problems)
    else:
        assert read_task(write_task(task, tmp_path / f"u{suffix}"), metric=task.metric).items == task.items


# ---- the hub


def hub(monkeypatch, load) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_a_hub_id_is_loaded_with_datasets(monkeypatch):
    asked = []
    prize = {"prompt": "p", "classes": "[' A', ' B']", "answer_index": 1}
    hub(monkeypatch, lambda name: asked.append(name) or {"train": [prize, prize]})
    task = read_task("inverse-scaling/NeQA")
    assert asked == ["inverse-scaling/NeQA"] and task.name == "NeQA" and task.citation.startswith("Zhou and Zhang")
    assert [(i.id, i.classes, i.answer) for i in task] == [("0", (" A", " B"), 1), ("1", (" A", " B"), 1)]
    hub(monkeypatch, lambda name: {"test": [{**prize, "answer_index": 2}]})
    assert problems("a/b") == ("row 1: field 'answer_index': found 2, expected a whole number from 0 to 1",)
    hub(monkeypatch, lambda name: {"test": [prize], "validation": [prize]})
    assert problems("a/b") == ("splits test, validation: expected 'train' or a single one",)


def test_without_datasets_or_a_hub_there_is_one_clear_error(monkeypatch):
    def unreachable(name):
        raise ConnectionError("no route")

    hub(monkeypatch, unreachable)
    assert problems("a/b") == ("no such file, and not to be had from the hub: no route",)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert problems("a/b") == (
        "no such file; reading it from the hub needs the package datasets: pip install 'isp-mech[hub]'",
    )
