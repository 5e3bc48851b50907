"""The shape of one curve: its name, its slopes, where it turns, and what could have been seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from isp_mech import stats
from isp_mech.errors import InputError
from isp_mech.scaling.group_rows import frame_of
from isp_mech.scaling.renamed import renamed
from isp_mech.scaling.shape_decision import (
    NAMES,
    SIZES_FOR_A_SHAPE,
    Points,
    arm_weights,
    between_models,
    decide,
    differences_p,
    line_weights,
    of_errors,
    of_outcomes,
    of_shares,
    smallest_turn,
    turn_places,
)
from isp_mech.scaling.shape_in_words import AXES, Over, Shape, Slope, sentence
from isp_mech.stats import Floats
from isp_mech.tables import Table


@renamed(stray="between_model_sd")
def shape(
    sizes: ArrayLike,
    outcomes: ArrayLike | None = None,
    *,
    accuracy: ArrayLike | None = None,
    n: ArrayLike | None = None,
    se: ArrayLike | None = None,
    over: Over = "parameters",
    level: float = 0.95,
    measure: str = "accuracy",
    flat_within: float | None = None,
    between_model_sd: float = 0.0,
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
    ``between_model_sd``, in the measure's unit, and every interval and test allows for it. ``InputError`` lists what
    is wrong with the numbers.
    """
    given = np.asarray(sizes, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise InputError("shape", [f"sizes of shape {given.shape}: expected (k,) with k at least 1"])
    checks = [
        ((np.isfinite(given) & (given > 0)).all(), f"sizes {given.tolist()}: expected positive numbers"),
        (len(set(given)) == len(given), f"sizes {given.tolist()}: expected different sizes, one model each"),
        (over in AXES, f"over {over!r}: expected one of {', '.join(AXES)}"),
        (0 < level < 1, f"level {level!r}: expected a number between 0 and 1"),
        (0 <= between_model_sd < math.inf, f"between_model_sd {between_model_sd!r}: expected 0 or more"),
    ]
    points = _points(given, outcomes, accuracy, n, se, [said for fine, said in checks if not fine])
    points = between_models(points, between_model_sd)
    if flat_within is not None:
        points = replace(points, visible=np.full(1, float(flat_within)))
    k, x, mean = points.k, points.x, points.mean[0]
    decision = decide(points, level=level)
    name, turn = NAMES[int(decision.name[0])], int(decision.turn[0])
    slopes: tuple[Slope, ...] = ()
    where = [math.nan] * 3
    if turn >= 0:
        left, right = (weights[turn - 1] for weights in arm_weights(x))
        slopes = _slope(points, left, 0, turn, level), _slope(points, right, turn, k - 1, level)
        low, high = turn_places(points, name == "U", level=level)
        where = [float(10 ** x[i]) for i in (turn, min(int(low[0]), turn), max(int(high[0]), turn))]
    elif k >= SIZES_FOR_A_SHAPE:
        slopes = (_slope(points, line_weights(x), 0, k - 1, level),)
    change = _slope(points, np.eye(k)[-1] - np.eye(k)[0], 0, k - 1, level)
    found = Shape(
        name=name,
        spearman=stats.spearman(x, mean),
        p=stats.spearman_exact_p(x, mean),
        slopes=slopes,
        change=change.value,
        change_lo=change.lo,
        change_hi=change.hi,
        turn=where[0],
        turn_lo=where[1],
        turn_hi=where[2],
        smallest_effect=float(decision.smallest_trend[0]),
        smallest_turn=smallest_turn(points, level=level),
        sentence="",
    )
    differ = k >= SIZES_FOR_A_SHAPE and bool(differences_p(points)[0] <= 1 - level)
    said = sentence(found, over=over, measure=measure, n_points=k, level=level, differ=differ)
    return replace(found, sentence=said)


def shape_of_curve(table: Table, side: str = "conflict", *, task: str | None = None, level: float = 0.95) -> Shape:
    """The Shape of accuracy over size in a "curve" Table, on one side and, where there are several, one task.

    ``InputError`` for another table, no such side or task, several tasks without a choice, or rows
    without a number of items.
    """
    every = frame_of(table, "curve", "shape_of_curve")
    frame = every[every["side"] == side]
    if not len(frame):
        sides = ", ".join(sorted(set(every["side"]))) or "none"
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


def _slope(points: Points, weights: Floats, first: int, last: int, level: float) -> Slope:
    """The weighted sum of the means with its interval, between two of the sizes."""
    value, se = (float(a[0, 0]) for a in points.sums(weights[None]))
    half = float(special.stdtrit(points.df[0], (1 + level) / 2)) * se
    return Slope(value, value - half, value + half, float(10 ** points.x[first]), float(10 ** points.x[last]))


def _points(
    given: Floats,
    outcomes: ArrayLike | None,
    accuracy: ArrayLike | None,
    n: ArrayLike | None,
    se: ArrayLike | None,
    problems: list[str],
) -> Points:
    """What was given, checked and in order of size, as one curve; ``InputError`` where there are ``problems``."""
    k, order = len(given), np.argsort(given)
    if (outcomes is None) == (accuracy is None) or (accuracy is not None) != ((n is None) != (se is None)):
        raise InputError("shape", [*problems, "expected either outcomes, or accuracy with n or with se"])
    values = np.asarray(accuracy if outcomes is None else outcomes, dtype=np.float64)
    if outcomes is not None:
        if values.ndim != 2 or len(values) != k or values.shape[1] < 2 or not np.isfinite(values).all():
            problems.append(f"outcomes of shape {values.shape}: expected ({k}, 2 items or more) finite numbers")
    elif values.shape != given.shape or not ((values >= 0) & (values <= 1)).all():
        problems.append(f"accuracy {values.tolist()}: expected {k} numbers from 0 to 1")
    spread = np.asarray(n if se is None else se, dtype=np.float64)
    full = np.broadcast_to(spread.ravel(), (k,)) if spread.size in (1, k) else np.full(k, np.nan)
    if n is not None and not (np.isfinite(full).all() and (full >= 2).all()):
        problems.append(f"n {spread.tolist()}: expected one number of items, or {k}, 2 or more")
    if se is not None and not (np.isfinite(full).all() and (full > 0).all()):
        problems.append(f"se {spread.tolist()}: expected one standard error over 0, or {k}")
    if problems:
        raise InputError("shape", problems)
    x = np.log10(given[order])
    if outcomes is not None:
        return of_outcomes(x, values[None, order])
    return (of_shares if se is None else of_errors)(x, values[None, order], full[order])
