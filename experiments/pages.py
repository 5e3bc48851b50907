"""Pages of the documentation whose tables scripts write: each between two comments, the words around it by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Marks = tuple[str, str]  # the comment before, and the one after


def numbers(script: str) -> Marks:
    return f"<!-- numbers: experiments/{script} -->", "<!-- end of numbers -->"


def put(page: Path, marks: Marks, lines: Sequence[str]) -> None:
    """Replaces what stands between the two comments of the page."""
    begin, end = marks
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    page.write_text("\n".join([before + begin, *lines, end + rest.split(end, 1)[1]]), encoding="utf-8")
