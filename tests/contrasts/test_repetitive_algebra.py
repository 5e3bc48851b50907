from __future__ import annotations

import re
from fractions import Fraction

import pytest

from isp_mech.contrasts import contrast, contrast_variants, repetitive_algebra
from isp_mech.contrasts.repetitive_algebra import Equation
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

TASK = "repetitive-algebra"
QUESTION = r"Q: Suppose (.+?)\. What is the value of ([a-z])\? A:"
FORMAT = re.compile(rf"Please answer the following simple algebra questions\.\n\n((?:{QUESTION} -?\d+\n)*){QUESTION}")


def _solved(equation, letter):
    """The letter's value, by two points of the line ``left - right``: no rule of the builder's."""
    left, right = equation.split(" = ")

    def gap(value):
        return sum(_terms(left, letter, value)) - sum(_terms(right, letter, value))

    at_0, at_1 = Fraction(gap(0)), Fraction(gap(1))
    return at_0 / (at_0 - at_1)


def _terms(side, letter, value):
    return [value if term == letter else int(term) for term in side.split(" + ")]


def _read(text):
    """``([(solution, answer given) of every shot], solution of the question)``."""
    whole = FORMAT.fullmatch(text)
    shots = re.findall(rf"{QUESTION} (-?\d+)\n", whole[1])
    return [(_solved(*shot[:2]), int(shot[2])) for shot in shots], _solved(whole[4], whole[5])


@pytest.mark.parametrize("variant", ["", *contrast_variants(TASK)])
def test_every_answer_by_an_independent_solution(variant, drawn):
    for pair in drawn(TASK, variant):
        check_one_factor(pair)
        for side, prompt, right, wrong in pair.sides():
            shots, solution = _read(prompt.text)
            assert all(solution == answer for solution, answer in shots)
            assert solution == int(right) and int(wrong) != solution
            assert prompt.spans("first_number") and len(right) == len(wrong) == 3
            told = [answer for _, answer in shots]
            if side == "neutral":
                assert len(set(told)) == len(told) and not {int(right), int(wrong)} & set(told)


def test_nine_shots_have_the_answer_and_the_last_the_lure(drawn):
    for variant, n in (("", 10), ("shots-1", 1), ("shots-5", 5), ("shots-20", 20)):
        for pair in drawn(TASK, variant):
            told = [answer for _, answer in _read(pair.conflict.text)[0]]
            assert told == [int(pair.answer)] * (n - 1) + [int(pair.lure)]
            assert pair.conflict.spans("odd_answer") == (pair.lure[1:],)
            assert pair.conflict.spans("answers") == (pair.answer[1:],) * (n - 1)


def test_variants_change_what_the_shots_say(drawn):
    for pair, first, often, none in zip(
        *(drawn(TASK, variant) for variant in ("", "odd-first", "frequent", "all-different")), strict=False
    ):
        assert {p.conflict.spans("question") for p in (pair, first, often, none)} == {pair.conflict.spans("question")}
        told = [[answer for _, answer in _read(p.conflict.text)[0]] for p in (first, often, none)]
        answer, lure = int(pair.answer), int(pair.lure)
        assert told[0] == [lure] + [answer] * 9
        assert told[1][:9] == [lure] * 9 and answer not in told[1] and told[1][9] != lure
        assert len(set(told[2])) == 10 and told[2][9] == lure and answer not in told[2]


@pytest.mark.parametrize(
    ("variant", "form"), [("solve", r"-?\d+ = [a-z] \+ -?\d+"), ("sum", r"-?\d+ \+ -?\d+ = [a-z]")]
)
def test_one_form(variant, form, drawn):
    for pair in drawn(TASK, variant):
        equations = re.findall(r"Suppose (.+?)\.", pair.conflict.text)
        assert len(equations) == 11 and all(re.fullmatch(form, equation) for equation in equations)


def test_form_gives_nothing_away(drawn):
    made = drawn(TASK)
    assert len({pair.conflict.text for pair in made}) == 1000
    assert sum(pair.answer_index for pair in made) == 500
    larger = sum(int(pair.answer) > int(pair.lure) for pair in made)
    assert 450 <= larger <= 550  # of two digits each: larger and later in the alphabet are one
    sums = sum(pair.conflict.spans("question")[1].startswith(" + ") for pair in made)
    assert 450 <= sums <= 550


def test_from_own_equations(tmp_path):
    path = tmp_path / "equations.txt"
    path.write_text("73 = a + 34\n23 + 48 = m\n-3 = b + 4\n", encoding="utf-8")
    made = contrast(TASK, n=40, source=path)
    assert {pair.answer for pair in made} == {" 39", " 71", " -7"}
    for pair in made:
        assert len(pair.lure) == len(pair.answer) and _read(pair.conflict.text)[1] == int(pair.answer)
    path.write_text("73 = a - 34\n23 + 48 = m\n23 + 48 = m\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        contrast(TASK, n=1, source=path)
    assert caught.value.problems == (
        "line 1: equation '73 = a - 34': expected one such as '73 = a + 34' or '23 + 48 = m'",
        "line 3: equation '23 + 48 = m' is on line 2 already, expected it once",
    )


def test_pairs_that_are_none():
    question = Equation("a", 73, 34)
    with pytest.raises(ValueError, match="73 = a \\+ 34 is one of the shots, expected another"):
        repetitive_algebra.algebra_pair("x", [Equation("b", 73, 34)], question, 35)
    with pytest.raises(ValueError, match="answer 39 and lure 3, of which one begins the other"):
        repetitive_algebra.algebra_pair("x", [], question, 3)
