"""Distributed alignment search (DAS, Geiger et al. 2023, arXiv 2303.02536) in one dimension: a trained direction of the
residual stream that is swapped between a pair's two prompts.

After one layer, at the decision position, the part of the stream h along a unit vector u becomes that of the stream h'
of the pair's other prompt: h + (u . (h' - h)) u. The vector is trained so that, with it, either prompt is answered as
asked: the conflict prompt by its answer, though what is put in comes from the plain one, and the plain prompt by the
lure, though what is put in comes from the conflict one. So u holds what overrides the prompt, if one direction does.
The loss of a prompt is the cross-entropy of its two completions at the first token that differs, log(1 + exp(-m)), m
being how much the logit of the one asked for is above that of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isp_mech.causal.attribution_patching import check_gradients
from isp_mech.causal.intervention_parts import TRAINED
from isp_mech.causal.intervention_values import Intervention, swap, with_array
from isp_mech.causal.prompt_copies import PromptCopies, WholePrompts, run_once, run_prompts
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.margin import ContrastPrompt, at_first_token
from isp_mech.models import ActivationEdit

STEPS = 10  # of Adam, each on all prompts
BEST = 2  # layers whose directions are trained
ALL_LAYERS = 8  # in models of so many at most each is tried
TURN = 0.1  # how far the vector is turned by the first step, radians


@dataclass(frozen=True)
class SwappedPrompts:
    """Prompts of one side of the pairs, and the residual stream after each layer at their decision position (``own``)
    and at that of the pairs' other prompts (``other``); ``sign`` is 1 where the answer is asked for, -1 where the lure
    is."""

    prompts: Sequence[ContrastPrompt]
    own: Float[Tensor, "prompt layer d_model"]
    other: Float[Tensor, "prompt layer d_model"]
    sign: float


@dataclass(frozen=True)
class _Ready:
    """Some of them, run once."""

    once: PromptCopies
    own: Tensor
    other: Tensor
    sign: float

    def loss(self, layer: int, u: Tensor) -> Tensor:
        """The sum of the prompts' losses with the part along ``u`` swapped after ``layer``; has a gradient by ``u``."""
        return self._loss(layer, (self.other[:, layer] @ u)[:, None], basis=u[None])

    def first_order(self, layer: int) -> Tensor:
        """(d_model, d_model), symmetric: u . this . u is what swapping along u takes from the sum of the losses, to
        first order in what is put in: (u . (h' - h)) (u . -gradient), over the prompts."""
        added = torch.zeros_like(self.own[:, layer]).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._loss(layer, added, add=True), added)
        product = (self.other - self.own)[:, layer].T @ -gradient
        return (product + product.T) / 2

    def _loss(self, layer: int, values: Tensor, *, basis: Tensor | None = None, add: bool = False) -> Tensor:
        rows = torch.arange(self.once.n, device=values.device)
        decision = torch.zeros_like(rows)  # the first token of a copy
        edit = ActivationEdit(layer, rows, decision, None, values, stream=True, basis=basis, add=add)
        margins = self.once.run(1, [edit], first_layer=layer, gradients=True)[0]
        return torch.nn.functional.softplus(-self.sign * margins).sum()


def trained_swaps(sides: Iterable[SwappedPrompts], plan: BatchPlan) -> list[Intervention]:
    """The two best of a direction after each layer (of many: after four, evenly spaced), trained and to be swapped.
    ``InputError`` for a model that gives no gradients over copies."""
    n = plan.model.architecture.n_layers
    layers = range(n) if n <= ALL_LAYERS else [int((i + 0.5) * n / 4) for i in range(4)]
    trained = trained_directions(sides, layers, plan, most=BEST)
    return [with_array(swap(layer, TRAINED), {f"r{layer}": u.numpy()}) for layer, u in trained.items()]


def trained_directions(
    sides: Iterable[SwappedPrompts], layers: Iterable[int], plan: BatchPlan, *, most: int = 1
) -> dict[int, Float[Tensor, " d_model"]]:
    """A unit vector for each of those layers, ``most`` of them, whose starts have the least mean loss: the best that
    ``STEPS`` steps from its start come by. A start is the direction that is best to first order, the first eigenvector
    of the mean of (h' - h) times minus the loss's gradient, made symmetric."""
    check_gradients(plan, 1)
    ready: list[_Ready] = []
    for side in sides:

        def keep(rows: list[int], whole: WholePrompts, side: SwappedPrompts = side) -> None:
            own, other = (x[rows].to(plan.model.device).float() for x in (side.own, side.other))
            ready.append(_Ready(run_once(whole), own, other, side.sign))

        run_prompts([at_first_token(prompt) for prompt in side.prompts], keep, plan, "alignment search")
    starts = {layer: _start(layer, ready) for layer in layers}
    with torch.no_grad():
        losses = {layer: float(sum(one.loss(layer, u) for one in ready)) for layer, u in starts.items()}
    chosen = sorted(losses, key=losses.__getitem__)[:most]
    return {layer: _trained(layer, starts[layer], ready) for layer in sorted(chosen)}


def _start(layer: int, ready: Sequence[_Ready]) -> Tensor:
    return torch.linalg.eigh(sum(one.first_order(layer) for one in ready)).eigenvectors[:, -1]


def _trained(layer: int, start: Tensor, ready: Sequence[_Ready]) -> Tensor:
    n = sum(one.once.n for one in ready)
    w = start.clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=TURN / len(w) ** 0.5)
    best, least = start, float("inf")
    for _ in range(STEPS):
        loss, gradient = 0.0, torch.zeros_like(start)
        for one in ready:
            with torch.enable_grad():
                part = one.loss(layer, w / w.norm()) / n
            gradient += torch.autograd.grad(part, w)[0]
            loss += float(part.detach())
        if loss < least:
            best, least = w.detach().clone(), loss
        w.grad = gradient
        adam.step()
        with torch.no_grad():
            w /= w.norm()
    return best.cpu()
