"""The rows that a figure is drawn from: of the right table, of one task, by size."""

from __future__ import annotations

import pandas as pd

from isp_mech.errors import InputError
from isp_mech.sites import Site
from isp_mech.tables import Table


def frame_of(table: Table, *names: str) -> pd.DataFrame:
    """The table's frame. ``InputError`` where the table is of another kind, empty, or has a size of zero or less.

    What ``score``, ``trace`` and ``locate`` give may stand for the table of that name in it.
    """
    table = next((inside for n in names if isinstance(inside := getattr(table, n, None), Table)), table)
    problems = []
    if table.name not in names:
        problems.append(f"found table {table.name!r}, expected {' or '.join(repr(n) for n in names)}")
    elif not len(table.frame):
        problems.append("found no rows, expected at least one")
    elif (table.frame["n_params"] <= 0).any():
        worst = table.frame.loc[table.frame["n_params"] <= 0, "model"].iloc[0]
        problems.append(f"model {worst!r}: n_params is zero or less, expected a number of parameters")
    if problems:
        raise InputError("figure", problems)
    return table.frame


def of_task(frame: pd.DataFrame, task: str | None = None) -> pd.DataFrame:
    """The rows of one task, of the first by default."""
    return frame[frame["task"] == (task or tasks_of(frame)[0])]


def of_side(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """The rows of one side. ``InputError`` where there is none."""
    rows = frame[frame["side"] == side]
    if not len(rows):
        raise InputError("figure", [f"side {side!r}: expected one of {', '.join(sorted(set(frame['side'])))}"])
    return rows


def by_size(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows from small models to large."""
    return frame.sort_values(["n_params", "model"])


def tasks_of(frame: pd.DataFrame) -> list[str]:
    """The tasks in order of appearance."""
    return [str(task) for task in frame["task"].unique()]


def sizes_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """``(model, n_params)`` from small to large."""
    pairs = frame[["model", "n_params"]].drop_duplicates()
    return sorted(((str(m), int(n)) for m, n in pairs.itertuples(index=False)), key=lambda size: (size[1], size[0]))


def site_name(row: pd.Series) -> str:
    """``a5.h3`` or ``m5``."""
    layer = int(row["layer"])
    return str(Site(layer, "head", int(row["head"])) if row["kind"] == "head" else Site(layer, "mlp"))
