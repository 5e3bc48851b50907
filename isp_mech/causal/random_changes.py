"""Random changes that match an intervention in kind and size: what it has to be better than."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from isp_mech.causal.changes import Add, Change, OfAttention
from isp_mech.causal.intervention_changes import Bound, of_stream
from isp_mech.causal.intervention_parts import Part
from isp_mech.causal.intervention_values import Intervention
from isp_mech.sites import Site


def random_changes(intervention: Intervention, bound: Bound, n: int, seed: int) -> list[tuple[Change, ...]]:
    """Up to ``n`` changes of the prompts, each as large as the intervention: for a role's tokens equally many others
    that stand before the decision position, in the same layers and heads; for a head another one of its layer, for an
    MLP any, with the same alpha; for a vector one of equal norm in a random direction. Fewer where there are not so
    many sets of sites, none where nothing is changed."""
    parts = [part for part in intervention.parts if not part.changes_nothing]
    if not parts:
        return []
    rng = np.random.default_rng([seed, 7])
    if all(part.kind in ("scale", "replace", "replay") for part in parts):
        sites = _random_sites(intervention, bound, n, rng)
        return [bound.changes(drawn) for drawn in sites]
    own = bound.changes(Intervention(tuple(parts), intervention.arrays))
    return [tuple(_random(change, part, bound, rng) for change, part in zip(own, parts, strict=True)) for _ in range(n)]


def _random(change: Change, part: Part, bound: Bound, rng: np.random.Generator) -> Change:
    if isinstance(change, OfAttention):
        return replace(change, tokens=_other_tokens(change.tokens, [p.shared - 1 for p in bound.prompts], rng))
    if isinstance(change, Add):
        assert change.values.stream is not None
        layer = part.sites[0].layer
        size = change.values.stream[0, layer].norm()
        vectors = torch.zeros(change.values.stream.shape[1:])
        direction = torch.from_numpy(rng.normal(size=vectors.shape[-1])).float()
        vectors[layer] = direction / direction.norm() * size
        return replace(change, values=of_stream(vectors, len(bound.prompts)))
    (drawn,) = _random_sites(Intervention((part,)), bound, 1, rng) or [Intervention((part,))]
    return bound.changes(drawn)[0]


def _other_tokens(tokens: Sequence[Sequence[int]], ends: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
    """Of each prompt equally many random tokens that are not among ``tokens``, before ``ends``; all others, where there
    are fewer."""
    out = []
    for mine, end in zip(tokens, ends, strict=True):
        others = np.setdiff1d(np.arange(end), np.asarray(mine, dtype=int))
        out.append(sorted(rng.choice(others, min(len(mine), len(others)), replace=False).tolist()))
    return out


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
