"""Edges: what of a site's effect goes by each later site, for a neighbourhood of sites that was located.

To first order, replacing what site u writes at the decision position takes (write - replacement's write) . gradient
from the margin. That gradient is a sum over whatever reads the residual stream after u: each later head and MLP, and
the output through the final norm. The part through v alone is the effect of the **edge** u -> v: edge attribution
patching (Syed et al. 2023, arXiv 2310.10348). **Integrated** (EAP-IG, Hanna et al. 2024, arXiv 2403.17806), the
gradient is averaged over the way of u's output from the replacement to what it is, everything else following: then
the edges from u to all later sites and the output sum to its exact effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isp_mech.causal.activation_patching import check_sets, replaced_margins
from isp_mech.causal.edge_attribution import EdgeEffects, edge_effects
from isp_mech.causal.locate import CHECKED, Sites
from isp_mech.causal.replacements import Outputs, observe, replacement_outputs
from isp_mech.errors import InputError
from isp_mech.inference.batches import check_batch_size
from isp_mech.inference.contrast_prompts import Prepared, prepare, run_of
from isp_mech.models import Model, Models, members
from isp_mech.sites import Site
from isp_mech.stats import LEVEL, benjamini_hochberg, bootstrap_interval, sign_flip_p
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tasks import PairSet

SOME = 24  # sites taken of those that were located
MOST = 64  # sites that may be given
OUTPUT = "output"
Neighbourhood = Sites | Table | Collection[Site] | Mapping[str, Collection[Site]]


def edges(
    pairs: PairSet,
    models: Models,
    sites: Neighbourhood,
    *,
    replacement: str = "mean",
    steps: int = 5,
    batch_size: int | str = "auto",
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
    The Run's notes tell how far the gradients are from exact effects: take more steps where that is much.
    ``InputError`` for sites a model has not, for more than 64, and for a model whose attention takes no mask of ours.
    """
    check_batch_size(batch_size)
    if steps < 1:
        raise InputError("steps", [f"{steps}: expected 1 or more"])
    options = Options(replacement, steps, batch_size, seed, progress)
    joined = concat([_edges_of(model, pairs, sites, options) for model in members(models)])
    q = benjamini_hochberg(joined.frame["p"].to_numpy())
    return replace(joined, frame=joined.frame.assign(q=q, significant=q <= LEVEL))


@dataclass(frozen=True)
class Options:
    """The options of ``edges``."""

    replacement: str
    steps: int
    batch_size: int | str
    seed: int
    progress: bool


def chosen_sites(sites: Neighbourhood, model: Model) -> tuple[Site, ...]:
    """The sites of one model, layer by layer, heads before the MLP."""
    if isinstance(sites, Sites | Table):
        frame = (sites.sites if isinstance(sites, Sites) else sites).frame
        here = frame[(frame["model"] == model.name) & frame["significant"] & (frame["kind"] != "resid")]
        if model.name not in set(frame["model"]):
            raise InputError("sites", [f"no rows for {model.name}, found {', '.join(sorted(set(frame['model'])))}"])
        here = here.loc[here["effect"].abs().sort_values(ascending=False, kind="stable").index[:SOME]]
        numbers = here["head"].fillna(-1).astype(int)
        found: Collection[Site] = {
            Site(int(layer), str(kind), None if head < 0 else int(head))
            for layer, kind, head in zip(here["layer"], here["kind"], numbers, strict=True)
        }
    else:
        found = set(sites.get(model.name, ()) if isinstance(sites, Mapping) else sites)
    check_sets([frozenset(found)], model)
    if len(found) > MOST:
        raise InputError("sites", [f"{model.name}: {len(found)} sites, expected at most {MOST}"])
    return tuple(sorted(found, key=lambda site: (site.layer, site.kind, site.head or 0)))


def _edges_of(model: Model, pairs: PairSet, sites: Neighbourhood, o: Options) -> Table:
    chosen = chosen_sites(sites, model)
    conflict = prepare(model, pairs, ("conflict",))
    seen = observe(model, conflict, batch_size=o.batch_size, progress=o.progress)
    plain = None
    if o.replacement == "plain":
        plain = observe(model, prepare(model, pairs, ("plain",)), batch_size=o.batch_size).outputs
    stand_in = replacement_outputs(o.replacement, seen.outputs, plain=plain, seed=o.seed)
    found = edge_effects(
        model,
        conflict.forks,
        seen.outputs,
        stand_in,
        chosen,
        steps=o.steps,
        batch_size=o.batch_size,
        progress=o.progress,
    )
    note = f"{model.name}: no significant sites, so no edges"
    if chosen:
        note = _compared(model, conflict, seen.margins, stand_in, chosen, found.whole, o)
    run = run_of(
        model,
        task=pairs.name,
        method="edges: by integrated gradients at the decision position",
        seed=o.seed,
        settings={"replacement": o.replacement, "steps": o.steps, "n_pairs": len(pairs), "level": LEVEL},
        notes=[note],
    )
    return _table({"model": model.name, "n_params": model.n_params, "task": pairs.name}, chosen, found, o.seed, run)


def _compared(
    model: Model,
    conflict: Prepared,
    margins: np.ndarray,
    stand_in: Outputs,
    sites: Sequence[Site],
    whole: np.ndarray,
    o: Options,
) -> str:
    """How far the sites' effects by gradients, which all edges sum to, are from the exact ones on a few pairs."""
    few = min(CHECKED, len(margins))
    these, alone = stand_in.of(range(few), "cpu"), [frozenset({site}) for site in sites]
    replaced = replaced_margins(model, conflict.forks[:few], these, alone, batch_size=o.batch_size)
    exact, ours = (margins[:few, None] - replaced).mean(0), whole[:few].mean(0)
    most = int(np.abs(ours - exact).argmax())
    return (
        f"{model.name}: with steps {o.steps}, a site's effect by gradients and the exact one differ most at "
        f"{sites[most]}, {ours[most]:.3f} and {exact[most]:.3f} nats, on {few} pairs"
    )


def _table(head: Mapping, sites: Sequence[Site], found: EdgeEffects, seed: int, run: Run) -> Table:
    names = np.array([*map(str, sites), OUTPUT], dtype=object)
    at = np.argwhere(~np.isnan(found.edges).any(0))
    values = found.edges[:, at[:, 0], at[:, 1]]
    nothing = np.full(len(at), np.nan)
    few = len(values) < 2 or not len(at)
    lo, hi = (nothing, nothing) if few else bootstrap_interval(values, seed=seed)
    columns = {
        **{k: np.full(len(at), v, dtype=object if isinstance(v, str) else None) for k, v in head.items()},
        "from_site": names[at[:, 0]],
        "to_site": names[at[:, 1]],
        "effect": values.mean(0),
        "effect_lo": lo,
        "effect_hi": hi,
        "p": nothing if few else sign_flip_p(values, seed=seed),
        "q": nothing,
        "significant": np.zeros(len(at), dtype=bool),
    }
    return table("edges", columns, run)
