"""Log-probabilities of many completions: groups of them run in batches that fit, in any order.

A tree without a prefix is a row of a plain forward. Prefixes run once and are kept as keys and values, over which
their trees run. When memory runs out the batch is halved, and what is done stays done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from isp_mech.inference.batches import BatchPlan, chains, make_batch
from isp_mech.inference.parallel_batches import Step, run_steps
from isp_mech.inference.prefix_tree import CompletionTokens, PrefixGroup, PrefixTree, group_by_prefix
from isp_mech.inference.progress import Advance
from isp_mech.models import Batch, Model, PrefixCache, RecordSpec, TokenPlaces

MAX_LOGITS = 1 << 22  # logits in memory at once
# vectors after the final norm (m, d_model); for each asked token, which of them predicts it, the token, the completion
Use = Callable[[Tensor, np.ndarray, np.ndarray, np.ndarray], None]


def completion_logprobs(groups: Sequence[PrefixGroup], plan: BatchPlan) -> np.ndarray:
    """(completion,): log p of each completion, nats, summed over its tokens; counted through all groups."""
    sums = np.zeros(1 + max((int(asked[2].max()) for group in groups for asked in group.asked), default=-1))

    def use(normed: Tensor, which: np.ndarray, tokens: np.ndarray, completions: np.ndarray) -> None:
        np.add.at(sums, completions, token_logprobs(plan.model, normed, which, tokens))

    run_groups(groups, plan, use)
    return sums


def groups_for(model: Model, items: Sequence[Sequence[CompletionTokens]]) -> list[PrefixGroup]:
    """The items' completions as ``model`` can take them: in trees over shared prefixes, in trees, or each alone."""
    how = {"trees": model.shares_trees, "prefixes": model.uses_prefix_caches}
    if model.architecture.length_rule is None:
        return group_by_prefix(items, **how)
    lengths = [[model.length_of(len(query.tokens)) for query in item] for item in items]
    numbers = np.arange(sum(map(len, items)))
    flat = np.array([length for of_item in lengths for length in of_item])
    groups: list[PrefixGroup] = []
    for length in np.unique(flat).tolist():
        some = [
            [query for query, own in zip(item, of_item, strict=True) if own == length]
            for item, of_item in zip(items, lengths, strict=True)
        ]
        made = group_by_prefix([queries for queries in some if queries], **how)
        groups += [group.of_length(length, numbers[flat == length]) for group in made]
    return groups


def run_groups(groups: Sequence[PrefixGroup], plan: BatchPlan, use: Use) -> None:
    """Runs everything once; ``use`` is called for every batch, and never twice for a completion's token.

    On a CPU two batches may run at once, and ``use`` be called for both. What is in a batch, and so every
    number, is the same with one.
    """
    with plan.bar(sum(len(group.trees) for group in groups)) as advance:
        for length in dict.fromkeys(group.length for group in groups):  # texts whose positions are alike, together
            steps, here = _Steps(plan, use, advance, length), [group for group in groups if group.length == length]
            alone, rooted = [g for g in here if not g.prefix], [g for g in here if g.prefix]
            run_steps([steps.whole_trees(alone), steps.over_prefixes(rooted)], plan.model)


Asked = tuple[PrefixTree, np.ndarray]  # a tree and what is asked of it
Rooted = tuple[tuple[int, ...], list[Asked]]  # a prefix's tokens and the trees after it


@dataclass(frozen=True)
class _Steps:
    """Plans batches, as they are taken, and runs them: each step is a batch."""

    plan: BatchPlan
    use: Use
    advance: Advance
    length: int | None

    def whole_trees(self, groups: Iterable[PrefixGroup]) -> Iterator[Step]:
        """Trees without a prefix."""
        left = [both for group in groups for both in zip(group.trees, group.asked, strict=True)]
        left.sort(key=lambda one: (one[0].is_chain, -len(one[0])))
        return self._whole_trees(left)

    def _whole_trees(self, left: list[Asked]) -> Iterator[Step]:
        while left:
            length = len(left[0][0])
            masked = not left[0][0].is_chain
            lengths = [len(tree) for tree, _ in left if tree.is_chain != masked]
            n = self.plan.alike(lengths, self.plan.fit(length, masked=masked))
            some, left = left[:n], left[n:]
            yield partial(self._run_whole_trees, some)

    def _run_whole_trees(self, some: list[Asked]) -> Iterator[Step]:
        def run() -> None:
            batch = make_batch([tree for tree, _ in some])
            predictions = _predictions([(row, 0, asked) for row, (_, asked) in enumerate(some)], batch)
            normed = self.plan.model.forward(batch, at=TokenPlaces(predictions.rows, predictions.nodes)).hidden
            self.use(normed, predictions.which, predictions.tokens, predictions.completions)

        if not self.plan.attempt(run, len(some), len(some[0][0])):
            return self._whole_trees(some)
        return self._done(len(some))

    def over_prefixes(self, groups: Iterable[PrefixGroup]) -> Iterator[Step]:
        """Prefixes, and the trees after them; of each prefix's trees the longest is last."""
        ordered = sorted(groups, key=lambda group: (-len(group.trees), -len(group.prefix)))
        by_length = [
            sorted(zip(group.trees, group.asked, strict=True), key=lambda one: len(one[0])) for group in ordered
        ]
        return self._prefixes([(group.prefix, trees) for group, trees in zip(ordered, by_length, strict=True)])

    def _prefixes(self, left: list[Rooted]) -> Iterator[Step]:
        while left:
            length = len(left[0][0])
            most = max(1, self.plan.fit(length, keeping=True) // 2)  # room for what runs over them
            most = min(most, next((i for i, (tokens, _) in enumerate(left) if len(tokens) > length), most))
            fewest = self.plan.alike([len(trees) for _, trees in left], most, len(left[0][1][-1][0]))
            n = min(fewest, self.plan.alike([len(tokens) for tokens, _ in left], most))
            some, left = left[:n], left[n:]
            yield partial(self._run_prefixes, some)

    def _run_prefixes(self, some: list[Rooted]) -> Iterator[Step]:
        made: list[PrefixCache] = []
        run = partial(_prefill_into, made, self.plan.model, [tokens for tokens, _ in some], self.length)
        if not self.plan.attempt(run, len(some), len(some[0][0])):
            return self._prefixes(some)
        return self._trees_after(made[0], [(tokens, list(trees)) for tokens, trees in some])

    def _trees_after(self, cache: PrefixCache, rows: list[Rooted]) -> Iterator[Step]:
        """Forwards over each row's trees after its prefix, longest first."""
        while any(trees for _, trees in rows):
            t = max(len(trees[-1][0]) for _, trees in rows if trees)
            most = max(len(trees) for _, trees in rows)
            longest = [max(len(trees[-k][0]) for _, trees in rows if len(trees) >= k) for k in range(1, most + 1)]
            copies = self.plan.alike(longest, max(1, self.plan.fit(t) // len(rows)), len(rows))
            some = [(tokens, trees[max(0, len(trees) - copies) :]) for tokens, trees in rows]
            for _, trees in rows:
                del trees[max(0, len(trees) - copies) :]
            yield partial(self._run_trees_after, cache, some, t, copies)

    def _run_trees_after(self, cache: PrefixCache, some: list[Rooted], t: int, copies: int) -> Iterator[Step]:
        placed = [
            (row, len(tokens), copy, *trees[-1 - copy])
            for row, (tokens, trees) in enumerate(some)
            for copy in range(len(trees))
        ]

        def run() -> None:
            ids = np.zeros((len(some), copies, t), dtype=np.int64)
            depths = np.zeros_like(ids)
            visible = np.tile(np.eye(t, dtype=bool), (len(some), copies, 1, 1))
            for row, depth, copy, tree, _ in placed:
                n = len(tree)
                ids[row, copy, :n] = tree.tokens
                depths[row, copy, :n] = np.array(tree.depths) + depth
                visible[row, copy, :n, :n] = tree.visible()
            batch = Batch(torch.from_numpy(ids).flatten(1), torch.from_numpy(depths).flatten(1))
            predictions = _predictions([(row, copy * t, asked) for row, _, copy, _, asked in placed], batch)
            here = replace(cache, visible_within=torch.from_numpy(visible).to(self.plan.model.device))
            at = TokenPlaces(predictions.rows, predictions.nodes)
            normed = self.plan.model.forward(batch, prefix=here, at=at).hidden
            self.use(normed, predictions.which, predictions.tokens, predictions.completions)

        if not self.plan.attempt(run, copies * len(some), t):
            return self._trees_after(cache, some) if copies > 1 else self._prefixes(some)  # a prefix of fewer rows
        return self._done(len(placed))

    def _done(self, n: int) -> Iterator[Step]:
        self.advance(n)
        return iter(())


def _prefill_into(made: list[PrefixCache], model: Model, prefixes: Sequence[Sequence[int]], length: int | None) -> None:
    made.append(prefill(model, prefixes, length))


def prefill(model: Model, prefixes: Sequence[Sequence[int]], length: int | None = None) -> PrefixCache:
    """The prefixes, run once, one a row; which of its own tokens a tree after them sees is said before it runs."""
    batch = chains(prefixes, length)
    nothing = torch.zeros(0, dtype=torch.long, device=model.device)
    spec = RecordSpec(nothing, nothing, keys=True)
    record = model.forward(batch, at=TokenPlaces(nothing, nothing), record=spec).record
    visible = torch.ones(len(prefixes), 1, 1, 1).bool()
    return PrefixCache.before([len(tokens) for tokens in prefixes], record, batch, visible)


@dataclass(frozen=True)
class _Predictions:
    """The distinct tokens ``(rows, nodes)`` of a batch that predict something; of each asked token, ``which`` of them
    predicts it, the token, and its completion."""

    rows: Tensor
    nodes: Tensor
    which: np.ndarray
    tokens: np.ndarray
    completions: np.ndarray


def _predictions(placed: Sequence[tuple[int, int, np.ndarray]], batch: Batch) -> _Predictions:
    """``placed``: row, where in the row the tree begins, what is asked of it."""
    length = batch.ids.shape[1]
    at, tokens, completions = np.concatenate(
        [asked + np.array([[row * length + start], [0], [0]]) for row, start, asked in placed], axis=1
    )
    distinct, which = np.unique(at, return_inverse=True)
    rows, nodes = map(torch.from_numpy, np.divmod(distinct, length))
    return _Predictions(rows, nodes, which, tokens, completions)


def token_logprobs(model: Model, normed: Tensor, which: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(n,): log p of ``tokens[i]`` after vector ``which[i]``, float32.

    In half precision the softmax's constant comes from the model's own product, but the asked tokens' logits from a
    float32 one: of two classes' logits near 16, bfloat16 could not tell a difference of 0.1.
    """
    step = max(1, MAX_LOGITS // len(model.architecture.unembed.weight))
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
