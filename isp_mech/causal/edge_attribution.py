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

from isp_mech.causal.attribution_patching import InterpolationStep, check_gradients, interpolation_steps
from isp_mech.causal.prompt_copies import PromptCopies, WholePrompts, run_once, run_prompts
from isp_mech.causal.replacements import SiteOutputs
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.models import ActivationEdit, GradientCapture, Model, capture_gradients
from isp_mech.sites import Site


@dataclass(frozen=True)
class EdgeEffects:
    """In nats: ``edges`` (pair, from, to) for the sites and, last of ``to``, the output, NaN where the one does not
    read what the other writes; ``whole`` (pair, from): a site's effect by all that reads it, given or not."""

    edges: np.ndarray
    whole: np.ndarray


def edge_effects(
    prompts: Sequence[ContrastPrompt],
    outputs: SiteOutputs,
    replacement: SiteOutputs,
    sites: Sequence[Site],
    plan: BatchPlan,
    *,
    steps: int = 1,
) -> EdgeEffects:
    """The effect of every edge between ``sites``, whose own outputs are ``outputs``, and from them to the output."""
    check_gradients(plan, steps)
    n, k, device = len(prompts), len(sites), plan.model.device
    effects = EdgeEffects(np.full((n, k, k + 1), np.nan), np.zeros((n, k)))

    def run(rows: list[int], whole: WholePrompts) -> None:
        gap = outputs.of(rows, device).minus(replacement.of(rows, device))
        once = run_once(whole)

        def add_up(at_once: int) -> None:
            sums = _Sums(once, gap, sites)
            for part in interpolation_steps(k, steps, at_once):
                _add(sums, part)
            edges = torch.where(sums.there, sums.edges / steps, torch.nan)
            effects.edges[rows], effects.whole[rows] = edges.cpu().numpy(), (sums.whole / steps).cpu().numpy()

        once.attempt(plan, add_up)

    if sites:
        run_prompts(prompts, run, plan, "edges")
    return effects


class _Sums:
    """Prompts that were run once, how far each site is from its replacement, and what the gradients add up to:
    ``edges`` (row, from, to), ``whole`` (row, from), and which edges are ``there``."""

    def __init__(self, once: PromptCopies, gap: SiteOutputs, sites: Sequence[Site]) -> None:
        self.once, self.gap, self.sites = once, gap, sites
        k, device = len(sites), gap.heads.device
        self.edges = torch.zeros(once.n, k, k + 1, device=device)
        self.whole = torch.zeros(once.n, k, device=device)
        self.there = torch.zeros(k, k + 1, dtype=torch.bool, device=device)

    def product(self, site: Site, gradient: Tensor) -> Tensor:
        """(row,): a site's way from its replacement, times a gradient by its output (row, d)."""
        if site.head is None:
            return (self.gap.mlps[:, site.layer] * gradient).sum(-1)
        d_head = self.once.model.architecture.d_head
        own = gradient[:, site.head * d_head : (site.head + 1) * d_head]
        return (self.gap.heads[:, site.layer, site.head] * own).sum(-1)

    def at_decision(self, gradient: Tensor, copies: int) -> Tensor:
        """(row, copy, d) of a gradient at all tokens of all copies."""
        return gradient.reshape(self.once.n, copies, self.once.t, -1)[:, :, 0]


def _add(sums: _Sums, part: Sequence[InterpolationStep]) -> None:
    """Adds what each step gives, all of them in one forward."""
    copies, sites = 1 + max(step.copy for step in part), sums.sites
    first_layer = min(sites[step.index].layer for step in part)
    edits = [_edit(sites[step.index], sums.gap, step, sums.once.t) for step in part if step.share]
    with capture_gradients(sums.once.model.architecture) as captured:
        margin = sums.once.run(copies, edits, first_layer=first_layer, gradients=True).sum()
    with torch.enable_grad():
        gradients, final = _gradients(captured, margin, sites, first_layer)
        for step in part:
            own = sums.at_decision(gradients[step.index], copies)[:, step.copy]
            sums.whole[:, step.index] += sums.product(sites[step.index], own)
        for v, layer, gradient in _readers(sums.once.model, captured, gradients, final, sites, first_layer):
            before = [step for step in part if _writes_before(sites[step.index], layer)]
            pulled: dict[int, Tensor] = {}  # the gradient by a layer's head outputs, and at -1 by what is written
            for step in before:
                u = sites[step.index]
                at = -1 if u.head is None else u.layer
                if at not in pulled:
                    by = gradient if u.head is None else _by_heads(captured, u.layer, gradient)
                    pulled[at] = sums.at_decision(by, copies)
                sums.edges[:, step.index, v] += sums.product(u, pulled[at][:, step.copy])
                sums.there[step.index, v] = True


def _edit(site: Site, gap: SiteOutputs, step: InterpolationStep, t: int) -> ActivationEdit:
    row = torch.arange(len(gap.heads), device=gap.heads.device)
    node = torch.full_like(row, step.copy * t)
    if site.head is None:
        return ActivationEdit(site.layer, row, node, None, -step.share * gap.mlps[:, site.layer], add=True)
    head = torch.full_like(row, site.head)
    return ActivationEdit(site.layer, row, node, head, -step.share * gap.heads[:, site.layer, site.head], add=True)


def _gradients(
    captured: GradientCapture, margin: Tensor, sites: Sequence[Site], first_layer: int
) -> tuple[dict[int, Tensor], Tensor]:
    """The margin's gradients, whatever way they come: by site number, by all of its layer's head outputs or by the
    MLP's write; and by what goes into the final norm."""
    assert captured.final is not None
    later = [v for v, site in enumerate(sites) if site.layer >= first_layer]
    outputs = [(captured.mlp if sites[v].head is None else captured.heads)[sites[v].layer] for v in later]
    *gradients, final = torch.autograd.grad(margin, [*outputs, captured.final], retain_graph=True)
    return dict(zip(later, gradients, strict=True)), final


def _readers(
    model: Model,
    captured: GradientCapture,
    gradients: dict[int, Tensor],
    final: Tensor,
    sites: Sequence[Site],
    first_layer: int,
) -> Iterator[tuple[int, float, Tensor]]:
    """Readers by number (the output's is the last), the layer at which each reads the stream (a half more for MLPs in
    serial blocks), and the gradient of the margin by what it reads there, through it alone."""
    for v, gradient in gradients.items():
        site, layer = sites[v], sites[v].layer
        if site.head is not None:
            alone = torch.zeros_like(gradient)
            mine = slice(site.head * model.architecture.d_head, (site.head + 1) * model.architecture.d_head)
            alone[..., mine] = gradient[..., mine]
            output = captured.heads[layer]
        else:
            alone, output = gradient, captured.mlp[layer]
            by_attention = _product(output, captured.attn[layer], alone, may_be_none=True)
            if by_attention is not None:
                yield v, layer + 0.5, by_attention
                continue
        if layer > first_layer:
            yield v, float(layer), _product(output, captured.resid[layer], alone)
    yield len(sites), float(model.architecture.n_layers), final


def _writes_before(site: Site, layer: float) -> bool:
    """Whether what a site writes is in the stream at ``layer``, a half being between its heads and its MLP."""
    return site.layer + (1.0 if site.head is None else 0.5) <= layer


def _by_heads(captured: GradientCapture, layer: int, gradient: Tensor) -> Tensor:
    """A gradient by the stream as one by a layer's head outputs."""
    attn = captured.attn[layer]
    return _product(attn, captured.heads[layer], gradient.reshape(attn.shape))


def _product(output: Tensor, by: Tensor, gradient: Tensor, may_be_none: bool = False):
    """``gradient`` times the Jacobian of ``output`` by ``by``; None, where that may be, if none leads there."""
    return torch.autograd.grad(output, by, gradient, retain_graph=True, allow_unused=may_be_none)[0]
