"""Changes of a forward, as values: of what sites write, of the residual stream, of attention to tokens.

A change says at which tokens it is made: at those of each prompt, at the decision position and all tokens of the
completions after it (``onward``), or where whoever runs it says (None). Attention is changed from the decision position
and the completions' tokens. Several changes together are a tuple, made in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isp_mech.causal.replacements import SiteOutputs
from isp_mech.errors import InputError
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.models import Model
from isp_mech.sites import Site, all_sites

Tokens = Sequence[Sequence[int]]  # of each prompt, those at which something is changed
At = Tokens | Literal["onward"] | None


@dataclass(frozen=True, eq=False)
class Patch:
    """The sites' outputs become ``values``, those of the same prompt. No sites: nothing is changed."""

    sites: frozenset[Site]
    values: SiteOutputs
    at: At = None


@dataclass(frozen=True, eq=False)
class Scale:
    """The sites' outputs are multiplied by ``alpha``, each as it comes out with those before it scaled already."""

    sites: frozenset[Site]
    alpha: float
    at: At = None


@dataclass(frozen=True, eq=False)
class Add:
    """``alpha`` times ``values``, those of the same prompt, is added to the sites' outputs."""

    sites: frozenset[Site]
    values: SiteOutputs
    alpha: float
    at: At = None


@dataclass(frozen=True, eq=False)
class Replay:
    """``alpha`` times what each head or MLP writes at a token in the unchanged forward is added to what it writes
    there now."""

    sites: frozenset[Site]
    alpha: float
    at: At = None


@dataclass(frozen=True, eq=False)
class Project:
    """The part of the residual stream after ``layer`` in the span of ``basis``, whose rows are orthonormal, becomes
    the one with the coordinates ``values``."""

    layer: int
    basis: Float[Tensor, "r d_model"]
    values: Float[Tensor, "prompt r"]
    at: At = None

    @property
    def sites(self) -> frozenset[Site]:
        return frozenset({Site(self.layer, "resid")} if len(self.basis) else ())


@dataclass(frozen=True, eq=False)
class Block:
    """No attention to each prompt's ``tokens``, which stand before the decision position, in ``layers`` and ``heads``
    (None: all of them)."""

    tokens: Tokens
    layers: frozenset[int]
    heads: frozenset[int] | None = None

    @property
    def log_factor(self) -> float:
        return -float("inf")


@dataclass(frozen=True, eq=False)
class Reweight:
    """``log_factor`` is added to the attention scores towards each prompt's ``tokens``, which stand before the decision
    position, in ``layers`` and ``heads`` (None: all of them). It is before the softmax: the weights still sum to 1."""

    tokens: Tokens
    log_factor: float
    layers: frozenset[int]
    heads: frozenset[int] | None = None


OfSites = Patch | Scale | Add | Replay | Project
OfAttention = Block | Reweight
Change = OfSites | OfAttention
Together = Change | tuple[Change, ...]


def as_tuples(changes: Iterable[Together]) -> list[tuple[Change, ...]]:
    """Each change, or several together, as a tuple."""
    return [change if isinstance(change, tuple) else (change,) for change in changes]


def changes_attention(together: Sequence[tuple[Change, ...]]) -> bool:
    return any(isinstance(change, OfAttention) for changes in together for change in changes)


def layers_of(change: Change) -> frozenset[int]:
    """The layers that a change touches; none where it changes nothing."""
    if isinstance(change, OfAttention):
        nothing = change.log_factor == 0 or not any(map(len, change.tokens)) or change.heads == frozenset()
        return frozenset() if nothing else change.layers
    if isinstance(change, Scale) and change.alpha == 1:
        return frozenset()
    if isinstance(change, Add | Replay) and change.alpha == 0:
        return frozenset()
    if isinstance(change, Add) and not _adds_something(change):
        return frozenset()
    return frozenset(site.layer for site in change.sites)


def _adds_something(change: Add) -> bool:
    of_kind = {"head": change.values.heads, "mlp": change.values.mlps, "resid": change.values.stream}
    kinds = [of_kind[kind] for kind in {site.kind for site in change.sites}]
    return any(values is not None and bool(values.any()) for values in kinds)


def first_layer(changes: Sequence[Change], n_layers: int) -> int:
    """The first layer that is touched; ``n_layers`` where nothing is changed."""
    return min((layer for change in changes for layer in layers_of(change)), default=n_layers)


def for_prompts(together: Sequence[tuple[Change, ...]], rows: Sequence[int], device: str) -> list[tuple[Change, ...]]:
    """The changes for some of the prompts, on a device; what several changes share, they share still."""
    values: dict[int, SiteOutputs] = {}
    tokens: dict[int, Tokens] = {}

    def of_values(given: SiteOutputs) -> SiteOutputs:
        if id(given) not in values:
            values[id(given)] = given.map(lambda x: _rows_of(x, rows).to(device))
        return values[id(given)]

    def of_tokens(given: Tokens) -> Tokens:
        if id(given) not in tokens:
            tokens[id(given)] = [given[i] for i in rows]
        return tokens[id(given)]

    def of_place(given: At) -> At:
        return given if given is None or isinstance(given, str) else of_tokens(given)

    def of(change: Change) -> Change:
        if isinstance(change, OfAttention):
            return replace(change, tokens=of_tokens(change.tokens))
        if not change.sites:
            return replace(change, at=None)
        if isinstance(change, Patch | Add):
            return replace(change, values=of_values(change.values), at=of_place(change.at))
        if isinstance(change, Project):
            basis = change.basis.to(device)
            return replace(change, values=change.values[list(rows)].to(device), basis=basis, at=of_place(change.at))
        return replace(change, at=of_place(change.at))

    return [tuple(of(change) for change in changes) for changes in together]


def _rows_of(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Those of some prompts: a view where all prompts have the same."""
    return x[:1].expand(len(rows), *x.shape[1:]) if len(x) and x.stride(0) == 0 else x[list(rows)]


def check_sites(sites: Sequence[Site], model: Model, *, stream: bool = False) -> None:
    """``InputError`` that names every site that is no head or MLP of the model (nor, with ``stream``, its stream)."""
    shape = model.architecture
    known = set(all_sites(shape.n_layers, shape.n_heads, stream=stream))
    unknown = sorted({str(site) for site in sites if site not in known})
    if unknown:
        expected = f"expected a head or MLP of {shape.n_layers} layers x {shape.n_heads} heads"
        raise InputError(model.name, [f"site {site}: {expected}" for site in unknown])


def check_changes(together: Sequence[tuple[Change, ...]], prompts: Sequence[ContrastPrompt], model: Model) -> None:
    """``InputError`` for sites, layers and heads that the model does not have, for a number that is not finite, for
    attention that accepts no change, and for tokens that are not to be taken away or that stand too late."""
    for stream in (False, True):
        sites = {site for change in _of(together, OfSites) if stream == _has_stream(change) for site in change.sites}
        check_sites(sorted(sites, key=str), model, stream=stream)
    of_attention = list(_of(together, OfAttention))
    if of_attention and not model.accepts_custom_masks:
        raise InputError(model.name, ["blocking attention needs an attention that accepts custom masks"])
    shape, problems = model.architecture, []
    for change in _of(together, Scale | Add | Replay):
        if not np.isfinite(change.alpha):
            problems.append(f"alpha {change.alpha!r}: expected a finite number")
    for tokens in {id(change.tokens): change.tokens for change in of_attention}.values():
        problems += [
            f"{prompt.owner}: attention to token {max(mine)} cannot be changed: expected tokens before the decision "
            f"position, token {prompt.shared - 1}, which always sees itself"
            for prompt, mine in zip(prompts, tokens, strict=True)
            if len(mine) and max(mine) >= prompt.shared - 1
        ]
    for change in of_attention:
        if np.isnan(change.log_factor) or change.log_factor == np.inf:
            problems.append(f"log factor {change.log_factor!r}: expected a number, or minus infinity to block")
        problems += [f"layer {i}: expected 0 to {shape.n_layers - 1}" for i in change.layers if i >= shape.n_layers]
        heads = change.heads or ()
        problems += [f"head {i}: expected 0 to {shape.n_heads - 1}" for i in heads if i >= shape.n_heads]
    if problems:
        raise InputError(model.name, list(dict.fromkeys(problems)))


def _of(together: Sequence[tuple[Change, ...]], kinds: Any) -> Iterator[Any]:
    return (change for changes in together for change in changes if isinstance(change, kinds))


def _has_stream(change: OfSites) -> bool:
    return isinstance(change, Project) or (isinstance(change, Patch | Add) and change.values.has_stream)


def zero_outputs(n: int, model: Model) -> SiteOutputs:
    """Outputs of every site, the residual stream's too, that are nothing."""
    shape = model.architecture
    wide = torch.zeros(1, shape.n_layers, shape.d_model).expand(n, -1, -1)
    return SiteOutputs(torch.zeros(1, shape.n_layers, shape.n_heads, shape.d_head).expand(n, -1, -1, -1), wide, wide)
