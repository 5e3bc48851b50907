"""The shape of one curve: its name, its slopes, where it turns, and what could have been seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from isp_mech import stats
from isp_mech.errors import InputError
from isp_mech.scaling import shape_decision
from isp_mech.scaling.shape_decision import (
    FLAT_DEVIATIONS,
    FLAT_SHARE,
    KNOWN,
    NAMES,
    Floats,
    Points,
    arm_weights,
    covariance_of_outcomes,
    decide,
    differences_p,
    line_weights,
    with_doubt,
)
from isp_mech.scaling.shape_in_words import AXES, Interval, sentence
from isp_mech.tables import Table


@dataclass(frozen=True)
class Slope:
    """Change of the measure per tenfold size between ``start`` and ``stop``, with its interval; negative falls."""

    value: float
    lo: float
    hi: float
    start: float
    stop: float


@dataclass(frozen=True)
class Shape:
    """A curve's name and what it rests on.

    ``spearman`` (-1..1) and its exact ``p`` are of size and measure. ``slopes`` holds one line over all
    sizes, or the two on either side of ``turn`` (a size, between ``turn_lo`` and ``turn_hi``; NaN where there
    is none) for U and inverted U. ``change`` is largest minus smallest size, in the measure's unit, with its
    interval. ``smallest_effect`` is the change over all sizes that would have been called a trend with
    probability 0.8, ``smallest_turn`` the depth of a turn in the middle that would have shown as often (inf
    where none could). ``sentence`` says it in words.
    """

    name: str
    spearman: float
    p: float
    slopes: tuple[Slope, ...]
    change: float
    change_lo: float
    change_hi: float
    turn: float
    turn_lo: float
    turn_hi: float
    smallest_effect: float
    smallest_turn: float
    sentence: str


def shape(
    sizes: ArrayLike,
    outcomes: ArrayLike | None = None,
    *,
    accuracy: ArrayLike | None = None,
    n: ArrayLike | None = None,
    se: ArrayLike | None = None,
    over: str = "parameters",
    level: float = 0.95,
    measure: str = "accuracy",
    flat_within: float | None = None,
    stray: float = 0.0,
) -> Shape:
    """The Shape of a measure over ``sizes`` (k,), fitted over their logarithm.

    ``over`` says what sizes are: ``parameters``, ``tokens`` (checkpoints of one model) or ``FLOPs``. Give
    ``outcomes`` (k, n_items), right or wrong as 1 and 0 or margins of the same items in the same order at
    every size; or ``accuracy`` (k,) with the number ``n`` of items, or with its standard errors ``se`` (then
    sizes count as independent, which is the wider interval for items that are alike at all sizes).

    U and inverted U: lines on either side of a break, both slopes clear of zero with opposite signs
    (two-lines test, Simonsohn 2018, at a level corrected for the number of breaks tried), the shorter
    arm at least a quarter of the longer; from four sizes up. The turn's interval is all sizes that are not
    clearly beaten as the lowest (Hsu 1984), and their neighbours. Inverse and positive: the line over all
    sizes is clear of zero, or the longer arm is. No line may hide a clear move the other way that is a
    quarter of it. Flat: neither, no other difference between sizes, and a change of
    ``flat_within`` (0.15 for shares, 0.3 standard deviations of the items for margins) would have shown.
    Otherwise undecided. On flat curves a name other than flat and undecided is given in at most
    ``1 - level`` of cases.

    All this is about other items on the same models. How far models of one size differ (other seeds, other
    data order) no curve of one model per size can show; where it is known, give its standard deviation as
    ``stray``, in the measure's unit, and every interval and test allows for it. ``InputError`` lists what is
    wrong with the numbers.
    """
    points = _points(sizes, outcomes, accuracy, n, se, over, level, flat_within, stray)
    k, x = len(points.x), points.x
    found = decide(points, level=level)
    name, turn = NAMES[int(found.name[0])], int(found.turn[0])
    slopes: tuple[Slope, ...] = ()
    where: Interval = (math.nan, math.nan, math.nan)
    if turn >= 0:
        left, right = arm_weights(x)
        slopes = (
            _slope(points, left[turn - 1], 0, turn, level),
            _slope(points, right[turn - 1], turn, k - 1, level),
        )
        low, high = shape_decision.turn_places(points, name == "U", level=level)
        ends = x[min(int(low[0]), turn)], x[max(int(high[0]), turn)]
        where = (float(10 ** x[turn]), float(10 ** ends[0]), float(10 ** ends[1]))
    elif k >= shape_decision.SIZES_FOR_A_SHAPE:
        slopes = (_slope(points, line_weights(x), 0, k - 1, level),)
    mean = points.mean[0]
    rho, p = stats.spearman(x, mean), stats.spearman_exact_p(x, mean)
    change = _with_interval(points, np.eye(k)[-1] - np.eye(k)[0], level)
    smallest = float(found.smallest_trend[0])
    said = sentence(
        name,
        axis=AXES[over],
        measure=measure,
        n_points=k,
        level=level,
        change=change,
        slopes=tuple((s.value, s.lo, s.hi) for s in slopes),
        turn=where,
        order=f"Spearman {rho:+.2f}, exact p {p:.2g}",
        smallest=smallest,
        differ=k >= shape_decision.SIZES_FOR_A_SHAPE and bool(differences_p(points)[0] <= 1 - level),
    )
    return Shape(
        name,
        rho,
        p,
        slopes,
        *change,
        *where,
        smallest,
        shape_decision.smallest_turn(points, level=level),
        said[0].upper() + said[1:],
    )


def shape_of_curve(table: Table, side: str = "conflict", *, task: str | None = None, level: float = 0.95) -> Shape:
    """The Shape of accuracy over size in a "curve" Table, on one side and, where there are several, one task.

    ``InputError`` for another table, no such side or task, several tasks without a choice, or rows
    without a number of items.
    """
    if table.name != "curve":
        raise InputError("shape_of_curve", [f"table {table.name!r}: expected 'curve'"])
    frame = table.frame[table.frame["side"] == side]
    if not len(frame):
        sides = ", ".join(sorted(set(table.frame["side"]))) or "none"
        raise InputError("shape_of_curve", [f"side {side!r}: expected one of {sides}"])
    tasks = sorted(set(frame["task"]))
    if (task is None and len(tasks) > 1) or (task is not None and task not in tasks):
        raise InputError("shape_of_curve", [f"task {task!r}: expected one of {', '.join(tasks)}"])
    frame = frame[frame["task"] == (task or tasks[0])].sort_values("n_params")
    if frame["n"].isna().any():
        raise InputError("shape_of_curve", ["n is missing: without the number of items no interval can be had"])
    return shape(
        frame["n_params"].to_numpy(), accuracy=frame["accuracy"].to_numpy(), n=frame["n"].to_numpy("int64"), level=level
    )


def _with_interval(points: Points, weights: Floats, level: float) -> Interval:
    value, se = (float(a[0, 0]) for a in points.sums(weights[None]))
    half = float(special.stdtrit(points.df[0], (1 + level) / 2)) * se
    return value, value - half, value + half


def _slope(points: Points, weights: Floats, first: int, last: int, level: float) -> Slope:
    return Slope(*_with_interval(points, weights, level), float(10 ** points.x[first]), float(10 ** points.x[last]))


def _points(
    sizes: ArrayLike,
    outcomes: ArrayLike | None,
    accuracy: ArrayLike | None,
    n: ArrayLike | None,
    se: ArrayLike | None,
    over: str,
    level: float,
    flat_within: float | None,
    stray: float,
) -> Points:
    """What was given, checked and in order of size, as one curve."""
    given = np.asarray(sizes, dtype=np.float64)
    problems = []
    if given.ndim != 1 or not len(given):
        raise InputError("shape", [f"sizes of shape {given.shape}: expected (k,) with k at least 1"])
    if not (np.isfinite(given).all() and (given > 0).all()):
        problems.append(f"sizes {given.tolist()}: expected positive numbers")
    elif len(set(given)) < len(given):
        problems.append(f"sizes {given.tolist()}: expected different sizes, one model each")
    if over not in AXES:
        problems.append(f"over {over!r}: expected one of {', '.join(AXES)}")
    if not 0 < level < 1:
        problems.append(f"level {level!r}: expected a number between 0 and 1")
    if not 0 <= stray < math.inf:
        problems.append(f"stray {stray!r}: expected a standard deviation, 0 or more")
    if (outcomes is None) == (accuracy is None) or (accuracy is not None) != ((n is None) != (se is None)):
        raise InputError("shape", [*problems, "expected either outcomes, or accuracy with n or with se"])
    order, k = np.argsort(given), len(given)
    x = np.log10(np.where(given > 0, given, 1.0)[order])
    made = None
    if outcomes is not None:
        values = np.asarray(outcomes, dtype=np.float64)
        if values.ndim != 2 or len(values) != k or values.shape[1] < 2 or not np.isfinite(values).all():
            expected = f"({k}, 2 items or more) finite numbers"
            problems.append(f"outcomes of shape {values.shape}: expected {expected}")
        elif not problems:
            made = of_outcomes(x, values[None, order])
    else:
        means = np.asarray(accuracy, dtype=np.float64)
        spread = np.asarray(n if se is None else se, dtype=np.float64)
        full = np.broadcast_to(spread.ravel(), (k,)) if spread.size in (1, k) else np.full(k, np.nan)
        if means.shape != given.shape or not ((means >= 0) & (means <= 1)).all():
            problems.append(f"accuracy {means.tolist()}: expected {k} numbers from 0 to 1")
        if se is None and not (np.isfinite(full).all() and (full >= 2).all()):
            problems.append(f"n {spread.tolist()}: expected one number of items, or {k}, 2 or more")
        if se is not None and not (np.isfinite(full).all() and (full > 0).all()):
            problems.append(f"se {spread.tolist()}: expected one standard error over 0, or {k}")
        if not problems:
            made = (of_shares if se is None else of_errors)(x, means[None, order], full[order])
    if problems or made is None:
        raise InputError("shape", problems)
    made = straying(made, stray)
    return made if flat_within is None else replace(made, visible=np.full(1, float(flat_within)))


def straying(points: Points, stray: float) -> Points:
    """The same curves where every model may stray from its size's curve by a standard deviation ``stray``."""
    return points if not stray else replace(points, cov=points.cov + stray**2 * np.eye(len(points.x)))


def of_outcomes(x: Floats, values: Floats) -> Points:
    """Curves from ``curve k item`` values of the same items at all sizes, shares or margins."""
    mean, cov, n = values.mean(axis=2), covariance_of_outcomes(values), values.shape[2]
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    if binary:
        cov, visible = with_doubt(mean, cov, np.full(len(x), float(n))), np.full(len(mean), FLAT_SHARE)
    else:
        visible = FLAT_DEVIATIONS * np.sqrt(values.var(axis=2, ddof=1).mean(axis=1))
    return Points(x, mean, cov, np.full(len(mean), n - 1.0), visible)


def of_shares(x: Floats, mean: Floats, counts: Floats) -> Points:
    """Curves from shares ``curve k`` of ``counts`` (k,) items, independent between sizes."""
    cov = with_doubt(mean, np.zeros((*mean.shape, len(x))), counts)
    return Points(x, mean, cov, np.full(len(mean), counts.min() - 1), np.full(len(mean), FLAT_SHARE))


def of_errors(x: Floats, mean: Floats, se: Floats) -> Points:
    """Curves from means ``curve k`` with standard errors (k,), independent between sizes."""
    cov = np.broadcast_to(np.diag(se**2), (len(mean), len(x), len(x)))
    return Points(x, mean, cov, np.full(len(mean), KNOWN), np.full(len(mean), FLAT_SHARE))
