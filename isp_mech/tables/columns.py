"""Columns of measured tables: one row for each combination of what was measured, and means with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from isp_mech.sites import Site
from isp_mech.stats import bootstrap_interval, sign_flip_p

ROUNDING = 1e-5  # nats: a smaller effect is none
Values = Sequence[Any] | np.ndarray | pd.api.extensions.ExtensionArray
Axis = Mapping[str, Values]
Columns = dict[str, Any]


def crossed(head: Mapping[str, str | int], *axes: Axis) -> Columns:
    """The columns of one row for each combination of the axes' places, the last axis running fastest.

    An axis is one or several columns of equal length; ``head`` is the same in every row.

    >>> {k: v.tolist() for k, v in crossed({"model": "m"}, {"pair": ["p", "q"]}, {"layer": [0, 1]}).items()}
    {'model': ['m', 'm', 'm', 'm'], 'pair': ['p', 'p', 'q', 'q'], 'layer': [0, 1, 0, 1]}
    """
    index = [i.ravel() for i in np.indices([len(next(iter(axis.values()))) for axis in axes])]
    columns: Columns = {name: np.full(len(index[0]), value, dtype=_dtype(value)) for name, value in head.items()}
    for axis, at in zip(axes, index, strict=True):
        columns |= {name: _taken(values, at) for name, values in axis.items()}
    return columns


def _taken(values: Values, at: np.ndarray) -> Any:
    if isinstance(values, pd.api.extensions.ExtensionArray):
        return values.take(at)
    texts = len(values) > 0 and isinstance(values[0], str)
    return np.array(values, dtype=object if texts else None)[at]


def _dtype(value: str | int) -> type | None:
    return object if isinstance(value, str) else None


def site_axis(sites: Sequence[Site]) -> Axis:
    """Sites as an axis: their layer, kind and head, which is missing where there is none."""
    heads = pd.array([site.head for site in sites], dtype="Int64")
    return {"layer": [site.layer for site in sites], "kind": [site.kind for site in sites], "head": heads}


def site_matrix(heads: np.ndarray, mlps: np.ndarray) -> np.ndarray:
    """(n, site) from heads (n, layer, head) and MLPs (n, layer), in the order of ``sites.all_sites``."""
    return np.concatenate([heads, mlps[:, :, None]], 2).reshape(len(heads), -1)


def mean_columns(name: str, values: np.ndarray, seed: int) -> Columns:
    """The mean over rows of ``values`` (row, column) and its 95 % bootstrap interval; none of a single row."""
    nothing = np.full(values.shape[1], np.nan)
    some = len(values) > 1 and values.shape[1]
    lo, hi = bootstrap_interval(values, seed=seed) if some else (nothing, nothing)
    return {name: values.mean(0), f"{name}_lo": lo, f"{name}_hi": hi}


def flip_p(values: np.ndarray, seed: int) -> np.ndarray:
    """The two-sided sign-flip p of each column's mean, values within rounding being none; NaN of a single row."""
    if len(values) < 2 or not values.shape[1]:
        return np.full(values.shape[1], np.nan)
    return np.asarray(sign_flip_p(np.where(np.abs(values) < ROUNDING, 0.0, values), seed=seed))
