"""Total effects approximated by gradients, for models too large for a replacement of every site.

The exact effect of a site is the margin less the margin with its output replaced. To first order that is
(output - replacement) . gradient of the margin: **attribution patching** (Nanda 2023; Syed et al. 2023,
arXiv 2310.10348), here one copy of the decision token for all sites. **Integrated** gradients (EAP-IG, Hanna et
al. 2024, arXiv 2403.17806, the form that integrates over activations) average the gradient over the way from the
replacement to the output, all sites of one layer moving together: a copy for each layer and step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.prompt_copies import PromptCopies, WholePrompts, run_once, run_prompts
from isp_mech.causal.replacements import SiteOutputs
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.models import ActivationEdit

GRADIENT_STEPS: Mapping[str, int] = {"attribution": 1, "integrated": 5}  # gradients taken for a site, by method


@dataclass(frozen=True)
class InterpolationStep:
    """In one copy, what ``index`` counts (a layer, or a site) moved by ``share`` of the way to its replacement."""

    index: int
    copy: int
    share: float


def interpolation_steps(n: int, steps: int, at_once: int) -> list[list[InterpolationStep]]:
    """The steps for each of ``n`` layers or sites, by forward: the midpoints of ``steps`` parts of the way.

    With one step nothing is moved, so that one copy serves all.
    """
    if steps == 1:
        return [[InterpolationStep(i, 0, 0.0) for i in range(n)]]
    every = [(i, (k + 0.5) / steps) for i in range(n) for k in range(steps)]
    parts = [every[start : start + at_once] for start in range(0, len(every), at_once)]
    return [[InterpolationStep(i, copy, share) for copy, (i, share) in enumerate(part)] for part in parts]


def approximate_effects(
    prompts: Sequence[ContrastPrompt],
    outputs: SiteOutputs,
    replacement: SiteOutputs,
    plan: BatchPlan,
    *,
    steps: int = 1,
) -> np.ndarray:
    """(pair, site), nats: what replacing each site by ``replacement`` would take from the margin, by gradients.

    ``outputs`` are the sites' own; sites in the order of ``sites.all_sites``. With one step the gradient is taken
    where the model is; with more, at the midpoints of so many parts of the way from ``replacement``. Completions of
    several tokens count in full. ``InputError`` for a model whose attention does not accept custom masks.
    """
    check_gradients(plan, steps)
    shape = plan.model.architecture
    out = np.zeros((len(prompts), shape.n_layers * (shape.n_heads + 1)))

    def run(rows: list[int], whole: WholePrompts) -> None:
        gap = outputs.of(rows, plan.model.device).minus(replacement.of(rows, plan.model.device))
        once = run_once(whole)

        def by_gradients(at_once: int) -> None:
            out[rows] = _by_gradients(once, gap, steps, at_once)

        once.attempt(plan, by_gradients)

    run_prompts(prompts, run, plan, "gradients")
    return out


def check_gradients(plan: BatchPlan, steps: int) -> None:
    """``InputError`` for a model that gives no gradients over copies, and for fewer than one step."""
    if not plan.model.accepts_custom_masks:
        why = "gradients need an attention that accepts custom masks: expected method exact"
        raise InputError(plan.model.name, [why])
    if steps < 1:
        raise InputError("steps", [f"{steps}: expected 1 or more"])


def _by_gradients(once: PromptCopies, gap: SiteOutputs, steps: int, at_once: int) -> np.ndarray:
    shape = once.model.architecture
    effects = torch.zeros(once.n, shape.n_layers, shape.n_heads + 1, device=gap.heads.device)
    for part in interpolation_steps(shape.n_layers, steps, at_once):
        moved, edits = _edits(part, gap, once.t)
        copies = 1 + max(step.copy for step in part)
        margins = once.run(copies, edits, first_layer=min(step.index for step in part), gradients=True)
        gradients = torch.autograd.grad(margins.sum(), moved)
        for i, step in enumerate(part):
            by_heads, by_mlp = gradients[2 * i : 2 * i + 2]
            effects[:, step.index, :-1] += (gap.heads[:, step.index] * by_heads).sum(-1) / steps
            effects[:, step.index, -1] += (gap.mlps[:, step.index] * by_mlp).sum(-1) / steps
    return effects.flatten(1).cpu().numpy()


def _edits(part: Sequence[InterpolationStep], gap: SiteOutputs, t: int) -> tuple[list[Tensor], list[ActivationEdit]]:
    """What is added to the sites' outputs (heads, then MLP, of each step), and the edits that add it."""
    n, _, heads, _ = gap.heads.shape
    every, head = torch.arange(n, device=gap.heads.device), torch.arange(heads, device=gap.heads.device)
    row, head = (i.flatten() for i in torch.meshgrid(every, head, indexing="ij"))
    moved, edits = [], []
    for step in part:
        by_head = (-step.share * gap.heads[:, step.index]).requires_grad_()
        by_mlp = (-step.share * gap.mlps[:, step.index]).requires_grad_()
        moved += [by_head, by_mlp]
        node = step.copy * t
        with torch.enable_grad():
            flat = by_head.flatten(0, 1)
        edits += [
            ActivationEdit(step.index, row, torch.full_like(row, node), head, flat, add=True),
            ActivationEdit(step.index, every, torch.full_like(every, node), None, by_mlp, add=True),
        ]
    return moved, edits
