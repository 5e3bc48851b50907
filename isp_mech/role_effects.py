"""Effects of what stands at a role's tokens: heads, MLPs and the residual stream before the decision is taken.

The outputs at a role's tokens (``negation``, ``definition``, ...) of a prompt are replaced by one vector a site:
``mean`` of them over the other pairs, ``resample``: another pair's, ``plain``: those of the same role in the pair's
plain prompt, ``zero``. Each is the mean over the role's tokens there, since prompts have different numbers of them.
Only what lies after is computed again: the tokens from the role's first one on, from the site's layer on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isp_mech.encoding import role_names, token_roles
from isp_mech.errors import InputError
from isp_mech.margins import Fork, make_terms, margin_of
from isp_mech.models import Batch, Edit, Model, Watch
from isp_mech.packing import batches
from isp_mech.replacing import Paths, copies_at_once, derangement, prompts_to_copy, run_once
from isp_mech.sites import Site, all_sites
from isp_mech.watching import Prepared


@dataclass(frozen=True)
class RoleOutputs:
    """Every site's output, as the mean over a role's tokens of each pair: head outputs (pair, layer, head, d_head),
    MLP writes and the residual stream after each layer (pair, layer, d_model)."""

    heads: Float[Tensor, "pair layer head d_head"]
    mlps: Float[Tensor, "pair layer d_model"]
    stream: Float[Tensor, "pair layer d_model"]

    def map(self, change) -> RoleOutputs:
        """With ``change`` applied to each of the three."""
        return RoleOutputs(*(change(getattr(self, field.name)) for field in fields(self)))


def role_tokens(forks: Sequence[Fork], role: str) -> list[list[int]]:
    """Which tokens of each prompt have the role; ``InputError`` names every prompt with none."""
    out = []
    for fork in forks:
        names = role_names([fork.prompt])
        of_token = token_roles(fork.encoding, fork.prompt, names)[: fork.shared]
        out.append([i for i, number in enumerate(of_token) if names[number] == role])
    without = [
        f"{fork.owner}: no token of role {role!r}, found {', '.join(role_names([fork.prompt]))}"
        for fork, tokens in zip(forks, out, strict=True)
        if not tokens
    ]
    if without:
        raise InputError("positions", without)
    return out


def observe_role(
    model: Model, prepared: Prepared, tokens: Sequence[Sequence[int]], *, batch_size: int | str = "auto"
) -> RoleOutputs:
    """Runs one side of the pairs as it is and keeps the sites' outputs at the role's tokens, in the pairs' order."""
    shape, n = model.anatomy, len(prepared.forks)
    found = RoleOutputs(
        torch.zeros(n, shape.n_layers, shape.n_heads, shape.d_head),
        torch.zeros(n, shape.n_layers, shape.d_model),
        torch.zeros(n, shape.n_layers, shape.d_model),
    )
    for trees, batch in batches(prepared.trees, batch_size):
        owners = [i for t in trees for i in prepared.owners[t]]
        at = [
            (row, prepared.places[i][0].path[token], i)
            for row, t in enumerate(trees)
            for i in prepared.owners[t]
            for token in tokens[i]
        ]
        rows, nodes, of = torch.tensor(at, device=model.device).T
        _, record = model.forward(batch, watch=Watch(rows, nodes))
        assert record.final is not None
        count = torch.tensor([len(tokens[i]) for i in owners], dtype=torch.float32)
        for layer in range(shape.n_layers):
            after = record.resid[layer + 1] if layer + 1 < shape.n_layers else record.final
            heads = record.heads[layer].unflatten(-1, (shape.n_heads, shape.d_head))
            for into, values in ((found.heads, heads), (found.mlps, record.mlp[layer]), (found.stream, after)):
                total = torch.zeros(n, *values.shape[1:]).index_add_(0, of.cpu(), values.float().cpu())[owners]
                into[owners, layer] = total / count.view(-1, *[1] * (total.dim() - 1))
    return found


def role_stand_in(kind: str, conflict: RoleOutputs, *, plain: RoleOutputs | None = None, seed: int = 0) -> RoleOutputs:
    """What stands in for every site at the role's tokens of every pair, shaped as ``conflict``."""
    n = len(conflict.heads)
    if kind in ("mean", "resample") and n < 2:
        raise InputError("replacement", [f"{kind!r} needs the other pairs: expected at least two pairs, found {n}"])
    if kind == "plain":
        if plain is None:
            raise ValueError("replacement 'plain' needs the plain prompts' outputs")
        return plain
    if kind == "zero":
        return conflict.map(torch.zeros_like)
    if kind == "mean":
        return conflict.map(lambda x: (x.sum(0, keepdim=True) - x) / (n - 1))
    if kind == "resample":
        other = derangement(n, seed)
        return conflict.map(lambda x: x[other])
    raise InputError("replacement", [f"{kind!r}: expected one of mean, resample, plain, zero"])


def role_margins(
    model: Model,
    forks: Sequence[Fork],
    tokens: Sequence[Sequence[int]],
    stand_in: RoleOutputs,
    *,
    batch_size: int | str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """(pair, site): the margin with each site replaced at the role's tokens, as a forward of its own would give it;
    sites in the order of ``all_sites`` with the residual stream."""
    sites = all_sites(model.anatomy.n_layers, model.anatomy.n_heads, stream=True)
    firsts = [min(mine) for mine in tokens]
    one = _as_copies if model.packs else _each_alone
    out = np.zeros((len(forks), len(sites)))
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "replace", progress, firsts):
        here = [tokens[i] for i in rows]
        mine = stand_in.map(lambda x, rows=rows: x[rows].to(model.device))
        out[rows] = one(model, batch, [forks[i] for i in rows], nodes, here, mine, sites)
    return out


def _as_copies(
    model: Model,
    batch: Batch,
    forks: Sequence[Fork],
    nodes: Sequence[Paths],
    tokens: Sequence[Sequence[int]],
    stand_in: RoleOutputs,
    sites: Sequence[Site],
) -> np.ndarray:
    firsts = [min(mine) for mine in tokens]
    trunk, copy, terms, _ = run_once(model, batch, forks, nodes, firsts)
    n, t = copy.ids.shape
    offsets = [[i - first for i in mine] for first, mine in zip(firsts, tokens, strict=True)]
    at_once = copies_at_once(model, n, t, trunk.reach.shape[1])
    out = np.zeros((n, len(sites)))
    for layer in range(model.anatomy.n_layers):
        these = [i for i, site in enumerate(sites) if site.layer == layer]
        for some in (these[i : i + at_once] for i in range(0, len(these), at_once)):
            edits = [_edit(sites[i], offsets, c * t, stand_in, model.device) for c, i in enumerate(some)]
            copies = Batch(copy.ids.repeat(1, len(some)), copy.depth.repeat(1, len(some)))
            hidden = model.branch(copies, trunk, start=layer, edits=edits)
            here = terms.copied(len(some), t)
            out[:, some] = margin_of(model, hidden[here.rows, here.nodes], here).view(len(some), n).T.cpu().numpy()
    return out


def _each_alone(
    model: Model,
    batch: Batch,
    forks: Sequence[Fork],
    nodes: Sequence[Paths],
    tokens: Sequence[Sequence[int]],
    stand_in: RoleOutputs,
    sites: Sequence[Site],
) -> np.ndarray:
    """By one forward for each site, for models whose attention takes no mask of ours."""
    terms = make_terms([(r, a, fork, b) for r, (fork, (a, b)) in enumerate(zip(forks, nodes, strict=True))])
    out = np.zeros((len(forks), len(sites)))
    for i, site in enumerate(sites):
        hidden, _ = model.forward(batch, edits=[_edit(site, tokens, 0, stand_in, model.device)])
        out[:, i] = margin_of(model, hidden[terms.rows, terms.nodes], terms).cpu().numpy()
    return out


def _edit(site: Site, tokens: Sequence[Sequence[int]], shift: int, stand_in: RoleOutputs, device: str) -> Edit:
    """The stand-in of every row at its tokens, ``shift`` nodes on."""
    row = torch.tensor([r for r, mine in enumerate(tokens) for _ in mine], device=device)
    node = torch.tensor([shift + i for mine in tokens for i in mine], device=device)
    if site.kind == "head":
        assert site.head is not None
        return Edit(site.layer, row, node, torch.full_like(row, site.head), stand_in.heads[row, site.layer, site.head])
    source = stand_in.mlps if site.kind == "mlp" else stand_in.stream
    return Edit(site.layer, row, node, None, source[row, site.layer], stream=site.kind == "resid")
