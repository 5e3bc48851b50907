"""Regressions of accuracy on size, training tokens and their interaction, as published studies report them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from isp_mech.errors import InputError
from isp_mech.scaling.group_rows import Row, columns_with_interval, frame_of, rows_per_group, with_q
from isp_mech.stats import Floats
from isp_mech.tables import Table, table

SizeColumn = Literal["n_params", "nominal_params", "flops"]


def regressions(observations: Table, *, size: SizeColumn = "n_params", level: float = 0.05) -> Table:
    """Table "regressions": ordinary least squares of accuracy for each family, task and side.

    Predictors are log10 of ``size`` (``n_params``, ``nominal_params``, which is what a model's name says, or
    ``flops``), log10 of training tokens, both standardised (mean 0, standard deviation 1 over the rows), and
    the product of the two; terms whose predictor does not vary, or is not known for any row, are left out.
    ``coefficient`` is the change of accuracy (a share) per standard deviation of the predictor, positive
    rises; ``q`` is p after Benjamini-Hochberg over the whole table. Checkpoints of one model count as
    independent, as in the published studies; they are not, so p is too small rather than too large.
    ``InputError`` names families and tasks with rows that lack a number, or with too few of them.
    """
    frame = frame_of(observations, "observations", "regressions")
    if size not in get_args(SizeColumn):
        raise InputError("regressions", [f"size {size!r}: expected one of {', '.join(get_args(SizeColumn))}"])

    def make(head: Row, group: pd.DataFrame) -> list[Row]:
        model = {"model": head["family"], "n_params": int(group["n_params"].max())}
        return [model | head | row for row in _regression(group, size)]

    keys = ("family", "task", "side")
    rows = rows_per_group(
        frame, keys, make, subject="regressions", called=lambda head: f"{head['family']} on {head['task']}"
    )
    made = [row | {"significant": row["q"] <= level} for row in with_q(rows)]
    return table("regressions", made, observations.run)


def _regression(group: pd.DataFrame, size: SizeColumn) -> list[Row]:
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
            columns[term] = (logs - logs.mean()) / logs.std(ddof=1)
    if not columns:
        raise ValueError("neither size nor tokens vary: expected different models or checkpoints")
    if len(columns) == 2:
        columns["interaction"] = columns["size"] * columns["tokens"]
    y = group["accuracy"].to_numpy(float)
    fit = least_squares(np.column_stack([np.ones(len(y)), *columns.values()]), y)
    spread, b = float(y.std(ddof=1)), fit.coefficient
    half = fit.se * special.stdtrit(fit.df, 0.975)
    beta = b / spread if spread > 0 else np.full(len(b), np.nan)
    each = {"beta": beta, "se": fit.se, "t": fit.t, "p": fit.p}
    return [
        {"term": term, "df": fit.df, "n": len(y)}
        | columns_with_interval(["coefficient"], b[i:], b[i:] - half[i:], b[i:] + half[i:])
        | {name: of[i] for name, of in each.items()}
        for i, term in enumerate(columns, 1)
    ]


@dataclass(frozen=True)
class Regression:
    """Ordinary least squares: per predictor (p,) the coefficient, its standard error, t and two-sided p;
    ``df`` degrees of freedom are left of n - p."""

    coefficient: Floats
    se: Floats
    t: Floats
    p: Floats
    df: int


def least_squares(predictors: ArrayLike, values: ArrayLike) -> Regression:
    """The Regression of ``values`` (n,) on the columns of ``predictors`` (n, p), a constant among them if wanted.

    Coefficients are in the values' unit per unit of the predictor. ``ValueError`` for shapes that do not
    fit, numbers that are not finite, no degree of freedom, or columns that say the same.

    >>> fit = least_squares([[1, 0], [1, 1], [1, 2], [1, 3]], [1.0, 3.0, 5.0, 7.5])
    >>> fit.coefficient.round(2).tolist(), fit.df
    ([0.9, 2.15], 2)
    """
    x, y = np.asarray(predictors, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"predictors of shape {x.shape}, values of shape {y.shape}: expected finite (n, p) and (n,)")
    df = x.shape[0] - x.shape[1]
    if df < 1:
        raise ValueError(f"{x.shape[0]} rows and {x.shape[1]} predictors: expected more rows than predictors")
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError("predictors: one column is a sum of the others")
    q, r = np.linalg.qr(x)
    inverse = np.linalg.inv(r)
    coefficient = inverse @ (q.T @ y)
    rest = y - x @ coefficient
    se = np.sqrt((rest @ rest) / df * (inverse**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = coefficient / se
    return Regression(coefficient, se, t, 2 * special.stdtr(df, -np.abs(t)), df)
