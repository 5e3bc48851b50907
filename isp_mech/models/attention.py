"""Our attention function: SDPA, and beside it the weights by role, the last layer's selected tokens, and copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from isp_mech.models.batch import Batch
from isp_mech.models.forward_context import CONTEXT, ForwardContext, TokenSelection
from isp_mech.models.prefix_attention import attend_over_prefix
from isp_mech.models.prefix_cache import PrefixCache

ATTENTION = "isp_mech"


@dataclass(frozen=True)
class ScoreForm:
    """How a layer's scores are made: times ``scale``, capped; a query looks back less than ``window`` tokens, and not
    beyond the beginning of its ``chunk`` of so many. Each head's ``sinks`` is a score that takes its share of the
    weight to nowhere."""

    scale: float
    window: int | None = None
    cap: float | None = None
    chunk: int | None = None
    sinks: Float[Tensor, " head"] | None = None

    @property
    def is_local(self) -> bool:
        """Whether a token does not see all before it."""
        return self.window is not None or self.chunk is not None

    def near(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether tokens at depths ``key`` are within reach of those at depths ``query`` (broadcast)."""
        reached = torch.ones(torch.broadcast_shapes(query.shape, key.shape), dtype=torch.bool, device=key.device)
        if self.window is not None:
            reached &= query - key < self.window
        if self.chunk is not None:
            reached &= query // self.chunk == key // self.chunk
        return reached


def attention_function(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Our attention function as transformers calls it: heads' outputs (row, pos, head, d_head), and no weights."""
    out = attend(module, query, key, value, attention_mask, **settings)
    context = CONTEXT.get()
    if context is None or context.selected is None:
        return out, None
    context.selected.attended = out  # the output projection is given it; the module reckons with all tokens
    return out.new_zeros(()).expand(len(out), query.shape[2], *out.shape[2:]), None


def attend(
    module: Any,
    query: Float[Tensor, "row head pos d_head"],
    key: Float[Tensor, "row kv pos d_head"],
    value: Float[Tensor, "row kv pos d_value"],
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> Float[Tensor, "row asked head d_value"]:
    """Heads' outputs at all tokens, or at the selected ones, while the last layer runs."""
    context = CONTEXT.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    form = ScoreForm(scale, _window_of(module, sliding_window), softcap, _chunk_of(module), s_aux)
    if context is not None:
        query = _scaled_by_depth(module, query, context.batch.depth)
    if context is not None and context.prefix is not None:
        return _over_prefix(context, context.prefix, module.layer_idx, query, key, value, form)
    if context is not None:
        _record(context, module.layer_idx, query, key, value, form)
        if context.selected is not None:
            return _from_selected(context.batch, context.selected, query, key, value, form)
        mask = _in_reach(context.batch, mask, form)
    if softcap is not None or s_aux is not None:
        if mask is None:
            mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        seen = mask if mask.dtype == torch.bool else mask == 0
        return _written_out(query, key, value, seen[:, 0], form)
    out: Tensor = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)[0]
    return out


def _scaled_by_depth(module: Any, query: Tensor, depth: Int[Tensor, "row pos"]) -> Tensor:
    """Llama 4 scales queries of layers without rotary embedding by their place in the row: here by their depth."""
    if not getattr(module, "attn_temperature_tuning", False) or module.use_rope:
        return query

    def scale(positions: Tensor) -> Tensor:
        return torch.log1p(torch.floor((positions + 1.0) / module.floor_scale)) * module.attn_scale + 1.0

    ratio = scale(depth) / scale(torch.arange(depth.shape[1], device=depth.device))
    return (query * ratio[:, None, :, None].to(query.device)).to(query.dtype)


def _layer_type(module: Any) -> str:
    types = getattr(getattr(module, "config", None), "layer_types", None)
    layer = getattr(module, "layer_idx", None)
    return types[layer] if types and layer is not None and layer < len(types) else ""


def _window_of(module: Any, given: int | None) -> int | None:
    """The window of a layer, which some hand over and others have in their masks alone."""
    if given is None and _layer_type(module) == "sliding_attention":
        return getattr(module.config, "sliding_window", None)
    return given


def _chunk_of(module: Any) -> int | None:
    return module.config.attention_chunk_size if _layer_type(module) == "chunked_attention" else None


def _in_reach(batch: Batch, mask: Tensor | None, form: ScoreForm) -> Tensor | None:
    """A tree's mask comes from us: the window, counted in ancestors, is ours to keep."""
    if batch.visible is None or not form.is_local or mask is None:
        return mask
    outside = ~form.near(batch.depth[:, None, :, None], batch.depth[:, None, None, :])
    lowest = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.masked_fill(outside.to(mask.device), lowest)


def _record(context: ForwardContext, layer: int, query: Tensor, key: Tensor, value: Tensor, form: ScoreForm) -> None:
    if context.spec is not None and context.spec.keys:
        context.record.keys.append(key.contiguous())  # a view would keep the queries in memory too
        context.record.values.append(value.contiguous())
    if context.spec is not None and context.spec.query_rows is not None:
        context.record.attention.append(_attention_by_role(context, query, key, form))
        context.record.attention_layers.append(layer)


def _attention_by_role(
    context: ForwardContext, query: Tensor, key: Tensor, form: ScoreForm
) -> Float[Tensor, "q head role"]:
    """Of all rows at once, each over its own keys: which rows ask is not for the host to know, layer by layer."""
    spec, asking = context.spec, context.asking
    assert asking is not None and spec is not None and spec.query_rows is not None and spec.query_nodes is not None
    asked, seen = _at_selected(context.batch, asking, query, form)
    column = asking.column[spec.query_rows, spec.query_nodes]
    weights = _weights(asked, key, seen, form)[spec.query_rows, :, column]
    return torch.einsum("q h k, q k r -> q h r", weights, spec.roles)


def _at_selected(
    batch: Batch, selected: TokenSelection, query: Tensor, form: ScoreForm
) -> tuple[Float[Tensor, "row head m d"], Bool[Tensor, "row m pos"]]:
    """The queries of the selected tokens, and what each of them sees."""
    nodes = selected.nodes
    rows = torch.arange(len(nodes), device=nodes.device).repeat_interleave(nodes.shape[1])
    seen = batch.seen_from(rows, nodes.flatten()).view(*nodes.shape, -1)
    if form.is_local:
        seen = seen & form.near(selected.narrow(batch.depth)[:, :, None], batch.depth[:, None])
    return selected.narrow(query.transpose(1, 2)).transpose(1, 2), seen


def _from_selected(
    batch: Batch, selected: TokenSelection, query: Tensor, key: Tensor, value: Tensor, form: ScoreForm
) -> Float[Tensor, "row m head d"]:
    """Attention of the selected tokens to all tokens."""
    query, seen = _at_selected(batch, selected, query, form)
    return _written_out(query, key, value, seen, form)


def _written_out(
    query: Tensor, key: Tensor, value: Tensor, seen: Bool[Tensor, "row_or_one q pos"], form: ScoreForm
) -> Float[Tensor, "row q head d"]:
    weights = _weights(query, key, seen, form).to(query.dtype)
    (row, head, q, pos), kv = weights.shape, key.shape[1]
    out = weights.view(row, kv, head // kv * q, pos) @ value
    return out.view(row, head, q, -1).transpose(1, 2).contiguous()


def _weights(
    query: Float[Tensor, "row head q d"],
    key: Float[Tensor, "row kv pos d"],
    seen: Bool[Tensor, "row_or_one q pos"],
    form: ScoreForm,
) -> Float[Tensor, "row head q m"]:
    """Attention's weights in float32; ``seen`` is True where a query may look."""
    (row, head, q, d), kv = query.shape, key.shape[1]
    scores = (query.reshape(row, kv, head // kv * q, d) @ key.mT).view(row, head, q, -1).float() * form.scale
    if form.cap is not None:
        scores = form.cap * torch.tanh(scores / form.cap)
    scores = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min)
    if form.sinks is None:
        return scores.softmax(-1)
    sinks = form.sinks.float().view(1, -1, 1, 1).expand(row, head, q, 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


def _over_prefix(
    context: ForwardContext, prefix: PrefixCache, layer: int, query: Tensor, key: Tensor, value: Tensor, form: ScoreForm
) -> Float[Tensor, "row n head d"]:
    """Attention of copies, or of their selected tokens: to the prefix's tokens, and to their own."""
    t = prefix.visible_within.shape[-1]
    far, near = prefix.visible_prefix[:, None], prefix.visible_within
    depth = asking = context.batch.depth.unflatten(1, (-1, t))  # row copy t
    if context.selected is not None:
        query = context.selected.narrow(query.transpose(1, 2)).transpose(1, 2)
        nodes = context.selected.nodes.unflatten(1, (depth.shape[1], -1)) % t  # row copy s
        asking = depth.gather(2, nodes)
        near = near.expand(-1, depth.shape[1], -1, -1).gather(2, nodes[..., None].expand(-1, -1, -1, t).to(near.device))
    if form.is_local:
        far = far & form.near(asking.flatten(1)[:, :, None], prefix.depth[:, None, :])
        near = near & form.near(asking[..., :, None], depth[..., None, :])
    cached = (prefix.keys[layer], prefix.values[layer])
    far, near = far.to(query.device), near.to(query.device)
    bias = prefix.score_bias.get(layer)
    if bias is not None and context.selected is not None:
        raise ValueError("with a score bias the last layer is computed at all tokens: expected no selection")
    out = attend_over_prefix(query, key, value, cached, far, near, form.scale, form.cap, bias, form.sinks)
    return out.contiguous()


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention_function)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
