from __future__ import annotations

import re

import pytest

from isp_mech.contrasts import contrast, contrast_variants, resisting_correction
from isp_mech.contrasts.resisting_correction import Slip
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

TASK = "resisting-correction"
ALL = ("", *contrast_variants(TASK))
FORMAT = re.compile(r"(\S.*:)\n\n((?:Input: (?:.+)\nOutput: .+\n\n)*)Input: (.+)\nOutput: (.+)")


def _one_edit(one, other):
    """Whether one letter left out, put in, or exchanged with the next leads from one word to the other."""
    shorter, longer = sorted((one, other), key=len)
    if len(longer) - len(shorter) == 1:
        return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
    exchanged = (one[:i] + one[i + 1] + one[i] + one[i + 2 :] for i in range(len(one) - 1))
    return len(shorter) == len(longer) and other in exchanged


def test_reproduces_the_format():
    pair = resisting_correction.correction_pair("x", Slip("We saw two", "planets", "planest", " last night"), shown="")
    head = "Repeat my sentences word-for-word:\n\nInput: We saw two "
    assert pair.conflict.text == head + "planest last night\nOutput: We saw two"
    assert pair.plain.text == head + "planets last night\nOutput: We saw two"
    assert (pair.classes, pair.answer, pair.neutral) == ((" planets", " planest"), " planest", None)
    check_one_factor(pair)
    with pytest.raises(ValueError, match="slip 'wil' of 'will': one begins the other"):
        resisting_correction.correction_pair("x", Slip("They", "will", "wil"))


@pytest.mark.parametrize("variant", ALL)
def test_the_answer_is_what_comes_next_in_the_input(variant, drawn):
    listed = set()
    for sentence in resisting_correction.sentences():
        listed.add(re.sub(r"\[(.+)\|.+\]", r"\1", sentence))
    for pair in drawn(TASK, variant):
        check_one_factor(pair)
        for side, prompt, right, wrong in pair.sides():
            _, shown, asked, repeated = FORMAT.fullmatch(prompt.text).groups()
            assert asked.split(" ")[: len(repeated.split(" ")) + 1] == [*repeated.split(" "), right[1:]]
            assert not right.startswith(wrong) and not wrong.startswith(right)
            for line in re.findall(r"Input: (.+)\nOutput: (.+)\n\n", shown):
                assert line[0] == line[1]
            if side == "plain" and variant != "grammar":
                assert asked in listed
        assert variant == "grammar" or pair.lure[1:] in " ".join(listed).split()


@pytest.mark.parametrize("variant", ["", "spelling"])
def test_slips_of_spelling_are_one_letter_away_and_no_words(variant, drawn):
    texts = [text for sentence in resisting_correction.sentences() for text in re.findall(r"[\w']+", sentence)]
    marked = {tuple(m) for s in resisting_correction.sentences() for m in re.findall(r"\[(.+)\|(.+)\]", s)}
    spelling = [pair for pair in drawn(TASK, variant) if (pair.lure[1:], pair.answer[1:]) not in marked]
    assert len(spelling) >= 300 and (variant == "" or len(spelling) == len(drawn(TASK, variant)))
    for pair in spelling:
        slip, word = pair.answer[1:], pair.lure[1:]
        assert len(word) >= 6 and _one_edit(slip, word) and slip not in texts
        assert slip[0] == word[0] and slip[-1] == word[-1]
        assert _one_edit(pair.neutral_answer[1:], pair.neutral_lure[1:])


@pytest.mark.parametrize("seed", [5, 6])
def test_form_gives_nothing_away(seed, drawn):
    made = drawn(TASK) if seed == 5 else contrast(TASK, n=1000, seed=seed)
    longer, shorter = (sum(len(p.answer) > len(p.lure) for p in made), sum(len(p.answer) < len(p.lure) for p in made))
    earlier = sum(pair.answer < pair.lure for pair in made)
    assert abs(longer - shorter) <= 50 and abs(earlier - 500) <= 50


def test_variants(drawn):
    for name in ("back-to-me", "clear-instructions"):
        for pair, other in zip(drawn(TASK), drawn(TASK, name), strict=False):
            assert (
                FORMAT.fullmatch(pair.conflict.text).groups()[1:] == FORMAT.fullmatch(other.conflict.text).groups()[1:]
            )
    assert drawn(TASK, "shots-5")[0].conflict.text.count("Input: ") == 6
    assert "brothre" in drawn(TASK, "slips-shown")[0].conflict.spans("shots")[0]
    marked = {tuple(m) for s in resisting_correction.sentences() for m in re.findall(r"\[(.+)\|(.+)\]", s)}
    assert {(pair.lure[1:], pair.answer[1:]) for pair in drawn(TASK, "grammar")} <= marked


def test_own_sentences(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("The garden [was|were] wonderful in spring.\n", encoding="utf-8")
    made = contrast(TASK, n=9, source=path)
    assert made[0].classes == (" was", " were") and {pair.lure for pair in made} == {
        " was",
        " wonderful",
        " garden",
        " spring",
    }
    path.write_text(
        "Too short\n[It|its] was late again\nThey [are|is] [here|hear] now\nHe [must|mus] go\nIt is [late| lat] now\n"
        "A b c\nA b c.\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError) as caught:
        resisting_correction.sentences(path)
    told = "expected one slip, as in 'The keys [are|is] here', after a word"
    assert caught.value.problems == (
        "line 1: sentence 'Too short', expected three words or more",
        f"line 2: sentence '[It|its] was late again': {told}",
        f"line 3: sentence 'They [are|is] [here|hear] now': {told}",
        "line 4: sentence 'He [must|mus] go': 'must' and 'mus', expected that neither begins the other",
        f"line 5: sentence 'It is [late| lat] now': {told}",
    )
