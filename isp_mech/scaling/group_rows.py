"""Tables with a row for each group: intervals as columns, q over all rows, every group's complaint at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from isp_mech.errors import InputError
from isp_mech.stats import Floats, benjamini_hochberg, bootstrap_interval
from isp_mech.tables import Table

Row = dict[str, Any]
HEAD = ("model", "n_params", "task")  # the first columns of every table


def frame_of(given: Table, name: str, subject: str, *, empty: bool = True) -> pd.DataFrame:
    """The frame of a table that must be the one called ``name``, with rows unless it may be ``empty``."""
    if given.name != name:
        raise InputError(subject, [f"table {given.name!r}: expected a table {name!r}"])
    if not len(given) and not empty:
        raise InputError(subject, [f"table {name!r} has no rows, expected at least one"])
    return given.frame


def groups(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Row, pd.DataFrame]]:
    """``({key: value}, rows)`` of every group, in the order of their first rows."""
    for values, rows in frame.groupby(list(keys), sort=False):
        yield dict(zip(keys, values, strict=True)), rows


def rows_per_group(
    frame: pd.DataFrame,
    keys: Sequence[str],
    make: Callable[[Row, pd.DataFrame], list[Row]],
    *,
    subject: str,
    called: Callable[[Row], str],
) -> list[Row]:
    """The rows that ``make`` gives for every group.

    Its ValueErrors are collected: one ``InputError`` lists them all, each after what the group is ``called``.
    """
    rows: list[Row] = []
    problems: list[str] = []
    for head, group in groups(frame, keys):
        try:
            rows += make(head, group)
        except ValueError as error:
            problems += [f"{called(head)}: {line}" for line in getattr(error, "problems", (str(error),))]
    if problems:
        raise InputError(subject, problems)
    return rows


def with_q(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with the ``q`` (Benjamini-Hochberg) of its ``p`` over all of them."""
    q = benjamini_hochberg([row["p"] for row in rows])
    return [row | {"q": float(one)} for row, one in zip(rows, q, strict=True)]


def columns_with_interval(names: Sequence[str], middle: Floats, lo: Floats, hi: Floats) -> Row:
    """``{name: middle, name_lo: lo, name_hi: hi}`` for every name."""
    ends = {"": middle, "_lo": lo, "_hi": hi}
    return {f"{name}{end}": float(of[i]) for i, name in enumerate(names) for end, of in ends.items()}


def mean_columns(
    names: Sequence[str], values: ArrayLike, *, fewest: int = 1, level: float = 0.95, seed: int = 0
) -> Row:
    """The mean of every column of ``values``, (n,) for one name or (n, k), with its bootstrap interval over rows.

    With under ``fewest`` rows the interval is missing (NaN), and so is the mean of no rows.

    >>> mean_columns(["share"], [1.0, 1.0, 1.0])
    {'share': 1.0, 'share_lo': 1.0, 'share_hi': 1.0}
    """
    columns = np.asarray(values, dtype=np.float64).reshape(-1, len(names))
    lo = hi = np.full(len(names), np.nan)
    mean = columns.mean(axis=0) if len(columns) else lo
    if len(columns) >= fewest:
        lo, hi = bootstrap_interval(columns, level=level, seed=seed)
    return columns_with_interval(names, mean, lo, hi)
