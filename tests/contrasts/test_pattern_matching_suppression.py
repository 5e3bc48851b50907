from __future__ import annotations

import re

import pytest

from isp_mech.contrasts import contrast, contrast_variants, pattern_matching_suppression
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

TASK = "pattern-matching-suppression"
ALL = ("", *contrast_variants(TASK))
FORMAT = re.compile(
    r"Generate a sequence of (\d+) symbols alternating between two symbols \((\S+) (\S+)\)"
    r"(?: but ending (?:unexpectedly|with anything except (\S+)|with (\S+)))?\.\n(\S+,(?: \S+,)+)"
)


def test_reproduces_the_prizes_example():
    pair = pattern_matching_suppression.pattern_pair("ab", "A", "B", 6)
    head = "Generate a sequence of 6 symbols alternating between two symbols (A B)"
    assert pair.conflict.text == f"{head} but ending unexpectedly.\nA, B, A, B, A,"
    assert pair.plain.text == f"{head}.\nA, B, A, B, A,"
    assert (pair.classes, pair.answer, pair.neutral) == ((" A", " B"), " A", None)
    check_one_factor(pair)


@pytest.mark.parametrize("variant", ALL)
def test_the_lure_keeps_up_the_alternation_and_the_answer_does_not(variant, drawn):
    made = drawn(TASK, variant)
    assert made.equally_likely and len({(pair.conflict.text, pair.answer) for pair in made}) == len(made)
    for pair in made:
        check_one_factor(pair)
        for prompt in (pair.conflict, pair.plain):
            text = prompt.text[len("".join(prompt.spans("shots"))) :]
            n, one, two, avoided, named, written = FORMAT.fullmatch(text).groups()
            symbols = written.replace(",", "").split()
            assert len(symbols) == int(n) - 1 and set(symbols) == {one, two}
            assert not one.startswith(two) and not two.startswith(one)
            expected = ([one, two] * int(n))[: int(n)]
            assert [*symbols, pair.lure[1:]] == expected and {pair.answer, pair.lure} == {f" {one}", f" {two}"}
            assert avoided in (None, pair.lure[1:]) and named in (None, pair.answer[1:])
            assert pair.classes == (f" {one}", f" {two}")


def test_form_gives_nothing_away_but_the_last_symbol(drawn):
    made = drawn(TASK)
    assert sum(pair.answer_index for pair in made) == 500
    earlier = sum(pair.answer < pair.lure for pair in made)
    longer = sum(len(pair.answer) > len(pair.lure) for pair in made)
    shorter = sum(len(pair.answer) < len(pair.lure) for pair in made)
    assert abs(earlier - 500) <= 50 and abs(longer - shorter) <= 50
    assert all(pair.conflict.text.endswith(f"{pair.answer},") for pair in made)  # it is the last one, and must be


def test_variants_ask_about_the_same(drawn):
    for name in ("except", "named", "shots-2"):
        for pair, other in zip(drawn(TASK), drawn(TASK, name), strict=False):
            assert pair.answer == other.answer and other.plain.text.endswith(pair.plain.text)
    assert {int(FORMAT.match(pair.conflict.text)[1]) for pair in drawn(TASK, "length-40")} == {40, 41}
    first, second = drawn(TASK, "shots-2")[0].conflict.spans("shots")[0].removesuffix("\n\n").split("\n\n")
    for shot in (first, second):
        *_, before, last = shot.replace(",", "").split()
        assert before == last


def test_own_symbols(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("do\nre\nmi\nmix\n", encoding="utf-8")
    made = contrast(TASK, n=100, source=path)
    assert {pair.answer[1:] for pair in made} == {"do", "re", "mi", "mix"}
    assert not any({pair.answer, pair.lure} == {" mi", " mix"} for pair in made)
    with pytest.raises(InputError, match="n=141: expected at most 140"):  # five couples, two orders, 14 lengths
        contrast(TASK, n=141, source=path)
    path.write_text("do\na b\ndo\nx,y\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        contrast(TASK, source=path)
    assert caught.value.problems == (
        "line 2: symbol 'a b', expected no space and no comma in it",
        "line 3: symbol 'do' is on line 1 already, expected it once",
        "line 4: symbol 'x,y', expected no space and no comma in it",
    )
    path.write_text("mi\nmix\n", encoding="utf-8")
    with pytest.raises(InputError, match="expected two symbols of one kind of which neither begins the other"):
        contrast(TASK, source=path)
    with pytest.raises(ValueError, match="symbols 'mi' and 'mix': one begins the other"):
        pattern_matching_suppression.pattern_pair("x", "mi", "mix", 6)
    with pytest.raises(ValueError, match="n=3: expected a sequence of 4 symbols or more"):
        pattern_matching_suppression.pattern_pair("x", "a", "b", 3)
