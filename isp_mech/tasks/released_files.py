"""The files that the prize released, by name, metric, rows, bytes and checksum: is a file at hand one of them?

    >>> [file.rows for file in released_files() if file.task == "neqa"]
    [300]

How each of them is known (``released.tsv``): bytes and sha256 are those of the copies in a public repository
(raybears/cot-transparency, Git LFS pointers), whose ``neqa`` is, byte for byte, the released file, and whose
``hindsight-neglect`` has that file's length; rows are what the standard errors of published accuracies say (Michaelov
and Bergen 2023), for three tasks also the data card of a copy on the hub. What is not known is left out (None).
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from isp_mech.tasks.items import Metric, Task
from isp_mech.tasks.text_files import is_there

_LIST = Path(__file__).parent / "released.tsv"
_OTHER_NAMES = {"redefine": "redefine-math", "hindsight-neglect-10shot": "hindsight-neglect"}
_BLOCK = 2**20


@dataclass(frozen=True)
class ReleasedFile:
    """One file of the release. ``task`` is the name by which ``contrast`` knows it."""

    task: str
    file: str
    metric: Metric
    rows: int | None
    bytes: int | None
    sha256: str | None


@cache
def released_files() -> tuple[ReleasedFile, ...]:
    """All eleven."""
    with _LIST.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return tuple(
        ReleasedFile(
            task=row["task"],
            file=row["file"],
            metric=cast(Metric, row["metric"]),
            rows=int(row["rows"]) if row["rows"] else None,
            bytes=int(row["bytes"]) if row["bytes"] else None,
            sha256=row["sha256"] or None,
        )
        for row in rows
    )


@dataclass(frozen=True)
class Release:
    """The released file that a file is, or by its name might be, and what it has in common with it."""

    released: ReleasedFile
    is_same: bool
    sentence: str


def release_of(path: str | Path, task: Task) -> Release | None:
    """What the file of ``task`` is among the released ones: by its checksum, or else by its name.

    None for a file that is neither, and for what is no file. The sentence says how many rows differ, if that is known.
    """
    if not is_there(Path(path)) or not Path(path).is_file():
        return None
    digest = _sha256(path)
    for released in released_files():
        if released.sha256 == digest:
            rows = "" if released.rows is None else f", {released.rows} rows"
            return Release(released, True, f"this is {released.task} as released{rows} (sha256 {digest[:8]})")
    name = task.name.lower().replace("_", "-")
    for released in released_files():
        if released.task == _OTHER_NAMES.get(name, name):
            return Release(released, False, f"not {released.task} as released: {_difference(released, len(task))}")
    return None


def _difference(released: ReleasedFile, rows: int) -> str:
    if released.rows is None:
        return f"{rows} rows, other bytes"
    if rows != released.rows:
        return f"{rows} rows, {abs(rows - released.rows)} {'fewer' if rows < released.rows else 'more'} than released"
    return f"{rows} rows as there, but other bytes: they may be in another order, or spelt otherwise"


def _sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
