"""The parts of an intervention: one change of a forward each, as values that print and parse back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, get_args

import numpy as np

from isp_mech.errors import InputError
from isp_mech.sites import DECISION, REPLACEMENTS, Site, parse_site

Kind = Literal["replace", "scale", "block", "reweight", "replay", "steer", "swap"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ONWARD = "onward"
DIFFERENCES = ("conflict-plain", "followed-overridden")  # of means of the residual stream: recipes of vectors
TRAINED = "trained"  # of a subspace: by distributed alignment search
SETTINGS: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "replace": ("with", "at"),
        "scale": ("alpha", "at"),
        "block": ("layers", "heads"),
        "reweight": ("factor", "layers", "heads"),
        "replay": ("alpha", "at"),
        "steer": ("vector", "alpha", "at"),
        "swap": ("subspace", "at"),
    }
)
OF_ATTENTION: tuple[Kind, ...] = ("block", "reweight")
Sites = str | Site | Iterable[Site]
_PART = re.compile(r"\s*(\w+)\(([^()]*)\)\s*")


@dataclass(frozen=True)
class Part:
    """One change. ``number`` is the alpha or the factor, ``source`` what replaces, the vector or the subspace. What a
    kind does not have is as by default; ``InputError`` for what cannot be."""

    kind: Kind
    sites: tuple[Site, ...] = ()
    role: str = ""
    number: float = 1.0
    source: str = ""
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    at: str = DECISION

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in KINDS:
            raise InputError("intervention", [f"kind {self.kind!r}: expected one of {', '.join(KINDS)}"])
        of_stream = self.kind in ("steer", "swap")
        if self.kind in OF_ATTENTION and not self.role:
            problems.append(f"{self.kind}: no role, expected the name of one")
        if of_stream and (len(self.sites) != 1 or self.sites[0].kind != "resid"):
            problems.append(f"{self.kind}: {' '.join(map(str, self.sites))!r}, expected one layer's stream, such as r3")
        if not of_stream and any(site.kind == "resid" for site in self.sites):
            problems.append(f"{self.kind}: the residual stream is no site of it, expected heads and MLPs")
        if not math.isfinite(self.number) or (self.kind == "reweight" and self.number <= 0):
            expected = "a number over 0" if self.kind == "reweight" else "a finite number"
            problems.append(f"{self.kind}: {self.number!r}, expected {expected}")
        of_kind = {"replace": REPLACEMENTS, "steer": DIFFERENCES, "swap": (*DIFFERENCES, TRAINED)}
        known = of_kind.get(self.kind, ("",))
        if self.source.split("#")[0] not in known:
            problems.append(f"{self.kind}: {self.source!r}, expected one of {', '.join(known)}")
        if not re.fullmatch(r"\w+", self.at) or (self.role and not re.fullmatch(r"[\w-]+", self.role)):
            problems.append(f"{self.kind}: role {self.role or self.at!r}, expected letters, digits and _")
        if problems:
            raise InputError("intervention", problems)

    @property
    def changes_nothing(self) -> bool:
        """Whether it leaves every forward as it is: no sites, layers or heads, alpha or factor 1 (or 0, of what is
        added)."""
        if self.kind in OF_ATTENTION:
            return () in (self.layers, self.heads) or (self.kind == "reweight" and self.number == 1)
        neutral = {"scale": 1.0, "replay": 0.0, "steer": 0.0}.get(self.kind)
        return not self.sites or self.number == neutral

    @property
    def is_fitted(self) -> bool:
        """Whether the vectors it needs stand in arrays, or none are needed."""
        return "#" in self.source or self.source in ("", "zero")

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be known of a prompt."""
        of_pairs = [] if self.is_fitted else [f"the pairs ({self.source})"]
        other = ["the pair's other prompt"] if self.kind == "swap" else []
        return (*(f"spans of {role}" for role in self.roles), *of_pairs, *other)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles whose spans have to be known."""
        return tuple(name for name in (self.role, self.at) if name not in ("", DECISION, ONWARD))

    def __str__(self) -> str:
        values = {
            "with": self.source,
            "vector": self.source,
            "subspace": self.source,
            "alpha": f"{self.number!r}",
            "factor": f"{self.number!r}",
            "layers": _numbers(self.layers),
            "heads": _numbers(self.heads),
            "at": self.at,
        }
        place = self.role or " ".join(map(str, self.sites))
        return f"{self.kind}({'; '.join([place, *(f'{name}={values[name]}' for name in SETTINGS[self.kind])])})"


class Made(Protocol):
    """What is done together, and the vectors that it needs, under a part's source and the site."""

    @property
    def parts(self) -> tuple[Part, ...]: ...

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...


def parse_part(text: str) -> Part:
    match = _PART.fullmatch(text)
    kind = match[1] if match else ""
    if match is None or kind not in KINDS:
        expected = "expected a text such as 'block(question; layers=all; heads=all)' of kind " + ", ".join(KINDS)
        raise InputError("intervention", [f"{text!r}: {expected}"])
    known: Kind = next(k for k in KINDS if k == kind)
    place, *cells = (cell.strip() for cell in match[2].split(";"))
    given = {name.strip(): value.strip() for name, _, value in (cell.partition("=") for cell in cells)}
    if set(given) != set(SETTINGS[known]) or len(cells) != len(given):
        raise InputError("intervention", [f"{text!r}: expected {kind}(...; {'; '.join(SETTINGS[known])})"])
    try:
        return Part(
            known,
            () if known in OF_ATTENTION else ordered_sites(place),
            place if known in OF_ATTENTION else "",
            float(given.get("alpha", given.get("factor", "1"))),
            given.get("with", given.get("vector", given.get("subspace", ""))),
            _parse_numbers(given.get("layers", "all")),
            _parse_numbers(given.get("heads", "all")),
            given.get("at", DECISION),
        )
    except ValueError as error:
        raise InputError("intervention", [f"{text!r}: {error}"]) from None


def ordered_sites(given: Sites) -> tuple[Site, ...]:
    if isinstance(given, Site):
        return (given,)
    sites = [parse_site(name) for name in given.split()] if isinstance(given, str) else list(given)
    return tuple(sorted(dict.fromkeys(sites), key=lambda site: (site.layer, site.kind, site.head or 0)))


def ordered_numbers(numbers: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if numbers is None else tuple(sorted(set(numbers)))


def _numbers(numbers: tuple[int, ...] | None) -> str:
    """As ``all``, or runs such as ``0-2,5``."""
    if numbers is None:
        return "all"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "none"


def _parse_numbers(text: str) -> tuple[int, ...] | None:
    if text in ("all", "none"):
        return None if text == "all" else ()

    def each() -> Iterator[int]:
        for run in text.split(","):
            first, _, last = run.partition("-")
            yield from range(int(first), int(last or first) + 1)

    return tuple(each())
