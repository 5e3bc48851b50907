from __future__ import annotations

import re
from collections import Counter

import pytest

from isp_mech.contrasts import contrast, contrast_variants, into_the_unknown
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

TASK = "into-the-unknown"
KNOWN, ASKED = r"We know: (?P<known>.+)\n", r"We want to find out: .+\?\n"
WHICH = r"Which of these two facts (?P<asked>would help us more|do we know already)\?"
OPTIONS = r"\nA\. (?P<A>.+)\nB\. (?P<B>.+)\nAnswer:"
TOLD = r"We do not know whether this is true: (?P<told>.+)\n"
FORMATS = {
    "": KNOWN + ASKED + WHICH + OPTIONS,
    "both-told": KNOWN + TOLD + ASKED + WHICH + OPTIONS,
    "known-after": ASKED + KNOWN + WHICH + OPTIONS,
    "exchanged": KNOWN + ASKED + WHICH + OPTIONS,
    "clear-instructions": r"A fact that we know already does not help us to find out more\.\n\n"
    + (KNOWN + ASKED + WHICH + OPTIONS),
}


@pytest.mark.parametrize("variant", FORMATS)
def test_the_answer_is_the_fact_that_is_not_known(variant, drawn):
    for pair in drawn(TASK, variant):
        check_one_factor(pair)
        for side, prompt, right, wrong in pair.sides():
            read = re.fullmatch(FORMATS[variant], prompt.text)
            known = {letter: read["known"].endswith(read[letter.strip()]) for letter in (right, wrong)}
            asks_known = read["asked"] == "do we know already"
            assert asks_known == (side == "plain" and variant != "exchanged")
            assert known == ({right: asks_known, wrong: not asks_known} if side != "neutral" else {right: 0, wrong: 0})
            if variant == "both-told" and side != "neutral":
                assert read["told"] == read[wrong.strip() if asks_known else right.strip()]
        assert pair.conflict.spans("answer_option") == pair.plain.spans("answer_option")
        assert pair.classes == (" A", " B") and pair.neutral is not None
        assert pair.factor == ("known" if variant == "exchanged" else "asked")


def test_no_letters(drawn):
    made = drawn(TASK, "sentence")
    assert not made.equally_likely and drawn(TASK).equally_likely
    for pair in made:
        assert re.fullmatch(KNOWN + ASKED + WHICH + "\nAnswer:", pair.conflict.text)
        assert pair.conflict.spans("known") == pair.plain.spans("known") == (pair.lure[1:],)
        assert not pair.answer.startswith(pair.lure) and not pair.lure.startswith(pair.answer)


def test_form_gives_nothing_away(drawn):
    made = drawn(TASK)
    texts = [[pair.conflict.spans(role)[0][3:] for role in ("answer_option", "lure_option")] for pair in made]
    assert len({pair.conflict.text for pair in made}) == 1000 and sum(pair.answer_index for pair in made) == 500
    assert abs(sum(len(a) > len(b) for a, b in texts) - sum(len(a) < len(b) for a, b in texts)) <= 100
    assert 450 <= sum(a < b for a, b in texts) <= 550
    facts = Counter(tuple(two) for two in texts)
    assert len(facts) > 900  # every scenario has twelve orders of two facts, before names make pairs new


def test_every_variant_asks_about_the_same_facts(drawn):
    for pairs in zip(*(drawn(TASK, variant) for variant in FORMATS), strict=False):
        assert len({pair.conflict.spans("known")[0] for pair in pairs}) == 1


def test_the_list():
    scenarios = into_the_unknown.SCENARIOS.read()
    assert len(scenarios) >= 95 and all(len(scenario.facts) == 4 for scenario in scenarios)
    facts = [fact for scenario in scenarios for fact in scenario.facts]
    assert len(set(facts)) == len(facts) and all(fact[-1] == "." and fact.count(".") == 1 for fact in facts)
    assert all(scenario.question.endswith("?") and scenario.setting.endswith(".") for scenario in scenarios)
    texts = " ".join([*facts, *(scenario.setting + scenario.question for scenario in scenarios)])
    assert not set(re.findall(r"\w+", texts)) & set(into_the_unknown.NAMES)


def test_from_own_scenarios(tmp_path):
    path = tmp_path / "scenarios.tsv"
    head = "setting\tquestion\tfact_1\tfact_2\n"
    path.write_text(head + "It rained.\tIs it wet?\tThe roof leaks.\tThe sun came out.\n", encoding="utf-8")
    made = contrast(TASK, n=2, source=path)
    assert {pair.conflict.spans("known") for pair in made} == {("The roof leaks.",), ("The sun came out.",)}
    assert all(pair.neutral is None for pair in made)
    with pytest.raises(InputError, match="n=3: expected at most 2"):
        contrast(TASK, n=3, source=path)
    path.write_text(head + "It rained.\tIs it wet?\tIt is.\tIt is. Very.\nIt froze.\tIs it ice?\tYes.\t\n")
    with pytest.raises(InputError) as caught:
        contrast(TASK, n=1, source=path)
    assert caught.value.problems == ("line 3: fact_2 is empty, expected some text",)
    path.write_text(head + "It rained.\tIs it wet?\tIt is.\tIt is. Very.\n", encoding="utf-8")
    with pytest.raises(InputError, match="fact 'It is. Very.' begins with 'It is.', expected two that differ"):
        contrast(TASK, n=1, source=path)


def test_variants_are_these():
    assert set(contrast_variants(TASK)) == {*FORMATS, "sentence"} - {""}
