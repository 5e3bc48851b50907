"""Changes as what a forward over copies takes: edits of activations, and what is added to attention scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.changes import (
    Add,
    At,
    Change,
    OfAttention,
    OfSites,
    Patch,
    Project,
    Replay,
    Scale,
    Tokens,
    layers_of,
)
from isp_mech.models import ActivationEdit, ActivationRecord, ScoreBias
from isp_mech.sites import Site


@dataclass(frozen=True)
class CopyTokens:
    """Where a copy's ``t`` tokens stand in each prompt: the first of them, and the decision position; ``default`` are
    the prompt's tokens at which changes that name none are made."""

    firsts: Sequence[int]
    decisions: Sequence[int]
    default: Tokens
    t: int

    def offsets(self, at: At) -> list[list[int]]:
        """The copy's tokens, from 0, at which a change is made, for each prompt."""
        if isinstance(at, str):
            return [list(range(d - first, self.t)) for first, d in zip(self.firsts, self.decisions, strict=True)]
        tokens = self.default if at is None else at
        return [[i - first for i in mine] for first, mine in zip(self.firsts, tokens, strict=True)]

    def late(self, device: str | torch.device) -> Tensor:
        """(prompt, t): which of a copy's tokens are the decision position or stand after it."""
        start = torch.tensor(self.decisions, device=device) - torch.tensor(self.firsts, device=device)
        return torch.arange(self.t, device=device) >= start[:, None]


Key = tuple[int, type, int, str, int, int]


def site_edits(
    together: Sequence[tuple[Change, ...]],
    where: CopyTokens,
    own: ActivationRecord | None,
    n_heads: int,
    device: str,
) -> list[ActivationEdit]:
    """What changes the sites, in copy c of each prompt as ``together[c]`` says. ``own`` is what the copies' tokens
    write unchanged (prompt, t, ..), which is replayed."""
    places: dict[Key, list[tuple[int, Site, OfSites]]] = {}  # what one edit does
    for copy, changes in enumerate(together):
        for rank, change in enumerate(changes):
            if isinstance(change, OfAttention):
                continue
            source = id(change.values) if isinstance(change, Patch | Add) else id(change) * isinstance(change, Project)
            for site in sorted(change.sites, key=str):
                key = (rank, type(change), site.layer, site.kind, id(change.at), source)
                places.setdefault(key, []).append((copy, site, change))
    made: dict[int, tuple[Tensor, Tensor]] = {}
    edits = []
    for (_, _, layer, kind, at, _), here in sorted(places.items(), key=lambda one: (one[0][0], one[0][2], one[0][3])):
        if at not in made:
            offsets = where.offsets(here[0][2].at)
            rows = torch.tensor([r for r, mine in enumerate(offsets) for _ in mine], device=device, dtype=torch.long)
            tokens = torch.tensor([i for mine in offsets for i in mine], device=device, dtype=torch.long)
            made[at] = rows, tokens
        if len(made[at][0]):
            edits.append(_edit(layer, kind, here, *made[at], where.t, own, n_heads, device))
    return edits


def _edit(
    layer: int,
    kind: str,
    here: Sequence[tuple[int, Site, OfSites]],
    row: Tensor,
    token: Tensor,
    t: int,
    own: ActivationRecord | None,
    n_heads: int,
    device: str,
) -> ActivationEdit:
    """One edit: a kind of change at sites of one layer and kind, ``here``, at the tokens ``(row, token)`` of copies."""
    copies = torch.tensor([c for c, _, _ in here], device=device)
    head = torch.tensor([site.head for _, site, _ in here], device=device) if kind == "head" else None
    rows, nodes = row.repeat_interleave(len(here)), (token[:, None] + t * copies).flatten()
    heads = None if head is None else head.repeat(len(row))
    change, stream = here[0][2], kind == "resid"
    if isinstance(change, Project):
        return ActivationEdit(layer, rows, nodes, heads, change.values[rows], stream=stream, basis=change.basis)
    alpha = torch.tensor([[getattr(c, "alpha", 1.0)] for _, _, c in here], device=device).repeat(len(row), 1)
    if isinstance(change, Scale):
        return ActivationEdit(layer, rows, nodes, heads, alpha, scale=True, stream=stream)
    if isinstance(change, Replay):
        assert own is not None
        values = (own.heads if head is not None else own.mlp)[layer][row, token].float()
    else:
        assert isinstance(change, Patch | Add)
        outputs = (
            change.values.heads if head is not None else change.values.mlps if kind == "mlp" else change.values.stream
        )
        assert outputs is not None
        values = outputs[row, layer]
    if isinstance(change, Replay) and head is not None:
        values = values.unflatten(-1, (n_heads, -1))
    values = values[:, head] if head is not None else values[:, None].expand(-1, len(here), -1)
    values = values.flatten(0, 1)
    if isinstance(change, Patch):
        return ActivationEdit(layer, rows, nodes, heads, values, stream=stream)
    return ActivationEdit(layer, rows, nodes, heads, alpha * values, add=True, stream=stream)


def score_biases(
    together: Sequence[tuple[Change, ...]], where: CopyTokens, pos: int, n_heads: int, device: str
) -> dict[int, ScoreBias]:
    """What is added to attention scores, by layer, in copy c of each prompt as ``together[c]`` says; ``pos`` tokens
    stand before the copies."""
    touching: dict[int, list[tuple[int, OfAttention]]] = {}
    for copy, changes in enumerate(together):
        for change in changes:
            if isinstance(change, OfAttention):
                for layer in layers_of(change):
                    touching.setdefault(layer, []).append((copy, change))
    made: dict[tuple[tuple[int, int], ...], ScoreBias] = {}
    for some in touching.values():
        key = _key(some)
        if key not in made:
            made[key] = _bias(some, len(together), where, pos, n_heads, device)
    return {layer: made[_key(some)] for layer, some in touching.items()}


def _key(some: Sequence[tuple[int, OfAttention]]) -> tuple[tuple[int, int], ...]:
    return tuple((copy, id(change)) for copy, change in some)


def _bias(
    some: Sequence[tuple[int, OfAttention]], copies: int, where: CopyTokens, pos: int, n_heads: int, device: str
) -> ScoreBias:
    n, t, late = len(where.firsts), where.t, where.late(device)
    by_head = n_heads if any(change.heads is not None for _, change in some) else 1
    queries = 1 if list(where.firsts) == list(where.decisions) else t
    prefix = torch.zeros(n, copies, by_head, queries, pos, device=device)
    within: Tensor | None = None
    masks: dict[int, tuple[Tensor, Tensor]] = {}
    for copy, change in some:
        if id(change.tokens) not in masks:
            masks[id(change.tokens)] = _masks(change.tokens, where, pos, device)
        far, near = (late[:, None, :queries, None] & mask[:, None, None] for mask in masks[id(change.tokens)])
        heads = slice(None) if change.heads is None else torch.tensor(sorted(change.heads), device=device)
        prefix[:, copy, heads] += torch.where(far, change.log_factor, 0.0)
        if any(max(mine, default=-1) >= first for mine, first in zip(change.tokens, where.firsts, strict=True)):
            within = torch.zeros(n, copies, by_head, t, t, device=device) if within is None else within
            within[:, copy, heads] += torch.where(near, change.log_factor, 0.0)
    return ScoreBias(prefix, within)


def _masks(tokens: Tokens, where: CopyTokens, pos: int, device: str) -> tuple[Tensor, Tensor]:
    """(prompt, pos) and (prompt, t): which tokens are meant, of those before the copies and of a copy's own."""
    far, near = np.zeros((len(tokens), pos), dtype=bool), np.zeros((len(tokens), where.t), dtype=bool)
    for row, (mine, first) in enumerate(zip(tokens, where.firsts, strict=True)):
        far[row, [i for i in mine if i < first]] = True
        near[row, [i - first for i in mine if i >= first]] = True
    return torch.from_numpy(far).to(device), torch.from_numpy(near).to(device)
