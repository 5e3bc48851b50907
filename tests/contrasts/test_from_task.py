from __future__ import annotations

from pathlib import Path

import pytest

from isp_mech.contrasts import contrast
from isp_mech.contrasts.from_task import RULES, pairs_from_task, without_negation
from isp_mech.contrasts.hindsight_neglect import Bet, by_outcome
from isp_mech.errors import InputError
from isp_mech.tasks import Item, Task, check_one_factor, read_task

PRIZE = Path(__file__).parents[3] / "shared" / "data" / "prize"


def _as_task(pairs, name=None):
    items = (Item(p.id, p.conflict.text, p.classes, p.answer_index) for p in pairs)
    return Task(name or pairs.name, tuple(items))


@pytest.mark.parametrize("name", RULES)
def test_the_projects_own_items_become_the_pairs_they_came_from(name, drawn):
    made = drawn(name)
    turned = pairs_from_task(_as_task(made))
    left = {} if name != "neqa" else turned.left_out  # of its own facts some have a negation of their own
    assert turned.left_out == left and len(turned.pairs) >= 0.97 * len(made)
    of_id = {pair.id: pair for pair in made}
    for pair in turned.pairs:
        own = of_id[pair.id]
        assert (pair.conflict.text, pair.plain.text, pair.classes, pair.answer) == (
            *(own.conflict.text, own.plain.text),
            *(own.classes, own.answer),
        )
        assert pair.factor == own.factor and set(pair.conflict.roles) <= {*own.conflict.roles, "shots"}
    assert turned.pairs.name == name


def test_shots_are_kept(drawn):
    for name, variant in (("sig-figs", "shots-2"), ("memo-trap", "shots-3"), ("quote-repetition", "shots-5")):
        made = drawn(name, variant)
        turned = pairs_from_task(_as_task(made, name))
        assert not turned.left_out
        assert [p.plain.text for p in turned.pairs] == [p.plain.text for p in made]


@pytest.mark.skipif(not PRIZE.exists(), reason="the prize's files are not there")
@pytest.mark.parametrize(("file", "n"), [("neqa_classification", 300), ("hindsight-neglect_classification", 315)])
def test_released_files(file, n):
    task = read_task(PRIZE / f"{file}.jsonl")
    turned = pairs_from_task(task)
    assert len(turned.pairs) + len(turned.left_out) == len(task) == n and len(turned.pairs) >= 0.95 * n
    for pair, item in zip(turned.pairs, (i for i in task if i.id not in turned.left_out), strict=True):
        assert (pair.id, pair.conflict.text, pair.classes) == (item.id, item.prompt, item.classes)
        assert pair.answer == item.classes[item.answer]
        check_one_factor(pair)
        if file.startswith("hindsight"):
            assert _judged(pair.plain.text) == (pair.lure, pair.lure)
            assert _judged(pair.conflict.text) == (pair.answer, pair.lure)


def _judged(text):
    """The verdicts by expected value and by outcome of the last question, read from its words."""
    words = text.rsplit("\nQuestion: ", 1)[1].split()
    chances = [int(words[i - 1]) for i, word in enumerate(words) if word == "percent"]
    kinds = [words[i + 3] for i, word in enumerate(words) if word == "percent"]
    amounts = [int(words[i - 1]) for i, word in enumerate(words) if word.startswith("dollars")]
    of = {kind: (chance, amount) for kind, chance, amount in zip(kinds, chances, amounts, strict=False)}
    outcome = words[words.index("ends") + 2]
    assert amounts[2] == of[outcome][1]
    bet = Bet("", of["earning"][0], of["earning"][1], of["losing"][1])
    return f" {bet.by_value()}", f" {by_outcome(outcome)}"


def test_what_cannot_be_turned_is_listed_with_its_reason():
    good = contrast("sig-figs", n=1)[0]
    text = "Please round 27.386 to 2 significant figures.\nA. 27\nB. 27.4\nAnswer:"
    items = (
        Item("good", good.conflict.text, good.classes, good.answer_index),
        Item("other lure", text, (" A", " B"), 0),
        Item("no question", "Hello", (" A", " B"), 0),
        Item("three", "Hello", (" A", " B", " C"), 0),
        Item("words", text, (" yes", " no"), 0),
    )
    turned = pairs_from_task(Task("sig-figs", items))
    assert [pair.id for pair in turned.pairs] == ["good"]
    assert turned.left_out == {
        "other lure": "the lure '27.4' is not 27.386 rounded to 2 decimal places",
        "no question": "the prompt is not of the form that the released items have",
        "three": "3 classes, expected two",
        "words": "the answer 'yes' is neither A nor B",
    }


@pytest.mark.parametrize(
    ("name", "prompt", "classes", "reason"),
    [
        (
            "memo-trap",
            'Write a quote that ends in the word "x": A b',
            (" c.", " d."),
            "the answer 'c.' is not the word",
        ),
        ("neqa", "Question: It is\nA. x\nB. y\nAnswer:", (" A", " B"), "0 negations in 'Question: It is'"),
        ("quote-repetition", "Input: a b\nOutput: a", (" c", " b"), "does not go on with the answer 'c'"),
        ("quote-repetition", "Say a b", (" c", " b"), "does not end in 'Input: ...'"),
        ("repetitive-algebra", "Q: Suppose 3 = a + 1. What is the value of a? A:", (" 4", " 5"), "is 2, not '4'"),
        ("repetitive-algebra", "Q: Suppose 3 = 2a. What is the value of a? A:", (" 4", " 5"), "equation '3 = 2a'"),
        (
            "pattern-matching-suppression",
            "Alternate (A B) but ending unexpectedly.\nA, B, A,",
            (" A", " C"),
            "the lure 'C' does not continue the sequence",
        ),
    ],
)
def test_reasons(name, prompt, classes, reason):
    with pytest.raises(InputError) as caught:
        pairs_from_task(Task("mine", (Item("0", prompt, classes, 0),)), name)
    assert reason in caught.value.problems[0]


def test_a_task_without_a_rule():
    task = Task("into-the-unknown", (Item("0", "x", (" A", " B"), 0),))
    with pytest.raises(InputError, match="name 'into-the-unknown': expected one of memo-trap, pattern-"):
        pairs_from_task(task)
    assert pairs_from_task(Task("redefine", (Item("0", "Redefine e as 5. Q: e? A:", (" 5", " 2"), 0),))).pairs[0].factor


@pytest.mark.parametrize(("text", "plain"), [("He can't go", "He can go"), ("I shan’t", "I shall"), ("Not so", " so")])
def test_negations(text, plain):
    start, stop, instead = without_negation(text)
    assert text[:start] + instead + text[stop:] == plain
