"""How the ladder's weights are moved: Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MUON_RATE = 0.02 * 32**0.5  # of orthogonal updates, by sqrt(width): a wide size loses the verdict at a narrow's
ADAM_RATE = 0.01  # embeddings, norms and biases; the unembedding less in wide models
UNEMBED_WIDTH = 64  # beyond this width the unembedding's rate falls as 1 / width: its sums are over more terms
WARM_UP = 60
COOL_DOWN = 0.6  # the share of steps in which the rates fall to zero
MOMENTUM = 0.95
BETAS = (0.9, 0.95)
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
HALF_FROM = 128  # matrices of this many rows are orthogonalised in bfloat16 where matrix products are


def is_embedding(name: str) -> bool:
    """Whether a parameter of this name belongs to the embedding or the unembedding."""
    return "embed_in" in name or _is_unembedding(name)


def _is_unembedding(name: str) -> bool:
    return "embed_out" in name or "lm_head" in name


def rate_at(step: int, steps: int) -> float:
    """The share of the full learning rate at ``step``: up, level, and down to zero."""
    return min(1.0, (step + 1) / WARM_UP, max(0.0, (steps - step) / (COOL_DOWN * steps)))


def orthogonalise(matrices: Tensor) -> Tensor:
    """``matrices`` (batch, rows <= columns) with all singular values brought near 1 (five Newton-Schulz steps)."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon:
    """Orthogonalised momentum for matrices. Query, key and value of one fused matrix are three matrices."""

    def __init__(self, matrices: Sequence[nn.Parameter], *, width: int, head: int, half: bool = False):
        self.matrices, self.width, self.head = list(matrices), width, head
        self.half = half and width >= HALF_FROM
        self.momentum = [torch.zeros_like(p) for p in self.matrices]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for parameter, momentum in zip(self.matrices, self.momentum, strict=True):
            assert parameter.grad is not None
            momentum.lerp_(parameter.grad, 1 - MOMENTUM)
            gradient = parameter.grad.lerp(momentum, MOMENTUM)
            update = self._orthogonal(gradient.bfloat16() if self.half else gradient).float()
            taller = 2.0 if parameter.shape[0] == 4 * self.width else 1.0  # as large per row as a square matrix's
            parameter.add_(update, alpha=-rate * taller)
            parameter.grad = None

    def _orthogonal(self, gradient: Tensor) -> Tensor:
        width, head, (rows, columns) = self.width, self.head, gradient.shape
        if rows == 3 * width:  # heads of (query, key, value)
            parts = gradient.view(-1, 3, head, width).transpose(0, 1).reshape(3, width, width)
            return orthogonalise(parts).view(3, -1, head, width).transpose(0, 1).reshape(3 * width, width)
        if rows > columns:
            return orthogonalise(gradient.T[None])[0].T
        return orthogonalise(gradient[None])[0]


class Optimiser:
    """Both optimisers of one model, under one schedule; its state can be saved and taken up again."""

    def __init__(self, model: nn.Module, *, steps: int, width: int, head: int, half: bool = False):
        named = dict(model.named_parameters())
        matrices = [p for name, p in named.items() if p.ndim == 2 and not is_embedding(name)]
        hidden = {id(p) for p in matrices}
        unembedding = [p for name, p in named.items() if _is_unembedding(name)]
        self.others = [p for p in named.values() if id(p) not in hidden]
        rest = [p for p in self.others if all(p is not q for q in unembedding)]
        self.steps = steps
        self.muon_rate = MUON_RATE / width**0.5
        self.muon = Muon(matrices, width=width, head=head, half=half)
        self.rates = (ADAM_RATE, ADAM_RATE * min(1.0, UNEMBED_WIDTH / width))
        self.adam = torch.optim.AdamW(
            [{"params": rest}, {"params": unembedding}], lr=ADAM_RATE, betas=BETAS, weight_decay=0.0
        )

    def step(self, step: int) -> None:
        """Moves the weights by their gradients, which are cleared."""
        share = rate_at(step, self.steps)
        self.muon.step(self.muon_rate * share)
        nn.utils.clip_grad_norm_(self.others, 1.0)
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.adam.step()
        self.adam.zero_grad()

    def state(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "muon": self.muon.momentum}

    def load(self, state: Mapping[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        self.muon.momentum = state["muon"]


def settings() -> tuple[Any, ...]:
    """Everything above that determines a training, for its hash."""
    return (
        MUON_RATE, ADAM_RATE, UNEMBED_WIDTH, WARM_UP, COOL_DOWN, MOMENTUM, BETAS, NEWTON_SCHULZ, HALF_FROM,
    )  # fmt: skip
