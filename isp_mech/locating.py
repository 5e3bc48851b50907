"""Locating: the total effect of every head and MLP on the margin, exact or by gradients, with error control.

effect = margin as it is - margin with the site's output at the decision position replaced. A site with
a positive effect pushes towards the prompt's answer, one with a negative effect towards the lure: the
override is the sum of those. What replaces a site is told in ``replacing.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from isp_mech.approximating import STEPS, approximate_effects
from isp_mech.errors import InputError
from isp_mech.models import Model, members
from isp_mech.packing import check_batch_size
from isp_mech.pairs import PairSet
from isp_mech.replacing import (
    REPLACEMENTS,
    Outputs,
    direct_parts,
    observe,
    replaced_margins,
    replacement_outputs,
)
from isp_mech.scoring import Models
from isp_mech.sites import all_sites
from isp_mech.stats import benjamini_hochberg, bootstrap_interval, sign_flip_p, spearman
from isp_mech.tables import Run, Table, concat, make_run, table
from isp_mech.tracing import optional_heads, site_columns
from isp_mech.watching import prepare

LEVEL = 0.05
METHODS = ("exact", *STEPS)
CHECKED = 16  # pairs whose effects are computed exactly beside an approximation


@dataclass(frozen=True)
class Sites:
    """Tables ``effects`` (pair x site x replacement), ``sites`` (site, for the first replacement) and
    ``stability`` (rank agreement between replacements and between halves of the pairs)."""

    effects: Table
    sites: Table
    stability: Table


def locate(
    pairs: PairSet,
    models: Models,
    *,
    replacement: str | Sequence[str] = "mean",
    method: str = "exact",
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Sites:
    """Total and direct effect, in nats, of every head and MLP of every model on the conflict margin.

    ``replacement`` is one of mean, resample, plain, zero, or several; the first of several makes the
    ``sites`` table, with 95 % bootstrap intervals over pairs, a two-sided sign-flip p, and q by
    Benjamini-Hochberg over all sites of all models together. ``direct_effect`` is the part of the same
    difference that goes by the site's own write, the final norm's scale frozen. ``method`` exact: each
    effect is the one that a forward of its own would give. For very large models, attribution (one gradient)
    or integrated (five for each layer), see ``approximating.py``: there the table ``stability`` and the Run
    have the rank correlation with the exact effects over the sites, on 16 pairs.
    """
    check_batch_size(batch_size)
    kinds = (replacement,) if isinstance(replacement, str) else tuple(replacement)
    unknown = [f"{k!r}: expected one of {', '.join(REPLACEMENTS)}" for k in kinds if k not in REPLACEMENTS]
    if method not in METHODS:
        raise InputError("locate", [f"method {method!r}: expected one of {', '.join(METHODS)}"])
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise InputError("replacement", unknown or [f"{list(kinds)}: expected one or more, each once"])
    return join(
        [
            _locate_model(m, pairs, kinds, method, batch_size=batch_size, seed=seed, progress=progress)
            for m in members(models)
        ]
    )


def join(parts: Sequence[Sites]) -> Sites:
    """Several models' sites as one; q and ``significant`` are taken over all of them together."""
    joined = concat([p.sites for p in parts])
    q = benjamini_hochberg(joined.frame["p"].to_numpy())
    frame = joined.frame.assign(q=q, significant=q <= LEVEL)
    return Sites(concat([p.effects for p in parts]), replace(joined, frame=frame), concat([p.stability for p in parts]))


def _locate_model(
    model: Model, pairs: PairSet, kinds: Sequence[str], method: str, *, batch_size: int | str, seed: int, progress: bool
) -> Sites:
    conflict = prepare(model, pairs, ("conflict",))
    seen = observe(model, conflict, batch_size=batch_size, progress=progress)
    plain = None
    if "plain" in kinds:
        plain = observe(model, prepare(model, pairs, ("plain",)), batch_size=batch_size, progress=progress).outputs
    sites = all_sites(model.anatomy.n_layers, model.anatomy.n_heads)
    effects, direct, agreement = {}, {}, {}

    def exact(stand_in: Outputs, first: int) -> np.ndarray:
        alone = [frozenset({s}) for s in sites]
        these = stand_in.of(range(first), "cpu")
        margins = replaced_margins(
            model, conflict.forks[:first], these, alone, batch_size=batch_size, progress=progress
        )
        return seen.margins[:first, None] - margins

    for kind in kinds:
        stand_in = replacement_outputs(kind, seen.outputs, plain=plain, seed=seed)
        direct[kind] = direct_parts(seen, stand_in)
        if method == "exact":
            effects[kind] = exact(stand_in, len(pairs))
            continue
        effects[kind] = approximate_effects(
            model, conflict.forks, seen.outputs, stand_in, steps=STEPS[method], batch_size=batch_size, progress=progress
        )
        few = min(CHECKED, len(pairs))
        agreement[kind] = spearman(exact(stand_in, few).mean(0), effects[kind][:few].mean(0))
    by = "exact replacement" if method == "exact" else f"gradients ({method})"
    run = make_run(
        model=model.name,
        revision=model.revision,
        task=pairs.name,
        method=f"locate: total effect by {by} at the decision position",
        seed=seed,
        dtype=model.dtype,
        device=model.device,
        settings={"replacement": ", ".join(kinds), "n_pairs": len(pairs), "level": LEVEL},
        notes=[
            f"{model.name}: effects by {by}, replacement {kind}: rank correlation {rho:.2f} with the exact effects "
            f"over all sites, on {min(CHECKED, len(pairs))} pairs"
            for kind, rho in agreement.items()
        ],
    )
    head = {"model": model.name, "n_params": model.n_params, "task": pairs.name}
    ids = [pair.id for pair in pairs]
    return Sites(
        _effects_table(head, ids, model, effects, direct, run),
        _sites_table(head, model, effects[kinds[0]], direct[kinds[0]], seed, run),
        _stability_table(head, effects, {method: agreement[kinds[0]]} if agreement else {}, seed, run),
    )


def _effects_table(head: dict, ids: Sequence[str], model: Model, effects: Mapping, direct: Mapping, run: Run) -> Table:
    layer, number, kind = site_columns(model.anatomy.n_layers, model.anatomy.n_heads)
    kinds = list(effects)
    which, pair, site = (i.ravel() for i in np.indices((len(kinds), len(ids), len(layer))))

    def text(values: Sequence[str], index: np.ndarray) -> np.ndarray:
        return np.array(values, dtype=object)[index]

    columns = {
        "model": text([head["model"]], np.zeros_like(pair)),
        "n_params": np.full(len(pair), head["n_params"]),
        "task": text([head["task"]], np.zeros_like(pair)),
        "pair": text(ids, pair),
        "side": text(["conflict"], np.zeros_like(pair)),
        "layer": layer[site],
        "kind": kind[site],
        "head": optional_heads(number[site]),
        "replacement": text(kinds, which),
        "effect": np.stack([effects[k] for k in kinds]).ravel().astype(np.float32),
        "direct_effect": np.stack([direct[k] for k in kinds]).ravel().astype(np.float32),
    }
    return table("effects", columns, run)


def _sites_table(head: dict, model: Model, effects: np.ndarray, direct: np.ndarray, seed: int, run: Run) -> Table:
    layer, number, kind = site_columns(model.anatomy.n_layers, model.anatomy.n_heads)
    few = len(effects) < 2
    lo, hi = (np.full(len(layer), np.nan),) * 2 if few else bootstrap_interval(effects, seed=seed)
    p = np.full(len(layer), np.nan) if few else sign_flip_p(effects, seed=seed)
    q = benjamini_hochberg(p)
    columns = {
        **{k: np.full(len(layer), v, dtype=object if isinstance(v, str) else None) for k, v in head.items()},
        "layer": layer,
        "kind": kind,
        "head": optional_heads(number),
        "effect": effects.mean(0),
        "effect_lo": lo,
        "effect_hi": hi,
        "direct_effect": direct.mean(0).astype(float),
        "p": p,
        "q": q,
        "significant": q <= LEVEL,
    }
    return table("sites", columns, run)


def _stability_table(
    head: dict, effects: Mapping[str, np.ndarray], agreement: Mapping[str, float], seed: int, run: Run
) -> Table:
    rows = [{**head, "replacement_a": "exact", "replacement_b": m, "spearman": rho} for m, rho in agreement.items()]
    rows += [
        {**head, "replacement_a": a, "replacement_b": b, "spearman": spearman(effects[a].mean(0), effects[b].mean(0))}
        for a, b in combinations(effects, 2)
    ]
    first = next(iter(effects.values()))
    if len(first) >= 2:
        order = np.random.default_rng(seed).permutation(len(first))
        half_a, half_b = first[order[: len(first) // 2]].mean(0), first[order[len(first) // 2 :]].mean(0)
        rows.append(
            {**head, "replacement_a": "half_a", "replacement_b": "half_b", "spearman": spearman(half_a, half_b)}
        )
    return table("stability", rows, run)
