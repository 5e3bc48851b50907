"""The words of one forward: the trees it runs, what it keeps, what it changes, which tokens it computes."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Token trees, one a row, padded on the right.

    ``depth`` counts a token's ancestors: it is its position id. ``visible[row, i, j]`` is True where
    ``j`` is ``i`` or one of its ancestors; it is None where every row is a plain chain of tokens, for
    which causal attention says the same.
    """

    ids: Int[Tensor, "row pos"]
    depth: Int[Tensor, "row pos"]
    visible: Bool[Tensor, "row pos pos"] | None = None

    def seen_from(self, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"]) -> Bool[Tensor, "n pos"]:
        """What each of ``n`` tokens may attend to, itself included."""
        if self.visible is not None:
            return self.visible[rows, nodes]
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None, :] <= nodes[:, None]


@dataclass(frozen=True)
class TokenPlaces:
    """``n`` tokens of a batch, each by its row and its node in the row."""

    rows: Int[Tensor, " n"]
    nodes: Int[Tensor, " n"]


@dataclass(frozen=True)
class RecordSpec:
    """What one forward keeps: sublayers at the ``n`` tokens ``(rows, nodes)``; from the ``q`` tokens
    ``(query_rows, query_nodes)``, each head's attention summed over the tokens of each role; and, with
    ``keys``, every layer's keys and values, for branches to run over (see ``PrefixCache``)."""

    rows: Int[Tensor, " n"]
    nodes: Int[Tensor, " n"]
    query_rows: Int[Tensor, " q"] | None = None
    query_nodes: Int[Tensor, " q"] | None = None
    roles: Float[Tensor, "q pos role"] | None = None
    keys: bool = False


@dataclass
class ActivationRecord:
    """What a watched forward kept, a list entry per layer.

    ``resid`` is the residual stream before the block, ``heads`` each head's output before the output
    projection, ``attn`` and ``mlp`` what the two sublayers wrote (after a post-norm where there is
    one), ``attention`` the weights by role, ``keys`` and ``values`` those of all tokens (row, kv head,
    pos, d_head), after rotary embedding, ``final`` what went into the final norm.
    """

    resid: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    attn: list[Tensor] = field(default_factory=list)
    mlp: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
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
class PrefixCache:
    """What copies of a row's last tokens run over: a forward that is done already.

    Each copy has ``t`` tokens: ``visible_within[row, c, i, j]`` is True where token ``i`` of copy c sees its token
    ``j`` (one copy stands for all that are alike). All of them see the earlier tokens where ``visible_prefix`` is
    True, and nothing of other copies. ``depth`` are the earlier tokens' position ids. ``resid`` holds each layer's
    input at the ``t`` tokens of the copy that nothing was changed in, so that a run may start at any layer. In the
    layers of ``blocked_layers`` the earlier tokens where ``blocked`` is True are not seen.
    """

    keys: Sequence[Float[Tensor, "row kv pos d_head"]]
    values: Sequence[Float[Tensor, "row kv pos d_head"]]
    visible_prefix: Bool[Tensor, "row pos"]
    depth: Int[Tensor, "row pos"]
    visible_within: Bool[Tensor, "row copies_or_one t t"]
    resid: Sequence[Float[Tensor, "row t d_model"]]
    blocked: Bool[Tensor, "row pos"] | None = None
    blocked_layers: frozenset[int] = frozenset()

    @classmethod
    def before(
        cls,
        ends: Sequence[int],
        record: ActivationRecord,
        batch: Batch,
        visible_within: Tensor,
        resid: Sequence[Tensor] = (),
    ) -> PrefixCache:
        """What stands before node ``ends[row]`` of each row of a forward that kept its keys and values."""
        pos, device = max(1, *ends), record.keys[0].device  # one that none reaches, where all copies begin at the start
        visible_prefix = torch.arange(pos, device=device) < torch.tensor(list(ends), device=device)[:, None]
        keys, values = ([x[:, :, :pos] for x in kept] for kept in (record.keys, record.values))
        return cls(keys, values, visible_prefix, batch.depth[:, :pos].to(device), visible_within.to(device), resid)

    @classmethod
    def along(
        cls,
        rows: Int[Tensor, " n"],
        paths: Sequence[Sequence[int]],
        record: ActivationRecord,
        batch: Batch,
        visible_within: Tensor,
        resid: Sequence[Tensor] = (),
    ) -> PrefixCache:
        """What stands at the nodes of each of ``n`` paths, the i-th in row ``rows[i]`` of a forward that kept its keys
        and values; paths may have nodes in common."""
        ends = [len(path) for path in paths]
        if rows.tolist() == list(range(len(batch.ids))) and all(list(p) == list(range(len(p))) for p in paths):
            return cls.before(ends, record, batch, visible_within, resid)
        pos, device = max(1, *ends), record.keys[0].device
        nodes = torch.tensor([[*path, *[0] * (pos - len(path))] for path in paths])
        row = rows[:, None].expand(-1, pos)
        keys, values = (
            [x[row.to(x.device), :, nodes.to(x.device)].transpose(1, 2) for x in kept]
            for kept in (record.keys, record.values)
        )
        visible_prefix = torch.arange(pos, device=device) < torch.tensor(ends, device=device)[:, None]
        return cls(keys, values, visible_prefix, batch.depth[row, nodes].to(device), visible_within.to(device), resid)


@dataclass(frozen=True)
class ActivationEdit:
    """At the ``k`` tokens ``(rows, nodes)``, a layer's head outputs, MLP write or, with ``stream``, the residual
    stream after it become ``values``; with ``add`` they have ``values`` added to them, with ``scale`` they are
    multiplied with them.

    ``heads`` (k,) names the head at each token; it is None for the MLP and the stream. ``values`` is (k, d_head)
    for heads and (k, d_model) for the others, or (k, 1) for ``scale``.
    """

    layer: int
    rows: Int[Tensor, " k"]
    nodes: Int[Tensor, " k"]
    heads: Int[Tensor, " k"] | None
    values: Float[Tensor, "k d"]
    add: bool = False
    stream: bool = False
    scale: bool = False

    def change(self, outputs: Tensor, at: tuple[Tensor, ...]) -> None:
        """Makes the change in place, ``at`` being the index of the tokens."""
        values = self.values.to(outputs.dtype)
        if self.scale:
            values = values * outputs[at]
        outputs.index_put_(at, values, accumulate=self.add)


@dataclass(frozen=True)
class Encoding:
    """A text's tokens with the half-open character span of each; added special tokens span nothing."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(eq=False)
class TokenSelection:
    """The tokens at which the last layer is computed: ``nodes[row, i]``, filled up with repeats.

    ``column[row, node]`` is a token's place in ``nodes``; ``layer`` is the last layer's number. ``keys``
    and ``values`` are the last layer's, of all tokens, once they are known.
    """

    nodes: Int[Tensor, "row m"]
    column: Int[Tensor, "row pos"]
    layer: int
    keys: Tensor | None = None
    values: Tensor | None = None

    @property
    def is_worth_it(self) -> bool:
        """Whether at most half of the tokens are computed: the layer's first part runs twice."""
        return 2 * self.nodes.numel() <= self.column.numel()


@dataclass(frozen=True)
class ForwardContext:
    """What the hooks and the attention function of one forward are to know."""

    batch: Batch
    spec: RecordSpec | None
    record: ActivationRecord
    prefix: PrefixCache | None = None
    selection: TokenSelection | None = None


CONTEXT: ContextVar[ForwardContext | None] = ContextVar("isp_mech_forward", default=None)


def mask_of(batch: Batch, dtype: torch.dtype) -> Tensor | None:
    if batch.visible is None:
        return None
    mask = torch.zeros(batch.visible.shape, dtype=dtype, device=batch.visible.device)
    return mask.masked_fill_(~batch.visible, torch.finfo(dtype).min)[:, None]
