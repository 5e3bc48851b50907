"""Regressions of accuracy on size, training tokens and their interaction, as published studies report them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special

from isp_mech import stats
from isp_mech.errors import InputError
from isp_mech.scaling.shape_decision import Floats
from isp_mech.tables import Table, table

SIZES = ("n_params", "nominal_params", "flops")


def regressions(observations: Table, *, size: str = "n_params", level: float = 0.05) -> Table:
    """Table "regressions": ordinary least squares of accuracy for each family, task and side.

    Predictors are log10 of ``size`` (``n_params``, ``nominal_params``, which is what a model's name says, or
    ``flops``), log10 of training tokens, both standardised (mean 0, standard deviation 1 over the rows), and
    the product of the two; terms whose predictor does not vary, or is not known for any row, are left out.
    ``coefficient`` is the change of accuracy (a share) per standard deviation of the predictor, positive
    rises; ``q`` is p after Benjamini-Hochberg over the whole table. Checkpoints of one model count as
    independent, as in the published studies; they are not, so p is too small rather than too large.
    ``InputError`` names families and tasks with rows that lack a number, or with too few of them.
    """
    if observations.name != "observations":
        raise InputError("regressions", [f"table {observations.name!r}: expected 'observations'"])
    if size not in SIZES:
        raise InputError("regressions", [f"size {size!r}: expected one of {', '.join(SIZES)}"])
    rows: list[dict] = []
    problems: list[str] = []
    for (family, task, side), group in observations.frame.groupby(["family", "task", "side"], sort=False):
        try:
            found = _regression(group, size)
        except ValueError as error:
            problems.append(f"{family} on {task}: {error}")
            continue
        largest = int(group["n_params"].max())
        head = {"model": family, "n_params": largest, "task": task, "family": family, "side": side}
        rows += [head | row for row in found]
    if problems:
        raise InputError("regressions", problems)
    q = stats.benjamini_hochberg([row["p"] for row in rows])
    made = [row | {"q": float(one), "significant": bool(one <= level)} for row, one in zip(rows, q, strict=True)]
    return table("regressions", made, observations.run)


def _regression(group: pd.DataFrame, size: str) -> list[dict]:
    columns = {}
    for term, column in (("size", size), ("tokens", "tokens")):
        values = group[column].to_numpy(float)
        if term == "tokens" and np.isnan(values).all():
            continue
        lacking = group.loc[np.isnan(values), "model"].unique()
        if len(lacking):
            raise ValueError(f"{column} is missing for {', '.join(lacking)}: expected a number for every row")
        logs = np.log10(values)
        if np.ptp(logs) > 1e-9:
            columns[term] = _standardised(logs)
    if not columns:
        raise ValueError("neither size nor tokens vary: expected different models or checkpoints")
    if len(columns) == 2:
        columns["interaction"] = columns["size"] * columns["tokens"]
    y = group["accuracy"].to_numpy(float)
    found = stats.least_squares(np.column_stack([np.ones(len(y)), *columns.values()]), y)
    spread = float(y.std(ddof=1))
    half = found.se * special.stdtrit(found.df, 0.975)
    return [
        {
            "term": term,
            "coefficient": found.coefficient[i],
            "coefficient_lo": found.coefficient[i] - half[i],
            "coefficient_hi": found.coefficient[i] + half[i],
            "beta": found.coefficient[i] / spread if spread > 0 else np.nan,
            "se": found.se[i],
            "t": found.t[i],
            "df": found.df,
            "p": found.p[i],
            "n": len(y),
        }
        for i, term in enumerate(columns, 1)
    ]


def _standardised(values: Floats) -> Floats:
    return (values - values.mean()) / values.std(ddof=1)
