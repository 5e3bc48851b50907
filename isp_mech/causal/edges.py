"""Edges: what of a site's effect goes by each later site, for a neighbourhood of sites that was located.

To first order, replacing what site u writes at the decision position takes (write - replacement's write) . gradient
from the margin. That gradient is a sum over whatever reads the residual stream after u: each later head and MLP, and
the output through the final norm. The part through v alone is the effect of the **edge** u -> v: edge attribution
patching (Syed et al. 2023, arXiv 2310.10348). **Integrated** (EAP-IG, Hanna et al. 2024, arXiv 2403.17806), the
gradient is averaged over the way of u's output from the replacement to what it is, everything else following: then
the edges from u to all later sites and the output sum to its exact effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.edge_attribution import EdgeEffects, edge_effects
from isp_mech.causal.locate import CHECKED
from isp_mech.causal.replacements import ConflictSide, check_replacements, observe_conflict
from isp_mech.causal.site_sets import sites_for
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import head_of, run_of
from isp_mech.models import Models
from isp_mech.sites import Replacement, Site
from isp_mech.stats import LEVEL, benjamini_hochberg
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tables.columns import crossed, flip_p, mean_columns
from isp_mech.tables.site_tables import AnySites
from isp_mech.tasks import PairSet
from isp_mech.tracing.trace import Head

STRONGEST = 24  # sites taken of those that were located
MOST_GIVEN = 64  # sites that may be given
OUTPUT = "output"


def edges(
    pairs: PairSet,
    models: Models,
    sites: AnySites,
    *,
    replacement: Replacement = "mean",
    steps: int = 5,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``edges``: effects, in nats, between the sites of every model and from each to the output.

    ``sites`` are heads and MLPs, the same for all models or by the model's name, or what ``locate`` gave (its
    significant sites, strongest first, at most 24). ``effect`` of u -> v: what replacing u at the decision position, by
    one of mean, resample, plain, zero, takes from the conflict margin through v alone, v reading it there and at the
    completions' tokens after it. It is positive where it pushes towards the prompt's answer. ``steps`` gradients are
    taken at midpoints of the way from the replacement to u's output, or, with one step, where the model is. Intervals
    are 95 %, by bootstrap over pairs, p two-sided by sign flips, q by Benjamini-Hochberg over all edges of all models.
    The Run's notes say how far the gradients are from exact effects: take more steps where that is much.
    ``InputError`` for sites a model does not have, for more than 64, and for a model whose attention does not accept
    custom masks.
    """
    check_replacements([replacement])
    if steps < 1:
        raise InputError("steps", [f"{steps}: expected 1 or more"])
    asked = _Asked(pairs, sites, replacement, steps, seed)
    joined = concat([_edges_of(asked, plan) for plan in each_model(models, batch_size, progress=progress)])
    q = benjamini_hochberg(joined.frame["p"].to_numpy())
    return replace(joined, frame=joined.frame.assign(q=q, significant=q <= LEVEL))


@dataclass(frozen=True)
class _Asked:
    """What is asked of every model."""

    pairs: PairSet
    sites: AnySites
    replacement: str
    steps: int
    seed: int


def _edges_of(asked: _Asked, plan: BatchPlan) -> Table:
    model, pairs, kind = plan.model, asked.pairs, asked.replacement
    sites = sites_for(asked.sites, model, strongest=STRONGEST)
    if len(sites) > MOST_GIVEN:
        raise InputError("sites", [f"{model.name}: {len(sites)} sites, expected at most {MOST_GIVEN}"])
    conflict = observe_conflict(pairs, plan, [kind], seed=asked.seed)
    measured = edge_effects(
        conflict.prompts, conflict.outputs, conflict.replacements[kind], sites, plan, steps=asked.steps
    )
    note = _compared(conflict, sites, measured.whole, asked, plan) if sites else "no significant sites, so no edges"
    run = run_of(
        model,
        task=pairs.name,
        method="edges: by integrated gradients at the decision position",
        seed=asked.seed,
        settings={"replacement": kind, "steps": asked.steps, "n_pairs": len(pairs), "level": LEVEL},
        notes=[f"{model.name}: {note}", *plan.notes()],
    )
    return _table(head_of(model, pairs.name), sites, measured, asked.seed, run)


def _compared(conflict: ConflictSide, sites: Sequence[Site], whole: np.ndarray, asked: _Asked, plan: BatchPlan) -> str:
    """How far the sites' effects by gradients, which all edges sum to, are from the exact ones on a few pairs."""
    prompts, values = conflict.prompts[:CHECKED], conflict.replacements[asked.replacement]
    few = len(prompts)
    margins = patched_margins(prompts, values, [frozenset(), *(frozenset({site}) for site in sites)], plan)
    exact, ours = (margins[:, :1] - margins[:, 1:]).mean(0), whole[:few].mean(0)
    most = int(np.abs(ours - exact).argmax())
    return (
        f"with steps {asked.steps}, a site's effect by gradients and the exact one differ most at "
        f"{sites[most]}, {ours[most]:.3f} and {exact[most]:.3f} nats, on {few} pairs"
    )


def _table(head: Head, sites: Sequence[Site], measured: EdgeEffects, seed: int, run: Run) -> Table:
    names = np.array([*map(str, sites), OUTPUT], dtype=object)
    at = np.argwhere(~np.isnan(measured.edges).any(0))
    values = measured.edges[:, at[:, 0], at[:, 1]]
    columns = crossed(head, {"from_site": names[at[:, 0]], "to_site": names[at[:, 1]]})
    columns |= mean_columns("effect", values, seed) | {"p": flip_p(values, seed)}
    columns |= {"q": np.full(len(at), np.nan), "significant": np.zeros(len(at), dtype=bool)}
    return table("edges", columns, run)
