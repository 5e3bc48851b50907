"""What a forward records of its activations, and what it changes in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RecordSpec:
    """What one forward records: sublayers at the ``n`` tokens ``(rows, nodes)``; from the ``q`` tokens
    ``(query_rows, query_nodes)``, each head's attention summed over the tokens of each role; and, with
    ``keys``, every layer's keys and values (see ``PrefixCache``)."""

    rows: Int[Tensor, " n"]
    nodes: Int[Tensor, " n"]
    query_rows: Int[Tensor, " q"] | None = None
    query_nodes: Int[Tensor, " q"] | None = None
    roles: Float[Tensor, "q pos role"] | None = None
    keys: bool = False


@dataclass
class ActivationRecord:
    """What one forward recorded, a list entry per layer.

    ``resid`` is the residual stream before the block, ``heads`` each head's output before the output
    projection, ``attn`` and ``mlp`` what the stream gains by the two sublayers, ``attention`` the weights by role in
    the layers that ``attention_layers`` names, ``keys`` and ``values`` those of all tokens (row, kv head, pos, d_head),
    after rotary embedding, ``final`` what went into the final norm.
    """

    resid: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    attn: list[Tensor] = field(default_factory=list)
    mlp: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    attention_layers: list[int] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    final: Tensor | None = None


@dataclass(frozen=True)
class Forward:
    """What one forward gives: ``hidden``, the states after the final norm, at all tokens (row, pos, d_model) or at
    those that were asked for (n, d_model), and what was recorded."""

    hidden: Float[Tensor, "*at d_model"]
    record: ActivationRecord


@dataclass(frozen=True)
class ActivationEdit:
    """At the ``k`` tokens ``(rows, nodes)``, a layer's head outputs, MLP write or, with ``stream``, the residual
    stream after it become ``values``; with ``add`` they have ``values`` added to them, with ``scale`` they are
    multiplied with them. With a ``basis`` of orthonormal rows the part of it in their span becomes the one whose
    coordinates are ``values``.

    ``heads`` (k,) names the head at each token; it is None for the MLP and the stream. ``values`` is (k, d_head)
    for heads and (k, d_model) for the others, or (k, 1) for ``scale``, (k, r) for a ``basis``.
    """

    layer: int
    rows: Int[Tensor, " k"]
    nodes: Int[Tensor, " k"]
    heads: Int[Tensor, " k"] | None
    values: Float[Tensor, "k d"]
    add: bool = False
    stream: bool = False
    scale: bool = False
    basis: Float[Tensor, "r d_model"] | None = None

    def apply(self, outputs: Tensor, at: tuple[Tensor, ...]) -> None:
        """Makes the edit in place, ``at`` being the index of the tokens."""
        values = self.values.to(outputs.dtype)
        if self.scale:
            values = values * outputs[at]
        if self.basis is not None:
            old, basis = outputs[at], self.basis.to(outputs)
            values = old + (values - old @ basis.T) @ basis
        outputs.index_put_(at, values, accumulate=self.add)
