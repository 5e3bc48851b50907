"""The statistics of all measurements: bootstrap, permutation and rank tests, false-discovery control.

Everything is vectorised over columns and, where it draws at random, seeded: the same seed and the
same number of rows give the same draws for every column, every model size and every table, so that
intervals of different sizes rest on the same resampled pairs. Only ``scipy.special`` is imported:
``scipy.stats`` has some of these functions, but importing it takes every process a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Statistic = Literal["mean", "median"] | Callable[[Floats], ArrayLike]
LEVEL = 0.05  # of false discoveries, and of tests
MATTERS = 0.1  # share of the largest effect over which a place matters
EXACT_SIGN_FLIPS = 14  # up to this many pairs all sign patterns are tried
EXACT_PERMUTATIONS = 9  # up to this many points all orders are tried
RESOLVED = 50  # a Monte Carlo tail with at least so many draws in it is kept as it is
_BLOCK = 4_000_000  # draws held in memory at a time


def resample_indices(n: int, n_boot: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of ``n_boot`` bootstrap samples, shape ``(n_boot, n)``, each in ``0..n-1``.

    >>> resample_indices(3, 2, seed=0).shape
    (2, 3)
    """
    if n < 1 or n_boot < 1:
        raise ValueError(f"resampling {n} rows {n_boot} times: expected at least one of each")
    return np.random.default_rng(seed).integers(0, n, size=(n_boot, n))


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Statistic = "mean",
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Percentile bootstrap interval ``(lo, hi)`` of a statistic over the rows, in the values' unit.

    ``values`` is ``(n,)``, giving two floats, or ``(n, k)``, giving two arrays ``(k,)``; rows (pairs)
    are resampled, the same rows for all columns. ``statistic`` is ``"mean"``, ``"median"`` or a
    function from ``(n, k)`` to ``(k,)`` (or to a float, for a ratio of columns). A column with a NaN
    has a NaN interval. ``ValueError`` for no rows or a level outside 0..1. Source: Efron and
    Tibshirani 1993, chapter 13.

    >>> lo, hi = bootstrap_interval([0.0, 1.0] * 50)
    >>> round(lo, 2), round(hi, 2)
    (0.4, 0.6)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise ValueError(f"values of shape {array.shape}: expected (n,) or (n, k)")
    if not 0 < level < 1:
        raise ValueError(f"level {level!r}: expected a number between 0 and 1")
    if isinstance(statistic, str) and statistic not in ("mean", "median"):
        raise ValueError(f"statistic {statistic!r}: expected 'mean', 'median' or a function")
    table = array.reshape(len(array), -1)
    indices = resample_indices(len(table), n_boot, seed)
    draws = _mean_draws(table, indices) if statistic == "mean" else _draws(table, indices, statistic)
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return (float(lo[0]), float(hi[0])) if array.ndim == 1 or lo.shape == (1,) and table.shape[1] > 1 else (lo, hi)


def _mean_draws(table: Floats, indices: NDArray[np.int64]) -> Floats:
    """Means of every resample ``(n_boot, k)``: counts of each row times the rows, block by block."""
    n = len(table)
    step = max(1, _BLOCK // n)
    blocks = []
    for block in np.split(indices, range(step, len(indices), step)):
        flat = block + n * np.arange(len(block))[:, None]
        counts = np.bincount(flat.ravel(), minlength=n * len(block)).reshape(len(block), n)
        blocks.append(counts.astype(np.float64) @ table / n)
    return np.concatenate(blocks)


def _draws(table: Floats, indices: NDArray[np.int64], statistic: Statistic) -> Floats:
    def value(rows: Floats) -> ArrayLike:
        return statistic(rows) if callable(statistic) else np.median(rows, axis=0)

    return np.stack([np.atleast_1d(np.asarray(value(table[row]), dtype=np.float64)) for row in indices])


def sign_flip_p(values: ArrayLike, *, n_draws: int = 2000, seed: int = 0) -> Floats:
    """Two-sided p of "the mean is zero" for every column of ``(n, k)``, shape ``(k,)``, in 0..1.

    The null: each row's sign is as likely as its opposite (a site whose replacement moves the margin
    up as often and as far as down). Up to 14 rows every sign pattern is tried: p is exact. Beyond,
    ``n_draws`` random patterns, the same for all columns, give (1 + b) / (1 + n_draws), which cannot
    fall under 1 / (1 + n_draws); a search over a thousand sites needs far smaller p, so where fewer
    than 50 draws reach the observed mean, the tail of the very same permutation distribution is
    computed by the saddlepoint formula of Lugannani and Rice (1980; for sign changes, Robinson 1982),
    whose relative error stays at some per cent far into the tail. It rests on no normality. p is never under 2^(1 - m),
    m the number of non-zero rows; 1 for a column of zeros, NaN for a column with NaN.

    >>> float(sign_flip_p([[1.0], [2.0], [3.0]])[0])  # 2 of 8 sign patterns are as extreme
    0.25
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) == 0:
        raise ValueError(f"values of shape {table.shape}: expected (n, k) with at least one row")
    n = len(table)
    clean = np.nan_to_num(table, nan=0.0)
    observed = np.abs(clean.sum(axis=0))
    # sums that differ by rounding alone count as equal: a flipped column repeats the observed sum exactly
    reach = observed - 1e-9 * np.abs(clean).sum(axis=0)
    if n <= EXACT_SIGN_FLIPS:
        patterns = 1.0 - 2.0 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)
        p = (np.abs(patterns @ clean) >= reach).mean(axis=0)
    else:
        hits = _flip_hits(clean, reach, n_draws, seed)
        p = (1.0 + hits) / (1.0 + n_draws)
        tail = hits < RESOLVED
        p[tail] = _flip_tail(np.abs(clean[:, tail]), observed[tail])
    return np.where(np.isnan(table).any(axis=0), np.nan, p)


def _flip_hits(table: Floats, reach: Floats, n_draws: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    hits = np.zeros(table.shape[1])
    step = max(1, _BLOCK // (len(table) + table.shape[1]))
    for start in range(0, n_draws, step):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(min(step, n_draws - start), len(table)))
        hits += (np.abs(signs @ table) >= reach).sum(axis=0)
    return hits


def _flip_tail(sizes: Floats, observed: Floats) -> Floats:
    """P(|sum of randomly signed sizes| >= observed) by saddlepoint, columns at once."""
    scale = np.maximum(np.sqrt((sizes**2).sum(axis=0)), 1e-300)
    x, s = sizes / scale, observed / scale
    floor = 2.0 ** (1.0 - (sizes > 0).sum(axis=0))
    top = x.sum(axis=0)
    t = np.minimum(s, 50.0)  # where K'(t) = t for a normal sum
    lo, hi = np.zeros_like(t), np.full_like(t, 1e8)
    for _ in range(100):  # Newton kept inside a bracket: K' grows from 0 to `top`
        tanh = np.tanh(t * x)
        slope = (x * tanh).sum(axis=0) - s
        curve = (x**2 * (1 - tanh**2)).sum(axis=0)
        lo, hi = np.where(slope < 0, t, lo), np.where(slope < 0, hi, t)
        step = t - slope / np.maximum(curve, 1e-300)
        inside = (step > lo) & (step < hi)
        t = np.where(inside, step, np.where(hi < 1e8, (lo + hi) / 2, 2 * t + 1))
    tx = t * x
    k = (np.abs(tx) + np.log1p(np.exp(-2 * np.abs(tx))) - np.log(2.0)).sum(axis=0)
    curve = (x**2 / np.cosh(np.minimum(np.abs(tx), 350.0)) ** 2).sum(axis=0)
    w = np.sqrt(np.maximum(2 * (t * s - k), 0.0))
    u = t * np.sqrt(curve)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        density = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
        one = special.ndtr(-w) + density * (1 / u - 1 / w)
    edge = s >= top * (1 - 1e-6)  # all rows on one side: only the two constant patterns reach it
    p = np.where(edge | ~np.isfinite(one), floor, 2 * one)
    return np.asarray(np.clip(p, np.minimum(floor, 1.0), 1.0))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """q of every p, same shape, in 0..1: calling ``q <= level`` significant keeps the expected share
    of false calls at ``level``. NaN stays NaN and is not counted among the tests.

    Source: Benjamini and Hochberg 1995.

    >>> benjamini_hochberg([0.01, 0.04, 0.03, float("nan")]).round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    values = np.asarray(p, dtype=np.float64)
    if np.any((values < 0) | (values > 1)):
        raise ValueError("p-values: expected numbers from 0 to 1")
    q = np.full(values.shape, np.nan)
    here = ~np.isnan(values)
    given = values[here]
    order = np.argsort(given, kind="stable")[::-1]
    rank = np.arange(len(given), 0, -1)
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum.accumulate(given[order] * len(given) / rank)
    q[here] = np.minimum(adjusted, 1.0)
    return q


@dataclass(frozen=True)
class SequentialP:
    """A Monte Carlo p, 0..1, after ``drawn`` random draws of which ``hits`` were at least as good as the observed."""

    p: float
    drawn: int
    hits: int


def sequential_random_p(at_least_as_good: Iterable[bool], *, stop_after: int = 10, n_max: int) -> SequentialP:
    """The p of a sequential Monte Carlo test: few draws where the answer is soon clear, many where p is small.

    ``at_least_as_good`` says of each random draw whether it is at least as good as what was observed; no more of it
    is asked for than is needed, so give a generator that makes each draw when it is asked for. The test stops when
    ``stop_after`` draws were at least as good: with draw number l, p = ``stop_after`` / l. Otherwise it stops after
    ``n_max`` draws (or where the draws end), g of them at least as good: p = (g + 1) / (n + 1), the p of a
    plain Monte Carlo test. Under the null hypothesis P(p <= a) <= a for every a. ``ValueError`` for a number under 1.
    Source: Besag and Clifford 1991, Sequential Monte Carlo p-values, Biometrika 78.

    >>> sequential_random_p([True, False] * 50, stop_after=3, n_max=100)
    SequentialP(p=0.6, drawn=5, hits=3)
    >>> sequential_random_p([False] * 99, stop_after=3, n_max=99).p
    0.01
    """
    if stop_after < 1 or n_max < 1:
        raise ValueError(f"stop_after {stop_after}, n_max {n_max}: expected 1 or more of each")
    drawn = hits = 0
    for as_good in islice(at_least_as_good, n_max):
        drawn, hits = drawn + 1, hits + bool(as_good)
        if hits == stop_after:
            return SequentialP(hits / drawn, drawn, hits)
    return SequentialP((hits + 1) / (drawn + 1), drawn, hits)


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, ties given their average.

    >>> ranks([3.0, 1.0, 3.0]).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, -1..1; NaN for under two points, a constant side, or any NaN.

    >>> spearman([1, 2, 3], [9, 5, 1])
    -1.0
    """
    x, y = _two_columns(a, b)
    if len(x) < 2 or np.isnan(x).any() or np.isnan(y).any():
        return float("nan")
    x, y = _centred_ranks(x), _centred_ranks(y)
    size = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / size, -1.0, 1.0)) if size > 0 else float("nan")


def spearman_exact_p(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of Spearman's correlation, 0..1: the share of all orders of ``b`` whose correlation
    with ``a`` is at least as far from zero. Exact, ties included, up to 9 points; beyond, Student's t
    with n - 2 degrees of freedom. NaN where the correlation is.

    >>> spearman_exact_p([1, 2, 3, 4], [4, 3, 2, 1])  # 2 of 24 orders
    0.08333333333333333
    """
    x, y = _two_columns(a, b)
    rho = spearman(x, y)
    if np.isnan(rho):
        return rho
    if len(x) > EXACT_PERMUTATIONS:
        t = abs(rho) * np.sqrt((len(x) - 2) / max(1 - rho**2, 1e-300))
        return float(2 * special.stdtr(len(x) - 2, -t))
    x, y = _centred_ranks(x), _centred_ranks(y)
    sums = np.abs(y[_orders(len(y))] @ x)
    return float((sums >= abs(x @ y) - 1e-9 * (1 + abs(x @ y))).mean())


def _centred_ranks(values: Floats) -> Floats:
    of_each = ranks(values)
    return np.asarray(of_each - of_each.mean())


@lru_cache(maxsize=EXACT_PERMUTATIONS)
def _orders(n: int) -> NDArray[np.int8]:
    """All orders of ``0..n-1``, shape ``(n!, n)``."""
    orders = np.zeros((1, 1), dtype=np.int8)
    for size in range(1, n):
        blocks = [np.insert(orders, place, size, axis=1) for place in range(size + 1)]
        orders = np.concatenate(blocks)
    return orders


def _two_columns(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"shapes {x.shape} and {y.shape}: expected two columns of one length")
    return x, y
