"""Which name a curve gets, for many curves over the same sizes at once.

Every statement is about a weighted sum of the means over sizes, whose standard error follows from their
covariance. Shapes: ``curve k`` means, ``curve k k`` covariances, ``curve m`` for m weighted sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isp_mech.stats import Floats

ShapeName = Literal["inverse", "positive", "U", "inverted U", "flat", "undecided"]
NAMES: tuple[ShapeName, ...] = get_args(ShapeName)
INVERSE, POSITIVE, VALLEY, HILL, FLAT, UNDECIDED = range(len(NAMES))
SIZES_FOR_A_SHAPE = 3
SIZES_FOR_A_TURN = 4  # with three sizes a single odd one in the middle would be a turn
SHORT_ARM = 0.25  # an arm under a quarter of the other one is a hook: the long arm gives the name
TREND_SHARE = 0.6  # of the false alarms allowed; the rest is for the turn, and a margin
POWER = 0.8
FLAT_SHARE, FLAT_DEVIATIONS = 0.15, 0.3  # what must have been visible before a curve is called flat
KNOWN = 1e9  # degrees of freedom of a standard error that was given, not estimated
_TINY, _DRAWS = 1e-300, 2000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """Curves over log10 sizes ``x`` (k,) ascending: means, their covariances, and degrees of freedom of these;
    ``visible`` is the change that must have been likely to show before a curve is called flat."""

    x: Floats
    mean: Floats
    cov: Floats
    df: Floats
    visible: Floats

    @property
    def k(self) -> int:
        """How many sizes there are."""
        return len(self.x)

    def sums(self, weights: Floats) -> tuple[Floats, Floats]:
        """``curve m`` values of the sums with ``weights`` (m, k), and their standard errors."""
        variance = np.einsum("mi,cij,mj->cm", weights, self.cov, weights, optimize=True)
        return self.mean @ weights.T, np.sqrt(np.maximum(variance, 0.0))


@dataclass(frozen=True)
class Decision:
    """Per curve: ``name``, an index into NAMES; ``turn``, the place in x where it turns, -1 where it does not;
    ``smallest_trend``, the change over all sizes that would have shown with probability 0.8 (inf: none would)."""

    name: Ints
    turn: Ints
    smallest_trend: Floats


def decide(points: Points, *, level: float) -> Decision:
    """The name of every curve, by the rules given at ``shape``."""
    k, n, alpha = points.k, len(points.mean), 1 - level
    if k < SIZES_FOR_A_SHAPE:
        return Decision(np.full(n, UNDECIDED), np.full(n, -1), np.full(n, np.inf))
    first, last = np.zeros(n, np.int64), np.full(n, k - 1)
    (slope,), (slope_se,) = (a.T for a in points.sums(line_weights(points.x)[None]))
    trend_z = special.stdtrit(points.df, 1 - TREND_SHARE * alpha / 2)
    smallest = (trend_z + special.ndtri(POWER)) * slope_se * (points.x[-1] - points.x[0])
    trend = np.abs(slope) > trend_z * slope_se
    name = np.where(trend, np.where(slope < 0, INVERSE, POSITIVE), UNDECIDED)
    name = np.where(~trend & (smallest <= points.visible) & (differences_p(points) > alpha), FLAT, name)
    turn, against = np.full(n, -1), _contrary(points, slope, first, last, alpha)
    if k >= SIZES_FOR_A_TURN:
        turn, left, right = _turns(points, alpha * (1 - TREND_SHARE))
        rises = left * (points.x[turn] - points.x[0]), right * (points.x[-1] - points.x[turn])
        longer = np.where(np.abs(rises[0]) > np.abs(rises[1]), *rises)
        whole = np.minimum(*np.abs(rises)) >= SHORT_ARM * np.abs(longer)
        turned_name = np.where(left < 0, VALLEY, HILL)
        hook = np.where(longer < 0, INVERSE, POSITIVE)
        name = np.where(turn < 0, name, np.where(whole, turned_name, hook))
        turn = np.where(whole, turn, -1)
        on_arms = _contrary(points, left, first, turn, alpha) | _contrary(points, right, turn, last, alpha)
        against = np.where(turn >= 0, on_arms, against)
    against &= name != FLAT
    return Decision(np.where(against, UNDECIDED, name), np.where(against, -1, turn), smallest)


def line_weights(x: Floats) -> Floats:
    """Weights whose product with the values is the slope of the least-squares line."""
    centred = x - x.mean()
    return np.asarray(centred / (centred @ centred))


def arm_weights(x: Floats) -> tuple[Floats, Floats]:
    """Slopes on the left and on the right of every inner size, ``(k - 2, k)`` each; the size is in both."""
    k = len(x)
    left, right = np.zeros((2, k - 2, k))
    for b in range(1, k - 1):
        left[b - 1, : b + 1], right[b - 1, b:] = line_weights(x[: b + 1]), line_weights(x[b:])
    return left, right


def _turns(points: Points, alpha: float) -> tuple[Ints, Floats, Floats]:
    """The clearest break of every curve (-1 where none has two clear arms), and both slopes there.

    Each arm is tested on its own side at ``alpha`` shared over the breaks.
    """
    left, right = arm_weights(points.x)
    (u, se_u), (v, se_v) = points.sums(left), points.sums(right)
    clear = special.stdtrit(points.df, 1 - alpha / (points.k - 2))
    least = np.minimum(np.abs(u) / np.maximum(se_u, _TINY), np.abs(v) / np.maximum(se_v, _TINY))
    least = np.where(u * v < 0, least, 0.0)
    best = least.argmax(axis=1)
    rows = np.arange(len(best))
    turn = np.where(least[rows, best] > clear, best + 1, -1)
    return turn, u[rows, best], v[rows, best]


def smallest_turn(points: Points, *, level: float) -> float:
    """The depth of a U with its lowest point in the middle whose arms would both have been clear with probability 0.8
    in the first curve's noise; inf for fewer than four sizes.

    For each of 2,000 seeded draws of noise: how deep the U has to be for the clearest break to show.
    """
    k = points.k
    if k < SIZES_FOR_A_TURN:
        return float("inf")
    even = np.abs(2 * (points.x - points.x[0]) / (points.x[-1] - points.x[0]) - 1)
    noise = np.random.default_rng(0).multivariate_normal(np.zeros(k), points.cov[0], size=_DRAWS, method="eigh")
    clear = float(special.stdtrit(points.df[0], 1 - (1 - level) * (1 - TREND_SHARE) / (k - 2)))
    needed = np.full((_DRAWS, k - 2), -np.inf)
    for weights, sign in zip(arm_weights(points.x), (-1.0, 1.0), strict=True):
        se = points.sums(weights)[1][0]
        rise = np.maximum(sign * (weights @ even), _TINY)  # an arm that does not turn shows at no depth
        needed = np.maximum(needed, (clear * se - sign * (noise @ weights.T)) / rise)
    return float(np.quantile(needed.min(axis=1), POWER))


def _contrary(points: Points, slope: Floats, first: Ints, last: Ints, alpha: float) -> NDArray[np.bool_]:
    """Whether between two sizes under the line there is a clear move against it, a quarter as long or more."""
    pairs, unit = np.array(list(combinations(range(points.k), 2))), np.eye(points.k)
    move, se = points.sums(unit[pairs[:, 1]] - unit[pairs[:, 0]])
    clear = special.stdtrit(points.df, 1 - alpha / len(pairs))[:, None]
    rise = np.abs(slope * (points.x[last] - points.x[first]))[:, None]
    under = (pairs[:, 0] >= first[:, None]) & (pairs[:, 1] <= last[:, None])
    against = (move * slope[:, None] < 0) & (np.abs(move) >= SHORT_ARM * rise) & (np.abs(move) > clear * se)
    return np.asarray(np.any(under & against, axis=1))


def differences_p(points: Points) -> Floats:
    """p of "all sizes have one mean" per curve, by Hotelling's T squared over neighbouring sizes; NaN for too few."""
    steps = np.diff(np.eye(len(points.x)), axis=0)
    gap = points.mean @ steps.T
    inverse = np.linalg.pinv(steps @ points.cov @ steps.T, hermitian=True)
    t2 = np.einsum("ci,cij,cj->c", gap, inverse, gap)
    m, df = len(steps), points.df
    rest = np.maximum(df - m + 1, 1.0)
    return np.where(df < m, np.nan, special.fdtrc(m, rest, t2 * rest / (m * df)))


def turn_places(points: Points, valley: bool, *, level: float) -> tuple[Ints, Ints]:
    """Places in x, per curve, between which the lowest point lies (``valley``; otherwise the highest).

    All sizes that are not clearly beaten by another one (multiple comparisons with the best, Hsu 1984), and
    the neighbours on both sides: between those a curve that falls and then rises has its lowest point, seen or
    not. The lowest mean is among the sizes with probability ``level`` or more.
    """
    k = points.k
    low, high = np.full(len(points.mean), k), np.zeros(len(points.mean), np.int64)
    clear = special.stdtrit(points.df, 1 - (1 - level) / (k - 1))[:, None]
    for j in range(k):
        worse, se = points.sums(np.eye(k)[j] - np.delete(np.eye(k), j, axis=0))
        beaten = ((worse if valley else -worse) > clear * se).any(axis=1)
        low = np.where(beaten, low, np.minimum(low, j))
        high = np.where(beaten, high, np.maximum(high, j))
    return np.maximum(low - 1, 0), np.minimum(high + 1, k - 1)


def of_outcomes(x: Floats, values: Floats) -> Points:
    """Curves from ``curve k item`` values of the same items at all sizes, shares (0 and 1) or margins."""
    n, mean = values.shape[2], values.mean(axis=2)
    centred = values - mean[:, :, None]
    cov = centred @ centred.transpose(0, 2, 1) / ((n - 1) * n)
    if np.isin(values, (0.0, 1.0)).all():
        cov, visible = _with_doubt(mean, cov, np.full(len(x), float(n))), np.full(len(mean), FLAT_SHARE)
    else:
        visible = FLAT_DEVIATIONS * np.sqrt(values.var(axis=2, ddof=1).mean(axis=1))
    return Points(x, mean, cov, np.full(len(mean), n - 1.0), visible)


def of_shares(x: Floats, mean: Floats, counts: Floats) -> Points:
    """Curves from shares ``curve k`` of ``counts`` (k,) items, independent between sizes."""
    cov = _with_doubt(mean, np.zeros((*mean.shape, len(x))), counts)
    return Points(x, mean, cov, np.full(len(mean), counts.min() - 1), np.full(len(mean), FLAT_SHARE))


def of_errors(x: Floats, mean: Floats, se: Floats) -> Points:
    """Curves from means ``curve k`` with standard errors (k,), independent between sizes."""
    cov = np.broadcast_to(np.diag(se**2), (len(mean), len(x), len(x)))
    return Points(x, mean, cov, np.full(len(mean), KNOWN), np.full(len(mean), FLAT_SHARE))


def between_models(points: Points, sd: float) -> Points:
    """The same curves, where models of one size differ by a standard deviation ``sd`` of the measure."""
    return replace(points, cov=points.cov + sd**2 * np.eye(points.k)) if sd else points


def _with_doubt(mean: Floats, cov: Floats, counts: Floats) -> Floats:
    """``cov`` of shares of right answers, none under what it would be with one more item right and one wrong:
    all right or all wrong is not known for certain."""
    shrunk = (mean * counts + 1) / (counts + 2)
    place = np.arange(mean.shape[1])
    out = cov.copy()
    out[:, place, place] = np.maximum(cov[:, place, place], shrunk * (1 - shrunk) / counts)
    return np.asarray(out)
