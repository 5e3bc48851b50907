"""Modus tollens: if P then Q; not Q; therefore not P. Is the conclusion correct?

    >>> case = Conditional("has a pet", "doesn't have a pet", "has a dog", "doesn't have a dog")
    >>> pair = tollens_pair("john", "John", case)
    >>> print(pair.conflict.text)
    Consider the following statements:
    1. If John has a pet, then John has a dog.
    2. John doesn't have a dog.
    Conclusion: Therefore, John doesn't have a pet.
    <BLANKLINE>
    Question: Is the conclusion correct?
    <BLANKLINE>
    Answer:
    >>> pair.classes, pair.answer, pair.plain.spans("conditional")
    ((' No', ' Yes'), ' Yes', ('If John has a dog, then John has a pet',))

From Sicong Huang and Daniel Wurgaft, second round of the Inverse Scaling Prize. McKenzie et al. 2023 count it among the
tasks of unwanted imitation: larger models answer as many people do, who hold this valid step for a mistake. The
conditional goes from the general to the special (a pet, a dog), so that it is not true in general, and its converse is.

The plain prompt has the conditional turned round. Then the conclusion does not follow (to deny the antecedent is a
fallacy), and "No" is right. As in the released file, the right answer is always "Yes" and stands second in the classes:
a model that says "Yes" to everything is right on every conflict prompt and wrong on every plain one. The variant
``wrong`` asks the other way round; both together, or both sides of a pair, show whether the statements are read.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isp_mech.contrasts.redefine_math import unknown_symbol
from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest
from isp_mech.contrasts.word_lists import EntryList
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

TEMPLATE = (
    "<shots>{shots}</><instruction>{first}Consider the following statements:</>\n"
    "1. <conditional>If {name} {antecedent}, then {name} {consequent}</>.\n2. <fact>{name} {fact}</>.\n"
    "Conclusion: <conclusion>Therefore, {name} {conclusion}</>.\n\n"
    "<question>Question: Is the conclusion {asked}?</>\n\nAnswer:"
)
INSTRUCTION = (
    "Say whether a conclusion follows from the two statements before it. Take the statements as true, even where they "
    "are not.\n\n"
)
NAMES = (
    *("Alan", "Alice", "Anna", "Arthur", "Barbara", "Ben", "Boris", "Carol", "Charles", "Clara", "Daniel", "Diana"),
    *("Edgar", "Elena", "Emma", "Felix", "Frank", "George", "Hannah", "Helen", "Henry", "Ida", "Irene", "Jack"),
    *("James", "Jane", "Karl", "Kate", "Laura", "Leo", "Linda", "Lucy", "Maria", "Mark", "Martha", "Nina"),
    *("Oscar", "Paul", "Peter", "Rachel", "Robert", "Rosa", "Simon", "Sophie", "Stella", "Thomas", "Victor", "Walter"),
)
ASKED = {"correct": (" Yes", " No"), "wrong": (" No", " Yes")}  # the answer where the conclusion follows, and the other
Asked = Literal["correct", "wrong"]
CLASSES = (" No", " Yes")  # their order in the released file


@dataclass(frozen=True)
class Conditional:
    """Something that can be said of somebody, and something more special of which it follows; each also denied."""

    general: str
    not_general: str
    special: str
    not_special: str

    def turned(self) -> Conditional:
        """The special and the general in each other's place."""
        return Conditional(self.special, self.not_special, self.general, self.not_general)


def _conditional(**cells: str) -> Conditional:
    if len(set(cells.values())) < len(cells):
        raise ValueError(f"general {cells['general']!r}: two of the four texts are the same, expected four different")
    return Conditional(**{name: text.rstrip(".") for name, text in cells.items()})


# the project's own list, written for it
CONDITIONALS = EntryList(
    "conditionals.tsv", _conditional, ("general", "not_general", "special", "not_special"), once="special"
)


def conditionals(source: str | Path | None = None) -> tuple[Conditional, ...]:
    """The project's conditionals, or those of a TSV or CSV with the columns ``general`` (``has a pet``),
    ``not_general`` (``doesn't have a pet``), ``special`` (``has a dog``) and ``not_special``.

    Raises ``InputError`` with every row in which two texts are the same, and every ``special`` that is there twice.
    """
    return CONDITIONALS.read(source)


def tollens_prompt(
    name: str,
    rule: Conditional,
    fact: str,
    conclusion: str,
    *,
    asked: Asked = "correct",
    shown: str = "",
    first: str = "",
) -> Prompt:
    """The prize's prompt: if ``name`` does what is general in ``rule``, then also what is special; the fact is told.

    Roles: ``shots`` where there are some, ``instruction``, ``conditional`` (the factor), ``fact``, ``conclusion`` and
    ``question``.
    """
    return fill(
        TEMPLATE,
        **{"shots": shown, "first": first, "name": name, "antecedent": rule.general, "consequent": rule.special},
        **{"fact": fact, "conclusion": conclusion, "asked": asked},
    )


def shots(asked: Asked) -> str:
    """Two solved questions: one whose conclusion follows, and one whose does not. They are not in the list."""
    bicycle = Conditional("owns a bicycle", "doesn't own a bicycle", "owns a tandem", "doesn't own a tandem")
    holiday = Conditional("goes on holiday", "doesn't go on holiday", "goes to Crete", "doesn't go to Crete")
    follows, other = ASKED[asked]
    solved = []
    for name, rule, told, right in (("Grace", bicycle, bicycle, follows), ("Otto", holiday.turned(), holiday, other)):
        prompt = tollens_prompt(name, rule, told.not_special, told.not_general, asked=asked)
        solved.append(f"{prompt.text}{right}\n\n")
    return "".join(solved)


def tollens_pair(
    id: str, name: str, case: Conditional, *, asked: Asked = "correct", shown: str = "", first: str = ""
) -> Pair:
    """One pair about ``name``: not special, so not general, by ``case``; and by its converse (the plain side).

    The neutral side affirms: by the same conditional, what is general, so what is special (modus ponens). No lure is
    known there.
    """
    conflict, plain = (
        tollens_prompt(name, rule, case.not_special, case.not_general, asked=asked, shown=shown, first=first)
        for rule in (case, case.turned())
    )
    neutral = tollens_prompt(name, case, case.general, case.special, asked=asked, shown=shown, first=first)
    answer, lure = ASKED[asked]
    pair = Pair(id, plain, conflict, answer, lure, factor="conditional", answer_index=CLASSES.index(answer))
    return pair.with_neutral(neutral, answer, lure)


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's conditionals, or about those of a file (see ``conditionals``), each with every name.

    With ``true-conditional`` the special and the general stand in each other's place: then the conditional is true,
    and the conclusion, too, agrees with what is known. With ``nonsense`` things have invented names.
    """
    variant, listed = request.variant, conditionals(request.source)
    asked: Asked = "wrong" if variant == "wrong" else "correct"
    shown = shots(asked) if variant == "shots-2" else ""
    first = INSTRUCTION if variant == "clear-instructions" else ""

    def pair(case: Conditional, name: str, i: int) -> Pair:
        if variant == "nonsense":
            own = request.random(pair=i)
            one, two = unknown_symbol(own), unknown_symbol(own)
            case = Conditional(f"has a {one}", f"doesn't have a {one}", f"has a {two}", f"doesn't have a {two}")
        elif variant == "true-conditional":
            case = case.turned()
        return tollens_pair(f"{request.task}-{i}", name, case, asked=asked, shown=shown, first=first)

    def names(_: Conditional, rng: random.Random) -> Iterable[str]:
        return rng.sample(NAMES, len(NAMES))

    return request.rounds(listed, names, pair)


TASK = ContrastTask("modus-tollens", citation=CITATIONS["modus-tollens"], draw=draw, equally_likely=True)
