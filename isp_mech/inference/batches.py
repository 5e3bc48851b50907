"""Batches: how many prompts one forward takes, for everything that measures, and what is done when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, TypeVar

import numpy as np
import torch

from isp_mech.inference.prefix_tree import PrefixTree
from isp_mech.inference.progress import Advance, work
from isp_mech.models import Batch, ChatSetting, Model, Models, is_out_of_memory, let_go, members, plan_tokens

MAX_MASK = 1 << 26  # mask entries of one batch
MAX_WEIGHTS = {"cpu": 1 << 24, "cuda": 1 << 27}  # attention weights of copies in one forward

BatchSize = int | Literal["auto"]
T = TypeVar("T")


@dataclass
class BatchPlan:
    """How many rows one forward of ``model`` takes: as many as ``tokens`` hold, or ``rows``; ``kept`` are the tokens of
    a forward whose keys and values are kept for what runs over them.

    ``tokens`` and ``rows`` are halved when memory runs out, by whoever runs a batch through ``attempt``; what is done
    stays done.
    """

    model: Model
    tokens: int
    rows: int | None = None
    progress: bool = False
    halvings: int = 0
    kept: int | None = None

    @property
    def keeping(self) -> int:
        """Tokens of a forward whose keys and values are kept."""
        return self.tokens if self.kept is None else min(self.tokens, self.kept)

    def fit(self, length: int, *, masked: bool = False, keeping: bool = False) -> int:
        """Rows of ``length`` tokens that one forward takes, at least one."""
        if self.rows is not None:
            return self.rows
        tokens = self.keeping if keeping else self.tokens
        return max(1, min(tokens // length, MAX_MASK // length**2 if masked else tokens))

    def alike(self, sizes: Sequence[int], most: int, each: int = 1) -> int:
        """How many of ``sizes``, largest first, to pad to the first: up to ``most``, little being wasted.

        ``each`` is how many tokens one of a size is.
        """
        if self.rows is not None:
            return min(most, len(sizes))
        some = np.asarray(sizes[:most]) * each
        full = some[0] * np.arange(1, len(some) + 1)
        waste = full - some.cumsum()
        return int(np.flatnonzero(waste <= np.maximum(self.tokens // 24, full // 8))[-1]) + 1

    def copies(self, n: int, t: int, pos: int) -> int:
        """How many copies of ``t`` tokens one forward takes, of each of ``n`` prompts of ``pos`` tokens."""
        weights = n * t * self.model.architecture.n_heads * (pos + t)
        most = MAX_WEIGHTS.get(torch.device(self.model.device).type, MAX_WEIGHTS["cpu"])
        return max(1, min(self.tokens // (n * t), most // weights))

    def attempt(self, run: Callable[[], None], taken: int, length: int) -> bool:
        """Whether ``run``, a forward of ``taken`` rows of ``length`` tokens, had memory enough; if not, the plan is
        halved. The error itself is raised where a single row does not fit."""
        try:
            run()
            return True
        except Exception as error:
            if taken == 1 or not is_out_of_memory(error):
                raise
        self.halvings += 1  # after the error is gone, and with it what its frames held
        self.tokens = max(1, min(self.tokens, taken * length) // 2)
        if self.rows is not None:
            self.rows = max(1, min(self.rows, taken) // 2)
        let_go()
        return False

    def run(
        self,
        items: Sequence[T],
        run: Callable[[Sequence[T]], None],
        *,
        take: Callable[[Sequence[T]], tuple[int, int]],
        doing: str = "",
    ) -> None:
        """Runs all ``items`` in batches, in their order. ``take`` says, of those left, how many the next batch has and
        how many tokens its longest is; ``run`` may be called again for some of what it failed on."""
        left = list(items)
        with self.bar(len(left), doing) as advance:
            while left:
                n, length = take(left)
                if self.attempt(lambda some=left[:n]: run(some), n, length):  # type: ignore[misc]
                    left = left[n:]
                    advance(n)

    def run_trees(self, trees: Sequence[PrefixTree], run: Callable[[list[int], Batch], None], doing: str = "") -> None:
        """Calls ``run`` with the numbers of trees, one a row, and their ``Batch``, until all are run, longest first."""
        order = sorted(range(len(trees)), key=lambda t: (trees[t].length or 0, -len(trees[t]), t))

        def take(left: Sequence[int]) -> tuple[int, int]:
            longest = trees[left[0]]
            alike = takewhile(lambda t: trees[t].length == longest.length, left)
            return min(sum(1 for _ in alike), self.fit(len(longest), masked=True)), len(longest)

        self.run(order, lambda rows: run(list(rows), make_batch([trees[t] for t in rows])), take=take, doing=doing)

    @contextmanager
    def bar(self, total: int, doing: str = "") -> Iterator[Advance]:
        """How far ``total`` prompts are, shown where progress was asked for."""
        what = f"{self.model.name}: {doing}" if doing else self.model.name
        with work(what, total, "prompt", shown=self.progress) as advance:
            yield advance

    def notes(self) -> list[str]:
        """What a Run says of memory that ran out."""
        if not self.halvings:
            return []
        return [f"{self.model.name}: memory ran out; batches were halved to {self.tokens} tokens"]


def plan_batches(model: Model, batch_size: BatchSize = "auto", *, progress: bool = False) -> BatchPlan:
    """The plan for one model. ``batch_size`` is a number of rows, or "auto": as many tokens as keep the device busy."""
    check_batch_size(batch_size)
    rows = None if batch_size == "auto" else batch_size
    return BatchPlan(model, plan_tokens(model), rows, progress, kept=plan_tokens(model, keeping=True))


def each_model(
    models: Models, batch_size: BatchSize, *, chat: ChatSetting | None = None, progress: bool = False
) -> Iterator[BatchPlan]:
    """A plan for each model, loaded one after the other, smallest first; a bad ``batch_size`` is refused before.

    ``chat``: whether prompts go into each model's own chat template (with a text: with that system text); None leaves
    models as they were loaded.
    """
    check_batch_size(batch_size)
    return _one_after_the_other(models, batch_size, chat, progress)


def _one_after_the_other(
    models: Models, batch_size: BatchSize, chat: ChatSetting | None, progress: bool
) -> Iterator[BatchPlan]:
    loaded = members(models)
    while (plan := _next_plan(loaded, batch_size, chat, progress)) is not None:
        yield plan
        del plan.model  # who asked may still hold the plan while the next model is loaded
        if not isinstance(models, Model):  # one that was given loaded stays, and looking for garbage takes a while
            let_go()


def _next_plan(
    loaded: Iterator[Model], batch_size: BatchSize, chat: ChatSetting | None, progress: bool
) -> BatchPlan | None:
    model = next(loaded, None)
    return None if model is None else plan_batches(model.with_chat(chat), batch_size, progress=progress)


def check_batch_size(batch_size: BatchSize) -> None:
    """Raises ``ValueError`` unless ``batch_size`` is "auto" or a number of at least one."""
    if batch_size != "auto" and not (
        isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
    ):
        raise ValueError(f"batch_size {batch_size!r}: expected 'auto' or a whole number of at least 1")


def make_batch(trees: Sequence[PrefixTree]) -> Batch:
    """The trees as rows of one ``Batch``, padded on the right; without a mask where all are chains."""
    of_lengths = {tree.length for tree in trees}
    if len(of_lengths) > 1:
        raise ValueError(f"texts of lengths {of_lengths} in one batch: their positions are not alike")
    if all(tree.is_chain for tree in trees):
        return chains([tree.tokens for tree in trees], *of_lengths)
    length = max(map(len, trees))
    ids = np.zeros((len(trees), length), dtype=np.int64)
    depth = np.zeros_like(ids)
    visible = np.tile(np.eye(length, dtype=bool), (len(trees), 1, 1))
    for row, tree in enumerate(trees):
        n = len(tree)
        ids[row, :n] = tree.tokens
        depth[row, :n] = tree.depths
        visible[row, :n, :n] = tree.visible()
    return Batch(torch.from_numpy(ids), torch.from_numpy(depth), torch.from_numpy(visible), *of_lengths)


def chains(rows: Sequence[Sequence[int]], length: int | None = None) -> Batch:
    """Plain sequences of tokens as rows of one ``Batch``, padded on the right."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    return Batch(torch.from_numpy(ids), torch.arange(ids.shape[1]).repeat(len(rows), 1), None, length)
