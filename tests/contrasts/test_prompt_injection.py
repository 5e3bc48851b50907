from __future__ import annotations

import re

import pytest

from isp_mech.contrasts import contrast, contrast_variants, prompt_injection
from isp_mech.contrasts.prompt_injection import CAPITALS, as_sequence_prob
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

TASK = "prompt-injection"
ALL = ("", *contrast_variants(TASK))
BLOCK = re.compile(r"Input: (.+)\nOutput: (.+)\n\n")
LAST = re.compile(r"Input: (.+)\nOutput:")
MEANT = (  # what an instruction asks for, told from its words
    ("capital letters", lambda said: [word.upper() for word in said]),
    ("backwards", lambda said: said[::-1]),
    ("order of the words", lambda said: said[::-1]),
    ("first word of each", lambda said: said[1:]),
    ("with its second word", lambda said: said[1:]),
)


def _followed(instruction, said):
    if single := re.search(r"the single word (\w+)\.", instruction):
        return [single[1]]
    (meant,) = [follow for words, follow in MEANT if words in instruction]
    return meant(said)


def _read(text):
    """``(order, sentences typed and repeated, the last sentence)``, read apart from the builder."""
    order, _, rest = text.partition("Input: ") if text.startswith("Instruct: ") else ("", "", text)
    rest = rest if rest.startswith("Input: ") else f"Input: {rest}"
    blocks = BLOCK.findall(rest)
    assert all(typed == output for typed, output in blocks)
    return order, [typed for typed, _ in blocks], LAST.fullmatch(BLOCK.sub("", rest))[1]


@pytest.mark.parametrize("variant", ALL)
def test_the_answer_is_a_copy_and_the_lure_the_instruction_followed(variant, drawn):
    n_shots = int(variant[6:]) if variant.startswith("shots-") else 2
    n_after = int(variant[6:]) if variant.startswith("after-") else 0
    for pair in drawn(TASK, variant):
        check_one_factor(pair)
        order, typed, sentence = _read(pair.conflict.text)
        assert "not follow instructions" in order and len(typed) == n_shots + 1 + n_after
        assert sentence not in typed and len(set(typed)) == len(typed)
        said = re.findall(r"[^\s]+", sentence.rstrip("."))
        followed = _followed(typed[n_shots], said)
        if variant == "sentence":
            assert (pair.answer, pair.lure) == (f" {sentence}", f" {' '.join(followed)}.")
        else:
            assert (pair.answer, pair.lure) == tuple(f" {words[0].strip(',;:!?')}" for words in (said, followed))
        assert not pair.answer.startswith(pair.lure) and not pair.lure.startswith(pair.answer)
        other, *rest = _read(pair.plain.text)
        assert rest == [typed, sentence]
        assert other == "" or (variant == "reversed-order" and "will follow instructions" in other)
        assert pair.neutral_lure == pair.lure and len(_read(pair.neutral.text)[1]) == len(typed)
        assert _read(pair.neutral.text)[1][n_shots] != typed[n_shots]
        assert ("Ignore everything" in typed[n_shots]) == (variant == "ignore")
        assert sentence[0].islower() == (variant == "lower-case")


def test_form_is_alike_but_for_the_capitals(drawn):
    made = drawn(TASK)
    assert len({pair.conflict.text for pair in made}) == 1000 and sum(pair.answer_index for pair in made) == 500
    assert all(pair.answer.upper() == pair.lure and pair.answer != pair.lure for pair in made)
    assert len({pair.answer for pair in made}) >= 8 and not made.equally_likely
    for variant in ("reverse", "drop-first"):
        for pair in drawn(TASK, variant):
            assert pair.lure in pair.conflict.spans("input")[0]


def test_the_metric_of_the_prize(drawn):
    task = as_sequence_prob(drawn(TASK).take(range(20)))
    assert (task.metric, task.name, len(task)) == ("sequence_prob", TASK, 20)
    for item, pair in zip(task, drawn(TASK), strict=False):
        assert (item.prompt, item.classes) == (pair.conflict.text, (pair.answer,))


def test_ten_pairs_in_a_row_share_what_is_read_first(drawn):
    made = drawn(TASK).pairs[:40]
    shown = [len({pair.conflict.spans("shots") for pair in made[i : i + 10]}) for i in range(0, 40, 10)]
    assert max(shown) <= 2  # two where one of the ten is itself among the sentences shown


def test_from_own_sentences(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("".join(f"Number {word} is a number.\n" for word in ("one", "two", "three", "four")))
    made = contrast(TASK, n=12, source=path)
    assert {pair.answer for pair in made} == {" Number"} and {pair.lure for pair in made} == {" NUMBER"}
    with pytest.raises(InputError, match="4 sentences, expected at least 7"):
        contrast(TASK, n=1, source=path, variant="shots-5")
    path.write_text("A bird sings.\nTwo words\nGood day to you.\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        contrast(TASK, n=1, source=path)
    assert [problem[:22] for problem in caught.value.problems] == ["line 1: sentence 'A bi", "line 2: sentence 'Two "]


def test_a_sentence_in_capitals_already():
    with pytest.raises(ValueError, match="of which one begins the other"):
        prompt_injection.injection_pair("x", [], "NO ENTRY HERE.", CAPITALS)
