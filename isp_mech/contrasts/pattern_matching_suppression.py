"""Pattern-matching suppression: a sequence that alternates between two symbols is to end unexpectedly.

    >>> pair = pattern_pair("ab", "A", "B", 6)
    >>> print(pair.conflict.text)
    Generate a sequence of 6 symbols alternating between two symbols (A B) but ending unexpectedly.
    A, B, A, B, A,
    >>> pair.answer, pair.lure, pair.conflict.spans("twist"), pair.plain.spans("twist")
    (' A', ' B', (' but ending unexpectedly',), ())

From Tomasz Korbak, second round of the Inverse Scaling Prize. McKenzie et al. 2023 count it among the tasks with a
distractor: to continue the pattern is easier than to break it as asked, and larger models continue it better. The
author found the same where the symbol to avoid is named (here the variant ``except``), and that shots help.

The first or the second symbol is the answer equally often, by the sequence's length (even or odd), and the symbols of
a pair come in either order. But of two symbols only the last one written breaks an alternation: a model that
repeats it is right on every conflict prompt, and wrong on every plain one. There is no neutral side: where nothing is
expected, nothing is unexpected.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isp_mech.contrasts.quote_repetition import one_begins_the_other
from isp_mech.contrasts.sampling import ContrastTask, MakePair, PairRequest
from isp_mech.contrasts.word_lists import EntryList
from isp_mech.errors import InputError
from isp_mech.tasks import Pair, Prompt, fill
from isp_mech.tasks.items import CITATIONS

TEMPLATE = (
    "<shots>{shots}</><instruction>Generate a sequence of {n} symbols alternating between two symbols (</>"
    "<symbols>{first} {second}</><instruction>)</><twist>{twist}</><instruction>.</>\n<sequence>{sequence}</>"
)
TWIST = " but ending unexpectedly"
TWISTS = {"except": " but ending with anything except {lure}", "named": " but ending with {answer}"}
LENGTHS = range(6, 20)
LONG = 4  # symbols of a sequence at the least
SHOWN = (("x1", "x2", 4), ("go", "stop", 5))


@dataclass(frozen=True)
class Symbol:
    """A letter, sign or word, and what kind of symbol it is: the two of a sequence are of one kind."""

    text: str
    kind: str = ""


def _symbol(symbol: str, kind: str) -> Symbol:
    if len(symbol.split()) != 1 or "," in symbol:
        raise ValueError(f"symbol {symbol!r}, expected no space and no comma in it")
    return Symbol(symbol, kind)


# the project's own list
SYMBOLS = EntryList("symbols.tsv", _symbol, ("symbol",), once="symbol", optional=("kind",), or_lines=True)


def symbols(source: str | Path | None = None) -> tuple[Symbol, ...]:
    """The project's symbols, or those of a TSV or CSV with the column ``symbol`` (and ``kind``).

    A file that ends otherwise has one on each line. Raises ``InputError`` with every symbol that has a space or a comma
    in it and every one that is there twice.
    """
    return SYMBOLS.read(source)


def sequence(first: str, second: str, n: int) -> list[str]:
    """``n`` symbols that alternate, from the first.

    >>> sequence("A", "B", 5)
    ['A', 'B', 'A', 'B', 'A']
    """
    return list(itertools.islice(itertools.cycle((first, second)), n))


def pattern_prompt(first: str, second: str, n: int, *, twist: str = TWIST, shown: str = "") -> Prompt:
    """The prize's prompt: ``n`` symbols are asked for, and all but the last are written.

    Roles: ``shots`` where there are some, ``instruction``, ``symbols``, ``twist`` (the factor) and ``sequence``.
    """
    written = " ".join(f"{symbol}," for symbol in sequence(first, second, n - 1))
    return fill(TEMPLATE, shots=shown, n=str(n), first=first, second=second, twist=twist, sequence=written)


def shots(n: int) -> str:
    """The first ``n`` of ``SHOWN``, solved: each ends unexpectedly."""
    solved = []
    for first, second, length in SHOWN[:n]:
        prompt = pattern_prompt(first, second, length)
        solved.append(f"{prompt.text} {sequence(first, second, length - 1)[-1]}\n\n")
    return "".join(solved)


def pattern_pair(id: str, first: str, second: str, n: int, *, twist: str = TWIST, shown: str = "") -> Pair:
    """One pair: ``n`` symbols in turn, the last of them unexpected, and the same without the twist (the plain side).

    In ``twist`` ``{answer}`` and ``{lure}`` stand for the symbols. ``ValueError`` where one symbol begins the other, or
    for a sequence of fewer than four.
    """
    if one_begins_the_other(first, second):
        raise ValueError(f"symbols {first!r} and {second!r}: one begins the other, expected two that do not")
    if n < LONG:
        raise ValueError(f"n={n}: expected a sequence of {LONG} symbols or more")
    answer, lure = sequence(first, second, n)[-2:]
    conflict = pattern_prompt(first, second, n, twist=twist.format(answer=answer, lure=lure), shown=shown)
    plain = pattern_prompt(first, second, n, twist="", shown=shown)
    index = (first, second).index(answer)
    return Pair(id, plain, conflict, f" {answer}", f" {lure}", factor="twist", answer_index=index)


def balanced_forms(rng: random.Random) -> Iterator[tuple[bool, int]]:
    """Whether the symbols are turned round, and 1 for an odd length: all four in a drawn order, again and again."""
    while True:
        yield from rng.sample([(turned, odd) for turned in (False, True) for odd in (0, 1)], 4)


def draw(request: PairRequest) -> Iterator[MakePair]:
    """Pairs about the project's symbols, or about those of a file (see ``symbols``), any two of a kind in either order.

    Lengths are 6 to 19, or the variant's and one more; even and odd ones equally often.
    """
    variant = request.variant
    shown, twist = shots(request.number("shots-", 0)), TWISTS.get(variant, TWIST)
    length = request.number("length-", 0)
    lengths = range(length, length + 2) if length else LENGTHS
    of_kind: dict[str, list[str]] = {}
    for symbol in symbols(request.source):
        of_kind.setdefault(symbol.kind, []).append(symbol.text)
    couples = [
        couple
        for texts in of_kind.values()
        for couple in itertools.combinations(texts, 2)
        if not one_begins_the_other(*couple)
    ]
    if not couples:
        raise InputError(str(request.source), ["expected two symbols of one kind of which neither begins the other"])
    forms = balanced_forms(request.random("forms"))

    def options(couple: tuple[str, str], rng: random.Random) -> Iterable[tuple[bool, int]]:
        every = [(turned, n) for turned in (False, True) for n in lengths]
        left = rng.sample(every, len(every))
        while left:
            form = next(forms)
            option = next((one for one in left if (one[0], one[1] % 2) == form), left[0])
            left.remove(option)
            yield option

    def pair(couple: tuple[str, str], option: tuple[bool, int], i: int) -> Pair:
        turned, n = option
        first, second = couple[::-1] if turned else couple
        return pattern_pair(f"{request.task}-{i}", first, second, n, twist=twist, shown=shown)

    return request.rounds(couples, options, pair)


TASK = ContrastTask(
    "pattern-matching-suppression",
    citation=CITATIONS["pattern-matching-suppression"],
    draw=draw,
    equally_likely=True,
)
