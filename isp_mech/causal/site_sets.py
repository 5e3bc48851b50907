"""Sites as a user gives them, and pairs in halves: one that chooses sites, and one on which they are judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from isp_mech.causal.activation_patching import check_sites
from isp_mech.causal.locate import Sites
from isp_mech.errors import InputError
from isp_mech.models import Model
from isp_mech.sites import Site, parse_site
from isp_mech.tables import Table
from isp_mech.tasks import PairSet

SomeSites = Collection[Site | str]
SitesGiven = Sites | Table | SomeSites | Mapping[str, SomeSites]
EffectsGiven = Sites | Table


def sites_for(sites: SitesGiven, model: Model, *, strongest: int | None = None) -> tuple[Site, ...]:
    """The sites of one model, layer by layer, heads before the MLP.

    ``sites`` is what ``locate`` gave or its Table ``sites``: those that are significant there, the ``strongest`` of
    them by the size of their effect; or sites, or their names, the same for all models or by the model's name.
    ``InputError`` for a table without the model, names that are no sites, and sites that the model does not have.
    """
    if isinstance(sites, Sites | Table):
        given = _located(sites.sites if isinstance(sites, Sites) else sites, model.name)[:strongest]
    else:
        mine = sites.get(model.name, ()) if isinstance(sites, Mapping) else sites
        given = [_parsed(site) for site in mine]
    check_sites(given, model)
    return tuple(sorted(set(given), key=lambda site: (site.layer, site.kind, site.head or 0)))


def _located(table: Table, model: str) -> list[Site]:
    """The significant sites of a model in a Table ``sites``, strongest first."""
    if table.name != "sites":
        raise InputError("sites", [f"table {table.name}: expected the table sites that locate gives"])
    frame = table.frame
    if model not in set(frame["model"]):
        raise InputError("sites", [f"no rows for {model}, found {', '.join(sorted(set(frame['model'])))}"])
    here = frame[(frame["model"] == model) & frame["significant"] & (frame["kind"] != "resid")]
    here = here.loc[here["effect"].abs().sort_values(ascending=False, kind="stable").index]
    numbers = here["head"].fillna(-1).astype(int)
    return [
        Site(int(layer), kind, None if head < 0 else int(head))
        for layer, kind, head in zip(here["layer"], here["kind"], numbers, strict=True)
    ]


def _parsed(site: Site | str) -> Site:
    if isinstance(site, Site):
        return site
    try:
        return parse_site(site)
    except ValueError as error:
        raise InputError("sites", [str(error)]) from None


def effects_by_pair(effects: EffectsGiven, model: Model, pairs: PairSet, replacement: str) -> np.ndarray:
    """(pair, site): one model's effects, pairs in their order and sites in that of ``all_sites``.

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
