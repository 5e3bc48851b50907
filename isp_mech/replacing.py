"""Replacing sites: what stands in for a site's output, and the margin with sites replaced.

A site's output at the decision position (``margins.py``) is replaced by its value elsewhere: ``mean``
over the conflict prompts of the other pairs, ``resample``: another pair's conflict prompt, ``plain``:
the same pair's plain prompt, ``zero``: nothing (off-distribution, for comparison only). Both locating
and verifying work on what is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from isp_mech.direct import directions, head_reading, reading
from isp_mech.errors import InputError
from isp_mech.margins import Fork, Terms, make_terms, margin_of
from isp_mech.models import Batch, Edit, Model, Trunk, Watch
from isp_mech.packing import Tree, batches
from isp_mech.sites import Site, all_sites
from isp_mech.watching import Prepared, watch_batch

Paths = tuple[tuple[int, ...], tuple[int, ...]]
REPLACEMENTS = ("mean", "resample", "plain", "zero")


@dataclass(frozen=True)
class Outputs:
    """Every site's output at the decision position of every pair: heads (pair, layer, head, d_head),
    MLP writes (pair, layer, d_model)."""

    heads: Float[Tensor, "pair layer head d_head"]
    mlps: Float[Tensor, "pair layer d_model"]

    def of(self, pairs: Sequence[int], device: str) -> Outputs:
        """Those of some pairs, on a device."""
        return Outputs(self.heads[list(pairs)].to(device), self.mlps[list(pairs)].to(device))


@dataclass(frozen=True)
class Seen:
    """One side's forward: outputs, margins (pair,), and, per pair, what each head's output
    (pair, layer, head, d_head) and each MLP's write (pair, d_model) is multiplied with in its direct
    effect at the decision position."""

    outputs: Outputs
    margins: np.ndarray
    read_heads: Float[Tensor, "pair layer head d_head"]
    read_mlps: Float[Tensor, "pair d_model"]


def observe(model: Model, prepared: Prepared, *, batch_size: int | str = "auto", progress: bool = False) -> Seen:
    """Runs one side of the pairs as it is and keeps what replacing needs, in the pairs' order."""
    shape, n = model.anatomy, len(prepared.forks)
    heads = torch.zeros(n, shape.n_layers, shape.n_heads, shape.d_head)
    mlps = torch.zeros(n, shape.n_layers, shape.d_model)
    read_heads, read_mlps, margins = torch.zeros_like(heads), torch.zeros(n, shape.d_model), np.zeros(n)
    norm = shape.norm()
    with tqdm(
        total=len(prepared.trees), desc=f"{model.name}: outputs", unit="prompt", disable=not progress, leave=False
    ) as bar:
        for rows, batch in batches(prepared.trees, batch_size):
            look = watch_batch(model, prepared, rows, batch)
            hidden, record = model.forward(batch, watch=look.watch)
            decision = _decisions(look.terms.node_owner)
            with torch.no_grad():
                before = reading(norm, record, directions(model, look.terms, hidden))
                for layer in range(shape.n_layers):
                    z = record.heads[layer][decision].float()
                    heads[look.owners, layer] = z.unflatten(-1, (shape.n_heads, shape.d_head)).cpu()
                    mlps[look.owners, layer] = record.mlp[layer][decision].float().cpu()
                    read_heads[look.owners, layer] = head_reading(model, record, layer, before)[decision].cpu()
                read_mlps[look.owners] = before[decision].cpu()
                margin = margin_of(model, hidden[look.terms.rows, look.terms.nodes], look.terms)
            margins[look.owners] = margin.cpu().numpy()
            bar.update(len(rows))
    return Seen(Outputs(heads, mlps), margins, read_heads, read_mlps)


def _decisions(node_owner: Tensor) -> Tensor:
    """The number of each owner's decision position: the first of its predicting tokens."""
    _, first = np.unique(node_owner.cpu().numpy(), return_index=True)
    return torch.from_numpy(first).to(node_owner.device)


def replacement_outputs(kind: str, conflict: Outputs, *, plain: Outputs | None = None, seed: int = 0) -> Outputs:
    """What stands in for every site of every pair, shaped as ``conflict``.

    Raises ``InputError`` for an unknown kind, and where ``mean`` or ``resample`` has no other pair.
    """
    n = len(conflict.heads)
    if kind not in REPLACEMENTS:
        raise InputError("replacement", [f"{kind!r}: expected one of {', '.join(REPLACEMENTS)}"])
    if kind in ("mean", "resample") and n < 2:
        raise InputError("replacement", [f"{kind!r} needs the other pairs: expected at least two pairs, found {n}"])
    if kind == "zero":
        return Outputs(torch.zeros_like(conflict.heads), torch.zeros_like(conflict.mlps))
    if kind == "plain":
        if plain is None:
            raise ValueError("replacement 'plain' needs the plain prompts' outputs")
        return plain
    if kind == "mean":  # over the others: a pair's own output has no say in what replaces it
        return Outputs(*((x.sum(0, keepdim=True) - x) / (n - 1) for x in (conflict.heads, conflict.mlps)))
    other = derangement(n, seed)
    return Outputs(conflict.heads[other], conflict.mlps[other])


def derangement(n: int, seed: int) -> np.ndarray:
    """A permutation of n that leaves nothing in place: a random cycle through all."""
    order = np.random.default_rng(seed).permutation(n)
    out = np.empty(n, dtype=np.int64)
    out[order] = np.roll(order, 1)
    return out


def direct_parts(seen: Seen, stand_in: Outputs) -> np.ndarray:
    """(pair, site): what each replacement would take from the margin by the site's own write alone,
    everything between left as it was; sites in the order of ``sites.all_sites``."""
    heads = ((seen.outputs.heads - stand_in.heads) * seen.read_heads).sum(-1)
    mlps = ((seen.outputs.mlps - stand_in.mlps) * seen.read_mlps[:, None]).sum(-1)
    return torch.cat([heads, mlps[:, :, None]], 2).flatten(1).numpy()


def replaced_margins(
    model: Model,
    forks: Sequence[Fork],
    stand_in: Outputs,
    sets: Sequence[frozenset[Site]],
    *,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """(pair, set): the margin of every fork with each set of sites replaced at the decision position.

    Exact, and packed: the prompt runs once, and each set is a copy of its last token (and of the
    completions' tokens after it) that runs over the prompt's keys and values, from the first layer in
    which the set changes something. An empty set gives the margin as it is; equal sets are run once.
    """
    return margins_by_stand_in(model, forks, [stand_in], sets, batch_size=batch_size, progress=progress)[0]


def margins_by_stand_in(
    model: Model,
    forks: Sequence[Fork],
    stand_ins: Sequence[Outputs],
    sets: Sequence[frozenset[Site]],
    *,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """(stand-in, pair, set): ``replaced_margins`` for each of several stand-ins; the prompts still run once."""
    check_sets(sets, model)
    place = {these: i for i, these in enumerate(dict.fromkeys(sets))}
    sets, asked = list(place), [place[these] for these in sets]
    one = _all_as_copies if model.packs else _each_alone
    out = np.zeros((len(stand_ins), len(forks), len(sets)))
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "replace", progress):
        here = [stand_in.of(rows, model.device) for stand_in in stand_ins]
        out[:, rows] = one(model, batch, [forks[i] for i in rows], nodes, here, sets)
    return out[:, :, asked]


def prompts_to_copy(
    model: Model,
    forks: Sequence[Fork],
    batch_size: int | str,
    doing: str,
    progress: bool,
    firsts: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], Batch, list[Paths]]]:
    """Batches of prompts that end with their completions: which forks, their trees, the completions' nodes.

    The forks of a batch have copies of equally many tokens, so that none are filled up: copies begin at the
    decision position, or at the token ``firsts`` of each fork.
    """
    trees, nodes = _ended_with_completions(model, forks)
    alike: dict[int, list[int]] = {}
    for i, (fork, tree) in enumerate(zip(forks, trees, strict=True)):
        alike.setdefault(len(tree) - (firsts[i] if firsts else fork.shared), []).append(i)
    with tqdm(total=len(trees), desc=f"{model.name}: {doing}", unit="prompt", disable=not progress, leave=False) as bar:
        for members in alike.values():
            for found, batch in batches([trees[i] for i in members], batch_size):
                rows = [members[i] for i in found]
                yield rows, batch, [nodes[i] for i in rows]
                bar.update(len(rows))


def check_sets(sets: Sequence[frozenset[Site]], model: Model) -> None:
    """``InputError`` that names every site that is no head or MLP of the model."""
    known = set(all_sites(model.anatomy.n_layers, model.anatomy.n_heads))
    shape = f"{model.anatomy.n_layers} layers x {model.anatomy.n_heads} heads"
    unknown = sorted({str(site) for sites in sets for site in sites if site not in known})
    if unknown:
        raise InputError(model.name, [f"site {site}: expected a head or MLP of {shape}" for site in unknown])


def _ended_with_completions(model: Model, forks: Sequence[Fork]) -> tuple[list[Tree], list[Paths]]:
    """A tree for each fork: its prompt to the decision position, then both completions; and their nodes."""
    trees, nodes = [], []
    for fork in forks:
        tree = Tree()
        paths = [tree.extend(q.tokens[:-1]) if q is not None else () for q in (fork.answer, fork.lure)]
        if not (model.takes_trees or tree.is_chain):
            raise InputError(
                model.name, [f"{fork.owner}: completions of several tokens need an attention that takes a mask"]
            )
        trees.append(tree)
        nodes.append((paths[0], paths[1]))
    return trees, nodes


COPIES = 6144  # tokens of copies in one forward
WEIGHTS = 1 << 24  # attention weights of copies in one forward


def _all_as_copies(
    model: Model,
    batch: Batch,
    forks: Sequence[Fork],
    nodes: Sequence[Paths],
    stand_ins: Sequence[Outputs],
    sets: Sequence[frozenset[Site]],
) -> np.ndarray:
    """(stand-in, fork, set): margins. The prompts run once; sets that begin in one layer are copies in one forward."""
    trunk, copy, terms, margins = run_once(model, batch, forks, nodes)
    n, t, pos = len(forks), copy.ids.shape[1], trunk.reach.shape[1]
    out = np.tile(margins[:, None], (len(stand_ins), 1, len(sets)))
    starts = [min((site.layer for site in sites), default=model.anatomy.n_layers) for sites in sets]
    at_once = copies_at_once(model, n, t, pos)
    for start in range(model.anatomy.n_layers):
        these = [i for i, first in enumerate(starts) if first == start]
        parts = [these[i : i + at_once] for i in range(0, len(these), at_once)]
        for (k, stand_in), some in product(enumerate(stand_ins), parts):
            edits = copy_edits([sets[i] for i in some], stand_in, t)
            copies = Batch(copy.ids.repeat(1, len(some)), copy.depth.repeat(1, len(some)))
            hidden = model.branch(copies, trunk, start=start, edits=edits)
            here = terms.copied(len(some), t)
            found = margin_of(model, hidden[here.rows, here.nodes], here).view(len(some), n)
            out[k][:, some] = found.T.cpu().numpy()
    return out


def copies_at_once(model: Model, n: int, t: int, pos: int) -> int:
    """How many copies of ``t`` tokens one forward takes, of each of ``n`` prompts of ``pos`` tokens."""
    return max(1, min(COPIES // (n * t), WEIGHTS // (n * t * model.anatomy.n_heads * (pos + t))))


def run_once(
    model: Model,
    batch: Batch,
    forks: Sequence[Fork],
    nodes: Sequence[Paths],
    firsts: Sequence[int] | None = None,
) -> tuple[Trunk, Batch, Terms, np.ndarray]:
    """The prompts as they are: what copies run over, one copy of each, its terms, and the margins.

    The copies of all forks have equally many tokens: the decision position, or all from ``firsts`` on, and then
    the completions' tokens.
    """
    n = len(forks)
    last = list(firsts) if firsts is not None else [fork.shared - 1 for fork in forks]
    index = torch.tensor([[at, *sorted({*a[at + 1 :], *b[at + 1 :]})] for at, (a, b) in zip(last, nodes, strict=True)])
    t = index.shape[1]
    row = torch.arange(n)[:, None]
    watch = Watch(row.expand(-1, t).flatten().to(model.device), index.flatten().to(model.device), keys=True)
    hidden, record = model.forward(batch, watch=watch)
    visible = batch.visible if batch.visible is not None else torch.ones(1, *[batch.ids.shape[1]] * 2).bool().tril()
    seen = visible.expand(n, -1, -1)[row[:, :, None], index[:, :, None], index[:, None, :]]
    resid = [x.unflatten(0, (n, t)) for x in record.resid]
    trunk = Trunk.before(last, record, batch, seen[:, None], resid)
    place = [{node: i for i, node in enumerate(mine)} for mine in index.tolist()]
    placed = [
        (r, [place[r].get(i, 0) for i in nodes[r][0]], fork, [place[r].get(i, 0) for i in nodes[r][1]])
        for r, fork in enumerate(forks)
    ]
    terms = make_terms(placed, model.device)
    at = index.to(model.device)[terms.rows, terms.nodes]
    margins = margin_of(model, hidden[terms.rows, at], terms).cpu().numpy()
    return trunk, Batch(batch.ids.gather(1, index), batch.depth.gather(1, index)), terms, margins


def copy_edits(sets: Sequence[frozenset[Site]], stand_in: Outputs, t: int) -> list[Edit]:
    """Edits, one a layer and kind: in copy c, of ``t`` tokens, every row's stand-in at each site of ``sets[c]``."""
    heads: dict[int, list[tuple[int, int]]] = {}
    mlps: dict[int, list[int]] = {}
    for copy, sites in enumerate(sets):
        for site in sites:
            if site.head is None:
                mlps.setdefault(site.layer, []).append(copy)
            else:
                heads.setdefault(site.layer, []).append((copy, site.head))
    rows = torch.arange(len(stand_in.heads), device=stand_in.heads.device)
    edits = []
    for layer, found in sorted(heads.items()):
        at, head = torch.tensor(found, device=rows.device).T
        values = stand_in.heads[:, layer, head].flatten(0, 1)
        edits.append(Edit(layer, *_everywhere(rows, at * t), head.repeat(len(rows)), values))
    for layer, copies in sorted(mlps.items()):
        at = torch.tensor(copies, device=rows.device)
        values = stand_in.mlps[:, layer].repeat_interleave(len(copies), 0)
        edits.append(Edit(layer, *_everywhere(rows, at * t), None, values))
    return edits


def _everywhere(rows: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Every row with every node, row by row."""
    return rows.repeat_interleave(len(nodes)), nodes.repeat(len(rows))


def _each_alone(
    model: Model,
    batch: Batch,
    forks: Sequence[Fork],
    nodes: Sequence[Paths],
    stand_ins: Sequence[Outputs],
    sets: Sequence[frozenset[Site]],
) -> np.ndarray:
    """(stand-in, fork, set): margins by one forward for each set, for models whose attention takes no mask of ours."""
    rows = torch.arange(len(forks), device=model.device)
    last = torch.tensor([fork.shared - 1 for fork in forks], device=model.device)
    terms = make_terms([(r, a, fork, b) for r, (fork, (a, b)) in enumerate(zip(forks, nodes, strict=True))])
    out = np.zeros((len(stand_ins), len(forks), len(sets)))
    for (k, stand_in), (i, sites) in product(enumerate(stand_ins), enumerate(sets)):
        edits = [
            replace(edit, rows=rows, nodes=last)
            for site in sorted(sites, key=str)
            for edit in copy_edits([frozenset({site})], stand_in, 1)
        ]
        hidden, _ = model.forward(batch, edits=edits)
        out[k, :, i] = margin_of(model, hidden[terms.rows, terms.nodes], terms).cpu().numpy()
    return out
