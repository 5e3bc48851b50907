"""Queries of many lengths, and a machine short of memory."""

from __future__ import annotations

import random

import torch
from small_models import VOCABULARY

from isp_mech.inference.prefix_tree import CompletionTokens
from isp_mech.models import Model


def queries(n_items: int, shots: int, *, seed: int = 0, own: int = 9) -> list[list[CompletionTokens]]:
    """Items after one of two beginnings of ``shots`` tokens, with three classes of one to three tokens."""
    draw = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, VOCABULARY) for _ in range(n))

    before = [tokens(shots), tokens(shots // 2)]
    out = []
    for i in range(n_items):
        prompt = (*before[i % 2], *tokens(draw.randint(1, own)))
        out.append([CompletionTokens((*prompt, *tokens(k)), len(prompt)) for k in (1, 3, 2)])
    return out


def short_of_memory(monkeypatch, most: int) -> list[int]:
    """Forwards of over ``most`` tokens run out of memory; returns the sizes of those that did not."""
    return sizes_of_forwards(monkeypatch, most)


def sizes_of_forwards(monkeypatch, most: float = float("inf")) -> list[int]:
    """The tokens of every forward from now on."""
    done = []
    real = Model.forward

    def forward(self, batch, **kwargs):
        if batch.ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(batch.ids.numel())
        return real(self, batch, **kwargs)

    monkeypatch.setattr(Model, "forward", forward)
    return done
