"""What every task shares: the variants, and distinct pairs drawn in rounds from a seed.

A task's file has a function that takes a ``PairRequest`` and returns ``request.rounds(bases, options, pair)``, and
one ``ContrastTask`` that names it. Whoever adds a task writes these two, its rows in ``tasks.tsv`` (what it asks, and a
row for each variant), and its name in ``catalogue``.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from isp_mech.contrasts.word_lists import HERE, read_table
from isp_mech.errors import InputError
from isp_mech.tasks import Pair, PairSet

Base = TypeVar("Base")
Option = TypeVar("Option")
MakePair = Callable[[int], Pair]  # a pair that is drawn but not yet made, from its number


def in_rounds(
    bases: Sequence[Base], options: Callable[[Base], Iterator[Option]], rng: random.Random
) -> Iterator[tuple[Base, Option]]:
    """Every ``(base, option)`` once, in rounds: each base once with its first option, then each with its second.

    The order of bases is drawn anew in every round; a base whose options are used up drops out. So the
    first few hundred pairs stand on as many different bases as there are.
    """
    left = [(base, options(base)) for base in bases]
    while left:
        rng.shuffle(left)
        remaining = []
        for base, choices in left:
            for option in itertools.islice(choices, 1):
                yield base, option
                remaining.append((base, choices))
        left = remaining


def balanced(rng: random.Random) -> Iterator[int]:
    """0 and 1 without end, each pair of draws holding both: any even number of them is balanced exactly."""
    while True:
        yield from rng.sample((0, 1), 2)


@dataclass(frozen=True)
class PairRequest:
    """Which pairs are asked for: of which task and variant, from which seed, from whose list (None: the project's)."""

    task: str
    seed: int
    variant: str = ""
    source: str | Path | None = None

    def random(self, stream: str = "", pair: int | str = "") -> random.Random:
        """Random numbers of their own for a ``stream`` and a ``pair``: what one of them draws moves no other.

        >>> request = PairRequest("neqa", seed=3)
        >>> request.random("letters").random() == random.Random("neqa letters 3").random()
        True
        """
        return random.Random(" ".join(str(part) for part in (self.task, stream, self.seed, pair) if part != ""))

    def number(self, prefix: str, default: int) -> int:
        """The number in the variant's name after ``prefix``; ``default`` for a variant that does not begin so.

        >>> PairRequest("x", 0, variant="shots-5").number("shots-", 2), PairRequest("x", 0).number("shots-", 2)
        (5, 2)
        """
        return int(self.variant.removeprefix(prefix)) if self.variant.startswith(prefix) else default

    def rounds(
        self,
        bases: Sequence[Base],
        options: Callable[[Base, random.Random], Iterable[Option]],
        pair: Callable[[Base, Option, int], Pair],
    ) -> Iterator[MakePair]:
        """Every base with every of its options, in rounds (see ``in_rounds``), drawn from the seed.

        ``pair(base, option, i)`` makes the pair number ``i``, in the order of ``i``, once all are drawn.
        """
        rng = self.random()
        for base, option in in_rounds(bases, lambda base: iter(options(base, rng)), rng):
            yield partial(pair, base, option)


@cache
def task_texts() -> Mapping[str, Mapping[str, str]]:
    """``{task: {variant: text}}`` of ``tasks.tsv``."""
    texts: dict[str, dict[str, str]] = {}
    for _, row in read_table(HERE / "tasks.tsv", ("task", "text"), optional=("variant",)):
        texts.setdefault(row["task"], {})[row["variant"]] = row["text"]
    return texts


@dataclass(frozen=True)
class ContrastTask:
    """A task of contrasting pairs. What it asks, and its variants, are rows of ``tasks.tsv``.

    ``equally_likely`` says that both completions are equally likely a priori, but in the variants ``not_in``. A task
    that draws from no list names in ``drawn`` what it draws.
    """

    name: str
    citation: str
    draw: Callable[[PairRequest], Iterator[MakePair]]
    equally_likely: bool = False
    not_in: tuple[str, ...] = ()
    drawn: str = ""

    @property
    def variants(self) -> Mapping[str, str]:
        """``{variant: what differs}``, in one line each, and under ``""`` what the task asks."""
        return task_texts().get(self.name, {"": ""})

    def pairs(self, *, n: int, seed: int = 0, source: str | Path | None = None, variant: str = "") -> PairSet:
        """``n`` distinct pairs; see ``contrast``."""
        subject = f"contrast {self.name!r}"
        if variant not in self.variants:
            raise InputError(
                subject, [f"variant {variant!r}: expected one of {', '.join(filter(None, self.variants))}"]
            )
        if self.drawn and source is not None:
            raise InputError(subject, [f"source {str(source)!r}: {self.drawn} are drawn, expected no source"])
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise InputError(subject, [f"n={n!r}: expected a whole number of pairs, 1 or more"])
        drawn = list(itertools.islice(self.draw(PairRequest(self.name, seed, variant, source)), n))
        if len(drawn) < n:
            limit = f"at most {len(drawn)}, the number of distinct pairs there are"
            raise InputError(subject, [f"n={n}: expected {limit}"])
        return PairSet(
            f"{self.name}:{variant}" if variant else self.name,
            tuple(make(i) for i, make in enumerate(drawn)),
            citation=self.citation,
            equally_likely=self.equally_likely and variant not in self.not_in,
            seed=seed,
        )
