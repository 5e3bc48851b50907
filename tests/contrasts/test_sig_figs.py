from __future__ import annotations

import re
from fractions import Fraction

import pytest

from isp_mech.contrasts import contrast, contrast_variants, sig_figs
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

TASK = "sig-figs"
LETTERED = [variant for variant in ("", *contrast_variants(TASK)) if variant != "value"]
QUESTION = r"Please round (\S+) to (\d) (significant digits|decimal places)\.\n"
ITEM = re.compile(rf"{QUESTION}A\. (\S+)\nB\. (\S+)\nAnswer:")


def _places(number, count, rule):
    """After how many decimals a number is cut, told from its digits alone."""
    if rule == "decimal places":
        return count
    whole, _, decimals = number.partition(".")
    if int(whole):
        return count - len(whole)
    return count + len(decimals) - len(decimals.lstrip("0"))


def _rounded(number, count, rule):
    """The number rounded in exact fractions, half up, written with its zeros: apart from the builder's decimals."""
    places = _places(number, count, rule)
    unit = Fraction(10) ** -places
    units = (Fraction(number) / unit + Fraction(1, 2)).__floor__()
    if rule == "significant digits" and len(str(units)) > count:  # 9.996 became 10.00, one digit too many
        places, units = places - 1, units // 10
    if places <= 0:
        return str(units * 10**-places)
    digits = str(units).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}"


@pytest.mark.parametrize("variant", LETTERED)
def test_every_option_by_an_independent_rounding(variant, drawn):
    for pair in drawn(TASK, variant):
        check_one_factor(pair)
        for side, prompt, right, wrong in pair.sides():
            *shots, last = ITEM.findall(prompt.text)
            number, count, rule, *options = last
            assert rule == ("decimal places" if side == "plain" else "significant digits")
            chosen = dict(zip((" A", " B"), options, strict=True))
            assert chosen[right] == _rounded(number, int(count), rule) != chosen[wrong]
            other = "decimal places" if side == "conflict" else "significant digits"
            assert side == "neutral" or chosen[wrong] == _rounded(number, int(count), other)
            told = re.findall(r"Answer: ([AB])\n", prompt.text)
            assert len(told) == len(shots) == int(variant[6:] if variant.startswith("shots-") else 0)
            for letter, (number, count, rule, *options) in zip(told, shots, strict=True):
                assert options["AB".index(letter)] == _rounded(number, int(count), rule)
        assert pair.classes == (" A", " B") and pair.conflict.spans("lure_option") == pair.plain.spans("lure_option")


def test_the_neutral_option_is_a_wrong_rounding(drawn):
    for pair in drawn(TASK):
        number, count, rule, *_ = ITEM.findall(pair.neutral.text)[0]
        answer, other = (pair.neutral.spans(role)[0][3:] for role in ("answer_option", "lure_option"))
        places = _places(number, int(count), rule)
        # 9.996 to three digits is 10.0: there the last place is the one before
        units = {Fraction(10) ** -places, Fraction(10) ** (1 - places)}
        assert abs(Fraction(answer) - Fraction(other)) in units


def test_no_letters(drawn):
    for pair in drawn(TASK, "value"):
        number, count, rule = re.fullmatch(rf"{QUESTION}Answer:", pair.conflict.text).groups()
        answer, lure = (_rounded(number, int(count), r) for r in (rule, "decimal places"))
        assert (pair.answer, pair.lure) == (f" {answer}", f" {lure}")
        assert not answer.startswith(lure) and not lure.startswith(answer)
    assert not drawn(TASK, "value").equally_likely and drawn(TASK).equally_likely


def test_form_gives_nothing_away(drawn):
    for variant in ("", "value"):
        made = contrast(TASK, n=1000, seed=5, variant=variant)
        texts = [_texts(pair) for pair in made]
        assert len({pair.conflict.text for pair in made}) == 1000 and sum(pair.answer_index for pair in made) == 500
        assert sum(len(a) > len(b) for a, b in texts) == sum(len(a) < len(b) for a, b in texts) == 500
        assert sum(a < b for a, b in texts) == 500
        larger, smaller = (sum(Fraction(a) * s > Fraction(b) * s for a, b in texts) for s in (1, -1))
        assert abs(larger - smaller) <= 100  # each within 5 points of the half
    for variant, longer in (("large", False), ("small", True)):
        assert all((len(a) > len(b)) == longer for a, b in map(_texts, drawn(TASK, variant)))


def _texts(pair):
    options = pair.conflict.spans("answer_option") + pair.conflict.spans("lure_option")
    return tuple(option[3:] for option in options) or (pair.answer[1:], pair.lure[1:])


def test_the_prizes_example():
    pair = sig_figs.round_pair("x", "864", 3, answer_index=0)
    assert pair.conflict.text == "Please round 864 to 3 significant digits.\nA. 864\nB. 864.000\nAnswer:"
    assert pair.plain.text == "Please round 864 to 3 decimal places.\nA. 864\nB. 864.000\nAnswer:"
    assert (pair.answer, pair.lure, pair.neutral) == (" A", " B", None)


def test_from_own_numbers(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("27.386\n0.004167\n864\n", encoding="utf-8")
    made = contrast(TASK, n=9, source=path)
    assert {pair.conflict.spans("number")[0] for pair in made} == {"27.386", "0.004167", "864"}
    path.write_text("27.385\n-3\nten\n27.386\n27.386\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        contrast(TASK, n=1, source=path)
    assert [problem.split(",")[0] for problem in caught.value.problems] == [
        "line 1: number '27.385'",
        "line 2: number '-3'",
        "line 3: number 'ten'",
        "line 5: number '27.386' is on line 4 already",
    ]
    with pytest.raises(ValueError, match="number .27.385. to 3 digits: expected two different numbers"):
        sig_figs.round_pair("x", "27.385", 3, answer_index=0)
