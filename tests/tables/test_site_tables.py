from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isp_mech.errors import InputError
from isp_mech.sites import Site, all_sites
from isp_mech.tables import SCHEMAS, Table, make_run, sites_of, table

RUN = make_run(model="small, large", task="t", method="locate")
SHAPE = {"n_layers": 2, "n_heads": 4}
HEAD, MLP = Site(0, "head", 2), Site(1, "mlp")


@dataclass(frozen=True)
class Located:
    effects: Table
    sites: Table


def site_rows(*sites: tuple[str, str, float, bool]) -> Table:
    """``(model, site, effect, significant)`` as a table of sites."""
    rows = []
    for model, name, effect, significant in sites:
        kind = {"a": "head", "m": "mlp", "r": "resid"}[name[0]]
        layer, _, head = name[1:].partition(".h")
        known = {"layer": int(layer), "kind": kind, "head": int(head) if head else None, "effect": effect}
        row = {c.name: None if c.nullable else 0 for c in SCHEMAS["sites"] if c.default is None}
        rows.append(row | known | {"model": model, "task": "t", "significant": significant})
    return table("sites", rows, RUN)


MADE = site_rows(
    ("small", "a0.h2", 0.5, True),
    ("small", "a1.h0", 9.0, False),
    ("small", "m1", -2.0, True),
    ("small", "r1", 7.0, True),
    ("large", "m0", 1.0, True),
    ("small", "a1.h1", -0.5, True),
)


@pytest.mark.parametrize("given", [MADE, Located(table("effects", [], RUN), MADE), {"small": MADE}])
def test_of_located_sites_the_significant_ones_strongest_first(given):
    assert sites_of(given, "small", **SHAPE) == (MLP, HEAD, Site(1, "head", 1))
    assert sites_of(given, "small", most=1, **SHAPE) == (MLP,)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([MLP, HEAD, MLP], (MLP, HEAD)),
        ((site for site in (MLP, HEAD)), (MLP, HEAD)),
        ({MLP, HEAD}, (HEAD, MLP)),
        (frozenset({MLP, HEAD}), (HEAD, MLP)),
        ("m1 a0.h2", (MLP, HEAD)),
        (["m1", HEAD], (MLP, HEAD)),
        (HEAD, (HEAD,)),
        ([], ()),
        ({"small": ["m1"], "large": "m0"}, (MLP,)),
        ({"large": "m0"}, ()),
    ],
)
def test_given_sites_are_taken_as_they_are(given, expected):
    assert sites_of(given, "small", **SHAPE) == expected


@given(st.lists(st.sampled_from(all_sites(2, 4))))
def test_sites_and_their_names_are_the_same(sites):
    assert (
        sites_of(" ".join(map(str, sites)), "m", **SHAPE)
        == sites_of(sites, "m", **SHAPE)
        == tuple(dict.fromkeys(sites))
    )


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (table("effects", [], RUN), ["the table 'effects', expected what locate gave, its table 'sites'"]),
        (site_rows(("large", "m0", 1.0, True)), ["no rows for 'small', found large"]),
        (table("sites", [], RUN), ["no rows for 'small', found none at all"]),
        (["m1", "x1", "head 2"], ["site 'x1': expected a name such as a5.h3", "site 'head': expected a name"]),
        ([1, HEAD], ["1, expected what locate gave"]),
        (7, ["int, expected what locate gave"]),
        ({"small": {"small": "m1"}}, ["a mapping under 'small', expected"]),
        (["m2", "a0.h4", "r0"], ["site m2: expected a head or MLP of 2 layers x 4 heads", "site a0.h4: ", "site r0: "]),
    ],
)
def test_what_cannot_be_sites_is_said_at_once(given, problems):
    with pytest.raises(InputError) as caught:
        sites_of(given, "small", **SHAPE)
    assert len(caught.value.problems) == len(problems)
    assert all(said.startswith(begins) for said, begins in zip(caught.value.problems, problems, strict=True))


def test_the_residual_stream_is_a_site_where_it_may_be():
    assert sites_of("r0", "m", stream=True, **SHAPE) == (Site(0, "resid"),)
