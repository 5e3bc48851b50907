"""An intervention's text in words."""

from __future__ import annotations

import re

from isp_mech.report.wording import counted, listed

_PART = re.compile(r"(\w+)\(([^()]*)\)")
SHOWN = 3  # sites that are named


def change_words(text: str) -> str:
    """What an intervention does, in words; parts of one kind are told together.

    >>> change_words("block(quote_output; layers=all; heads=all) + block(question; layers=2-4; heads=all)")
    'blocking attention to quote_output and to question in layers 2-4'
    >>> change_words("reweight(definition; factor=2980.9; layers=all; heads=all)")
    'multiplying attention to definition by 2980'
    >>> change_words("scale(a1.h10 m2; alpha=0.0; at=onward) + scale(a3.h0; alpha=-1.5; at=onward)")
    'scaling a1.h10 and m2 by 0 and a3.h0 by −1.5'
    >>> change_words("steer(r3; vector=conflict-plain#db4c; alpha=4.0; at=onward)")
    'steering the stream after layer 3 by 4 times a difference of means (conflict-plain)'
    >>> change_words("swap(r2; subspace=trained#12ab; at=decision)")
    "swapping the stream after layer 2 along one trained direction between a pair's prompts"
    >>> change_words("none")
    'no change'
    """
    by_kind: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for kind, inside in _PART.findall(text):
        place, *cells = (cell.strip() for cell in inside.split(";"))
        given = {name: value for name, _, value in (cell.partition("=") for cell in cells)}
        by_kind.setdefault(kind, []).append((place, given))
    return listed([_told(kind, parts) for kind, parts in by_kind.items()]) or "no change"


def _told(kind: str, parts: list[tuple[str, dict[str, str]]]) -> str:
    if kind == "block":
        return f"blocking attention {listed([f'to {role}{_where(given)}' for role, given in parts])}"
    if kind == "reweight":
        told = [f"to {role}{_where(given)} by {_number(given['factor'])}" for role, given in parts]
        return f"multiplying attention {listed(told)}"
    if kind in ("steer", "swap"):
        verb = {"steer": "steering", "swap": "swapping"}[kind]
        layers = [f"after layer {place.removeprefix('r')}{_along(given)}" for place, given in parts]
        return f"{verb} the stream {listed(layers)}"
    sites = sum(len(place.split()) for place, _ in parts)
    if sites > SHOWN:
        first = listed([_site(kind, place, given) for place, given in parts[:SHOWN]])
        return f"{_VERBS[kind]} {counted(sites, 'head or MLP', 'heads and MLPs')} ({first}, ...)"
    return f"{_VERBS[kind]} {listed([_site(kind, place, given) for place, given in parts])}"


_VERBS = {"scale": "scaling", "replace": "replacing", "replay": "replaying"}


def _site(kind: str, place: str, given: dict[str, str]) -> str:
    named = listed(place.split())
    if kind == "replace":
        return f"{named} by its {given['with'].partition('#')[0]}"
    return f"{named} by {_number(given['alpha'])}" if kind == "scale" else f"{named} {_number(given['alpha'])} times"


def _where(given: dict[str, str]) -> str:
    layers, heads = given["layers"], given["heads"]
    of_layers = "" if layers == "all" else f" in layer{'s' * (not layers.isdigit())} {layers}"
    return of_layers + ("" if heads == "all" else f" (head{'s' * (not heads.isdigit())} {heads})")


def _along(given: dict[str, str]) -> str:
    source = given.get("vector", given.get("subspace", "")).partition("#")[0]
    if source == "trained":
        return " along one trained direction between a pair's prompts"
    if "alpha" not in given:
        return f" in a difference of means ({source})"
    return f" by {_number(given['alpha'])} times a difference of means ({source})"


def _number(text: str) -> str:
    value = float(text)
    return f"{round(value, -1):.0f}" if value >= 1000 else f"{value:.3g}".replace("-", "−")
