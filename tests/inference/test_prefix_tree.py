"""Packing: what a token sees, and so every result, is the same however prompts are packed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isp_mech.inference.batches import BatchPlan, make_batch, plan_batches
from isp_mech.inference.prefix_tree import CompletionTokens, PrefixTree, _common, build_trees, group_by_prefix
from isp_mech.models import Batch

TOKENS = st.lists(st.integers(0, 3), min_size=2, max_size=9)


@st.composite
def groups(draw):
    made = []
    for _ in range(draw(st.integers(1, 5))):
        prompt = draw(TOKENS)
        completions = draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=3))
        made.append([CompletionTokens((*prompt, *c), len(prompt)) for c in completions])
    return made


@given(groups(), st.booleans())
@settings(deadline=None)
def test_every_path_spells_its_query_and_sees_nothing_else(made, share):
    trees, places = build_trees(made, share=share)
    for group, at in zip(made, places, strict=True):
        for query, place in zip(group, at, strict=True):
            tree = trees[place.tree]
            longer = [q.tokens for q in group if len(q.tokens) > len(query.tokens)]
            goes_on = any(tokens[: len(query.tokens)] == query.tokens for tokens in longer)
            assert tuple(tree.tokens[n] for n in place.path) == query.tokens[: None if goes_on else -1]
            assert [tree.depths[n] for n in place.path] == list(range(len(place.path)))
            seen = np.flatnonzero(tree.visible()[place.path[-1]])
            assert list(seen) == list(place.path)
    assert share or all(tree.is_chain for tree in trees)


@given(groups(), st.sampled_from(["auto", 1, 2, 7]))
@settings(deadline=None)
def test_batches_hold_every_tree_once(made, batch_size):
    trees, _ = build_trees(made)
    seen: list[int] = []

    def run(rows: list[int], batch: Batch) -> None:
        assert batch.ids.shape[0] == len(rows) and (batch_size == "auto" or len(rows) <= batch_size)
        for row, t in enumerate(rows):
            n = len(trees[t])
            assert batch.ids[row, :n].tolist() == trees[t].tokens
            assert batch.depth[row, :n].tolist() == trees[t].depths
        seen.extend(rows)

    BatchPlan(SimpleNamespace(name="m"), 40, None if batch_size == "auto" else batch_size).run_trees(trees, run)
    assert sorted(seen) == list(range(len(trees)))


def test_a_shared_beginning_is_there_once():
    shots = tuple(range(100, 140))
    made = [
        [CompletionTokens((*shots, 1, 2, 5 + i, 3), 43), CompletionTokens((*shots, 1, 2, 5 + i, 4), 43)]
        for i in range(10)
    ]
    trees, _ = build_trees(made)
    assert len(trees) == 1 and len(trees[0]) == 40 + 2 + 10


@given(st.lists(TOKENS, min_size=1, max_size=6), st.data())
@settings(deadline=None)
def test_a_tree_grows_as_it_would_token_by_token(made, data):
    whole, slow = PrefixTree(), PrefixTree()
    for tokens in made:
        parent = data.draw(st.integers(-1, len(whole) - 1))
        nodes, at = [], parent
        for token in tokens:
            (at,) = slow.extend([token], at)
            nodes.append(at)
        assert whole.extend(tokens, parent) == tuple(nodes)
        assert (whole.tokens, whole.parents, whole.depths) == (slow.tokens, slow.parents, slow.depths)
        assert whole.is_chain == all(p == i - 1 for i, p in enumerate(whole.parents))


def test_a_branch_is_shared_with_nothing():
    tree = PrefixTree()
    tree.extend((1, 2))
    first, second = tree.branch(2, 0), tree.branch(2, 0)
    assert first != second and tree.extend((1, 2)) == (0, 1)
    assert tree.visible()[second].tolist() == [True, False, False, True]


def test_chains_need_no_mask():
    chain, forked = PrefixTree(), PrefixTree()
    chain.extend((1, 2, 3))
    forked.extend((1, 2))
    forked.extend((1, 3))
    assert make_batch([chain]).visible is None
    visible = make_batch([chain, forked]).visible
    assert visible is not None and visible[0].tolist() == torch.ones(3, 3).tril().bool().tolist()


@pytest.mark.parametrize("size", [0, -1, "many", True])
def test_a_bad_batch_size_is_named(make_model, size):
    with pytest.raises(ValueError, match="expected 'auto' or a whole number of at least 1"):
        plan_batches(make_model("neox"), size)


@pytest.mark.parametrize("start", [0, 3])
def test_a_query_has_tokens_on_both_sides(start):
    with pytest.raises(ValueError, match="expected at least one token on either side"):
        CompletionTokens((1, 2, 3), start)


@given(groups(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_every_completion_is_asked_once_after_its_own_tokens(made, trees, prefixes):
    flat = [query for group in made for query in group]
    seen: dict[int, list[tuple[int, ...]]] = {}
    for group in group_by_prefix(made, trees=trees, prefixes=prefixes):
        assert prefixes or not group.prefix
        for tree, asked in zip(group.trees, group.asked, strict=True):
            assert trees or tree.is_chain
            for node, token, number in asked.T:
                path = [tree.tokens[n] for n in np.flatnonzero(tree.visible()[node])]
                seen.setdefault(number, []).append((*group.prefix, *path, int(token)))
    assert sorted(seen) == list(range(len(flat)))
    for number, found in seen.items():
        query = flat[number]
        assert found == [query.tokens[: i + 1] for i in range(query.start, len(query.tokens))]


def test_what_many_begin_with_is_a_prefix():
    shots = tuple(range(100, 140))
    made = [[CompletionTokens((*shots, i, 2, 3), 42), CompletionTokens((*shots, i, 2, 4), 42)] for i in range(10)]
    (one,) = group_by_prefix(made)
    assert one.prefix == shots and len(one.trees) == 10 and all(len(tree) == 2 for tree in one.trees)
    assert all(not b.prefix for b in group_by_prefix(made[:2]))  # 40 tokens saved are less than two forwards cost


# after the prefix two sides have 7 of 13 tokens in common, 3 of 13, 71 of 143
@pytest.mark.parametrize(("body", "tail", "n_trees"), [(6, 4, 10), (2, 8, 20), (70, 70, 20)])
def test_groups_that_go_on_alike_after_a_prefix_share_a_tree_if_it_stays_small(body, tail, n_trees):
    shots = tuple(range(100, 200))

    def side(pair, word):
        prompt = (*shots, pair, *range(50, 50 + body), word, *range(tail))
        return [CompletionTokens((*prompt, answer), len(prompt)) for answer in (3, 4)]

    groups = [side(pair, word) for pair in range(10) for word in (8, 9)]
    (one,) = group_by_prefix(groups)
    assert one.prefix == shots and len(one.trees) == n_trees
    for tree, asked in zip(one.trees, one.asked, strict=True):
        assert len(tree) == 1 + body + (20 // n_trees) * (1 + tail)
        for node, token, number in asked.T.tolist():
            path = [tree.tokens[i] for i in np.flatnonzero(tree.visible()[node])]
            assert (*shots, *path, token) == groups[number // 2][number % 2].tokens
    assert sorted(n for asked in one.asked for n in asked[2]) == list(range(40))


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_what_two_have_in_common(a, b):
    n = _common(tuple(a), tuple(b))
    assert a[:n] == b[:n] and (n == min(len(a), len(b)) or a[n] != b[n])
