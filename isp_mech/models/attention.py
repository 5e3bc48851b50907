"""Our attention function: SDPA, and beside it the weights by role, the last layer's few tokens, and copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from isp_mech.models.architecture import repeat_heads
from isp_mech.models.forward_types import CONTEXT, ForwardContext, PrefixCache
from isp_mech.models.hooks import KeysKnown
from isp_mech.models.prefix_attention import attend_over_prefix

ATTENTION = "isp_mech"


@dataclass(frozen=True)
class Kind:
    """How a layer's scores are made: times ``scale``, capped; a query looks back less than ``window`` tokens."""

    scale: float
    window: int | None = None
    cap: float | None = None


def attend(module, query, key, value, attention_mask, *, scaling=None, sliding_window=None, softcap=None, **kwargs):
    """Our attention function, called by the model's attention modules: (row, pos, head, d_head), None."""
    context = CONTEXT.get()
    kind = Kind(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    if context is not None and context.prefix is not None:
        _keep_if_narrow(context, module.layer_idx, key, value)
        return _attend_over_prefix(context, context.prefix, module.layer_idx, query, key, value, kind), None
    if context is not None and context.selection is not None and context.selection.keys is not None:
        return _attend_from_few(context, query, kind), None
    if context is not None and context.spec is not None and context.spec.keys:
        context.record.keys.append(key.contiguous())  # a view would keep the queries in memory too
        context.record.values.append(value.contiguous())
    if context is not None and context.spec is not None and context.spec.query_rows is not None:
        context.record.attention.append(_attention_by_role(context, query, key, kind))
    if context is not None:
        _keep_if_narrow(context, module.layer_idx, key, value)
    if context is not None and context.batch.visible is not None and sliding_window is not None:
        # a packed mask comes from us: the window, counted in ancestors, is ours to keep
        gap = context.batch.depth[:, None, :, None] - context.batch.depth[:, None, None, :]
        outside = False if attention_mask.dtype == torch.bool else torch.finfo(attention_mask.dtype).min
        attention_mask = attention_mask.masked_fill((gap >= sliding_window).to(attention_mask.device), outside)
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return _capped_attention(query, key, value, attention_mask, kind.scale, softcap), None


def _keep_if_narrow(context: ForwardContext, layer: int, key, value) -> None:
    """Ends the last layer's first run, of all tokens, where it is computed at few of them."""
    selection = context.selection
    if selection is not None and selection.keys is None and layer == selection.layer:
        selection.keys, selection.values = key, value
        raise KeysKnown


def _attention_by_role(context: ForwardContext, query, key, kind: Kind) -> Float[Tensor, "q head role"]:
    """A row of the batch at a time, over its own keys: nothing is copied for each query."""
    spec = context.spec
    assert spec is not None and spec.query_rows is not None and spec.roles is not None
    assert spec.query_nodes is not None
    out = query.new_empty(len(spec.query_rows), query.shape[1], spec.roles.shape[-1], dtype=torch.float32)
    for row in spec.query_rows.unique().tolist():
        here = (spec.query_rows == row).nonzero()[:, 0]
        nodes = spec.query_nodes[here]
        seen = context.batch.seen_from(spec.query_rows[here], nodes)
        depth = context.batch.depth[None, row]
        if kind.window is not None:
            seen = seen & (depth[0, nodes][:, None] - depth < kind.window)
        weights = _weights(query[None, row][:, :, nodes], key[None, row], seen[None], kind)[0]
        out[here] = torch.einsum("h q k, q k r -> q h r", weights, spec.roles[here])
    return out


def _attend_from_few(context: ForwardContext, query, kind: Kind):
    """Attention of the last layer's few tokens to all tokens, (row, m, head, d_head)."""
    selection, batch = context.selection, context.batch
    assert selection is not None and selection.keys is not None and selection.values is not None
    rows = torch.arange(len(selection.nodes), device=query.device).repeat_interleave(selection.nodes.shape[1])
    seen = batch.seen_from(rows, selection.nodes.flatten()).view(*selection.nodes.shape, -1)
    if kind.window is not None:
        seen = seen & (batch.depth.gather(1, selection.nodes)[:, :, None] - batch.depth[:, None] < kind.window)
    weights = _weights(query, selection.keys, seen, kind).to(query.dtype)
    (row, head, m, pos), kv = weights.shape, selection.keys.shape[1]
    out = weights.view(row, kv, head // kv * m, pos) @ selection.values
    return out.view(row, head, m, -1).transpose(1, 2).contiguous()


def _weights(query, key, seen, kind: Kind) -> Float[Tensor, "row head q pos"]:
    """Attention's weights in float32; ``seen`` (row, q, pos) is True where a query may look."""
    (row, head, q, d), kv = query.shape, key.shape[1]
    scores = (query.reshape(row, kv, head // kv * q, d) @ key.mT).view(row, head, q, -1).float() * kind.scale
    if kind.cap is not None:
        scores = kind.cap * torch.tanh(scores / kind.cap)
    return scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)


def _attend_over_prefix(context: ForwardContext, prefix: PrefixCache, layer: int, query, key, value, kind: Kind):
    """Attention of copies, or of few of their tokens: to the prefix's tokens, and to their own."""
    t = prefix.visible_within.shape[-1]
    reach, own, depth = prefix.visible_prefix[:, None], prefix.visible_within, context.batch.depth.unflatten(1, (-1, t))
    asking = depth
    if context.selection is not None and context.selection.keys is not None:
        assert context.selection.values is not None
        key, value = context.selection.keys, context.selection.values
        nodes = context.selection.nodes.unflatten(1, (depth.shape[1], -1)) % t  # row copy s
        asking = depth.gather(2, nodes)
        own = own.expand(-1, depth.shape[1], -1, -1).gather(2, nodes[..., None].expand(-1, -1, -1, t).to(own.device))
    if prefix.blocked is not None and layer in prefix.blocked_layers:
        reach = reach & ~prefix.blocked[:, None]
    if kind.window is not None:
        reach = reach & (asking.flatten(1)[:, :, None] - prefix.depth[:, None, :] < kind.window)
        own = own & (asking[..., :, None] - depth[..., None, :] < kind.window)
    mine = (prefix.keys[layer], prefix.values[layer])
    reach, own = reach.to(query.device), own.to(query.device)
    return attend_over_prefix(query, key, value, mine, reach, own, kind.scale, kind.cap).contiguous()


def _capped_attention(query, key, value, mask, scale, softcap):
    key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
    scores = softcap * torch.tanh(query @ key.mT * scale / softcap)
    if mask is None:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
    else:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value).transpose(1, 2).contiguous()


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
