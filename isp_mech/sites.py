"""Names of places in a model.

    >>> str(Site(5, "head", 3)), str(Site(5, "mlp")), str(Site(5, "resid"))
    ('a5.h3', 'm5', 'r5')

A set of sites is a plain ``frozenset``. Pure Python: nothing here knows of tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["head", "mlp", "resid"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DECISION = "decision"  # positions of sites: the last token that both completions have in common, or a role's name
Replacement = Literal["mean", "resample", "plain", "zero"]  # what replaces the output of a site
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)
Tokens = Literal["first", "all"]  # of the completions: which of them a margin is of
Method = Literal["exact", "exhaustive", "attribution", "integrated"]  # by which the total effect of a site is measured
METHODS: tuple[Method, ...] = get_args(Method)
Searched = Literal["replace", "scale", "block", "reweight", "replay", "steer", "swap"]  # kinds of interventions
SEARCHED: tuple[Searched, ...] = get_args(Searched)
_PATTERN = re.compile(r"a(\d+)\.h(\d+)|m(\d+)|r(\d+)")


@dataclass(frozen=True)
class Site:
    """One place: a head ``a5.h3``, an MLP ``m5``, or the residual stream after block 5, ``r5``.

    ``layer`` and ``head`` count from zero; ``head`` is given for heads only. Raises ``ValueError``
    for a negative number, an unknown kind, or a head where there is none.
    """

    layer: int
    kind: Kind
    head: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"site kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.layer < 0:
            raise ValueError(f"site layer {self.layer}: expected 0 or more")
        if (self.head is not None) != (self.kind == "head"):
            raise ValueError(f"site kind {self.kind!r} with head {self.head!r}: a head number goes with kind 'head'")
        if self.head is not None and self.head < 0:
            raise ValueError(f"site head {self.head}: expected 0 or more")

    def __str__(self) -> str:
        return f"a{self.layer}.h{self.head}" if self.kind == "head" else f"{self.kind[0]}{self.layer}"


def parse_site(text: str) -> Site:
    """The site that prints as ``text``; ``ValueError`` says what was expected.

    >>> parse_site("m0")
    Site(layer=0, kind='mlp', head=None)
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"site {text!r}: expected a name such as a5.h3 (head), m5 (MLP) or r5 (residual stream)")
    layer_of_head, head, mlp, resid = match.groups()
    if head is not None:
        return Site(int(layer_of_head), "head", int(head))
    return Site(int(mlp), "mlp") if mlp is not None else Site(int(resid), "resid")


def all_sites(n_layers: int, n_heads: int, *, stream: bool = False) -> tuple[Site, ...]:
    """Every head and every MLP of a model, layer by layer, heads before the MLP; with ``stream`` the residual
    stream after each layer too.

    >>> [str(s) for s in all_sites(1, 2, stream=True)]
    ['a0.h0', 'a0.h1', 'm0', 'r0']
    """
    last: tuple[Kind, ...] = ("mlp", "resid") if stream else ("mlp",)
    return tuple(
        site
        for layer in range(n_layers)
        for site in (*(Site(layer, "head", head) for head in range(n_heads)), *(Site(layer, kind) for kind in last))
    )
