"""What a number of sizes and items can show: how often a known curve gets each name."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from isp_mech.errors import InputError
from isp_mech.scaling.renamed import renamed
from isp_mech.scaling.shape_decision import NAMES, ShapeName, between_models, decide, of_outcomes, of_shares
from isp_mech.stats import Floats

_BLOCK = 2_000_000  # outcomes held in memory at a time


def power(
    sizes: ArrayLike,
    accuracy: ArrayLike,
    n: int,
    *,
    item_correlation: float | None = None,
    true_between_model_sd: float = 0.0,
    between_model_sd: float = 0.0,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[ShapeName, float]:
    """The share of ``draws``, 0..1, in which ``shape`` gives each name to curves whose truth is ``accuracy`` (k,).

    Each draw has ``n`` items. Without ``item_correlation`` only the accuracies are known, as in a published table;
    with a number from 0 to 1 the outcomes of the same items are, and at each size that share of the items has the luck
    that is theirs at all sizes (so their luck at two sizes correlates by the square of it).
    ``true_between_model_sd`` is the standard deviation (a share) by which the true accuracies of models of one size
    differ: no number of items shows it, and no test over items allows for it unless ``shape`` is given it as
    ``between_model_sd``. ``InputError`` lists what is wrong with the numbers.

    >>> power([1e6, 1e7, 1e8, 1e9, 1e10], [0.8, 0.7, 0.6, 0.5, 0.4], n=300)["inverse"]
    1.0
    """
    given, truth = np.asarray(sizes, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    distinct = given.ndim == 1 and len(given) and (given > 0).all() and len(set(given)) == len(given)
    shares = truth.shape == given.shape and ((truth >= 0) & (truth <= 1)).all()
    checks = [
        (distinct, f"sizes {given.tolist()}: expected different positive numbers"),
        (shares, f"accuracy {truth.tolist()}: expected {len(given)} numbers from 0 to 1"),
        (n >= 2, f"n {n!r}: expected 2 or more"),
        (draws >= 1, f"draws {draws!r}: expected 1 or more"),
        (true_between_model_sd >= 0, f"true_between_model_sd {true_between_model_sd!r}: expected 0 or more"),
        (between_model_sd >= 0, f"between_model_sd {between_model_sd!r}: expected 0 or more"),
        (0 <= (item_correlation or 0) <= 1, f"item_correlation {item_correlation!r}: expected a number from 0 to 1"),
        (0 < level < 1, f"level {level!r}: expected a number between 0 and 1"),
    ]
    problems = [said for fine, said in checks if not fine]
    if problems:
        raise InputError("power", problems)
    order = np.argsort(given)
    x, truth = np.log10(given[order]), truth[order]
    rng, counts = np.random.default_rng(seed), np.zeros(len(NAMES))
    step = max(1, _BLOCK // (len(x) * n))
    for start in range(0, draws, step):
        curves = np.broadcast_to(truth, (min(step, draws - start), len(x)))
        if true_between_model_sd:
            curves = np.clip(curves + rng.normal(0.0, true_between_model_sd, curves.shape), 0.0, 1.0)
        if item_correlation is None:
            points = of_shares(x, rng.binomial(n, curves) / n, np.full(len(x), float(n)))
        else:
            points = of_outcomes(x, _outcomes(rng, curves, n, item_correlation))
        decision = decide(between_models(points, between_model_sd), level=level)
        counts += np.bincount(decision.name, minlength=len(NAMES))
    return {name: float(count / draws) for name, count in zip(NAMES, counts, strict=True)}


chances = renamed("chances", alike="item_correlation", between="true_between_model_sd", stray="between_model_sd")(power)


def _outcomes(rng: np.random.Generator, curves: Floats, n: int, item_correlation: float) -> Floats:
    """Right or wrong, ``curve k item``: an item's luck is drawn once for all sizes, or anew at a size."""
    luck = rng.random((*curves.shape, n))
    if item_correlation:
        own = rng.random((len(curves), 1, n))
        luck = np.where(rng.random(luck.shape) < item_correlation, own, luck)
    return (luck < curves[:, :, None]).astype(np.float64)
