"""Runs bundles of queries through a model, in batches that fit, and hands over what predicts something.

A tree without a trunk is a row of a plain forward. Trunks run once and are kept as keys and values, over which
their trees run as branches. When memory runs out the batch is halved, and what is done stays done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from isp_mech.inference.batches import Plan, chains, check_batch_size, make_batch
from isp_mech.inference.parallel_batches import Step, run_steps
from isp_mech.inference.prefix_tree import CompletionTokens, PrefixGroup, PrefixTree, group_by_prefix
from isp_mech.models import Batch, Model, Trunk, Watch, is_out_of_memory, let_go, plan_tokens

LOGITS = 1 << 22  # logits in memory at once
# vectors after the final norm (m, d_model); for each asked token, which of them predicts it, the token, the query
Use = Callable[[Tensor, np.ndarray, np.ndarray, np.ndarray], None]


def query_logprobs(
    model: Model,
    groups: Sequence[Sequence[CompletionTokens]],
    *,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> tuple[np.ndarray, Plan]:
    """(query,): log p of each query's completion, nats, summed over its tokens; queries counted through all groups."""
    return bundle_logprobs(model, bundles_for(model, groups), batch_size=batch_size, progress=progress)


def bundles_for(model: Model, groups: Sequence[Sequence[CompletionTokens]]) -> list[PrefixGroup]:
    """The groups as ``model`` can take them: in trees, after trunks, or each query alone."""
    return group_by_prefix(groups, trees=model.takes_trees, trunks=model.packs)


def bundle_logprobs(
    model: Model, bundles: Sequence[PrefixGroup], *, batch_size: int | str = "auto", progress: bool = False
) -> tuple[np.ndarray, Plan]:
    """As ``query_logprobs``, of queries that are packed already."""
    sums = np.zeros(1 + max((int(asked[2].max()) for b in bundles for asked in b.asked), default=-1))

    def use(normed: Tensor, which: np.ndarray, tokens: np.ndarray, queries: np.ndarray) -> None:
        np.add.at(sums, queries, token_logprobs(model, normed, which, tokens))

    return sums, run_bundles(model, bundles, use, batch_size=batch_size, progress=progress)


def run_bundles(
    model: Model,
    bundles: Sequence[PrefixGroup],
    use: Use,
    *,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> Plan:
    """Runs everything once; ``use`` is called for every batch, and never twice for a query's token.

    On a CPU two batches may be under way at once, and ``use`` be called for both. What is in a batch, and so every
    number, is the same with one.
    """
    check_batch_size(batch_size)
    plan = Plan(plan_tokens(model), None if batch_size == "auto" else int(batch_size))
    total = sum(len(b.trees) for b in bundles)
    with tqdm(total=total, desc=model.name, unit="prompt", disable=not progress, leave=False) as bar:
        work = _Work(model, plan, use, bar)
        alone, rooted = [b for b in bundles if not b.trunk], [b for b in bundles if b.trunk]
        run_steps([work.whole(alone), work.trunks(rooted)], model)
    return plan


Planted = tuple[PrefixTree, np.ndarray]  # a tree and what is asked of it
Rooted = tuple[tuple[int, ...], list[Planted]]  # a trunk's tokens and the trees after it


@dataclass(frozen=True)
class _Work:
    """Plans batches, as they are taken, and runs them: each step is a batch."""

    model: Model
    plan: Plan
    use: Use
    bar: tqdm

    def whole(self, bundles: Iterable[PrefixGroup]) -> Iterator[Step]:
        """Trees without a trunk."""
        left = [both for b in bundles for both in zip(b.trees, b.asked, strict=True)]
        left.sort(key=lambda one: (one[0].is_chain, -len(one[0])))
        return self._whole(left)

    def _whole(self, left: list[Planted]) -> Iterator[Step]:
        while left:
            length = len(left[0][0])
            masked = not left[0][0].is_chain
            lengths = [len(tree) for tree, _ in left if tree.is_chain != masked]
            n = self.plan.alike(lengths, self.plan.fit(length, masked=masked))
            some, left = left[:n], left[n:]
            yield partial(self._run_whole, some)

    def _run_whole(self, some: list[Planted]) -> Iterator[Step]:
        def run() -> None:
            batch = make_batch([tree for tree, _ in some])
            at, which, tokens, queries = _asked([(row, 0, asked) for row, (_, asked) in enumerate(some)], batch)
            normed, _ = self.model.read(batch, *at)
            self.use(normed, which, tokens, queries)

        if not self._fits(run, len(some), len(some[0][0])):
            return self._whole(some)
        self._count(len(some))
        return iter(())

    def trunks(self, bundles: Iterable[PrefixGroup]) -> Iterator[Step]:
        """Trunks, and the trees after them."""
        return self._trunks([
            (b.trunk, sorted(zip(b.trees, b.asked, strict=True), key=lambda one: len(one[0])))  # the longest is last
            for b in sorted(bundles, key=lambda b: (-len(b.trees), -len(b.trunk)))
        ])  # fmt: skip

    def _trunks(self, left: list[Rooted]) -> Iterator[Step]:
        while left:
            length = len(left[0][0])
            most = max(1, self.plan.fit(length) // 2)  # keys and values are kept: half as many as of a plain forward
            most = min(most, next((i for i, (tokens, _) in enumerate(left) if len(tokens) > length), most))
            fewest = self.plan.alike([len(trees) for _, trees in left], most, len(left[0][1][-1][0]))
            n = min(fewest, self.plan.alike([len(tokens) for tokens, _ in left], most))
            some, left = left[:n], left[n:]
            yield partial(self._run_trunks, some)

    def _run_trunks(self, some: list[Rooted]) -> Iterator[Step]:
        grown: list[Trunk] = []
        if not self._fits(lambda: grown.append(grow(self.model, [t for t, _ in some])), len(some), len(some[0][0])):
            return self._trunks(some)
        return self._branches(grown[0], [(tokens, list(trees)) for tokens, trees in some])

    def _branches(self, trunk: Trunk, rows: list[Rooted]) -> Iterator[Step]:
        """Forwards over each row's trees after its trunk, longest first."""
        while any(trees for _, trees in rows):
            t = max(len(trees[-1][0]) for _, trees in rows if trees)
            longest = [max(len(trees[-k][0]) for _, trees in rows if len(trees) >= k)
                       for k in range(1, max(len(trees) for _, trees in rows) + 1)]  # fmt: skip
            copies = self.plan.alike(longest, max(1, self.plan.fit(t) // len(rows)), len(rows))
            some = [(tokens, trees[max(0, len(trees) - copies) :]) for tokens, trees in rows]
            for _, trees in rows:
                del trees[max(0, len(trees) - copies) :]
            yield partial(self._run_branches, trunk, some, t, copies)

    def _run_branches(self, trunk: Trunk, some: list[Rooted], t: int, copies: int) -> Iterator[Step]:
        placed = [(row, len(tokens), copy, *trees[-1 - copy]) for row, (tokens, trees) in enumerate(some)
                  for copy in range(len(trees))]  # fmt: skip

        def run() -> None:
            ids = np.zeros((len(some), copies, t), dtype=np.int64)
            depths = np.zeros_like(ids)
            own = np.tile(np.eye(t, dtype=bool), (len(some), copies, 1, 1))
            for row, depth, copy, tree, _ in placed:
                n = len(tree)
                ids[row, copy, :n] = tree.tokens
                depths[row, copy, :n] = np.array(tree.depths) + depth
                own[row, copy, :n, :n] = tree.visible()
            batch = Batch(torch.from_numpy(ids).flatten(1), torch.from_numpy(depths).flatten(1))
            at, which, tokens, queries = _asked([(row, copy * t, asked) for row, _, copy, _, asked in placed], batch)
            here = replace(trunk, own=torch.from_numpy(own).to(self.model.device))
            self.use(self.model.read_copies(batch, here, *at), which, tokens, queries)

        if not self._fits(run, copies * len(some), t):
            return self._branches(trunk, some) if copies > 1 else self._trunks(some)  # a trunk of fewer rows
        self._count(len(placed))
        return iter(())

    def _count(self, n: int) -> None:
        with self.bar.get_lock():
            self.bar.update(n)

    def _fits(self, run: Callable[[], None], taken: int, length: int) -> bool:
        """Runs, or halves the plan where memory runs out; the error itself where a single row does not fit."""
        try:
            run()
            return True
        except Exception as error:
            if taken == 1 or not is_out_of_memory(error):
                raise
        self.plan.halve(taken, length)  # after the error is let go, and with it what its frames held
        let_go()
        return False


def grow(model: Model, trunks: Sequence[Sequence[int]]) -> Trunk:
    """The trunks, run once, one a row; what comes after them is said in ``own`` before a branch runs."""
    batch = chains(trunks)
    nothing = torch.zeros(0, dtype=torch.long, device=model.device)
    _, record = model.read(batch, nothing, nothing, watch=Watch(nothing, nothing, keys=True))
    return Trunk.before([len(tokens) for tokens in trunks], record, batch, torch.ones(len(trunks), 1, 1, 1).bool())


def _asked(
    placed: Sequence[tuple[int, int, np.ndarray]], batch: Batch
) -> tuple[tuple[Tensor, Tensor], np.ndarray, np.ndarray, np.ndarray]:
    """Rows and nodes of the batch that predict something, each once, and of each asked token which of them it is that
    predicts it, the token, and its query. ``placed``: row, where in the row the tree begins, what is asked of it."""
    length = batch.ids.shape[1]
    at, tokens, queries = np.concatenate(
        [asked + np.array([[row * length + start], [0], [0]]) for row, start, asked in placed], axis=1
    )
    distinct, which = np.unique(at, return_inverse=True)
    rows, nodes = map(torch.from_numpy, np.divmod(distinct, length))
    return (rows, nodes), which, tokens, queries


def token_logprobs(model: Model, normed: Tensor, which: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(n,): log p of ``tokens[i]`` after vector ``which[i]``, float32.

    In half precision the softmax's constant comes from the model's own product, but the asked tokens' logits from a
    float32 one: of two classes' logits near 16, bfloat16 could not tell a difference of 0.1.
    """
    step = max(1, LOGITS // int(model.hf.config.vocab_size))
    out = np.zeros(len(tokens), dtype=np.float32)
    with torch.no_grad():
        for start in range(0, len(normed), step):
            some = normed[start : start + step]
            here = np.flatnonzero((which >= start) & (which < start + step))
            logits = model.unembed(some)
            at = torch.from_numpy(which[here] - start).to(logits.device)
            token = torch.from_numpy(tokens[here]).to(logits.device)
            if model.dtype == "float32":
                asked = logits[at, token]
            else:
                asked = model.logits_of(some.to(logits.device)[at], token)
            out[here] = (asked - logits.logsumexp(-1)[at]).cpu().numpy()
    return out
