"""Runs bundles of queries through a model, in batches that fit, and hands over what predicts something.

A tree without a trunk is a row of a plain forward. Trunks run once and are kept as keys and values, over which
their trees run as branches. When memory runs out the batch is halved, and what is done stays done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from isp_mech.models import Batch, Model, Trunk, Watch, is_out_of_memory, let_go, plan_tokens
from isp_mech.packing import Bundle, Plan, Query, Tree, bundle, chains, check_batch_size, make_batch

LOGITS = 1 << 22  # logits in memory at once
# vectors after the final norm (m, d_model); for each asked token, which of them predicts it, the token, the query
Use = Callable[[Tensor, np.ndarray, np.ndarray, np.ndarray], None]


def query_logprobs(
    model: Model, groups: Sequence[Sequence[Query]], *, batch_size: int | str = "auto", progress: bool = False
) -> tuple[np.ndarray, Plan]:
    """(query,): log p of each query's completion, nats, summed over its tokens; queries counted through all groups."""
    sums = np.zeros(sum(map(len, groups)))

    def use(normed: Tensor, which: np.ndarray, tokens: np.ndarray, queries: np.ndarray) -> None:
        np.add.at(sums, queries, token_logprobs(model, normed, which, tokens))

    return sums, run_queries(model, groups, use, batch_size=batch_size, progress=progress)


def run_queries(
    model: Model,
    groups: Sequence[Sequence[Query]],
    use: Use,
    *,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> Plan:
    """Runs everything once; ``use`` is called for every batch, and never twice for a query's token."""
    check_batch_size(batch_size)
    bundles = bundle(groups, trees=model.takes_trees, trunks=model.packs)
    plan = Plan(plan_tokens(model), None if batch_size == "auto" else int(batch_size))
    total = sum(len(b.trees) for b in bundles)
    with tqdm(total=total, desc=model.name, unit="prompt", disable=not progress, leave=False) as bar:
        _run_whole(model, [b for b in bundles if not b.trunk], plan, use, bar)
        _run_branches(model, [b for b in bundles if b.trunk], plan, use, bar)
    return plan


def _run_whole(model: Model, bundles: Sequence[Bundle], plan: Plan, use: Use, bar: tqdm) -> None:
    whole = [(tree, asked) for b in bundles for tree, asked in zip(b.trees, b.asked, strict=True)]
    whole.sort(key=lambda one: (one[0].is_chain, -len(one[0])))
    while whole:
        length = len(whole[0][0])
        masked = not whole[0][0].is_chain
        lengths = [len(tree) for tree, _ in whole if tree.is_chain != masked]
        some = whole[: plan.alike(lengths, plan.fit(length, masked=masked))]

        def run(some: Sequence[tuple[Tree, np.ndarray]] = some) -> None:
            batch = make_batch([tree for tree, _ in some])
            at, which, tokens, queries = _asked([(row, 0, asked) for row, (_, asked) in enumerate(some)], batch)
            normed, _ = model.read(batch, *at)
            use(normed, which, tokens, queries)

        if _fits(run, plan, len(some), length):
            whole = whole[len(some) :]
            bar.update(len(some))


def _run_branches(model: Model, bundles: Sequence[Bundle], plan: Plan, use: Use, bar: tqdm) -> None:
    left = [
        (b.trunk, sorted(zip(b.trees, b.asked, strict=True), key=lambda one: len(one[0])))  # the longest is last
        for b in sorted(bundles, key=lambda b: (-len(b.trees), -len(b.trunk)))
    ]
    while left:
        length = len(left[0][0])
        most = max(1, plan.fit(length) // 2)  # keys and values are kept: half as many as of a plain forward
        most = min(most, next((i for i, (tokens, _) in enumerate(left) if len(tokens) > length), most))
        fewest = plan.alike([len(trees) for _, trees in left], most, len(left[0][1][-1][0]))
        some = left[: min(fewest, plan.alike([len(tokens) for tokens, _ in left], most))]

        def run(some: list[tuple[tuple[int, ...], list[tuple[Tree, np.ndarray]]]] = some) -> None:
            trunk = grow(model, [tokens for tokens, _ in some])
            while any(trees for _, trees in some):
                _run_some_branches(model, trunk, [(len(tokens), trees) for tokens, trees in some], plan, use, bar)

        _fits(run, plan, len(some), length)
        left = [(tokens, trees) for tokens, trees in left if trees]


def grow(model: Model, trunks: Sequence[Sequence[int]]) -> Trunk:
    """The trunks, run once, one a row; what comes after them is said in ``own`` before a branch runs."""
    batch = chains(trunks)
    nothing = torch.zeros(0, dtype=torch.long, device=model.device)
    _, record = model.read(batch, nothing, nothing, watch=Watch(nothing, nothing, keys=True))
    return Trunk.before([len(tokens) for tokens in trunks], record, batch, torch.ones(len(trunks), 1, 1, 1).bool())


def _run_some_branches(
    model: Model,
    trunk: Trunk,
    rows: Sequence[tuple[int, list[tuple[Tree, np.ndarray]]]],
    plan: Plan,
    use: Use,
    bar: tqdm,
) -> None:
    """One forward over the trees that are left after each row's trunk, longest first; takes away those it has done."""
    t = max(len(trees[-1][0]) for _, trees in rows if trees)
    longest = [max(len(trees[-k][0]) for _, trees in rows if len(trees) >= k)
               for k in range(1, max(len(trees) for _, trees in rows) + 1)]  # fmt: skip
    copies = plan.alike(longest, max(1, plan.fit(t) // len(rows)), len(rows))
    taken = [(row, depth, copy, *trees[-1 - copy]) for row, (depth, trees) in enumerate(rows)
             for copy in range(min(copies, len(trees)))]  # fmt: skip

    def run() -> None:
        ids = np.zeros((len(rows), copies, t), dtype=np.int64)
        depths = np.zeros_like(ids)
        own = np.tile(np.eye(t, dtype=bool), (len(rows), copies, 1, 1))
        for row, depth, copy, tree, _ in taken:
            n = len(tree)
            ids[row, copy, :n] = tree.tokens
            depths[row, copy, :n] = np.array(tree.depths) + depth
            own[row, copy, :n, :n] = tree.visible()
        batch = Batch(torch.from_numpy(ids).flatten(1), torch.from_numpy(depths).flatten(1))
        at, which, tokens, queries = _asked([(row, copy * t, asked) for row, _, copy, _, asked in taken], batch)
        here = replace(trunk, own=torch.from_numpy(own).to(model.device))
        use(model.read_copies(batch, here, *at), which, tokens, queries)

    if _fits(run, plan, copies, t * len(rows)):
        for _, trees in rows:
            del trees[max(0, len(trees) - copies) :]
        bar.update(len(taken))


def _fits(run: Callable[[], None], plan: Plan, taken: int, length: int) -> bool:
    """Runs, or halves the plan where memory runs out; the error itself where a single row does not fit."""
    try:
        run()
        return True
    except Exception as error:
        if taken == 1 or not is_out_of_memory(error):
            raise
    plan.halve(taken, length)  # after the error is let go, and with it what its frames held
    let_go()
    return False


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
