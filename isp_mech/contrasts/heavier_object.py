"""Heavier object: which of two things is heavier? In all shots the first; in the question the second.

    >>> shown = [("elephant", "ant"), ("house", "table"), ("potato", "pea")]
    >>> pair = heavier_pair("tiger", shown, "feather", "tiger")
    >>> print(pair.conflict.text)
    Q. Which object is heavier? Elephant or ant?
    A. Elephant
    Q. Which object is heavier? House or table?
    A. House
    Q. Which object is heavier? Potato or pea?
    A. Potato
    Q. Which object is heavier? Feather or tiger?
    A.
    >>> pair.classes, pair.conflict.spans("comparison"), pair.plain.spans("comparison")
    ((' Tiger', ' Feather'), ('heavier',), ('lighter',))

A reader of the announcement of the Inverse Scaling Prize's first round asked this: is the cue "say the first"
followed, or the question? In his format the first option is also the one with a capital letter, as the
answers have; the variant ``second-right`` has the cue without it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest
from isp_mech.contrasts.word_lists import EntryList
from isp_mech.errors import InputError
from isp_mech.tasks import Pair, Prompt, fill

N_SHOTS = 3
CLEAR = 10.0  # weights differ at least by this factor
TEMPLATE = (
    "<shots>{shots}</><question>Q. Which object is </><comparison>{comparison}</>? <first_option>{first}</>"
    "<question> or </><second_option>{second}</>?\nA."
)


@dataclass(frozen=True)
class Thing:
    """A thing and about how much it weighs."""

    name: str
    kilograms: float


def _thing(object: str, kilograms: str) -> Thing:
    try:
        weight = float(kilograms)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise ValueError(f"kilograms {kilograms!r}, expected a number over 0")
    return Thing(object, weight)


# the project's own list: common things, their weights right to an order of magnitude
THINGS = EntryList("objects.tsv", _thing, ("object", "kilograms"), once="object", alike=str.lower)


def heavier_prompt(shown: Sequence[tuple[str, str]], first: str, second: str, comparison: str, *, right: str) -> Prompt:
    """The seed's format. ``shown`` are ``(first, second)`` options; ``right`` has an ``f`` or ``s`` for each.

    Roles: ``shots``, and of the last question ``comparison`` (the factor), ``first_option``, ``second_option``,
    ``question``.
    """
    told = [
        f"Q. Which object is heavier? {_capital(a)} or {b}?\nA. {_capital(a if which == 'f' else b)}\n"
        for (a, b), which in zip(shown, right, strict=True)
    ]
    return fill(TEMPLATE, shots="".join(told), comparison=comparison, first=_capital(first), second=second)


def _capital(word: str) -> str:
    return word[0].upper() + word[1:]


def heavier_pair(
    id: str,
    shown: Sequence[tuple[str, str]],
    first: str,
    second: str,
    *,
    right: str = "",
    answer_first: bool = False,
    neutral_right: str = "",
) -> Pair:
    """One pair about ``first`` and ``second``, of which the second (with ``answer_first`` the first) is heavier.

    The plain side asks which is lighter: there the option in the shots' place is right. ``shown`` are options
    in the order in which they are told; ``right`` says which of them is heavier, by default always the first.
    With ``neutral_right`` there is a neutral side: the same question after the same shots, each told in the order
    that puts the right one where ``neutral_right`` says, so that its place gives nothing away.
    """
    right = right or "f" * len(shown)
    answer, lure = (first, second) if answer_first else (second, first)
    plain, conflict = (heavier_prompt(shown, first, second, word, right=right) for word in ("lighter", "heavier"))
    answer, lure = f" {_capital(answer)}", f" {_capital(lure)}"
    pair = Pair(id, plain, conflict, answer, lure, factor="comparison")
    if not neutral_right:
        return pair
    turned = [two if a == b else two[::-1] for two, a, b in zip(shown, right, neutral_right, strict=True)]
    return pair.with_neutral(heavier_prompt(turned, first, second, "heavier", right=neutral_right), answer, lure)


def is_clear(heavy: Thing, light: Thing) -> bool:
    """Whether the first is heavier than the second beyond doubt (ten times)."""
    return heavy.kilograms >= CLEAR * light.kilograms


def shots(rng: random.Random, n: int, among: Sequence[Thing]) -> list[tuple[Thing, Thing]]:
    """``n`` clear pairs ``(heavy, light)``, no thing in two of them. ``ValueError`` where there are too few things."""
    left, drawn = list(among), list[tuple[Thing, Thing]]()
    for _ in range(n):
        by_weight = sorted(left, key=lambda thing: thing.kilograms)
        if not left or not is_clear(by_weight[-1], by_weight[0]):
            left_over = f"{len(among)} objects besides the two asked about"
            raise ValueError(f"{left_over}: too few for {n} shots whose objects' weights are ten times apart")
        heavy, light = rng.sample(left, 2)
        while not is_clear(heavy, light):
            heavy, light = rng.sample(left, 2)
        drawn.append((heavy, light))
        left = [thing for thing in left if thing not in (heavy, light)]
    return drawn


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's things, or about those of a file with the columns ``object`` and ``kilograms``.

    There is no uniform baseline: the names of two things are not equally likely a priori. The neutral side
    asks the same after shots in which the first option is right in one or two of three (in about half of any
    other number), so that it shows whether the model knows the weights at all.
    """
    variant, chosen = request.variant, THINGS.read(request.source)
    n_shots = 4 if variant == "mixed" else request.number("shots-", N_SHOTS)

    def options(heavy: Thing, rng: random.Random) -> Iterable[Thing]:
        lighter = [thing for thing in chosen if is_clear(heavy, thing)]
        return rng.sample(lighter, len(lighter))

    def pair(heavy: Thing, light: Thing, i: int) -> Pair:
        own = request.random(pair=i)
        try:
            drawn = shots(own, n_shots, [thing for thing in chosen if thing not in (heavy, light)])
        except ValueError as error:
            raise InputError(str(request.source or request.task), [str(error)]) from None
        half = "f" * (n_shots // 2) + "s" * (n_shots // 2) + own.choice("fs") * (n_shots % 2)
        mixed = "".join(own.sample(half, n_shots))
        right = {"second-right": "s" * n_shots, "mixed": mixed}.get(variant, "f" * n_shots)
        names = [(a.name, b.name) for a, b in drawn]
        told = [two if which == "f" else two[::-1] for two, which in zip(names, right, strict=True)]
        first, second = (heavy, light) if variant == "second-right" else (light, heavy)
        return heavier_pair(
            *(f"{request.task}-{i}", told, first.name, second.name),
            right=right,
            answer_first=variant == "second-right",
            neutral_right="" if variant in ("mixed", "shots-1") else mixed,  # one shot always has a cue
        )

    return request.rounds(chosen, options, pair)


TASK = ContrastTask(
    "heavier-object",
    citation="a reader's question on the Inverse Scaling Prize, round 1 (comments on its announcement, 2022)",
    draw=draw,
)
