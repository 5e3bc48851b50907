from __future__ import annotations

import itertools
import re

import pytest

from isp_mech.contrasts import contrast, contrast_variants, modus_tollens
from isp_mech.contrasts.modus_tollens import Conditional
from isp_mech.errors import InputError
from isp_mech.tasks import check_one_factor

ALL = ("", *contrast_variants("modus-tollens"))
FORMAT = re.compile(
    r"Consider the following statements:\n1\. If (\w+) (.+), then \1 (.+)\.\n2\. \1 (.+)\.\n"
    r"Conclusion: Therefore, \1 (.+)\.\n\nQuestion: Is the conclusion (correct|wrong)\?\n\nAnswer:"
)
JOHN = """Consider the following statements:
1. If John has a pet, then John has a dog.
2. John doesn't have a dog.
Conclusion: Therefore, John doesn't have a pet.

Question: Is the conclusion correct?

Answer:"""


def _affirmed(text):
    """``(text without its denial, whether it was denied)``, read back from the words."""
    for denied, base in ((r"isn't (.+)", r"is \1"), (r"can't (.+)", r"can \1"), (r"doesn't (\w+)(.*)", r"\1\2")):
        if re.fullmatch(denied, text):
            return _verb(re.sub(denied, base, text)), True
    return _verb(text), False


def _verb(text):
    verb, _, rest = text.partition(" ")
    verb = {"has": "have"}.get(verb, verb)
    stems = {"carries": "carry", "studies": "study", "watches": "watch", "teaches": "teach", "goes": "go"}
    verb = stems.get(verb, verb.removesuffix("s") if verb not in ("is",) else verb)
    return f"{verb} {rest}"


def _follows(prompt):
    """Whether the conclusion holds in every world in which both statements do: a truth table over the two things."""
    _, one, two, fact, conclusion, asked = FORMAT.search(prompt.text[prompt.text.rindex("Consider") :]).groups()
    texts = [_affirmed(text) for text in (one, two, fact, conclusion)]
    things = sorted({text for text, _ in texts})
    assert len(things) == 2, texts
    holds = True
    for world in itertools.product((False, True), repeat=2):
        truth = dict(zip(things, world, strict=True))
        p, q, told, concluded = (truth[text] != denied for text, denied in texts)
        if (not p or q) and told and not concluded:
            holds = False
    return holds == (asked == "correct")


def test_reproduces_john():
    case = Conditional("has a pet", "doesn't have a pet", "has a dog", "doesn't have a dog")
    pair = modus_tollens.tollens_pair("john", "John", case)
    assert pair.conflict.text == JOHN
    assert (pair.classes, pair.answer, pair.lure) == ((" No", " Yes"), " Yes", " No")
    assert pair.plain.text == JOHN.replace("has a pet, then John has a dog", "has a dog, then John has a pet")
    assert pair.conflict.spans("fact") == ("John doesn't have a dog",)
    check_one_factor(pair)


@pytest.mark.parametrize("variant", ALL)
def test_answers_by_truth_table(variant, drawn):
    made = drawn("modus-tollens", variant)
    assert made.equally_likely and len(made) >= 300
    for pair in made:
        check_one_factor(pair)
        for _, prompt, right, _ in pair.sides():
            assert right == (" Yes" if _follows(prompt) else " No")


def test_format_and_form(drawn):
    made = drawn("modus-tollens")
    for pair in made:
        assert all(FORMAT.fullmatch(prompt.text) for _, prompt, _, _ in pair.sides())
    assert {(pair.answer, pair.answer_index) for pair in made} == {(" Yes", 1)}  # as in the released file
    assert {(pair.answer, pair.answer_index) for pair in drawn("modus-tollens", "wrong")} == {(" No", 0)}


def test_variants_ask_about_the_same(drawn):
    made = drawn("modus-tollens")
    for pair, wrong, clear, shown in zip(
        made, *(drawn("modus-tollens", name) for name in ("wrong", "clear-instructions", "shots-2")), strict=False
    ):
        assert wrong.conflict.text == pair.conflict.text.replace("correct?", "wrong?")
        assert clear.conflict.text == modus_tollens.INSTRUCTION + pair.conflict.text
        assert shown.conflict.text.endswith("\n\n" + pair.conflict.text)
    first, second = shown.conflict.spans("shots")[0].removesuffix("\n\n").split("\n\nConsider")
    assert first.endswith(": Yes") and second.endswith(": No")
    for text in (first, "Consider" + second):
        told, _, right = text.rpartition(" ")
        assert _follows(modus_tollens.Prompt(told)) == (right == "Yes")


def test_the_list():
    listed = modus_tollens.conditionals()
    assert len(listed) >= 80 and len(set(modus_tollens.NAMES)) == len(modus_tollens.NAMES) >= 40
    for case in listed:
        assert _affirmed(case.not_general) == (_affirmed(case.general)[0], True)
        assert _affirmed(case.not_special) == (_affirmed(case.special)[0], True)
    nonsense = contrast("modus-tollens", n=100, variant="nonsense")
    assert len({pair.conflict.spans("fact") for pair in nonsense}) == 100


def test_own_conditionals(tmp_path):
    path = tmp_path / "mine.csv"
    rows = "flies,doesn't fly,flies north,doesn't fly north\n"
    path.write_text("general,not_general,special,not_special\n" + rows, encoding="utf-8")
    made = contrast("modus-tollens", n=48, source=path)
    assert {pair.conflict.spans("fact")[0].split(" ", 1)[1] for pair in made} == {"doesn't fly north"}
    with pytest.raises(InputError, match="n=49: expected at most 48"):
        contrast("modus-tollens", n=49, source=path)
    path.write_text("general,not_general,special,not_special\na,b,a,d\n" + rows * 2, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        modus_tollens.conditionals(path)
    assert caught.value.problems == (
        "line 2: general 'a': two of the four texts are the same, expected four different",
        "line 4: special 'flies north' is on line 3 already, expected it once",
    )
