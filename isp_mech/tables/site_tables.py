"""Sites in whatever form a user has them: as ``locate`` gave them, as a table, as sites, as texts, or by model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Protocol, runtime_checkable

import numpy as np

from isp_mech.errors import InputError
from isp_mech.sites import Site, all_sites, parse_site
from isp_mech.tables.table import Table

EXPECTED = "what locate gave, its table 'sites', sites such as 'a1.h3' or 'm1', or these by the model's name"


@runtime_checkable
class Located(Protocol):
    """What ``locate`` gives: among its tables is ``sites``."""

    @property
    def sites(self) -> Table: ...


SitesOfOne = Located | Table | Site | str | Iterable[Site | str]
AnySites = SitesOfOne | Mapping[str, SitesOfOne]


def sites_of(
    sites: AnySites, model_name: str, *, n_layers: int, n_heads: int, most: int | None = None, stream: bool = False
) -> tuple[Site, ...]:
    """The sites of one model, each once.

    Of what ``locate`` gave, or of its table ``sites``: the heads and MLPs that are significant there, strongest first
    (by the size of their mean effect), at most ``most``. Sites and texts are taken in the order in which they are
    given, those of a set layer by layer; one text may hold several (``"a1.h3 m1"``). Of a mapping: what it has under
    the model's name; none where it has nothing. ``InputError`` for a table without this model, for texts that are no
    sites, and for sites that a model of this shape does not have (with ``stream`` it has the residual stream's too).

    >>> sites_of({"small": "m1 a0.h2"}, "small", n_layers=2, n_heads=4)
    (Site(layer=1, kind='mlp', head=None), Site(layer=0, kind='head', head=2))
    """
    given = sites.get(model_name, ()) if isinstance(sites, Mapping) else sites
    if isinstance(given, Mapping):
        raise InputError("sites", [f"a mapping under {model_name!r}, expected {EXPECTED}"])
    located = given if isinstance(given, Table) else getattr(given, "sites", None)
    if isinstance(located, Table):
        chosen = _significant(located, model_name)[:most]
    elif isinstance(given, Site | str | Iterable):
        chosen = _parsed(given)
    else:
        raise InputError("sites", [f"{type(given).__name__}, expected {EXPECTED}"])
    known = frozenset(all_sites(n_layers, n_heads, stream=stream))
    shape = f"a head or MLP of {n_layers} layers x {n_heads} heads"
    unknown = [f"site {site}: expected {shape}" for site in chosen if site not in known]
    if unknown:
        raise InputError(model_name, unknown)
    return tuple(dict.fromkeys(chosen))


def pairs_in_turn(effects: np.ndarray) -> np.ndarray:
    """All pairs' numbers, of ``effects`` (pair, site): of every site the pair that it moves most, the site that moves
    pairs most on average first; then of every site the second; and so on.

    >>> pairs_in_turn(np.array([[2.0, 0.0], [-3.0, 1.0], [1.0, -9.0]])).tolist()
    [2, 1, 0]
    """
    size = np.nan_to_num(np.abs(effects))
    sites = np.argsort(-size.mean(axis=0), kind="stable")
    in_turn = np.argsort(-size[:, sites], axis=0, kind="stable").ravel()
    first = np.sort(np.unique(in_turn, return_index=True)[1])
    return np.asarray(in_turn[first])


def _significant(table: Table, model_name: str) -> list[Site]:
    if table.name != "sites":
        raise InputError("sites", [f"the table {table.name!r}, expected {EXPECTED}"])
    frame = table.frame
    names = list(dict.fromkeys(frame["model"]))
    if model_name not in names:
        raise InputError("sites", [f"no rows for {model_name!r}, found {', '.join(names) or 'none at all'}"])
    here = frame[(frame["model"] == model_name) & frame["significant"] & (frame["kind"] != "resid")]
    here = here.iloc[(-here["effect"].abs()).argsort(kind="stable")]
    return [
        Site(int(layer), kind, int(head) if kind == "head" else None)
        for layer, kind, head in zip(here["layer"], here["kind"], here["head"], strict=True)
    ]


def _parsed(given: Site | str | Iterable[Site | str]) -> list[Site]:
    one_by_one = [given] if isinstance(given, Site | str) else list(given)
    chosen: list[Site] = []
    problems = []
    for site in one_by_one:
        try:
            chosen += [parse_site(name) for name in site.split()] if isinstance(site, str) else [site]
        except ValueError as error:
            problems.append(str(error))
    problems += [f"{site!r}, expected {EXPECTED}" for site in chosen if not isinstance(site, Site)]
    if problems:
        raise InputError("sites", problems)
    return sorted(chosen, key=lambda s: (s.layer, s.kind, s.head or 0)) if isinstance(given, Set) else chosen
