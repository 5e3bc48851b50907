"""Repetitive algebra: solve an equation after ten solved ones, of which all but the last have one answer.

    >>> shots = [Equation("a", 73, 34), Equation("a", 4, -35), Equation("c", 5, -30)]
    >>> pair = algebra_pair("c", shots, Equation("c", -11, -50), 35)
    >>> print(pair.conflict.text)
    Please answer the following simple algebra questions.
    <BLANKLINE>
    Q: Suppose 73 = a + 34. What is the value of a? A: 39
    Q: Suppose 4 = a + -35. What is the value of a? A: 39
    Q: Suppose 5 = c + -30. What is the value of c? A: 35
    Q: Suppose -11 = c + -50. What is the value of c? A:
    >>> pair.classes, pair.conflict.spans("first_number"), pair.plain.spans("first_number")
    ((' 39', ' 35'), ('-11',), ('-15',))

From Tom Tseng, second round of the Inverse Scaling Prize. In the two released items that could be read, nine shots have
one answer, the tenth another, and the question's own answer is that of the nine; the lure is the tenth's. McKenzie et
al. 2023 count it among the tasks with misleading shots: the larger the model, the more it copies from the shots
instead of solving. Here the plain prompt has another first number, with which the tenth shot's answer is right. The
variant ``frequent`` turns it round: there the lure is the answer of the nine, and the right one is in no shot.

Answers and lures are drawn alike, with two digits each: neither is longer, larger or earlier in the alphabet more
often than the other. What form does give away is the task itself: the answer is in nine shots and the lure in one,
so whoever says what is frequent is right. The variants ``all-different`` and ``frequent`` leave no such way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest, balanced
from isp_mech.contrasts.word_lists import EntryList
from isp_mech.tasks import Pair, Prompt, compose
from isp_mech.tasks.items import CITATIONS

Form = Literal["solve", "sum"]
FORMS: tuple[Form, ...] = ("solve", "sum")
INSTRUCTION = "Please answer the following simple algebra questions.\n\n"
LETTERS = "abcdfghjkmnpqrstuvwxyz"
ANSWERS = range(10, 100)
ANSWER_AND_LURE = [(answer, lure) for answer in ANSWERS for lure in ANSWERS if answer != lure]
NUMBERS = [n for n in range(-99, 100) if n]
N_SHOTS = 10
PER_ANSWERS = 20  # questions about one answer and one lure
_EQUATION = re.compile(r"(-?\d+) = ([a-z]) \+ (-?\d+)|(-?\d+) \+ (-?\d+) = ([a-z])")


@dataclass(frozen=True)
class Equation:
    """One step, one letter: ``73 = a + 34`` (to ``solve``) or ``23 + 48 = m`` (a ``sum``), with its two numbers.

    >>> [f"{e}: {e.answer}" for e in (Equation("a", 73, 34), Equation("m", 23, 48, "sum"))]
    ['73 = a + 34: 39', '23 + 48 = m: 71']
    """

    letter: str
    first: int
    second: int
    form: Form = "solve"

    def __str__(self) -> str:
        return "".join(text for text, _ in self.pieces())

    @property
    def answer(self) -> int:
        """The value of the letter."""
        return self.first - self.second if self.form == "solve" else self.first + self.second

    def with_answer(self, answer: int) -> Equation:
        """The same with another first number, such that ``answer`` is its answer."""
        return replace(self, first=answer + self.second if self.form == "solve" else answer - self.second)

    def pieces(self) -> list[tuple[str, str]]:
        """``(text, role)``: the first number, and the rest."""
        rest = f" = {self.letter} + {self.second}" if self.form == "solve" else f" + {self.second} = {self.letter}"
        return [(str(self.first), "first_number"), (rest, "question")]


def parse_equation(text: str) -> Equation:
    """The equation that a text is; ``ValueError`` for another text.

    >>> parse_equation("-11 = c + -50").answer, parse_equation("161 + -97 = y").answer
    (39, 64)
    """
    match = _EQUATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"equation {text!r}: expected one such as '73 = a + 34' or '23 + 48 = m'")
    if match[2]:
        return Equation(match[2], int(match[1]), int(match[3]))
    return Equation(match[6], int(match[4]), int(match[5]), "sum")


def _entry(equation: str) -> Equation:
    return parse_equation(equation)


# only ever read from a user's file: the project's own equations are drawn
EQUATIONS = EntryList("", _entry, ("equation",), "equation", or_lines=True)


def algebra_prompt(shots: Sequence[Equation], question: Equation, *, odd: int = -1) -> Prompt:
    """The prize's prompt; ``odd`` is the place of the shot whose answer differs from the others'.

    Roles: ``instruction``, ``shots`` and in them ``answers`` and ``odd_answer``; of the last equation ``first_number``
    (the factor) and ``question``.
    """
    parts = [(INSTRUCTION, "instruction")]
    odd_shot = odd % max(len(shots), 1)
    for place, shot in enumerate(shots):
        parts += [(f"Q: Suppose {shot}. What is the value of {shot.letter}? A: ", "shots")]
        parts += [(str(shot.answer), "odd_answer" if place == odd_shot else "answers"), ("\n", "shots")]
    asked = (f". What is the value of {question.letter}?", "question")
    return compose([*parts, ("Q: Suppose ", "question"), *question.pieces(), asked, (" A:", "")])


def algebra_pair(
    id: str,
    shots: Sequence[Equation],
    question: Equation,
    lure: int,
    *,
    odd: int = -1,
    neutral: Sequence[Equation] = (),
    answer_index: int = 0,
) -> Pair:
    """One pair: ``question``, and with another first number, such that ``lure`` is its answer (the plain side).

    ``neutral`` are other shots, with neither the answer nor the lure in them: after these the question is a neutral
    prompt. ``ValueError`` where one of the two questions is a shot, or one answer begins the other.
    """
    other = question.with_answer(lure)
    answer = str(question.answer)
    if answer.startswith(str(lure)) or str(lure).startswith(answer):
        raise ValueError(f"question {question}: answer {answer} and lure {lure}, of which one begins the other")
    solved = {(shot.form, shot.first, shot.second) for shot in (*shots, *neutral)}
    for asked in (question, other):
        if (asked.form, asked.first, asked.second) in solved:
            raise ValueError(f"question {asked} is one of the shots, expected another")
    plain, conflict = (algebra_prompt(shots, asked, odd=odd) for asked in (other, question))
    pair = Pair(id, plain, conflict, f" {answer}", f" {lure}", factor="first_number", answer_index=answer_index)
    if not neutral:
        return pair
    return pair.with_neutral(algebra_prompt(neutral, question, odd=odd), pair.answer, pair.lure)


def shot_answers(rng: random.Random, variant: str, n: int, answer: int, lure: int) -> list[int]:
    """The answers of ``n`` shots: the same for all but the last (of ``odd-first``, the first).

    >>> rng = random.Random(0)
    >>> [shot_answers(rng, variant, 4, 39, 35) for variant in ("", "odd-first", "frequent", "all-different")]
    [[39, 39, 39, 35], [35, 39, 39, 39], [35, 35, 35, 73], [27, 48, 22, 35]]
    """
    others = rng.sample([number for number in ANSWERS if number not in (answer, lure)], n)
    if variant == "frequent":
        return [lure] * (n - 1) + others[:1]
    if variant == "odd-first":
        return [lure] + [answer] * (n - 1)
    if variant == "neutral":
        return others
    return (others[1:] if variant == "all-different" else [answer] * (n - 1)) + [lure]


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about drawn equations, or about those of a file with one on each line (or a column ``equation``).

    There is no uniform baseline: two numbers, of which one stands in nine shots, are not equally likely. In half of
    the questions the letter is added to a number, in the other half it is the sum. On the neutral side no two shots
    have one answer, and none has the answer or the lure.
    """
    variant, n = request.variant, request.number("shots-", N_SHOTS)
    forms = [form for form in FORMS if variant not in FORMS or form == variant]
    order = balanced(request.random("order"))
    bases: Sequence[tuple[int, int] | Equation] = EQUATIONS.read(request.source) if request.source else ANSWER_AND_LURE

    def equations(rng: random.Random, answers: Sequence[int], form: Form, but: set[int]) -> list[Equation]:
        seconds = rng.sample([number for number in NUMBERS if number not in but], len(answers))
        drawn = (Equation(rng.choice(LETTERS), 0, second, form) for second in seconds)
        return [one.with_answer(answer) for one, answer in zip(drawn, answers, strict=True)]

    def options(base: tuple[int, int] | Equation, rng: random.Random) -> Iterator[tuple[Equation, int]]:
        if isinstance(base, Equation):
            size = len(str(base.answer).lstrip("-"))
            lures = [number for number in range(10 ** (size - 1), 10**size) if number != abs(base.answer)]
            for lure in rng.sample(lures, min(PER_ANSWERS, len(lures))):
                yield base, -lure if base.answer < 0 else lure
            return
        first = rng.randrange(2)
        for i, second in enumerate(rng.sample(NUMBERS, PER_ANSWERS)):
            form = forms[(first + i) % len(forms)]
            yield Equation(rng.choice(LETTERS), 0, second, form).with_answer(base[0]), base[1]

    def pair(base: tuple[int, int] | Equation, drawn: tuple[Equation, int], i: int) -> Pair:
        question, lure = drawn
        rng = request.random(pair=i)
        told, told_neutral = (shot_answers(rng, kind, n, question.answer, lure) for kind in (variant, "neutral"))
        shots, neutral = (equations(rng, told, question.form, {question.second}) for told in (told, told_neutral))
        odd = 0 if variant == "odd-first" else -1
        return algebra_pair(
            f"{request.task}-{i}", shots, question, lure, odd=odd, neutral=neutral, answer_index=next(order)
        )

    return request.rounds(bases, options, pair)


TASK = ContrastTask("repetitive-algebra", citation=CITATIONS["repetitive-algebra"], draw=draw)
