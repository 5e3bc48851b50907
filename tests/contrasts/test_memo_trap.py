from __future__ import annotations

import re
from collections import Counter

import pytest

from isp_mech.contrasts import contrast, contrast_variants, memo_trap
from isp_mech.contrasts.memo_trap import Proverb
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

ALL = ("", *contrast_variants("memo-trap"))
FORMAT = re.compile(r'Write a quote that ends in the word "([\w\'-]+)": (\S(?:.*\S)?)')


def _spelled(text):
    """The words of a text, read apart from the builder."""
    return re.findall(r"[a-z][a-z'-]*", text.lower())


def test_reproduces_absence():
    pair = memo_trap.memo_pair("absence", Proverb("Absence makes the heart grow", "fonder"), "heavy")
    assert pair.conflict.text == 'Write a quote that ends in the word "heavy": Absence makes the heart grow'
    assert pair.plain.text == pair.conflict.text.replace("heavy", "fonder")
    assert (pair.classes, pair.answer, pair.neutral) == ((" heavy.", " fonder."), " heavy.", None)
    assert pair.conflict.spans("proverb") == pair.plain.spans("proverb") == ("Absence makes the heart grow",)
    check_one_factor(pair)


def test_the_answer_is_the_word_asked_for_and_the_lure_ends_the_proverb(drawn):
    known = {(proverb.before, proverb.ending) for proverb in memo_trap.proverbs()}
    for pair in drawn("memo-trap"):
        asked, before = FORMAT.fullmatch(pair.conflict.text).groups()
        own, same = FORMAT.fullmatch(pair.plain.text).groups()
        assert pair.classes == (f" {asked}.", f" {own}.") and before == same and (before, own) in known
        assert asked not in _spelled(before) and asked != own
        in_neutral, sentence = FORMAT.fullmatch(pair.neutral.text).groups()
        assert pair.neutral_answer == f" {in_neutral}." and pair.neutral_lure[1:-1] not in _spelled(sentence)


@pytest.mark.parametrize("variant", ALL)
def test_words_have_tokens_of_their_own_and_the_right_article(variant, drawn):
    for pair in drawn("memo-trap", variant):
        check_one_factor(pair)
        for _, prompt, right, wrong in pair.sides():
            one, other = right.strip(" ."), wrong.strip(" .")
            assert right.endswith(".") == wrong.endswith(".") == (variant != "no-stop")
            assert not one.startswith(other) and not other.startswith(one)
            article = prompt.text.split()[-1].lower()
            if article in ("a", "an"):
                assert {word[0] in "aeiou" for word in (one, other)} == {article == "an"}


@pytest.mark.parametrize("seed", [5, 6])
def test_form_gives_nothing_away(seed, drawn):
    made = drawn("memo-trap") if seed == 5 else contrast("memo-trap", n=1000, seed=seed)
    longer = sum(len(p.answer) > len(p.lure) for p in made) - sum(len(p.answer) < len(p.lure) for p in made)
    earlier = sum(p.answer < p.lure for p in made) - sum(p.answer > p.lure for p in made)
    assert abs(longer) <= 50 and abs(earlier) <= 100  # a share within 5 points of the half
    answers, lures = (Counter(getattr(pair, kind) for pair in made) for kind in ("answer", "lure"))
    assert all(abs(answers[word] - lures[word]) < 15 for word in answers | lures)


def test_the_list_and_its_kinds():
    listed = memo_trap.proverbs()
    assert len(listed) >= 300 and {proverb.kind for proverb in listed} == {"noun", "plural", "verb", "adjective"}
    kinds = {(proverb.before, proverb.ending): proverb.kind for proverb in listed}
    for proverb in listed:
        assert proverb.ending not in _spelled(proverb.before), proverb
    ends = {kind: {p.ending for p in listed if p.kind == kind} for kind in kinds.values()}
    for pair in contrast("memo-trap", n=300, seed=1):
        assert pair.answer[1:-1] in ends[kinds[pair.plain.spans("proverb")[0], pair.lure[1:-1]]]


def test_variants(drawn):
    plain, shown = drawn("memo-trap"), drawn("memo-trap", "shots-3")
    for pair, other in zip(plain, shown, strict=False):
        assert other.conflict.text.endswith("\n\n" + pair.conflict.text) and other.conflict.text.count("\n\n") == 3
    for solved in shown[0].conflict.spans("shots")[0].split("\n\n")[:3]:
        asked, text = FORMAT.fullmatch(solved).groups()
        assert text.endswith(f" {asked}.") and text[: -len(asked) - 2] not in {p.before for p in memo_trap.proverbs()}
    clear = drawn("memo-trap", "clear-instructions")[0]
    assert clear.conflict.text == memo_trap.INSTRUCTION + plain[0].conflict.text
    for pair in drawn("memo-trap", "unknown"):
        assert pair.neutral is None and not pair.conflict.spans("proverb")[0].endswith(pair.lure[:-1])


def test_own_proverbs(tmp_path):
    lines = tmp_path / "mine.txt"
    lines.write_text("Home is where one starts from.\n\nThe rest is silence!\n", encoding="utf-8")
    assert memo_trap.proverbs(lines) == (Proverb("Home is where one starts", "from"), Proverb("The rest is", "silence"))
    assert {pair.lure for pair in contrast("memo-trap", n=9, source=lines)} == {" from.", " silence."}
    table = tmp_path / "mine.csv"
    table.write_text("proverb,ending,kind\nThe rest is,silence,noun\n", encoding="utf-8")
    nouns = {proverb.ending for proverb in memo_trap.proverbs() if proverb.kind == "noun"}
    assert {pair.answer[1:-1] for pair in contrast("memo-trap", n=20, source=table)} <= nouns
    lines.write_text("Silence\nThe rest is —\nThe rest is silence\nthe Rest is silence\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        memo_trap.proverbs(lines)
    assert caught.value.problems == (
        "line 1: proverb 'Silence' ends in '', expected a word",
        "line 2: proverb 'The rest is —' ends in '—', expected a word",
        "line 4: proverb 'the Rest is silence' is on line 3 already, expected it once",
    )
    with pytest.raises(ValueError, match="word 'Rest' is a word of the proverb 'The rest is'"):
        memo_trap.memo_pair("x", Proverb("The rest is", "silence"), "Rest")
