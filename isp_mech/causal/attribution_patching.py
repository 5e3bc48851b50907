"""Total effects approximated by gradients, for models too large for a replacement of every site.

The exact effect of a site is the margin less the margin with its output replaced. To first order that is
(output - replacement) . gradient of the margin: **attribution patching** (Nanda 2023; Syed et al. 2023,
arXiv 2310.10348), here one copy of the decision token for all sites. **Integrated** gradients (EAP-IG, Hanna et
al. 2024, arXiv 2403.17806, the form that integrates over activations) average the gradient over the way from the
replacement to the output, all sites of one layer moving together: a copy for each layer and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.activation_patching import Paths, copies_at_once, prompts_to_copy, run_once
from isp_mech.causal.replacements import Outputs
from isp_mech.errors import InputError
from isp_mech.inference.margin import ContrastPrompt, margin_of
from isp_mech.models import ActivationEdit, Batch, Model

STEPS = {"attribution": 1, "integrated": 5}  # gradients taken for a site


def approximate_effects(
    model: Model,
    forks: Sequence[ContrastPrompt],
    outputs: Outputs,
    stand_in: Outputs,
    *,
    steps: int = 1,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """(pair, site), nats: what replacing each site by ``stand_in`` would take from the margin, by gradients.

    ``outputs`` are the sites' own; sites in the order of ``sites.all_sites``. With one step the gradient is taken
    where the model is; with more, at the midpoints of so many parts of the way from ``stand_in``. Completions of
    several tokens count in full. ``InputError`` for a model whose attention takes no mask of ours.
    """
    if not model.accepts_custom_masks:
        raise InputError(model.name, ["gradients need an attention that takes a mask: expected method exact"])
    if steps < 1:
        raise InputError("steps", [f"{steps}: expected 1 or more"])
    layers, heads = model.architecture.n_layers, model.architecture.n_heads
    out = np.zeros((len(forks), layers * (heads + 1)))
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "gradients", progress):
        own, instead = outputs.of(rows, model.device), stand_in.of(rows, model.device)
        gap = Outputs(own.heads - instead.heads, own.mlps - instead.mlps)
        out[rows] = _by_gradients(model, batch, [forks[i] for i in rows], nodes, gap, steps)
    return out


@dataclass(frozen=True)
class Shift:
    """A layer's sites in one copy, moved by ``share`` of the way to their replacements."""

    layer: int
    copy: int
    share: float


def _by_gradients(
    model: Model, batch: Batch, forks: Sequence[ContrastPrompt], nodes: Sequence[Paths], gap: Outputs, steps: int
) -> np.ndarray:
    trunk, copy, terms, _ = run_once(model, batch, forks, nodes)
    layers, (n, t) = range(model.architecture.n_layers), copy.ids.shape
    if steps == 1:  # nothing is moved, so that one copy serves all layers
        jobs = [[Shift(layer, 0, 0.0) for layer in layers]]
    else:
        ways = [(layer, (k + 0.5) / steps) for layer in layers for k in range(steps)]
        most = copies_at_once(model, n, t, trunk.visible_prefix.shape[1])
        parts = [ways[i : i + most] for i in range(0, len(ways), most)]
        jobs = [[Shift(layer, c, share) for c, (layer, share) in enumerate(part)] for part in parts]
    found = torch.zeros(n, len(layers), model.architecture.n_heads + 1, device=gap.heads.device)
    for shifts in jobs:
        copies = 1 + max(shift.copy for shift in shifts)
        moved, edits = _edits(shifts, gap, t)
        hidden = model.forward(
            Batch(copy.ids.repeat(1, copies), copy.depth.repeat(1, copies)),
            prefix=trunk,
            first_layer=min(shift.layer for shift in shifts),
            edits=edits,
            gradients=True,
        ).hidden
        here = terms.copied(copies, t)
        with torch.enable_grad():
            margins = margin_of(model, hidden[here.rows, here.nodes], here, gradients=True)
            gradients = torch.autograd.grad(margins.sum(), moved)
        for i, shift in enumerate(shifts):
            by_heads, by_mlp = gradients[2 * i : 2 * i + 2]
            found[:, shift.layer, :-1] += (gap.heads[:, shift.layer] * by_heads).sum(-1) / steps
            found[:, shift.layer, -1] += (gap.mlps[:, shift.layer] * by_mlp).sum(-1) / steps
    return found.flatten(1).cpu().numpy()


def _edits(shifts: Sequence[Shift], gap: Outputs, t: int) -> tuple[list[Tensor], list[ActivationEdit]]:
    """What is added to the sites' outputs (heads, then MLP, of each shift), and the edits that add it."""
    n, _, heads, _ = gap.heads.shape
    row, head = (i.flatten() for i in torch.meshgrid(torch.arange(n), torch.arange(heads), indexing="ij"))
    moved, edits = [], []
    for shift in shifts:
        by_head = (-shift.share * gap.heads[:, shift.layer]).requires_grad_()
        by_mlp = (-shift.share * gap.mlps[:, shift.layer]).requires_grad_()
        moved += [by_head, by_mlp]
        node = shift.copy * t
        with torch.enable_grad():
            flat = by_head.flatten(0, 1)
        edits += [
            ActivationEdit(shift.layer, row, torch.full_like(row, node), head, flat, add=True),
            ActivationEdit(shift.layer, torch.arange(n), torch.full((n,), node), None, by_mlp, add=True),
        ]
    return moved, edits
