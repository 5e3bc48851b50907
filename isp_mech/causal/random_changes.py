"""Random changes that match an intervention in kind and size: what it has to be better than."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.changes import Add, Change, OfAttention, Project
from isp_mech.causal.intervention_changes import Bound, of_stream
from isp_mech.causal.intervention_parts import Part
from isp_mech.causal.intervention_values import Intervention
from isp_mech.sites import Site


def random_changes(intervention: Intervention, bound: Bound, n: int, seed: int) -> list[tuple[Change, ...]]:
    """Up to ``n`` changes of the prompts, each as large as the intervention: for a role's tokens equally many others
    that stand before the decision position, in the same layers and heads; for a head another one of its layer, for an
    MLP any, with the same alpha; for a vector one of equal norm in a random direction, and for a direction that is
    swapped a random one along which each prompt is moved as far. Fewer where there are not so many sets of sites, none
    where nothing is changed."""
    parts = [part for part in intervention.parts if not part.changes_nothing]
    if not parts:
        return []
    rng = np.random.default_rng([seed, 7])
    if all(part.kind in ("scale", "replace", "replay") for part in parts):
        sites = _random_sites(intervention, bound, n, rng)
        return [bound.changes(drawn) for drawn in sites]
    own = bound.changes(Intervention(tuple(parts), intervention.arrays))
    ends = [prompt.shared - 1 for prompt in bound.prompts]
    others = [_others(change.tokens, ends) if isinstance(change, OfAttention) else [] for change in own]
    return [
        tuple(_random(change, part, bound, free, rng) for change, part, free in zip(own, parts, others, strict=True))
        for _ in range(n)
    ]


def _random(change: Change, part: Part, bound: Bound, free: Sequence[np.ndarray], rng: np.random.Generator) -> Change:
    if isinstance(change, OfAttention):
        pieces = zip(change.tokens, free, strict=True)
        return replace(change, tokens=[sorted(rng.permutation(them)[: len(mine)].tolist()) for mine, them in pieces])
    if isinstance(change, Add):
        assert change.values.stream is not None
        layer = part.sites[0].layer
        size = change.values.stream[0, layer].norm()
        vectors = torch.zeros(change.values.stream.shape[1:])
        vectors[layer] = _direction(vectors.shape[-1], rng) * size
        return replace(change, values=of_stream(vectors, len(bound.prompts)))
    if isinstance(change, Project):
        assert bound.own is not None
        own, basis = bound.own[:, change.layer], _direction(change.basis.shape[-1], rng)[None]
        return replace(change, basis=basis, values=own @ basis.T + change.values - own @ change.basis.T)
    (drawn,) = _random_sites(Intervention((part,)), bound, 1, rng) or [Intervention((part,))]
    return bound.changes(drawn)[0]


def _direction(d_model: int, rng: np.random.Generator) -> Tensor:
    """Of length 1."""
    drawn = torch.from_numpy(rng.normal(size=d_model)).float()
    return drawn / drawn.norm()


def _others(tokens: Sequence[Sequence[int]], ends: Sequence[int]) -> list[np.ndarray]:
    """Of each prompt the tokens before its end that are not among ``tokens``: equally many of them are drawn, or all,
    where there are fewer."""
    return [np.setdiff1d(np.arange(end), np.asarray(mine, int)) for mine, end in zip(tokens, ends, strict=True)]


def _random_sites(intervention: Intervention, bound: Bound, n: int, rng: np.random.Generator) -> list[Intervention]:
    """Interventions with every site mapped to a random one of its kind (a head of the same layer), one to one."""
    shape = bound.model.architecture
    made = []
    for _ in range(50 * n):
        heads = [rng.permutation(shape.n_heads) for _ in range(shape.n_layers)]
        mlps = rng.permutation(shape.n_layers)
        drawn = Intervention(tuple(_mapped(part, heads, mlps) for part in intervention.parts), intervention.arrays)
        if {*_cells(drawn)} != {*_cells(intervention)}:
            made.append(drawn)
        if len(made) == n:
            break
    return made


def _mapped(part: Part, heads: Sequence[np.ndarray], mlps: np.ndarray) -> Part:
    def other(site: Site) -> Site:
        if site.head is None:
            return Site(int(mlps[site.layer]), "mlp")
        return Site(site.layer, "head", int(heads[site.layer][site.head]))

    return replace(part, sites=tuple(other(site) for site in part.sites))


def _cells(intervention: Intervention) -> Iterator[tuple[str, float, Site]]:
    return ((part.kind, part.number, site) for part in intervention.parts for site in part.sites)
