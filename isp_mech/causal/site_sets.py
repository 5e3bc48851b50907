"""Sites as a user gives them, and pairs in halves: one that chooses sites, and one on which they are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isp_mech.causal.locate import Sites
from isp_mech.causal.screening import FIRST_TOKEN
from isp_mech.errors import InputError
from isp_mech.models import Model
from isp_mech.sites import Site
from isp_mech.tables import Table
from isp_mech.tables.site_tables import AnySites, sites_of
from isp_mech.tasks import PairSet

EffectsGiven = Sites | Table


def sites_for(sites: AnySites, model: Model, *, strongest: int | None = None) -> tuple[Site, ...]:
    """The sites of one model, layer by layer, heads before the MLP: of what ``locate`` gave, the significant ones, the
    ``strongest`` of them by the size of their effect. See ``tables.site_tables.sites_of``."""
    shape = model.architecture
    chosen = sites_of(sites, model.name, n_layers=shape.n_layers, n_heads=shape.n_heads, most=strongest)
    return tuple(sorted(chosen, key=lambda site: (site.layer, site.kind, site.head or 0)))


def effects_by_pair(
    effects: EffectsGiven, model: Model, pairs: PairSet, replacement: str, *, exact: bool = False
) -> np.ndarray:
    """(pair, site): one model's effects, pairs in their order and sites in that of ``all_sites``. With ``exact`` they
    are NaN where they were measured at the first token alone.

    ``InputError`` where the effects have no rows for a pair with the replacement.
    """
    frame = (effects.effects if isinstance(effects, Sites) else effects).frame
    shape, ids = model.architecture, [pair.id for pair in pairs]
    here = frame[(frame["model"] == model.name) & (frame["replacement"] == replacement) & frame["pair"].isin(ids)]
    n_sites = shape.n_layers * (shape.n_heads + 1)
    if here["pair"].nunique() < len(ids) or len(here) != len(ids) * n_sites:
        found = f"{here['pair'].nunique()} of {len(ids)} pairs with replacement {replacement!r}"
        expected = f"expected effects of every pair on all {n_sites} heads and MLPs"
        raise InputError("effects", [f"{model.name}: {found}: {expected}"])
    if exact:
        here = here.assign(effect=here["effect"].where(here["measured"] != FIRST_TOKEN))
    number = here["head"].fillna(shape.n_heads).astype(int)
    wide = here.assign(site=here["layer"] * (shape.n_heads + 1) + number)
    return wide.pivot(index="pair", columns="site", values="effect").loc[ids].to_numpy(dtype=float)


@dataclass(frozen=True)
class Half:
    """Pairs by their numbers: those that ``choose`` sites, and those on which they are judged, named ``judged``."""

    judged: str
    choose: list[int]
    judge: list[int]


def halves(n: int, seed: int) -> list[Half]:
    """Two halves of ``n`` pairs, both ways round."""
    order = np.random.default_rng(seed).permutation(n).tolist()
    a, b = sorted(order[: n // 2]), sorted(order[n // 2 :])
    return [Half("half_b", a, b), Half("half_a", b, a)]
