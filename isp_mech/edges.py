"""Edges: what of a site's effect goes by each later site, for a neighbourhood of sites that was located.

To first order, replacing what site u writes at the decision position takes (write - replacement's write) . gradient
from the margin. That gradient is a sum over whatever reads the residual stream after u: each later head and MLP, and
the output through the final norm. The part through v alone is the effect of the **edge** u -> v: edge attribution
patching (Syed et al. 2023, arXiv 2310.10348). **Integrated** (EAP-IG, Hanna et al. 2024, arXiv 2403.17806), the
gradient is averaged over the way of u's output from the replacement to what it is, everything else following: then
the edges from u to all later sites and the output sum to its exact effect.

A gradient by what v reads is the vector-Jacobian product of v's output by its layer's input; in serial blocks an MLP
reads its layer's heads too, and what it reads is told by what they write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.locating import LEVEL, Sites
from isp_mech.margins import Fork, Terms, margin_of
from isp_mech.models import Batch, Edit, Model, Models, Trunk, Wires, members, wired
from isp_mech.packing import check_batch_size
from isp_mech.pairs import PairSet
from isp_mech.replacing import (
    Outputs,
    Paths,
    check_sets,
    copies_at_once,
    observe,
    prompts_to_copy,
    replacement_outputs,
    run_once,
)
from isp_mech.sites import Site
from isp_mech.stats import benjamini_hochberg, bootstrap_interval, sign_flip_p
from isp_mech.tables import Table, concat, make_run, table
from isp_mech.watching import prepare

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
    seen = observe(model, conflict, batch_size=o.batch_size, progress=o.progress).outputs
    plain = None
    if o.replacement == "plain":
        plain = observe(model, prepare(model, pairs, ("plain",)), batch_size=o.batch_size).outputs
    stand_in = replacement_outputs(o.replacement, seen, plain=plain, seed=o.seed)
    effects = edge_effects(
        model, conflict.forks, seen, stand_in, chosen, steps=o.steps, batch_size=o.batch_size, progress=o.progress
    )
    names = [*map(str, chosen), OUTPUT]
    at = np.argwhere(~np.isnan(effects).any(0))
    values = effects[:, at[:, 0], at[:, 1]]
    few = len(values) < 2 or not len(at)
    nothing = np.full(len(at), np.nan)
    lo, hi = (nothing, nothing) if few else bootstrap_interval(values, seed=o.seed)
    p = nothing if few else sign_flip_p(values, seed=o.seed)

    def text(values: Sequence[str]) -> np.ndarray:
        return np.array(values, dtype=object)

    columns = {
        "model": text([model.name] * len(at)),
        "n_params": np.full(len(at), model.n_params),
        "task": text([pairs.name] * len(at)),
        "from_site": text([names[u] for u, _ in at]),
        "to_site": text([names[v] for _, v in at]),
        "effect": values.mean(0),
        "effect_lo": lo,
        "effect_hi": hi,
        "p": p,
        "q": nothing,
        "significant": np.zeros(len(at), dtype=bool),
    }
    run = make_run(
        model=model.name,
        revision=model.revision,
        task=pairs.name,
        method="edges: by integrated gradients at the decision position",
        seed=o.seed,
        dtype=model.dtype,
        device=model.device,
        settings={"replacement": o.replacement, "steps": o.steps, "n_pairs": len(pairs), "level": LEVEL},
        notes=[] if chosen else [f"{model.name}: no significant sites, so no edges"],
    )
    return table("edges", columns, run)


# ---------------------------------------------------------------------------------------------
# Effects of edges
# ---------------------------------------------------------------------------------------------


def edge_effects(
    model: Model,
    forks: Sequence[Fork],
    outputs: Outputs,
    stand_in: Outputs,
    sites: Sequence[Site],
    *,
    steps: int = 1,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """(pair, from, to), nats: the effect of every edge; ``to`` are the sites and, last, the output. NaN where there
    is no edge, the one not reading what the other writes. ``outputs`` are the sites' own."""
    if not model.packs:
        raise InputError(model.name, ["gradients need an attention that takes a mask of ours"])
    out = np.full((len(forks), len(sites), len(sites) + 1), np.nan)
    if not sites:
        return out
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "edges", progress):
        own, instead = outputs.of(rows, model.device), stand_in.of(rows, model.device)
        gap = Outputs(own.heads - instead.heads, own.mlps - instead.mlps)
        out[rows] = _by_gradients(model, batch, [forks[i] for i in rows], nodes, gap, sites, steps)
    return out


@dataclass(frozen=True)
class Way:
    """In one copy, site number ``site`` moved by ``share`` of the way to its replacement."""

    site: int
    copy: int
    share: float


def _by_gradients(
    model: Model,
    batch: Batch,
    forks: Sequence[Fork],
    nodes: Sequence[Paths],
    gap: Outputs,
    sites: Sequence[Site],
    steps: int,
) -> np.ndarray:
    trunk, copy, terms, _ = run_once(model, batch, forks, nodes)
    n, t = copy.ids.shape
    if steps == 1:  # nothing is moved, so that one copy serves all sites
        jobs = [[Way(u, 0, 0.0) for u in range(len(sites))]]
    else:
        shares = [(u, (k + 0.5) / steps) for u in range(len(sites)) for k in range(steps)]
        most = copies_at_once(model, n, t, trunk.reach.shape[1])
        parts = [shares[i : i + most] for i in range(0, len(shares), most)]
        jobs = [[Way(u, c, share) for c, (u, share) in enumerate(part)] for part in parts]
    found = torch.zeros(n, len(sites), len(sites) + 1, device=gap.heads.device)
    reads = torch.zeros(found.shape[1:], dtype=torch.bool)
    for ways in jobs:
        _add_job(model, trunk, copy, terms, gap, sites, ways, found, reads)
    return torch.where(reads, found.cpu() / steps, torch.nan).numpy()


def _add_job(
    model: Model,
    trunk: Trunk,
    copy: Batch,
    terms: Terms,
    gap: Outputs,
    sites: Sequence[Site],
    ways: Sequence[Way],
    found: Tensor,
    reads: Tensor,
) -> None:
    """Adds to ``found`` (row, from, to) what each way gives, and marks in ``reads`` which edges there are."""
    t, copies = copy.ids.shape[1], 1 + max(way.copy for way in ways)
    start = min(sites[way.site].layer for way in ways)
    with wired(model.anatomy) as wires:
        hidden = model.branch(
            Batch(copy.ids.repeat(1, copies), copy.depth.repeat(1, copies)),
            trunk,
            start=start,
            edits=[_edit(sites[way.site], gap, way, t) for way in ways if way.share],
            gradients=True,
        )
    here = terms.copied(copies, t)
    with torch.enable_grad():
        margin = margin_of(model, hidden[here.rows, here.nodes], here, gradients=True).sum()
        readers = _readers(model, wires, margin, sites, start)
        for v, (layer, gradient) in readers.items():
            shaped = gradient.reshape(len(copy.ids), copies, t, -1)[:, :, 0]
            before = [way for way in ways if _writes_before(sites[way.site], layer)]
            pulled = {
                lower: _by_head(model, wires, lower, gradient, copies, t)
                for lower in {sites[way.site].layer for way in before if sites[way.site].kind == "head"}
            }
            for way in before:
                site = sites[way.site]
                if site.head is None:
                    value = (gap.mlps[:, site.layer] * shaped[:, way.copy]).sum(-1)
                else:
                    slope = pulled[site.layer][:, way.copy, site.head]
                    value = (gap.heads[:, site.layer, site.head] * slope).sum(-1)
                found[:, way.site, v] += value
                reads[way.site, v] = True


def _writes_before(site: Site, layer: float) -> bool:
    """Whether what a site writes is in the stream at ``layer``, a half being between its heads and its MLP."""
    return (site.layer + (0.5 if site.kind == "head" else 1.0)) <= layer


def _readers(
    model: Model, wires: Wires, margin: Tensor, sites: Sequence[Site], start: int
) -> dict[int, tuple[float, Tensor]]:
    """By a reader's number (the output's is the last): the layer at which it reads the stream, and a half more for MLPs
    in serial blocks, and the gradient of the margin by what it reads there, through it alone."""
    assert wires.final is not None
    later = [v for v, site in enumerate(sites) if site.layer >= start]
    outputs = [(wires.heads if sites[v].kind == "head" else wires.mlp)[sites[v].layer] for v in later]
    *whole, final = torch.autograd.grad(margin, [*outputs, wires.final], retain_graph=True)
    out: dict[int, tuple[float, Tensor]] = {}
    for v, output, gradient in zip(later, outputs, whole, strict=True):
        site = sites[v]
        if site.head is not None:
            if site.layer > start:
                alone = torch.zeros_like(gradient)
                mine = slice(site.head * model.anatomy.d_head, (site.head + 1) * model.anatomy.d_head)
                alone[..., mine] = gradient[..., mine]
                out[v] = (float(site.layer), _product(output, wires.before[site.layer], alone))
            continue
        by_heads = _product(output, wires.attn[site.layer], gradient, may_not=True)
        if by_heads is not None:
            out[v] = (site.layer + 0.5, by_heads)
        elif site.layer > start:
            out[v] = (float(site.layer), _product(output, wires.before[site.layer], gradient))
    return out | {len(sites): (float(model.anatomy.n_layers), final)}


def _product(output: Tensor, by: Tensor, gradient: Tensor, may_not: bool = False):
    """``gradient`` times the Jacobian of ``output`` by ``by``; None, if that ``may_not`` be, where none leads there."""
    return torch.autograd.grad(output, by, gradient, retain_graph=True, allow_unused=may_not)[0]


def _by_head(model: Model, wires: Wires, layer: int, gradient: Tensor, copies: int, t: int) -> Tensor:
    """(row, copy, head, d_head): the gradient by the stream as one by head outputs, at the decision position."""
    attn, heads = wires.attn[layer], wires.heads[layer]
    by = _product(attn, heads, gradient.reshape(attn.shape))
    return by.reshape(-1, copies, t, model.anatomy.n_heads, model.anatomy.d_head)[:, :, 0]


def _edit(site: Site, gap: Outputs, way: Way, t: int) -> Edit:
    row = torch.arange(len(gap.heads), device=gap.heads.device)
    node = torch.full_like(row, way.copy * t)
    if site.head is None:
        return Edit(site.layer, row, node, None, -way.share * gap.mlps[:, site.layer], add=True)
    head = torch.full_like(row, site.head)
    return Edit(site.layer, row, node, head, -way.share * gap.heads[:, site.layer, site.head], add=True)
