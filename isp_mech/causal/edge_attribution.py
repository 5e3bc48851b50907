"""Gradients along edges: the margin's, by what one site reads of the residual stream, through that site alone.

A gradient by what v reads is the vector-Jacobian product of v's output by its layer's input. In serial blocks an MLP
reads what its layer's heads wrote, too: there it is the product by what they write, added to the input as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.activation_patching import Paths, copies_at_once, prompts_to_copy, run_once
from isp_mech.causal.replacements import Outputs
from isp_mech.errors import InputError
from isp_mech.inference.margin import ContrastPrompt, LogprobTerms, margin_of
from isp_mech.models import ActivationEdit, Batch, GradientCapture, Model, PrefixCache, capture_gradients
from isp_mech.sites import Site


@dataclass(frozen=True)
class EdgeEffects:
    """In nats: ``edges`` (pair, from, to) for the sites and, last of ``to``, the output, NaN where the one does not
    read what the other writes; ``whole`` (pair, from): a site's effect by all that reads it, given or not."""

    edges: np.ndarray
    whole: np.ndarray


def edge_effects(
    model: Model,
    forks: Sequence[ContrastPrompt],
    outputs: Outputs,
    stand_in: Outputs,
    sites: Sequence[Site],
    *,
    steps: int = 1,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> EdgeEffects:
    """The effect of every edge between ``sites``, whose own outputs are ``outputs``, and from them to the output."""
    if not model.accepts_custom_masks:
        raise InputError(model.name, ["gradients need an attention that takes a mask of ours"])
    edges, whole = np.full((len(forks), len(sites), len(sites) + 1), np.nan), np.zeros((len(forks), len(sites)))
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "edges", progress) if sites else ():
        own, instead = outputs.of(rows, model.device), stand_in.of(rows, model.device)
        gap = Outputs(own.heads - instead.heads, own.mlps - instead.mlps)
        edges[rows], whole[rows] = _by_gradients(model, batch, [forks[i] for i in rows], nodes, gap, sites, steps)
    return EdgeEffects(edges, whole)


@dataclass(frozen=True)
class Way:
    """In one copy, site number ``site`` moved by ``share`` of the way to its replacement."""

    site: int
    copy: int
    share: float


@dataclass(frozen=True)
class Bench:
    """Prompts that were run once, one copy of what follows them, and how far each site is from its replacement."""

    model: Model
    trunk: PrefixCache
    copy: Batch
    terms: LogprobTerms
    gap: Outputs
    sites: Sequence[Site]

    def product(self, site: Site, slope: Tensor) -> Tensor:
        """(row,): a site's way from its replacement, times a gradient by its output (row, d)."""
        if site.head is None:
            return (self.gap.mlps[:, site.layer] * slope).sum(-1)
        d_head = self.model.architecture.d_head
        own = slope[:, site.head * d_head : (site.head + 1) * d_head]
        return (self.gap.heads[:, site.layer, site.head] * own).sum(-1)

    def at_decision(self, gradient: Tensor, copies: int) -> Tensor:
        """(row, copy, d) of a gradient at all tokens of all copies."""
        return gradient.reshape(len(self.copy.ids), copies, self.copy.ids.shape[1], -1)[:, :, 0]


def _by_gradients(
    model: Model,
    batch: Batch,
    forks: Sequence[ContrastPrompt],
    nodes: Sequence[Paths],
    gap: Outputs,
    sites: Sequence[Site],
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    trunk, copy, terms, _ = run_once(model, batch, forks, nodes)
    n, t = copy.ids.shape
    if steps == 1:  # nothing is moved, so that one copy serves all sites
        jobs = [[Way(u, 0, 0.0) for u in range(len(sites))]]
    else:
        shares = [(u, (k + 0.5) / steps) for u in range(len(sites)) for k in range(steps)]
        most = copies_at_once(model, n, t, trunk.visible_prefix.shape[1])
        parts = [shares[i : i + most] for i in range(0, len(shares), most)]
        jobs = [[Way(u, c, share) for c, (u, share) in enumerate(part)] for part in parts]
    bench = Bench(model, trunk, copy, terms, gap, sites)
    edges = torch.zeros(n, len(sites), len(sites) + 1, device=gap.heads.device)
    whole = torch.zeros(n, len(sites), device=gap.heads.device)
    there = torch.zeros(edges.shape[1:], dtype=torch.bool, device=edges.device)
    for ways in jobs:
        _add_job(bench, ways, edges, whole, there)
    return torch.where(there, edges / steps, torch.nan).cpu().numpy(), (whole / steps).cpu().numpy()


def _add_job(bench: Bench, ways: Sequence[Way], edges: Tensor, whole: Tensor, there: Tensor) -> None:
    """Adds what each way gives to ``edges`` (row, from, to) and ``whole`` (row, from), and marks edges in ``there``."""
    copies, sites = 1 + max(way.copy for way in ways), bench.sites
    start = min(sites[way.site].layer for way in ways)
    wires, margin = _run(bench, ways, copies, start)
    with torch.enable_grad():
        slopes, final = _slopes(wires, margin, sites, start)
        for way in ways:
            slope = bench.at_decision(slopes[way.site], copies)[:, way.copy]
            whole[:, way.site] += bench.product(sites[way.site], slope)
        for v, layer, gradient in _readers(bench.model, wires, slopes, final, sites, start):
            before = [way for way in ways if _writes_before(sites[way.site], layer)]
            pulled: dict[int, Tensor] = {}  # the gradient by a layer's head outputs, and at -1 by what is written
            for way in before:
                u = sites[way.site]
                at = -1 if u.head is None else u.layer
                if at not in pulled:
                    by = gradient if u.head is None else _by_heads(wires, u.layer, gradient)
                    pulled[at] = bench.at_decision(by, copies)
                edges[:, way.site, v] += bench.product(u, pulled[at][:, way.copy])
                there[way.site, v] = True


def _run(bench: Bench, ways: Sequence[Way], copies: int, start: int) -> tuple[GradientCapture, Tensor]:
    """A forward of the copies from layer ``start`` on, each with its site moved: its wires, and the sum of margins."""
    t = bench.copy.ids.shape[1]
    with capture_gradients(bench.model.architecture) as wires:
        hidden = bench.model.forward(
            Batch(bench.copy.ids.repeat(1, copies), bench.copy.depth.repeat(1, copies)),
            prefix=bench.trunk,
            first_layer=start,
            edits=[_edit(bench.sites[way.site], bench.gap, way, t) for way in ways if way.share],
            gradients=True,
        ).hidden
    here = bench.terms.copied(copies, t)
    with torch.enable_grad():
        return wires, margin_of(bench.model, hidden[here.rows, here.nodes], here, gradients=True).sum()


def _edit(site: Site, gap: Outputs, way: Way, t: int) -> ActivationEdit:
    row = torch.arange(len(gap.heads), device=gap.heads.device)
    node = torch.full_like(row, way.copy * t)
    if site.head is None:
        return ActivationEdit(site.layer, row, node, None, -way.share * gap.mlps[:, site.layer], add=True)
    head = torch.full_like(row, site.head)
    return ActivationEdit(site.layer, row, node, head, -way.share * gap.heads[:, site.layer, site.head], add=True)


def _slopes(
    wires: GradientCapture, margin: Tensor, sites: Sequence[Site], start: int
) -> tuple[dict[int, Tensor], Tensor]:
    """The margin's gradients, whatever way they come: by site number, by all of its layer's head outputs or by the
    MLP's write; and by what goes into the final norm."""
    assert wires.final is not None
    later = [v for v, site in enumerate(sites) if site.layer >= start]
    outputs = [(wires.mlp if sites[v].head is None else wires.heads)[sites[v].layer] for v in later]
    *slopes, final = torch.autograd.grad(margin, [*outputs, wires.final], retain_graph=True)
    return dict(zip(later, slopes, strict=True)), final


def _readers(
    model: Model, wires: GradientCapture, slopes: dict[int, Tensor], final: Tensor, sites: Sequence[Site], start: int
) -> Iterator[tuple[int, float, Tensor]]:
    """Readers by number (the output's is the last), the layer at which each reads the stream (a half more for MLPs in
    serial blocks), and the gradient of the margin by what it reads there, through it alone."""
    for v, slope in slopes.items():
        site, layer = sites[v], sites[v].layer
        if site.head is not None:
            alone = torch.zeros_like(slope)
            mine = slice(site.head * model.architecture.d_head, (site.head + 1) * model.architecture.d_head)
            alone[..., mine] = slope[..., mine]
            output = wires.heads[layer]
        else:
            alone, output = slope, wires.mlp[layer]
            by_attention = _product(output, wires.attn[layer], alone, may_be_none=True)
            if by_attention is not None:
                yield v, layer + 0.5, by_attention
                continue
        if layer > start:
            yield v, float(layer), _product(output, wires.before[layer], alone)
    yield len(sites), float(model.architecture.n_layers), final


def _writes_before(site: Site, layer: float) -> bool:
    """Whether what a site writes is in the stream at ``layer``, a half being between its heads and its MLP."""
    return site.layer + (1.0 if site.head is None else 0.5) <= layer


def _by_heads(wires: GradientCapture, layer: int, gradient: Tensor) -> Tensor:
    """A gradient by the stream as one by a layer's head outputs."""
    attn = wires.attn[layer]
    return _product(attn, wires.heads[layer], gradient.reshape(attn.shape))


def _product(output: Tensor, by: Tensor, gradient: Tensor, may_be_none: bool = False):
    """``gradient`` times the Jacobian of ``output`` by ``by``; None, where that may be, if none leads there."""
    return torch.autograd.grad(output, by, gradient, retain_graph=True, allow_unused=may_be_none)[0]
