"""Batching: trees and plain sequences as rows of one batch, as many as a forward takes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from isp_mech.inference.prefix_tree import PrefixTree
from isp_mech.models import Batch

MAX_MASK = 1 << 26  # mask entries of one batch
AUTO_TOKENS = 6144  # tokens of one batch on "auto": enough to keep two cores busy, small enough for any laptop


@dataclass
class Plan:
    """How many rows a forward takes: as many as ``tokens`` hold, or ``rows``; halved when memory runs out."""

    tokens: int
    rows: int | None = None
    halvings: int = 0

    def fit(self, length: int, *, masked: bool = False) -> int:
        """Rows of ``length`` tokens that one forward takes, at least one."""
        if self.rows is not None:
            return self.rows
        return max(1, min(self.tokens // length, MAX_MASK // length**2 if masked else self.tokens))

    def alike(self, sizes: Sequence[int], most: int, each: int = 1) -> int:
        """How many of ``sizes``, largest first, to fill up to the first: up to ``most``, little being wasted.

        ``each`` is how many tokens one of a size is.
        """
        if self.rows is not None:
            return min(most, len(sizes))
        some = np.asarray(sizes[:most]) * each
        full = some[0] * np.arange(1, len(some) + 1)
        waste = full - some.cumsum()
        return int(np.flatnonzero(waste <= np.maximum(self.tokens // 24, full // 8))[-1]) + 1

    def halve(self, taken: int, length: int) -> None:
        """Half of the ``taken`` rows of ``length`` tokens for which memory did not suffice."""
        self.halvings += 1
        self.tokens = max(1, taken * length // 2)
        if self.rows is not None:
            self.rows = max(1, taken // 2)


def batches(trees: Sequence[PrefixTree], batch_size: int | str = "auto") -> Iterator[tuple[list[int], Batch]]:
    """Batches over all trees, longest first: the trees' numbers, one a row, and the ``Batch``.

    ``batch_size`` is a number of rows, or "auto" for as many as about six thousand tokens hold.
    """
    check_batch_size(batch_size)
    order = sorted(range(len(trees)), key=lambda t: (-len(trees[t]), t))
    while order:
        length = len(trees[order[0]])
        fits = max(1, min(AUTO_TOKENS // length, MAX_MASK // length**2)) if batch_size == "auto" else int(batch_size)
        rows, order = order[:fits], order[fits:]
        yield rows, make_batch([trees[t] for t in rows])


def check_batch_size(batch_size: int | str) -> None:
    """Raises ``ValueError`` unless ``batch_size`` is "auto" or a number of at least one."""
    if batch_size != "auto" and not (
        isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
    ):
        raise ValueError(f"batch_size {batch_size!r}: expected 'auto' or a whole number of at least 1")


def make_batch(trees: Sequence[PrefixTree]) -> Batch:
    """The trees as rows of one ``Batch``, padded on the right; without a mask where all are chains."""
    if all(tree.is_chain for tree in trees):
        return chains([tree.tokens for tree in trees])
    length = max(map(len, trees))
    ids = np.zeros((len(trees), length), dtype=np.int64)
    depth = np.zeros_like(ids)
    visible = np.tile(np.eye(length, dtype=bool), (len(trees), 1, 1))
    for row, tree in enumerate(trees):
        n = len(tree)
        ids[row, :n] = tree.tokens
        depth[row, :n] = tree.depths
        visible[row, :n, :n] = tree.visible()
    return Batch(torch.from_numpy(ids), torch.from_numpy(depth), torch.from_numpy(visible))


def chains(rows: Sequence[Sequence[int]]) -> Batch:
    """Plain sequences of tokens as rows of one ``Batch``, padded on the right."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    return Batch(torch.from_numpy(ids), torch.arange(ids.shape[1]).repeat(len(rows), 1))
