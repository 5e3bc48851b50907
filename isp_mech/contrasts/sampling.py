"""What every builder of pairs shares: checked word lists, and drawing distinct pairs in rounds from a seed."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from isp_mech.errors import InputError
from isp_mech.tasks import Pair, PairSet

Base = TypeVar("Base")
Option = TypeVar("Option")
HERE = Path(__file__).parent


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """``(line number, text)`` of every line that is not blank; ``InputError`` where there is nothing to read.

    A byte order mark is dropped; a byte that is not UTF-8 is named with its line.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise InputError(str(path), [f"line {line}: {found} is not UTF-8, expected UTF-8 text"]) from None
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(str(path), ["expected at least one row, found an empty file"])
    return lines


def read_table(
    path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """``(line number, {column: text})`` of every row of a TSV (or, by its suffix, CSV) with a header.

    Every cell of ``columns`` must be there and not blank; ``optional`` ones default to ``""``; other
    columns are ignored. Raises ``InputError`` with all problems of the file.
    """
    lines = read_lines(path)
    comma = Path(path).suffix.lower() == ".csv"
    texts = [line for _, line in lines]
    try:
        rows = list(csv.reader(texts, strict=True)) if comma else [text.split("\t") for text in texts]
    except csv.Error as error:
        raise InputError(str(path), [f"not CSV ({error})"]) from None
    if len(rows) != len(lines):
        raise InputError(str(path), ["a quoted cell holds a line break, expected each row on one line"])
    header = [name.strip() for name in rows[0]]
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(str(path), [f"line 1: no column {name!r} among {', '.join(header)}" for name in missing])
    problems, read = [], []
    for (number, _), row in zip(lines[1:], rows[1:], strict=False):
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        if len(row) != len(header):
            problems.append(f"line {number}: expected {len(header)} cells, found {len(row)}")
            continue
        problems += [f"line {number}: {name} is empty, expected some text" for name in columns if not cells[name]]
        read.append((number, {name: cells.get(name, "") for name in (*columns, *optional)}))
    if not read and not problems:
        problems.append("expected at least one row under the header")
    if problems:
        raise InputError(str(path), problems)
    return read


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


def variant_name(name: str, variant: str, variants: Mapping[str, str]) -> str:
    """The name of a task's pairs, ``name`` or ``name:variant``; ``InputError`` for a variant it does not have."""
    if variant and variant not in variants:
        raise InputError(f"contrast {name!r}", [f"variant {variant!r}: expected one of {', '.join(variants)}"])
    return f"{name}:{variant}" if variant else name


def balanced(rng: random.Random) -> Iterator[int]:
    """0 and 1 without end, each pair of draws holding both: any even number of them is balanced exactly."""
    while True:
        yield from rng.sample((0, 1), 2)


def collect(
    name: str, drawn: Iterator[Callable[[int], Pair]], *, n: int, seed: int, citation: str, equally_likely: bool
) -> PairSet:
    """The first ``n`` pairs as a ``PairSet``; ``InputError`` says how many distinct ones there are if fewer."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InputError(f"contrast {name!r}", [f"n={n!r}: expected a whole number of pairs, 1 or more"])
    makers = list(itertools.islice(drawn, n))
    if len(makers) < n:
        limit = f"at most {len(makers)}, the number of distinct pairs there are"
        raise InputError(f"contrast {name!r}", [f"n={n}: expected {limit}"])
    pairs = tuple(make(index) for index, make in enumerate(makers))
    return PairSet(name, pairs, citation=citation, equally_likely=equally_likely, seed=seed)
