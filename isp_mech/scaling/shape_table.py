"""Shapes of many curves side by side: families, tasks, checkpoints."""

from __future__ import annotations

import math

import pandas as pd

from isp_mech import stats
from isp_mech.errors import InputError
from isp_mech.scaling.curve_shape import Shape, shape
from isp_mech.scaling.shape_in_words import AXES
from isp_mech.tables import Table, table

_COLUMN = {"parameters": "n_params", "tokens": "tokens", "FLOPs": "flops"}


def shapes(observations: Table, *, over: str = "parameters", level: float = 0.95, stray: float = 0.0) -> Table:
    """Table "shapes": the Shape of every curve in a table "observations", one row each.

    Over ``parameters`` and ``FLOPs`` a curve is a family's models at one revision, so that a family with
    checkpoints has one curve for each; over ``tokens`` it is the checkpoints of one model. Each rests on the
    number of items, or, where a table gives none, on its standard errors; ``stray`` is how far models of one size
    differ (see ``shape``). ``q`` is Spearman's p after
    Benjamini-Hochberg over all rows. ``InputError`` names every curve that lacks a number it needs.
    """
    if observations.name != "observations":
        raise InputError("shapes", [f"table {observations.name!r}: expected 'observations'"])
    if over not in AXES:
        raise InputError("shapes", [f"over {over!r}: expected one of {', '.join(AXES)}"])
    held = "model" if over == "tokens" else "revision"
    rows: list[dict] = []
    problems: list[str] = []
    for key, group in observations.frame.groupby(["family", "task", "side", held], sort=False):
        family, task, side, same = (str(part) for part in key)
        what = " ".join(part for part in (family, same if same != family else "") if part)
        try:
            found = _shape(group, over, level, stray)
        except ValueError as error:
            problems += [f"{what} on {task}: {line}" for line in getattr(error, "problems", (str(error),))]
            continue
        model = same if over == "tokens" else family
        head = {"model": model, "n_params": int(group["n_params"].max()), "task": task, "family": family}
        rows.append(head | {"side": side, "over": over, "held": same, "n_sizes": len(group)} | _row(found))
    if problems:
        raise InputError("shapes", problems)
    q = stats.benjamini_hochberg([row["p"] for row in rows])
    return table("shapes", [row | {"q": float(one)} for row, one in zip(rows, q, strict=True)], observations.run)


def _shape(group: pd.DataFrame, over: str, level: float, stray: float) -> Shape:
    column = _COLUMN[over]
    unknown = group.loc[group[column].isna(), "model"].unique()
    if len(unknown):
        raise ValueError(f"{column} is missing for {', '.join(unknown)}")
    sizes, accuracy = group[column].to_numpy(float), group["accuracy"].to_numpy(float)
    if group["n"].notna().all():
        n = group["n"].to_numpy("int64")
        return shape(sizes, accuracy=accuracy, n=n, over=over, level=level, stray=stray)
    if group["accuracy_se"].isna().any():
        raise ValueError("neither n nor accuracy_se is given for every row: no interval can be had")
    se = group["accuracy_se"].to_numpy(float)
    return shape(sizes, accuracy=accuracy, se=se, over=over, level=level, stray=stray)


def _row(found: Shape) -> dict:
    first = found.slopes[0] if found.slopes else None
    second = found.slopes[1] if len(found.slopes) > 1 else None
    slopes = {
        f"{name}{end}": getattr(line, attribute) if line else math.nan
        for name, line in (("slope", first), ("slope_after", second))
        for end, attribute in (("", "value"), ("_lo", "lo"), ("_hi", "hi"))
    }
    names = ("name", "spearman", "p", "change", "change_lo", "change_hi", "turn", "turn_lo", "turn_hi", "sentence")
    shown = {name: getattr(found, name) for name in (*names, "smallest_effect", "smallest_turn")}
    return shown | slopes
