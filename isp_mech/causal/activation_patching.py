"""Replacing sites: the margin with what sites write at the decision position, or at a role's tokens, replaced.

What stands in is told in ``stand_ins.py``. Exact, and packed: the prompt runs once, and its beginning once for all
prompts that have it too; each set of sites is a copy of the prompt's last tokens that runs over its keys and values,
from the first layer in which the set changes something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from isp_mech.causal.replacements import Outputs
from isp_mech.errors import InputError
from isp_mech.inference.batches import AUTO_TOKENS, check_batch_size, make_batch
from isp_mech.inference.margin import ContrastPrompt, LogprobTerms, make_terms, margin_of
from isp_mech.inference.prefix_tree import PrefixTree, build_trees
from isp_mech.models import ActivationEdit, Batch, Model, PrefixCache, RecordSpec
from isp_mech.sites import Site, all_sites

Tokens = Sequence[Sequence[int]]  # of each prompt, those at which sites are replaced


class Paths(NamedTuple):
    """Where a fork stands in a batch: its row, and the nodes of its prompt with the answer, and with the lure."""

    row: int
    answer: tuple[int, ...]
    lure: tuple[int, ...]


def replaced_margins(
    model: Model,
    forks: Sequence[ContrastPrompt],
    stand_in: Outputs,
    sets: Sequence[frozenset[Site]],
    *,
    tokens: Tokens | None = None,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """(pair, set): the margin of every fork with each set of sites replaced at the decision position, or at each
    prompt's ``tokens``. An empty set gives the margin as it is; equal sets are run once."""
    (found,) = margins_by_stand_in(
        model, forks, [stand_in], sets, tokens=tokens, batch_size=batch_size, progress=progress
    )
    return found


def margins_by_stand_in(
    model: Model,
    forks: Sequence[ContrastPrompt],
    stand_ins: Sequence[Outputs],
    sets: Sequence[frozenset[Site]],
    *,
    tokens: Tokens | None = None,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """(stand-in, pair, set): ``replaced_margins`` for each of several stand-ins; the prompts still run once."""
    check_sets(sets, model, stream=all(stand_in.stream is not None for stand_in in stand_ins))
    tokens = tokens if tokens is not None else [[fork.shared - 1] for fork in forks]
    place = {these: i for i, these in enumerate(dict.fromkeys(sets))}
    sets, asked = list(place), [place[these] for these in sets]
    one = _all_as_copies if model.accepts_custom_masks else _each_alone
    out = np.zeros((len(stand_ins), len(forks), len(sets)))
    firsts = [min(mine) for mine in tokens]
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "replace", progress, firsts):
        here = [stand_in.of(rows, model.device) for stand_in in stand_ins]
        out[:, rows] = one(model, batch, [forks[i] for i in rows], nodes, [tokens[i] for i in rows], here, sets)
    return out[:, :, asked]


def prompts_to_copy(
    model: Model,
    forks: Sequence[ContrastPrompt],
    batch_size: int | str,
    doing: str,
    progress: bool,
    firsts: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], Batch, list[Paths]]]:
    """Batches of prompts that end with their completions: which forks, their trees, where each fork stands.

    The forks of a batch have copies of equally many tokens, so that none are filled up: copies begin at the
    decision position, or at the token ``firsts`` of each fork. What their prompts begin with alike runs once, where
    the model takes copies at all.
    """
    check_batch_size(batch_size)
    sizes = _nodes_of(model, forks)
    firsts = firsts if firsts is not None else [fork.shared - 1 for fork in forks]
    alike: dict[int, list[int]] = {}
    for i, (first, size) in enumerate(zip(firsts, sizes, strict=True)):
        alike.setdefault(size - first, []).append(i)
    with tqdm(total=len(forks), desc=f"{model.name}: {doing}", unit="prompt", disable=not progress, leave=False) as bar:
        for members in alike.values():
            left = sorted(members, key=lambda i: forks[i].answer.tokens)
            while left:
                rows, left = _as_many_as_fit(left, [sizes[i] for i in left], batch_size)
                yield rows, *_planted(model, [forks[i] for i in rows])
                bar.update(len(rows))


def _as_many_as_fit(forks: list[int], lengths: Sequence[int], batch_size: int | str) -> tuple[list[int], list[int]]:
    """The first of ``forks`` that a batch takes, and the rest: their keys and values are kept for each apart."""
    most = int(batch_size) if batch_size != "auto" else max(1, AUTO_TOKENS // lengths[0])
    longest = np.maximum.accumulate(lengths[:most])
    if batch_size == "auto":
        most = max(1, int((longest * np.arange(1, len(longest) + 1) <= AUTO_TOKENS).sum()))
    return forks[:most], forks[most:]


def check_sets(sets: Sequence[frozenset[Site]], model: Model, *, stream: bool = False) -> None:
    """``InputError`` that names every site that is no head or MLP of the model (nor, with ``stream``, its stream)."""
    known = set(all_sites(model.architecture.n_layers, model.architecture.n_heads, stream=stream))
    shape = f"{model.architecture.n_layers} layers x {model.architecture.n_heads} heads"
    unknown = sorted({str(site) for sites in sets for site in sites if site not in known})
    if unknown:
        raise InputError(model.name, [f"site {site}: expected a head or MLP of {shape}" for site in unknown])


def _nodes_of(model: Model, forks: Sequence[ContrastPrompt]) -> list[int]:
    """How many nodes each fork's prompt with both completions has. ``InputError`` names those that ``model`` cannot
    take: whose completions are no chain."""
    sizes, apart = [], []
    for fork in forks:
        lengths = [len(query.tokens) - 1 for query in (fork.answer, fork.lure) if query is not None]
        common = min(fork.shared, *lengths) if len(lengths) > 1 else 0
        sizes.append(sum(lengths) - common)
        if not model.accepts_trees and sizes[-1] > max(lengths):
            apart.append(f"{fork.owner}: completions of several tokens need an attention that takes a mask")
    if apart:
        raise InputError(model.name, apart)
    return sizes


def _planted(model: Model, forks: Sequence[ContrastPrompt]) -> tuple[Batch, list[Paths]]:
    """The forks' prompts with their completions: in trees that they share, or a row each for a model without copies."""
    trees: list[PrefixTree] = []
    paths = []
    for some in [forks] if model.accepts_custom_masks else [[fork] for fork in forks]:
        made, places = build_trees([[q for q in (fork.answer, fork.lure) if q is not None] for fork in some])
        paths += [Paths(len(trees) + at[0].tree, at[0].path, at[1].path if len(at) > 1 else ()) for at in places]
        trees += made
    return make_batch(trees), paths


COPIES = 6144  # tokens of copies in one forward
WEIGHTS = 1 << 24  # attention weights of copies in one forward


def _all_as_copies(
    model: Model,
    batch: Batch,
    forks: Sequence[ContrastPrompt],
    nodes: Sequence[Paths],
    tokens: Tokens,
    stand_ins: Sequence[Outputs],
    sets: Sequence[frozenset[Site]],
) -> np.ndarray:
    """(stand-in, fork, set): margins. The prompts run once; sets that begin in one layer are copies in one forward."""
    firsts = [min(mine) for mine in tokens]
    trunk, copy, terms, margins = run_once(model, batch, forks, nodes, firsts)
    offsets = [[i - first for i in mine] for first, mine in zip(firsts, tokens, strict=True)]
    n, t, pos = len(forks), copy.ids.shape[1], trunk.reach.shape[1]
    out = np.tile(margins[:, None], (len(stand_ins), 1, len(sets)))
    starts = [min((site.layer for site in sites), default=model.architecture.n_layers) for sites in sets]
    at_once = copies_at_once(model, n, t, pos)
    for start in range(model.architecture.n_layers):
        these = [i for i, first in enumerate(starts) if first == start]
        parts = [these[i : i + at_once] for i in range(0, len(these), at_once)]
        for (k, stand_in), some in product(enumerate(stand_ins), parts):
            edits = copy_edits([sets[i] for i in some], stand_in, offsets, t)
            copies = Batch(copy.ids.repeat(1, len(some)), copy.depth.repeat(1, len(some)))
            hidden = model.branch(copies, trunk, start=start, edits=edits)
            here = terms.copied(len(some), t)
            found = margin_of(model, hidden[here.rows, here.nodes], here).view(len(some), n)
            out[k][:, some] = found.T.cpu().numpy()
    return out


def copies_at_once(model: Model, n: int, t: int, pos: int) -> int:
    """How many copies of ``t`` tokens one forward takes, of each of ``n`` prompts of ``pos`` tokens."""
    return max(1, min(COPIES // (n * t), WEIGHTS // (n * t * model.architecture.n_heads * (pos + t))))


def run_once(
    model: Model,
    batch: Batch,
    forks: Sequence[ContrastPrompt],
    nodes: Sequence[Paths],
    firsts: Sequence[int] | None = None,
) -> tuple[PrefixCache, Batch, LogprobTerms, np.ndarray]:
    """The prompts as they are: what copies run over, one copy of each, its terms, and the margins.

    The copies of all forks have equally many tokens: the decision position, or all from ``firsts`` on, and then
    the completions' tokens.
    """
    last = list(firsts) if firsts is not None else [fork.shared - 1 for fork in forks]
    index = torch.tensor([
        [a[at], *sorted({*a[at + 1 :], *b[at + 1 :]})] for at, (_, a, b) in zip(last, nodes, strict=True)
    ])  # fmt: skip
    (n, t), rows = index.shape, torch.tensor([paths.row for paths in nodes])
    row = rows[:, None].expand(-1, t)
    watch = RecordSpec(row.flatten().to(model.device), index.flatten().to(model.device), keys=True)
    hidden, record = model.forward(batch, watch=watch)
    seen = index[:, :, None] >= index[:, None, :]  # in a chain
    if batch.visible is not None:
        seen &= batch.visible[rows[:, None, None], index[:, :, None], index[:, None, :]]
    resid = [x.unflatten(0, (n, t)) for x in record.resid]
    before = [paths.answer[:at] for at, paths in zip(last, nodes, strict=True)]
    trunk = PrefixCache.along(rows, before, record, batch, seen[:, None], resid)
    place = [{node: i for i, node in enumerate(mine)} for mine in index.tolist()]
    placed = [
        (r, [place[r].get(i, 0) for i in paths.answer], fork, [place[r].get(i, 0) for i in paths.lure])
        for r, (fork, paths) in enumerate(zip(forks, nodes, strict=True))
    ]
    terms = make_terms(placed, model.device)
    own, at = (x.to(model.device)[terms.rows, terms.nodes] for x in (row, index))
    margins = margin_of(model, hidden[own, at], terms).cpu().numpy()
    return trunk, Batch(batch.ids[row, index], batch.depth[row, index]), terms, margins


def copy_edits(sets: Sequence[frozenset[Site]], stand_in: Outputs, tokens: Tokens, t: int) -> list[ActivationEdit]:
    """Edits, one a layer and kind: in copy c, of ``t`` tokens, every row's stand-in, at its ``tokens`` of the copy, at
    each site of ``sets[c]``."""
    device = stand_in.heads.device
    row = torch.tensor([r for r, mine in enumerate(tokens) for _ in mine], device=device)
    token = torch.tensor([i for mine in tokens for i in mine], device=device)
    found: dict[tuple[int, str], list[tuple[int, int]]] = {}  # copies, and heads where there are
    for copy, sites in enumerate(sets):
        for site in sites:
            found.setdefault((site.layer, site.kind), []).append((copy, -1 if site.head is None else site.head))
    edits = []
    for (layer, kind), places in sorted(found.items()):
        copy, head = torch.tensor(places, device=device).T
        rows = row.repeat_interleave(len(places))
        nodes = (token[:, None] + t * copy).flatten()
        if kind == "head":
            values = stand_in.heads[:, layer, head][row].flatten(0, 1)
            edits.append(ActivationEdit(layer, rows, nodes, head.repeat(len(row)), values))
            continue
        source = stand_in.mlps if kind == "mlp" else stand_in.stream
        assert source is not None
        edits.append(ActivationEdit(layer, rows, nodes, None, source[rows, layer], stream=kind == "resid"))
    return edits


def _each_alone(
    model: Model,
    batch: Batch,
    forks: Sequence[ContrastPrompt],
    nodes: Sequence[Paths],
    tokens: Tokens,
    stand_ins: Sequence[Outputs],
    sets: Sequence[frozenset[Site]],
) -> np.ndarray:
    """(stand-in, fork, set): margins by one forward for each set, for models whose attention takes no mask of ours."""
    terms = terms_of_batch(model, forks, nodes)
    out = np.zeros((len(stand_ins), len(forks), len(sets)))
    for (k, stand_in), (i, sites) in product(enumerate(stand_ins), enumerate(sets)):
        hidden, _ = model.forward(batch, edits=copy_edits([sites], stand_in, tokens, 0))
        out[k, :, i] = margin_of(model, hidden[terms.rows, terms.nodes], terms).cpu().numpy()
    return out


def terms_of_batch(model: Model, forks: Sequence[ContrastPrompt], nodes: Sequence[Paths]) -> LogprobTerms:
    """The terms of whole prompts with their completions, one a row, as ``prompts_to_copy`` gives them."""
    placed = [(row, a, fork, b) for fork, (row, a, b) in zip(forks, nodes, strict=True)]
    return make_terms(placed, model.device)
