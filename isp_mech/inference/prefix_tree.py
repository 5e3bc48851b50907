"""Packing: many prompts that share a beginning, run as one tree of tokens.

The shared part is there once; each branch sees its ancestors and itself, and a token's position id is
its depth. So few-shot prompts share their shots, the completions of an item share its prompt, and a
hundred copies of one token, each to be edited in another place, share everything before it.

    >>> tree = PrefixTree()
    >>> tree.extend((7, 8, 9)), tree.extend((7, 8, 5))
    ((0, 1, 2), (0, 1, 3))
    >>> tree.depths
    [0, 1, 2, 2]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

MAX_TREE = 2048  # nodes of one tree: the mask grows with the square
WIDEST = 2  # nor more nodes than so many prompts of its length: each would look past too much that is not its own
WORTH = 256  # tokens that prefixes must save: two forwards more cost as much as so many tokens
JOINED, MAX_JOINED = 0.4, 128  # after a prefix, groups alike in this share of their tokens are one tree, if no larger


@dataclass(frozen=True)
class CompletionTokens:
    """One completion after one prompt: all ``tokens``, of which those from ``start`` on are the
    completion, and asked for. A completion needs a token before it: ``start`` is 1 or more."""

    tokens: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start < len(self.tokens):
            raise ValueError(
                f"completion starts at token {self.start} of {len(self.tokens)}: "
                "expected at least one token on either side"
            )

    @property
    def targets(self) -> tuple[int, ...]:
        """The completion's tokens."""
        return self.tokens[self.start :]


@dataclass(frozen=True)
class TreePath:
    """Where a query went: ``path[i]`` is the node of its token i, in tree ``tree``, which predicts
    token i + 1. The last token needs no node, unless another completion of the prompt goes on after it."""

    tree: int
    path: tuple[int, ...]


@dataclass
class PrefixTree:
    """A tree of tokens under construction. A node's parent stands before it; -1 is the root's parent. ``length`` is
    that of its texts, where positions depend on it (``Batch``)."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)
    length: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether no token has two children, so that causal attention says it all."""
        return self.parents == list(range(-1, len(self) - 1))

    def extend(self, tokens: Sequence[int], parent: int = -1) -> tuple[int, ...]:
        """The nodes of ``tokens`` below ``parent``: those there are, and new ones for the rest."""
        nodes = []
        for token in tokens:
            node = self._children.get((parent, token))
            if node is None:
                break
            nodes.append(node)
            parent = node
        left = tokens[len(nodes) :]  # below a new node all are new
        first, depth = len(self), self.depths[parent] + 1 if parent >= 0 else 0
        new = range(first, first + len(left))
        above = [parent, *new][: len(left)]
        self._children.update(zip(zip(above, left, strict=True), new, strict=True))
        self.tokens += left
        self.parents += above
        self.depths += range(depth, depth + len(left))
        return (*nodes, *new)

    def branch(self, token: int, parent: int) -> int:
        """A new node below ``parent`` that nothing else will share."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
        return len(self.tokens) - 1

    def visible(self) -> np.ndarray:
        """bool (node, node): True at ``[i, j]`` where j is i or an ancestor of i."""
        chain = next((i for i, parent in enumerate(self.parents) if parent != i - 1), len(self))
        seen = np.eye(len(self), dtype=bool)
        seen[:chain, :chain] = np.tri(chain, dtype=bool)
        for node in range(chain, len(self)):
            parent = self.parents[node]
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def build_trees(
    groups: Sequence[Sequence[CompletionTokens]],
    *,
    share: bool = True,
    across: bool = True,
    lengths: Sequence[int | None] = (),
) -> tuple[list[PrefixTree], list[list[TreePath]]]:
    """Trees that hold every query, and where each query went, in the given order.

    The queries of a group (an item's completions) share a tree, and groups share one with others where at least
    half of their tokens are in common and the tree stays small; with ``across=False`` they do not. With
    ``share=False`` each query has a tree, a plain chain, of its own. What a token sees, and so every result, is the
    same either way. ``lengths`` are the trees' lengths, by group: those in which they differ share nothing.
    """
    trees: list[PrefixTree] = []
    places: list[list[TreePath]] = [[] for _ in groups]
    of_group = lengths or [None] * len(groups)
    order = sorted(range(len(groups)), key=lambda g: (of_group[g] or 0, groups[g][0].tokens))
    before: Sequence[int] = ()
    for g in order:
        first, length = groups[g][0].tokens, of_group[g]
        common = _common(before, first)
        most = min(MAX_TREE, WIDEST * len(first))
        room = bool(trees) and len(trees[-1]) + sum(len(q.tokens) - common for q in groups[g]) <= most
        room = room and trees[-1].length == length
        if not (share and across and room and 2 * common >= len(first)):
            trees.append(PrefixTree(length=length))
        of_query: dict[int, TreePath] = {}
        n_tokens = [-len(query.tokens) for query in groups[g]]
        for i in range(len(n_tokens)) if share else np.argsort(n_tokens, kind="stable").tolist():
            tokens = groups[g][i].tokens[:-1]
            tree = len(trees) - 1 if share or not of_query else _chain_of(groups[g][i], trees, of_query)
            if tree == len(trees):
                trees.append(PrefixTree(length=length))
            of_query[i] = TreePath(tree, trees[tree].extend(tokens))
        places[g] = [_to_fork(groups[g], i, of_query[i], trees) for i in range(len(n_tokens))]
        before = first
    return trees, places


def _chain_of(query: CompletionTokens, trees: Sequence[PrefixTree], of_query: Mapping[int, TreePath]) -> int:
    """The first of the group's chains that goes on as the query does, or has its path; else the number of a new one."""
    mine = dict.fromkeys(at.tree for at in of_query.values())
    for tokens in (query.tokens, query.tokens[:-1]):
        for tree in mine:
            chain = trees[tree].tokens
            if tuple(chain[: len(tokens)]) == tokens and (len(chain) == len(tokens) or tokens is query.tokens):
                return tree
    return len(trees)


def _to_fork(group: Sequence[CompletionTokens], i: int, at: TreePath, trees: Sequence[PrefixTree]) -> TreePath:
    """The path of query ``i``, with its last token's node too where another query of its group begins with all of it:
    that token predicts what the other goes on with."""
    tokens = group[i].tokens
    if any(len(other.tokens) > len(tokens) == _common(other.tokens, tokens) for other in group):
        return TreePath(at.tree, trees[at.tree].extend(tokens))
    return at


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common from the start: halving, since slices compare fast."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


@dataclass(frozen=True)
class PrefixGroup:
    """Trees that come after one ``prefix``, which is run once; without a prefix they are whole.

    ``asked[t]`` is (3, n): the nodes of tree t that predict something, the token that each predicts, and the
    number of the query it is asked for, queries being counted through all groups. ``length`` is that of the texts,
    where positions depend on it (``Batch``).
    """

    prefix: tuple[int, ...]
    trees: tuple[PrefixTree, ...]
    asked: tuple[np.ndarray, ...]
    length: int | None = None

    def of_length(self, length: int | None, numbers: np.ndarray) -> PrefixGroup:
        """The group for texts of that length, its queries being those of these ``numbers``."""
        asked = tuple(np.stack([node, token, numbers[query]]) for node, token, query in self.asked)
        return PrefixGroup(self.prefix, tuple(replace(tree, length=length) for tree in self.trees), asked, length)


def group_by_prefix(
    groups: Sequence[Sequence[CompletionTokens]], *, trees: bool = True, prefixes: bool = True
) -> list[PrefixGroup]:
    """Every query of every group (an item's completions) in a tree, and the trees after prefixes.

    A group is a tree of its own. Groups that begin alike, in an eighth of their tokens or more, share a
    prefix where that saves the most tokens, and enough of them to be worth a forward; after it, those that go
    on alike share a tree. Without ``prefixes`` nothing is shared between groups; without ``trees`` every query
    is a chain of its own, but for those that differ in their last token alone.
    """
    numbers = np.cumsum([0, *map(len, groups)])
    if not trees:
        return [
            _grouped((), [[(i, q) for i, q in alike]])
            for group, first in zip(groups, numbers, strict=False)
            for alike in _same_path(group, int(first))
        ]
    clusters: list[list[int]] = []
    lengths: list[int] = []  # tokens that all of a cluster begin with
    before: tuple[int, ...] = ()
    for g in sorted(range(len(groups)), key=lambda g: groups[g][0].tokens):
        first = groups[g][0]
        inside = min(_common(first.tokens[: q.start - 1], q.tokens[: q.start - 1]) for q in groups[g])
        common = min(inside, lengths[-1], _common(before, first.tokens)) if clusters else 0
        gains = bool(clusters) and len(clusters[-1]) * common >= (len(clusters[-1]) - 1) * lengths[-1]
        if prefixes and gains and 8 * common >= len(first.tokens):
            clusters[-1].append(g)
            lengths[-1] = common
        else:
            clusters.append([g])
            lengths.append(inside)
        before = first.tokens
    numbered = [list(enumerate(group, int(first))) for group, first in zip(groups, numbers, strict=False)]
    saved: dict[int, int] = {}  # by clusters of equal size, which run together
    for members, length in zip(clusters, lengths, strict=True):
        saved[len(members)] = saved.get(len(members), 0) + (len(members) - 1) * length
    out = []
    for members, length in zip(clusters, lengths, strict=True):
        if saved[len(members)] >= WORTH:
            prefix = groups[members[0]][0].tokens[:length]
            out.append(_grouped(prefix, _joined([numbered[g] for g in members], length)))
        else:
            out += [_grouped((), [numbered[g]]) for g in members]
    return out


def _same_path(group: Sequence[CompletionTokens], first: int) -> list[list[tuple[int, CompletionTokens]]]:
    paths: dict[tuple[int, ...], list[tuple[int, CompletionTokens]]] = {}
    for j, query in enumerate(group):
        paths.setdefault(query.tokens[:-1], []).append((first + j, query))
    return list(paths.values())


def _joined(groups: Sequence[list[tuple[int, CompletionTokens]]], cut: int) -> list[list[tuple[int, CompletionTokens]]]:
    """Groups, in the order of their tokens, joined where much after the prefix is alike: a pair's two sides, often."""
    joined: list[list[tuple[int, CompletionTokens]]] = []
    before: tuple[int, ...] = ()
    size = 0
    for group in groups:
        first = group[0][1].tokens
        common = _common(before, first) - cut
        own = len(first) - cut
        if joined and common >= JOINED * own and size + own - common <= MAX_JOINED:
            joined[-1] = joined[-1] + group
            size += own - common
        else:
            joined.append(group)
            size = own
        before = first
    return joined


def _grouped(prefix: tuple[int, ...], groups: Sequence[Sequence[tuple[int, CompletionTokens]]]) -> PrefixGroup:
    cut = len(prefix)
    made, asked = [], []
    for group in groups:
        tree, rows = PrefixTree(), []
        for number, query in group:
            path = tree.extend(query.tokens[cut:-1])
            rows += [
                (node, token, number) for node, token in zip(path[query.start - 1 - cut :], query.targets, strict=True)
            ]
        made.append(tree)
        asked.append(np.array(rows, dtype=np.int64).T)
    return PrefixGroup(prefix, tuple(made), tuple(asked))
