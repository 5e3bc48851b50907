"""Shapes of many curves side by side: families, tasks, checkpoints."""

from __future__ import annotations

import math
from dataclasses import asdict

import pandas as pd

from isp_mech.errors import InputError
from isp_mech.scaling.curve_shape import Shape, shape
from isp_mech.scaling.group_rows import Row, frame_of, rows_per_group, with_q
from isp_mech.scaling.renamed import renamed
from isp_mech.scaling.shape_in_words import AXES, Over
from isp_mech.tables import Table, table

CURVE = ("family", "task", "side")
_COLUMN = {"parameters": "n_params", "tokens": "tokens", "FLOPs": "flops"}


@renamed(stray="between_model_sd")
def shapes(
    observations: Table, *, over: Over = "parameters", level: float = 0.95, between_model_sd: float = 0.0
) -> Table:
    """Table "shapes": the Shape of every curve in a table "observations", one row each.

    Over ``parameters`` and ``FLOPs`` a curve is a family's models at one revision, so that a family with
    checkpoints has one curve for each; over ``tokens`` it is the checkpoints of one model. Each rests on the
    number of items, or, where a table gives none, on its standard errors; ``between_model_sd`` is how far models of
    one size differ (see ``shape``). ``q`` is Spearman's p after Benjamini-Hochberg over all rows. ``InputError``
    names every curve that lacks a number it needs.
    """
    frame = frame_of(observations, "observations", "shapes")
    if over not in AXES:
        raise InputError("shapes", [f"over {over!r}: expected one of {', '.join(AXES)}"])
    same = "model" if over == "tokens" else "revision"  # what is the same along a curve

    def make(head: Row, group: pd.DataFrame) -> list[Row]:
        model = {"model": head["model" if over == "tokens" else "family"], "n_params": int(group["n_params"].max())}
        along = {"over": over, "held": head[same], "n_sizes": len(group)}
        return [{key: head[key] for key in CURVE} | model | along | _row(_shape(group, over, level, between_model_sd))]

    def called(head: Row) -> str:
        names = dict.fromkeys((head["family"], head[same]))
        return f"{' '.join(name for name in names if name)} on {head['task']}"

    rows = rows_per_group(frame, [*CURVE, same], make, subject="shapes", called=called)
    return table("shapes", with_q(rows), observations.run)


def _shape(group: pd.DataFrame, over: Over, level: float, between_model_sd: float) -> Shape:
    column = _COLUMN[over]
    unknown = group.loc[group[column].isna(), "model"].unique()
    if len(unknown):
        raise ValueError(f"{column} is missing for {', '.join(unknown)}")
    counted = bool(group["n"].notna().all())
    if not counted and group["accuracy_se"].isna().any():
        raise ValueError("neither n nor accuracy_se is given for every row: no interval can be had")
    return shape(
        group[column].to_numpy(float),
        accuracy=group["accuracy"].to_numpy(float),
        n=group["n"].to_numpy("int64") if counted else None,
        se=None if counted else group["accuracy_se"].to_numpy(float),
        over=over,
        level=level,
        between_model_sd=between_model_sd,
    )


def _row(found: Shape) -> Row:
    row = asdict(found)
    slopes = row.pop("slopes")
    for name, i in (("slope", 0), ("slope_after", 1)):
        line = slopes[i] if i < len(slopes) else dict.fromkeys(("value", "lo", "hi"), math.nan)
        row |= {name: line["value"], f"{name}_lo": line["lo"], f"{name}_hi": line["hi"]}
    return row
