"""What was measured on a GPU as a page: a table for each section."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pages import put

MARKS = "<!-- measured -->", "<!-- end of measured -->"
HEAD = ("shape", "path", "measure", "value", "unit", "bar", "note")


def number(value: float) -> str:
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def page(frame: pd.DataFrame) -> str:
    """Markdown: the rows of ``bench_gpu.py``, by section in their order."""
    device = next(iter(frame.loc[frame.section == "machine", "path"]), "")
    parts = [f"Measured on: {device}."]
    for section, rows in frame.groupby("section", sort=False):
        cells = [
            [row.shape, row.path, row.measure, number(row.value), row.unit, row.bar, row.note]
            for row in rows.itertuples()
        ]
        lines = [HEAD, ["---"] * len(HEAD), *cells]
        parts.append(f"### {section.capitalize()}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def into_docs(frame: pd.DataFrame, path: Path) -> None:
    """Puts the page between the marks of a page of the documentation; what was not measured on a GPU is refused."""
    if (frame.loc[frame.section == "machine", "path"] == "CPU").any():
        raise SystemExit("measured on a CPU: expected what was measured on a GPU")
    put(path, MARKS, ["", page(frame)])
