"""One forward over a batch of token trees: what it keeps, what it changes, how it attends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from isp_mech.models.anatomy import Anatomy, repeat_heads
from isp_mech.models.branching import attend_over_trunk

ATTENTION = "isp_mech"


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
class Watch:
    """What one forward keeps: sublayers at the ``n`` tokens ``(rows, nodes)``; from the ``q`` tokens
    ``(query_rows, query_nodes)``, each head's attention summed over the tokens of each role; and, with
    ``keys``, every layer's keys and values, for branches to run over (see ``Trunk``)."""

    rows: Int[Tensor, " n"]
    nodes: Int[Tensor, " n"]
    query_rows: Int[Tensor, " q"] | None = None
    query_nodes: Int[Tensor, " q"] | None = None
    roles: Float[Tensor, "q pos role"] | None = None
    keys: bool = False


@dataclass
class Record:
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
class Trunk:
    """What copies of a row's last tokens run over: a forward that is done already.

    A copy has the ``t`` tokens of ``own``, and ``own[row, c, i, j]`` is True where token ``i`` of copy c
    sees its token ``j`` (one copy stands for all that are alike); all of them see the earlier tokens where
    ``reach`` is True, and nothing of other copies.
    ``depth`` are the earlier tokens' position ids. ``resid`` holds each layer's input at the ``t`` tokens
    of the copy that nothing was changed in, so that a run may start at any layer.
    """

    keys: Sequence[Float[Tensor, "row kv pos d_head"]]
    values: Sequence[Float[Tensor, "row kv pos d_head"]]
    reach: Bool[Tensor, "row pos"]
    depth: Int[Tensor, "row pos"]
    own: Bool[Tensor, "row copies_or_one t t"]
    resid: Sequence[Float[Tensor, "row t d_model"]]

    @classmethod
    def before(
        cls, ends: Sequence[int], record: Record, batch: Batch, own: Tensor, resid: Sequence[Tensor] = ()
    ) -> Trunk:
        """What stands before node ``ends[row]`` of each row of a forward that kept its keys and values."""
        pos, device = max(ends), record.keys[0].device
        reach = torch.arange(pos, device=device) < torch.tensor(list(ends), device=device)[:, None]
        keys, values = ([x[:, :, :pos] for x in kept] for kept in (record.keys, record.values))
        return cls(keys, values, reach, batch.depth[:, :pos].to(device), own.to(device), resid)


@dataclass(frozen=True)
class Edit:
    """At the ``k`` tokens ``(rows, nodes)``, a layer's head outputs or MLP write become ``values``.

    ``heads`` (k,) names the head at each token; it is None for the MLP. ``values`` is (k, d_head) for
    heads and (k, d_model) for the MLP.
    """

    layer: int
    rows: Int[Tensor, " k"]
    nodes: Int[Tensor, " k"]
    heads: Int[Tensor, " k"] | None
    values: Float[Tensor, "k d"]


@dataclass(frozen=True)
class Encoding:
    """A text's tokens with the half-open character span of each; added special tokens span nothing."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Probe:
    batch: Batch
    watch: Watch | None
    record: Record
    seen: Tensor | None
    trunk: Trunk | None = None


ACTIVE: ContextVar[Probe | None] = ContextVar("isp_mech_probe", default=None)


def alibi_by_depth(hf: Any) -> None:
    """Makes a model with ALiBi (Bloom) count a token's distance in ancestors, as a tree of tokens needs it."""
    model = hf.base_model
    given = model.build_alibi_tensor

    def build(attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        probe = ACTIVE.get()
        if probe is None or attention_mask.dim() == 2:
            return given(attention_mask, num_heads, dtype)
        depth = probe.batch.depth.to(attention_mask.device)
        slope = given(torch.ones(1, 2, device=depth.device), num_heads, torch.float32)[:, 0, 1]
        return (slope[None, :, None] * depth[:, None, :]).flatten(0, 1)[:, None].to(dtype)

    model.build_alibi_tensor = build


def mask_of(batch: Batch, dtype: torch.dtype) -> Tensor | None:
    if batch.visible is None:
        return None
    mask = torch.zeros(batch.visible.shape, dtype=dtype, device=batch.visible.device)
    return mask.masked_fill_(~batch.visible, torch.finfo(dtype).min)[:, None]


def hooks(anatomy: Anatomy, watch: Watch | None, record: Record, edits: Sequence[Edit], batch: Batch) -> Iterator[Any]:
    """Registers, on the modules of one forward, what watches and what edits; yields the handles."""
    shape = tuple(batch.ids.shape)

    def grid(x: Tensor) -> Tensor:  # OPT runs its MLP on (row * pos, d); a view, so that edits reach it
        return x.view(*shape, x.shape[-1])

    def keep(into: list[Tensor]):
        return lambda x: into.append(watched(x))

    def watched(x: Tensor) -> Tensor:
        assert watch is not None
        return grid(x)[watch.rows, watch.nodes]

    def look_before(put):
        return lambda module, args, kwargs: put(args[0] if args else kwargs["hidden_states"])

    def look_after(put):
        return lambda module, args, out: put(out[0] if isinstance(out, tuple) else out)

    for layer, block in enumerate(anatomy.blocks):
        head_edits = [e for e in edits if e.layer == layer and e.heads is not None]
        mlp_edits = [e for e in edits if e.layer == layer and e.heads is None]
        if head_edits:
            yield block.attn_out.register_forward_pre_hook(_edit_heads(head_edits, anatomy, grid))
        if mlp_edits:
            yield block.mlp_write.register_forward_hook(_edit_mlp(mlp_edits, grid))
        if watch is None:
            continue
        yield block.block.register_forward_pre_hook(look_before(keep(record.resid)), with_kwargs=True)
        yield block.attn_out.register_forward_pre_hook(look_before(keep(record.heads)), with_kwargs=True)
        yield block.attn_write.register_forward_hook(look_after(keep(record.attn)))
        yield block.mlp_write.register_forward_hook(look_after(keep(record.mlp)))
    if watch is not None and anatomy.ln_final is not None:

        def keep_final(module, args):
            record.final = watched(args[0])

        yield anatomy.ln_final.register_forward_pre_hook(keep_final)


@contextmanager
def starting_at(anatomy: Anatomy, layer: int, hidden: Tensor) -> Iterator[None]:
    """Within it, the blocks before ``layer`` are not run: ``layer`` is given ``hidden``."""

    def handing_over(value: Tensor | None) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: value if value is not None else args[0] if args else kwargs["hidden_states"]

    skipped = [block.block for block in anatomy.blocks[:layer]]
    for i, block in enumerate(skipped):
        block.forward = handing_over(hidden if i == layer - 1 else None)
    try:
        yield
    finally:
        for block in skipped:
            del block.forward  # the class's own again


def _edit_heads(edits: Sequence[Edit], anatomy: Anatomy, grid):
    def hook(module, args):
        z = args[0].clone()
        heads = rearrange(grid(z), "row pos (head d_head) -> row pos head d_head", head=anatomy.n_heads)
        for edit in edits:
            heads[edit.rows, edit.nodes, edit.heads] = edit.values.to(z.dtype)
        return (z, *args[1:])

    return hook


def _edit_mlp(edits: Sequence[Edit], grid):
    def hook(module, args, out):
        changed = out.clone()
        for edit in edits:
            grid(changed)[edit.rows, edit.nodes] = edit.values.to(out.dtype)
        return changed

    return hook


def _attend(module, query, key, value, attention_mask, *, scaling=None, sliding_window=None, softcap=None, **kwargs):
    probe = ACTIVE.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if probe is not None and probe.trunk is not None:
        return _attend_over_trunk(probe, module.layer_idx, query, key, value, scale, sliding_window, softcap), None
    if probe is not None and probe.watch is not None and probe.watch.keys:
        probe.record.keys.append(key.contiguous())  # a view would keep the queries in memory too
        probe.record.values.append(value.contiguous())
    if probe is not None and probe.batch.visible is not None and sliding_window is not None:
        # a packed mask comes from us: the window, counted in ancestors, is ours to keep
        gap = probe.batch.depth[:, None, :, None] - probe.batch.depth[:, None, None, :]
        attention_mask = attention_mask.masked_fill(
            (gap >= sliding_window).to(attention_mask.device), torch.finfo(attention_mask.dtype).min
        )
    if probe is not None and probe.watch is not None and probe.watch.query_rows is not None:
        probe.record.attention.append(_attention_by_role(probe, query, key, scale, sliding_window, softcap))
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return _capped_attention(query, key, value, attention_mask, scale, softcap), None


def _attention_by_role(probe: Probe, query, key, scale, window, softcap) -> Float[Tensor, "q head role"]:
    watch = probe.watch
    assert watch is not None and watch.query_rows is not None and watch.roles is not None and probe.seen is not None
    assert watch.query_nodes is not None
    q = query[watch.query_rows, :, watch.query_nodes]
    k = repeat_heads(key, query.shape[1])[watch.query_rows]
    scores = torch.einsum("q h d, q h k d -> q h k", q, k).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seen = probe.seen
    if window is not None:
        depth = probe.batch.depth[watch.query_rows]
        seen = seen & (depth.gather(1, watch.query_nodes[:, None]) - depth < window)
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("q h k, q k r -> q h r", weights, watch.roles)


def _attend_over_trunk(probe: Probe, layer: int, query, key, value, scale, window, softcap):
    """Attention of copies: to the trunk's tokens, and to their own."""
    trunk = probe.trunk
    assert trunk is not None
    n, t = query.shape[2], trunk.own.shape[-1]
    reach, own = trunk.reach[:, None], trunk.own
    if window is not None:
        depth = probe.batch.depth
        reach = reach & (depth[:, :, None] - trunk.depth[:, None, :] < window)
        each = depth.unflatten(1, (n // t, t))
        own = own & (each[..., :, None] - each[..., None, :] < window)
    mine = trunk.keys[layer], trunk.values[layer]
    reach, own = reach.to(query.device), own.to(query.device)
    return attend_over_trunk(query, key, value, mine, reach, own, scale, softcap).contiguous()


def _capped_attention(query, key, value, mask, scale, softcap):
    key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
    scores = softcap * torch.tanh(query @ key.mT * scale / softcap)
    if mask is None:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
    else:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value).transpose(1, 2).contiguous()


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
