"""What a forward runs: token trees, one a row; and places in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """A text's tokens with the half-open character span of each; added special tokens span nothing."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Batch:
    """Token trees, one a row, padded on the right.

    ``depth`` counts a token's ancestors: it is its position id. ``visible[row, i, j]`` is True where
    ``j`` is ``i`` or one of its ancestors; it is None where every row is a plain chain of tokens, for
    which causal attention says the same. Where positions depend on it (``length_rule.py``), ``length`` is that of the
    texts, 0 for short ones; None leaves it to transformers.
    """

    ids: Int[Tensor, "row pos"]
    depth: Int[Tensor, "row pos"]
    visible: Bool[Tensor, "row pos pos"] | None = None
    length: int | None = None

    def to(self, device: str) -> Batch:
        visible = None if self.visible is None else self.visible.to(device)
        return Batch(self.ids.to(device), self.depth.to(device), visible, self.length)

    def all_visible(self) -> Bool[Tensor, "row pos pos"]:
        """``visible``, for chains of tokens too."""
        if self.visible is not None:
            return self.visible
        n, pos = self.ids.shape
        return torch.ones(n, pos, pos, dtype=torch.bool, device=self.ids.device).tril()

    def seen_from(self, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"]) -> Bool[Tensor, "n pos"]:
        """What each of ``n`` tokens may attend to, itself included."""
        if self.visible is not None:
            return self.visible[rows, nodes]
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None, :] <= nodes[:, None]


@dataclass(frozen=True)
class TokenPlaces:
    """``n`` tokens of a batch, each by its row and its node in the row."""

    rows: Int[Tensor, " n"]
    nodes: Int[Tensor, " n"]


def attention_mask(batch: Batch, dtype: torch.dtype) -> Float[Tensor, "row 1 pos pos"] | None:
    """What is added to attention scores so that each token sees its ancestors alone; None for chains of tokens."""
    if batch.visible is None:
        return None
    mask = torch.zeros(batch.visible.shape, dtype=dtype, device=batch.visible.device)
    return mask.masked_fill_(~batch.visible, torch.finfo(dtype).min)[:, None]
