"""What a number of sizes and items can show: how often a known curve gets each name."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from isp_mech.errors import InputError
from isp_mech.scaling.curve_shape import of_outcomes, of_shares, straying
from isp_mech.scaling.shape_decision import NAMES, Floats, decide

_BLOCK = 2_000_000  # outcomes held in memory at a time


def chances(
    sizes: ArrayLike,
    accuracy: ArrayLike,
    n: int,
    *,
    alike: float | None = None,
    between: float = 0.0,
    stray: float = 0.0,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """The share of ``draws``, 0..1, in which ``shape`` gives each name to curves whose truth is ``accuracy`` (k,).

    Each draw has ``n`` items. With ``alike`` left out only the accuracies are known, as in a published table;
    with a number from 0 to 1 the outcomes of the same items are, and that share of an item's luck is its own
    at every size. ``between`` is a standard deviation by which each model's true accuracy strays from the
    curve: no number of items shows it, and no test over items allows for it, unless ``shape`` is told so by
    ``stray``. ``InputError`` lists what is wrong with the numbers.

    >>> chances([1e6, 1e7, 1e8, 1e9, 1e10], [0.8, 0.7, 0.6, 0.5, 0.4], n=300)["inverse"]
    1.0
    """
    given, truth = np.asarray(sizes, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    problems = []
    if given.ndim != 1 or not len(given) or not (given > 0).all() or len(set(given)) < len(given):
        problems.append(f"sizes {given.tolist()}: expected different positive numbers")
    if truth.shape != given.shape or not ((truth >= 0) & (truth <= 1)).all():
        problems.append(f"accuracy {truth.tolist()}: expected {len(given)} numbers from 0 to 1")
    for name, value, low in (("n", n, 2), ("draws", draws, 1), ("between", between, 0), ("stray", stray, 0)):
        if not value >= low:
            problems.append(f"{name} {value!r}: expected {low} or more")
    for name, value in (("alike", 0.5 if alike is None else alike), ("level", level)):
        if not 0 <= value <= 1 or (name == "level" and value in (0, 1)):
            problems.append(f"{name} {value!r}: expected a number between 0 and 1")
    if problems:
        raise InputError("chances", problems)
    order = np.argsort(given)
    x, truth = np.log10(given[order]), truth[order]
    rng, counts = np.random.default_rng(seed), np.zeros(len(NAMES))
    step = max(1, _BLOCK // (len(x) * n))
    for start in range(0, draws, step):
        curves = np.broadcast_to(truth, (min(step, draws - start), len(x)))
        if between:
            curves = np.clip(curves + rng.normal(0.0, between, curves.shape), 0.0, 1.0)
        if alike is None:
            points = of_shares(x, rng.binomial(n, curves) / n, np.full(len(x), float(n)))
        else:
            points = of_outcomes(x, _outcomes(rng, curves, n, alike))
        counts += np.bincount(decide(straying(points, stray), level=level).name, minlength=len(NAMES))
    return {name: float(count / draws) for name, count in zip(NAMES, counts, strict=True)}


def _outcomes(rng: np.random.Generator, curves: Floats, n: int, alike: float) -> Floats:
    """Right or wrong, ``curve k item``: an item's luck is drawn once for all sizes, or anew at a size."""
    luck = rng.random((*curves.shape, n))
    if alike:
        own = rng.random((len(curves), 1, n))
        luck = np.where(rng.random(luck.shape) < alike, own, luck)
    return (luck < curves[:, :, None]).astype(np.float64)
