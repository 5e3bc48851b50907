"""Faithfulness: how much of what a model does is left when only the sites ranked highest are kept.

Sites are ranked on one half of the pairs and judged on the other. For a share k of all heads and MLPs kept and
all others replaced at the decision position, f(k) = (m(k) - m(0)) / (m(1) - m(0)), m being the mean conflict margin.
CPR is the integral of f over k, the larger the better, with sites ranked by how much they push the way the model
goes; CMD is the integral of |1 - f|, the smaller the better, with sites ranked by the size of their effect
(Mueller et al. 2025, arXiv 2504.13151).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.replacements import check_replacements, observe_conflict
from isp_mech.causal.site_sets import EffectsGiven, effects_by_pair, halves
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import head_of, run_of
from isp_mech.models import Models
from isp_mech.sites import Replacement, Site, all_sites
from isp_mech.stats import bootstrap_interval
from isp_mech.tables import Table, concat, table
from isp_mech.tasks import PairSet

KEPT_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
Order = Literal["towards", "absolute"]
ORDERS: tuple[Order, ...] = ("towards", "absolute")


def keep(
    effects: EffectsGiven,
    pairs: PairSet,
    models: Models,
    *,
    replacement: Replacement = "mean",
    shares: Sequence[float] = KEPT_SHARES,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``faithfulness``: the conflict margin with only the best share of sites kept, for both orders and halves.

    ``effects`` is what ``locate`` gave for these pairs, or its Table ``effects``. ``InputError`` where it lacks a pair
    or the replacement, for fewer than four pairs, and for shares that do not rise from 0 to 1.
    """
    check_replacements([replacement])
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or (np.diff(shares) <= 0).any():
        raise InputError("keep", [f"shares {list(shares)}: expected shares that rise from 0 to 1"])
    if len(pairs) < 4:
        raise InputError(
            pairs.name, [f"{len(pairs)} pairs: expected at least four, to rank on one half and judge the other"]
        )
    plans = each_model(models, batch_size, progress=progress)
    return concat([_keep_in(plan, effects, pairs, replacement, shares, seed) for plan in plans])


def _keep_in(
    plan: BatchPlan, effects: EffectsGiven, pairs: PairSet, replacement: Replacement, shares: Sequence[float], seed: int
) -> Table:
    model, shape = plan.model, plan.model.architecture
    by_pair = effects_by_pair(effects, model, pairs, replacement)
    conflict = observe_conflict(pairs, plan, [replacement], seed=seed)
    assert conflict.observed is not None
    sites = all_sites(shape.n_layers, shape.n_heads)
    rows, sizes = [], [round(share * by_pair.shape[1]) for share in shares]
    for half in halves(len(pairs), seed):
        prompts = [conflict.prompts[i] for i in half.judge]
        values = conflict.replacements[replacement].of(half.judge, "cpu")
        effect, margin = by_pair[half.choose].mean(0), conflict.observed.margins[half.choose].mean()
        sets = [these for order in ORDERS for these in _replaced(sites, effect, order, margin, sizes)]
        margins = np.split(patched_margins(prompts, values, sets, plan), len(ORDERS), 1)
        for order, of_order in zip(ORDERS, margins, strict=True):
            rows += _rows(of_order, shares, sizes, seed, split=half.judged, order=order, replacement=replacement)
    run = run_of(
        model,
        task=pairs.name,
        method="keep: all sites but the best replaced together",
        seed=seed,
        settings={"replacement": replacement, "n_pairs": len(pairs)},
        notes=plan.notes(),
    )
    return table("faithfulness", [{**head_of(model, pairs.name), **row} for row in rows], run)


def _replaced(
    sites: Sequence[Site], effect: np.ndarray, order: Order, margin: float, sizes: Sequence[int]
) -> list[frozenset[Site]]:
    """For each number of sites kept, those that are replaced."""
    value = np.abs(effect) if order == "absolute" else effect * (1 if margin >= 0 else -1)
    ranked = [sites[i] for i in np.argsort(-value, kind="stable")]
    return [frozenset(ranked[size:]) for size in sizes]


def _rows(
    margins: np.ndarray, shares: Sequence[float], sizes: Sequence[int], seed: int, **same: Any
) -> list[dict[str, Any]]:
    def faithfulness(values: np.ndarray) -> np.ndarray:
        mean = values.mean(-2)
        span = mean[..., -1:] - mean[..., :1]
        return (mean - mean[..., :1]) / np.where(span == 0, np.nan, span)

    f = faithfulness(margins)
    lo, hi = bootstrap_interval(margins, seed=seed)
    f_lo, f_hi = bootstrap_interval(margins, statistic=faithfulness, seed=seed)
    k = np.array(sizes) / sizes[-1]
    cpr, cmd = float(np.trapezoid(f, k)), float(np.trapezoid(np.abs(1 - f), k))
    return [
        {
            **same,
            "share": shares[i],
            "n_sites": size,
            "margin": margins[:, i].mean(),
            "margin_lo": lo[i],
            "margin_hi": hi[i],
            "faithfulness": f[i],
            "faithfulness_lo": f_lo[i],
            "faithfulness_hi": f_hi[i],
            "cpr": cpr,
            "cmd": cmd,
            "n": len(margins),
        }
        for i, size in enumerate(sizes)
    ]
