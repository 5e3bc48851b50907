"""Into the unknown: which of two facts would help more to find something out, the new one or the one known already?

    >>> bus = Scenario("{name} missed the bus.", "Will {name} come?", ("It is far.", "{name} has a bicycle."))
    >>> pair = unknown_pair("bus", bus, "Ada", known="It is far.", new="{name} has a bicycle.", answer_index=1)
    >>> print(pair.conflict.text)
    We know: Ada missed the bus. It is far.
    We want to find out: Will Ada come?
    Which of these two facts would help us more?
    A. It is far.
    B. Ada has a bicycle.
    Answer:
    >>> pair.classes, pair.answer, pair.conflict.spans("asked"), pair.plain.spans("asked")
    ((' A', ' B'), ' B', ('would help us more',), ('do we know already',))

From Alexis Ross and Max Weiss, second round of the Inverse Scaling Prize: models are asked which of two pieces of
information would help to answer a question, and the larger they are, the more they choose what the prompt has said.
McKenzie et al. 2023 count it among the tasks with an easier task beside the real one, here to choose what looks like
the prompt. The released file could not be read here: its questions have two classes of one length, as letters have,
but the words of the prompt are the project's own (``unknowns.tsv``), and scores on them are not scores on its items.

The plain side asks which of the two is known already: there the lure is right, and a model that chooses what the prompt
has said is right there and wrong on the conflict side. In the variant ``exchanged`` the plain side asks the same, and
the two facts change places: the one that was new is known. Such a model is then wrong on both sides, so that it counts
as lost, not as overridden.

Every fact is as often the answer as the lure, and the letter is balanced, so neither is first, longer or earlier in
the alphabet more often than the other. What form gives away is the task itself: the lure stands in the prompt twice. In
the variant ``both-told`` both do.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest, balanced
from isp_mech.contrasts.word_lists import EntryList
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

NAMES = ("Ada", "Ben", "Clara", "Dan", "Ella", "Felix", "Grace", "Hugo", "Iris", "Jack", "Kate", "Leo")
LETTERS = (" A", " B")
CLEAR = "A fact that we know already does not help us to find out more.\n\n"
KNOWN = "<setting>We know: {setting}</> <known>{known}</>\n"
TOLD = "<other>We do not know whether this is true:</> <known>{new}</>\n"
ASKED = "<question>We want to find out: {question}</>\n"
WHICH = "<instruction>Which of these two facts </><asked>{asked}</><instruction>?</>"
HELPS, IS_KNOWN = "would help us more", "do we know already"
OPTIONS = (  # by the place of the answer
    "\n<answer_option>A. {answer}</>\n<lure_option>B. {lure}</>\nAnswer:",
    "\n<lure_option>A. {lure}</>\n<answer_option>B. {answer}</>\nAnswer:",
)


@dataclass(frozen=True)
class Scenario:
    """What is known, a question about it, and facts that each help to answer it; ``{name}`` stands for a person.

    ``ValueError`` for fewer than two facts, or one that begins another.
    """

    setting: str
    question: str
    facts: tuple[str, ...]
    topic: str = ""

    def __post_init__(self) -> None:
        if len(self.facts) < 2:
            raise ValueError(f"setting {self.setting!r}: expected two facts or more, found {len(self.facts)}")
        for one, other in itertools.permutations(self.facts, 2):
            if one.startswith(other):
                raise ValueError(f"fact {one!r} begins with {other!r}, expected two that differ before either ends")


def _scenario(topic: str, setting: str, question: str, **facts: str) -> Scenario:
    return Scenario(setting, question, tuple(filter(None, facts.values())), topic)


# the project's own list; in a user's file two facts are enough, and a topic keeps facts of other rows apart
SCENARIOS = EntryList(
    *("unknowns.tsv", _scenario, ("setting", "question", "fact_1", "fact_2"), "setting"),
    optional=("fact_3", "fact_4", "topic"),
)


def unknown_pair(
    id: str,
    scenario: Scenario,
    name: str,
    *,
    known: str,
    new: str,
    answer_index: int,
    variant: str = "",
    neutral: tuple[str, str] | None = None,
) -> Pair:
    """One pair: ``known`` is known; which of it and ``new`` would help more, and (the plain side) which is known?

    ``neutral`` are a third fact of the scenario and one from elsewhere: with the third known, the question between the
    new fact and the one from elsewhere is a neutral prompt. Roles: ``setting``, ``known`` (factor of ``exchanged``),
    ``question``, ``instruction``, ``asked`` (the factor of all others), ``answer_option``, ``lure_option``, and in the
    variant ``both-told`` ``other``.
    """
    exchanged, lettered = variant == "exchanged", variant != "sentence"
    told = KNOWN + (TOLD if variant == "both-told" else "")
    parts = (ASKED, told) if variant == "known-after" else (told, ASKED)
    template = "".join(parts) + WHICH + (OPTIONS[answer_index] if lettered else "\nAnswer:")
    if variant == "clear-instructions":
        template = f"<instruction>{CLEAR}</>{template}"

    def named(text: str) -> str:
        return text.replace("{name}", name)

    def prompt(told: str, other: str, lure: str = known, asked: str = HELPS) -> Prompt:
        texts = {"setting": scenario.setting, "question": scenario.question, "known": told, "new": other}
        texts |= {"answer": new, "lure": lure, "asked": asked}
        return fill(template, **{key: named(text) for key, text in texts.items()})

    right, wrong = LETTERS[answer_index], LETTERS[1 - answer_index]
    classes = (right, wrong) if lettered else (f" {named(new)}", f" {named(known)}")
    plain = prompt(new, known) if exchanged else prompt(known, new, asked=IS_KNOWN)
    factor = "known" if exchanged else "asked"
    pair = Pair(id, plain, prompt(known, new), *classes, factor=factor, answer_index=answer_index)
    if neutral is None:
        return pair
    third, foreign = neutral
    wrong = wrong if lettered else f" {named(foreign)}"
    return pair.with_neutral(prompt(third, new, lure=foreign), pair.answer, wrong)


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's scenarios, or a file's (``setting``, ``question``, ``fact_1``, ``fact_2``, ...).

    The letter of the answer is balanced exactly for an even number of pairs, and guessing is right half of the time,
    but for the variant ``sentence``. Every variant asks about the same facts. There is a neutral side where a scenario
    has a third fact and another topic has scenarios.
    """
    chosen = SCENARIOS.read(request.source)
    letters = balanced(request.random("letters"))

    def options(scenario: Scenario, rng: random.Random) -> Iterator[tuple[str, str, str]]:
        named = any("{name}" in text for text in (scenario.setting, scenario.question, *scenario.facts))
        names = rng.sample(NAMES, len(NAMES)) if named else [""]
        pairs = list(itertools.permutations(scenario.facts, 2))
        rng.shuffle(pairs)
        for turn in range(len(names)):  # all facts with one name each, before any comes again with another
            yield from ((names[(place + turn) % len(names)], *facts) for place, facts in enumerate(pairs))

    def pair(scenario: Scenario, drawn: tuple[str, str, str], i: int) -> Pair:
        name, known, new = drawn
        rng = request.random(pair=i)
        others = [fact for fact in scenario.facts if fact not in (known, new)]
        elsewhere = [other for other in chosen if other.topic != scenario.topic]
        neutral = None
        if others and elsewhere:
            neutral = rng.choice(others), rng.choice(rng.choice(elsewhere).facts)
        return unknown_pair(
            *(f"{request.task}-{i}", scenario, name),
            known=known,
            new=new,
            answer_index=next(letters),
            variant=request.variant,
            neutral=neutral,
        )

    return request.rounds(chosen, options, pair)


TASK = ContrastTask(
    "into-the-unknown",
    citation=CITATIONS["into-the-unknown"],
    draw=draw,
    equally_likely=True,
    not_in=("sentence",),
)
