"""Faithfulness: how much of what a model does is left when only the sites ranked highest are kept.

Sites are ranked on one half of the pairs and judged on the other. For a share k of all heads and MLPs kept and
all others replaced at the decision position, f(k) = (m(k) - m(0)) / (m(1) - m(0)), m being the mean conflict margin.
CPR is the integral of f over k, the larger the better, with sites ranked by how much they push the way the model
goes; CMD is the integral of |1 - f|, the smaller the better, with sites ranked by the size of their effect
(Mueller et al. 2025, arXiv 2504.13151).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isp_mech.causal.activation_patching import replaced_margins
from isp_mech.causal.replacements import observe, replacement_outputs
from isp_mech.errors import InputError
from isp_mech.inference.batches import check_batch_size
from isp_mech.inference.contrast_prompts import prepare, run_of
from isp_mech.models import Model, Models, members
from isp_mech.sites import REPLACEMENTS, Site, all_sites
from isp_mech.stats import bootstrap_interval
from isp_mech.tables import Table, concat, table
from isp_mech.tasks import PairSet

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
ORDERS = ("towards", "absolute")


def keep(
    effects: Any,
    pairs: PairSet,
    models: Models,
    *,
    replacement: str = "mean",
    shares: Sequence[float] = SHARES,
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``faithfulness``: the conflict margin with only the best share of sites kept, for both orders and halves.

    ``effects`` is what ``locate`` gave for these pairs, or its Table ``effects``. ``InputError`` where it lacks a pair
    or the replacement, for fewer than four pairs, and for shares that do not rise from 0 to 1.
    """
    check_batch_size(batch_size)
    if replacement not in REPLACEMENTS:
        raise InputError("replacement", [f"{replacement!r}: expected one of {', '.join(REPLACEMENTS)}"])
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or (np.diff(shares) <= 0).any():
        raise InputError("keep", [f"shares {list(shares)}: expected shares that rise from 0 to 1"])
    if len(pairs) < 4:
        raise InputError(
            pairs.name, [f"{len(pairs)} pairs: expected at least four, to rank on one half and judge the other"]
        )
    found = getattr(effects, "effects", effects)
    parts = []
    for model in members(models):
        by_pair = effects_by_pair(found, model, pairs, replacement)
        conflict = prepare(model, pairs, ("conflict",))
        seen = observe(model, conflict, batch_size=batch_size, progress=progress)
        plain = None
        if replacement == "plain":
            on_plain = prepare(model, pairs, ("plain",))
            plain = observe(model, on_plain, batch_size=batch_size, progress=progress).outputs
        stand_in = replacement_outputs(replacement, seen.outputs, plain=plain, seed=seed)
        rows, sizes = [], [round(share * by_pair.shape[1]) for share in shares]
        for split, pick, judge in halves(len(pairs), seed):
            forks, here = [conflict.forks[i] for i in judge], stand_in.of(judge, "cpu")
            effect, margin = by_pair[pick].mean(0), seen.margins[pick].mean()
            sets = [s for order in ORDERS for s in _replaced(model, effect, order, margin, sizes)]
            margins = replaced_margins(model, forks, here, sets, batch_size=batch_size, progress=progress)
            for order, found in zip(ORDERS, np.split(margins, len(ORDERS), 1), strict=True):
                rows += _rows(found, shares, sizes, seed, split=split, order=order, replacement=replacement)
        run = run_of(
            model,
            task=pairs.name,
            method="keep: all sites but the best replaced together",
            seed=seed,
            settings={"replacement": replacement, "n_pairs": len(pairs)},
        )
        head = {"model": model.name, "n_params": model.n_params, "task": pairs.name}
        parts.append(table("faithfulness", [{**head, **row} for row in rows], run))
    return concat(parts)


def halves(n: int, seed: int) -> list[tuple[str, list[int], list[int]]]:
    """``(half judged, pairs that choose, pairs judged)``, both ways round."""
    order = np.random.default_rng(seed).permutation(n).tolist()
    a, b = sorted(order[: n // 2]), sorted(order[n // 2 :])
    return [("half_b", a, b), ("half_a", b, a)]


def effects_by_pair(effects: Table, model: Model, pairs: PairSet, replacement: str) -> np.ndarray:
    """(pair, site): one model's effects, pairs in their order and sites in that of ``all_sites``.

    ``InputError`` where the effects have no rows for a pair with the replacement.
    """
    frame = effects.frame
    ids = [pair.id for pair in pairs]
    here = frame[(frame["model"] == model.name) & (frame["replacement"] == replacement) & frame["pair"].isin(ids)]
    n_sites = model.architecture.n_layers * (model.architecture.n_heads + 1)
    if here["pair"].nunique() < len(ids) or len(here) != len(ids) * n_sites:
        raise InputError(
            "effects",
            [
                f"{model.name}: {here['pair'].nunique()} of {len(ids)} pairs with replacement {replacement!r}: "
                f"expected effects of every pair on all {n_sites} heads and MLPs"
            ],
        )
    number = here["head"].fillna(model.architecture.n_heads).astype(int)
    wide = here.assign(site=here["layer"] * (model.architecture.n_heads + 1) + number)
    return wide.pivot(index="pair", columns="site", values="effect").loc[ids].to_numpy(dtype=float)


def _replaced(
    model: Model, effect: np.ndarray, order: str, margin: float, sizes: Sequence[int]
) -> list[frozenset[Site]]:
    """For each number of sites kept, those that are replaced."""
    sites = all_sites(model.architecture.n_layers, model.architecture.n_heads)
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
