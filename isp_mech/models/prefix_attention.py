"""Attention of copies over a prefix that is done already: to the prefix's tokens, and to their own.

The two parts are separate softmaxes, put together by their log-sum-exps. Both are torch's fused attention, so that no
scores are kept; they are written out where no kernel fits: with a soft cap, for gradients, on a GPU with odd widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isp_mech.models.fast_paths import fast_paths
from isp_mech.models.prefix_cache import ScoreBias

CPU_KERNEL: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
GPU_KERNEL: Any = getattr(torch.ops.aten, "_scaled_dot_product_efficient_attention", None)
ALIGNED = 16  # the GPU's kernel reads masks whose rows begin at multiples of so many numbers


def attend_over_prefix(
    query: Float[Tensor, "row head n d"],
    key: Float[Tensor, "row kv m d"],
    value: Float[Tensor, "row kv m d_value"],
    cached: tuple[Float[Tensor, "row kv pos d"], Float[Tensor, "row kv pos d_value"]],
    far: Bool[Tensor, "row q pos"],
    near: Bool[Tensor, "row copies_or_one s t"],
    scale: float,
    softcap: float | None,
    bias: ScoreBias | None = None,
    sinks: Float[Tensor, " head"] | None = None,
) -> Float[Tensor, "row n head d_value"]:
    """Head outputs at ``s`` tokens of each of ``copies`` of ``t``, one after the other in every row.

    ``far[row, q, j]`` says whether the prefix's token j is seen, by all queries (q = 1) or by each of a
    row's n; ``near[row, c, i, j]`` whether query i of copy c sees token j of it (one copy stands for all). ``bias`` is
    added to the scores.
    """
    rows, heads, n, d = query.shape
    kv, s = key.shape[1], near.shape[-2]
    group, copies = heads // kv, n // s
    by_kv = query.reshape(rows, kv, group, n, d)
    if far.shape[1] > 1:  # the same for every query head of a group
        far = far[:, None].expand(-1, group, -1, -1).flatten(1, 2)
    added = None if bias is None else _for_queries(bias.prefix, kv, group, copies, s)
    out, total = _attend(by_kv.flatten(2, 3), *cached, far[:, None], scale, softcap, added)
    out = out.reshape(rows, heads, n, -1).transpose(1, 2)
    total = total.reshape(rows, heads, n, 1).transpose(1, 2)
    by_copy = by_kv.unflatten(3, (copies, s)).permute(0, 3, 1, 2, 4, 5).reshape(rows * copies, heads, s, d)
    keys, values = _of_copies(key, copies, group), _of_copies(value, copies, group)
    own = near.expand(-1, copies, -1, -1).flatten(0, 1)[:, None]  # (row copy) 1 s t
    if bias is None or bias.within is None:
        within = None
    else:
        within = bias.within.expand(-1, copies, -1, -1, -1).flatten(0, 1).to(query.device)
    own_out, own_total = _attend(by_copy, keys, values, own, scale, softcap, within)
    own_out = own_out.view(rows, copies, heads, s, -1).permute(0, 1, 3, 2, 4).reshape(rows, n, heads, -1)
    own_total = own_total.view(rows, copies, heads, s).permute(0, 1, 3, 2).reshape(rows, n, heads, 1)
    share = torch.sigmoid(total - own_total).to(out.dtype)  # of the weight, how much goes to the prefix
    out = torch.lerp(own_out, out, share)
    if sinks is None:
        return out
    left = torch.sigmoid(torch.logaddexp(total.float(), own_total.float()) - sinks.float().view(1, 1, -1, 1))
    return out * left.to(out.dtype)


def _of_copies(x: Float[Tensor, "row kv m d"], copies: int, group: int) -> Float[Tensor, "row_copy head t d"]:
    rows, kv, m, d = x.shape
    split = x.view(rows, kv, copies, m // copies, d) if x.is_contiguous() else x.unflatten(2, (copies, m // copies))
    by_copy = split.transpose(1, 2).flatten(0, 1)
    return by_copy if group == 1 else by_copy.repeat_interleave(group, 1)


def _for_queries(
    bias: Float[Tensor, "row copies_or_one head_or_one t_or_one pos"], kv: int, group: int, copies: int, s: int
) -> Float[Tensor, "row kv_or_one query pos"]:
    """The bias of the prefix's tokens for every query, in the order in which all queries of a kv head stand."""
    heads, pos = bias.shape[2], bias.shape[-1]
    if bias.shape[1:4] == (1, 1, 1):
        return bias[:, 0]
    by_head = bias.expand(-1, copies, -1, s, -1).transpose(1, 2).reshape(len(bias), heads, copies * s, pos)
    if group == 1:
        return by_head
    by_kv = by_head.expand(-1, group, -1, -1)[:, None] if heads == 1 else by_head.unflatten(1, (kv, group))
    return by_kv.flatten(2, 3)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor,
    scale: float,
    softcap: float | None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores, (.., query); a query that sees nothing gets -inf there."""
    if bias is not None:
        bias = bias.to(query.device)
        seen = seen & (bias > -torch.inf)
    everything = bias is None and query.device.type == "cpu" and bool(seen.all())  # a GPU would have to be waited for
    plain = torch.is_grad_enabled() or not fast_paths()  # the fused ones give no gradient of their log-sum-exps
    fused = None if plain or softcap is not None else FUSED.get(query.device.type)
    if key.shape[2] == 1 and not plain:
        out, total = _to_one(query, key, value, scale, softcap, bias)
    elif fused is not None and _fits(fused, query, value):
        out, total = fused(query, key, value, None if everything else _additive(seen, query, bias), scale)
    else:
        out, total = _written_out(query, key, value, None if everything else seen, scale, softcap, bias)
    return out, total if everything else total.masked_fill(~seen.any(-1), -torch.inf)


def _to_one(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention to one key, which has all the weight: millions of products of one row and one column are none."""
    total = (query.float() * key).sum(-1) * scale
    if softcap is not None:
        total = softcap * torch.tanh(total / softcap)
    if bias is not None:
        total = total + bias[..., 0]
    return value.expand(*query.shape[:-1], -1), total


def on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """The kernel wants keys and values of one width."""
    d_value, d = value.shape[-1], query.shape[-1]
    if d_value < d:
        value = torch.nn.functional.pad(value, (0, d - d_value))
    elif d_value > d:
        query, key = (torch.nn.functional.pad(x, (0, d_value - d)) for x in (query, key))
    mask = None if mask is None else mask.expand(-1, -1, query.shape[2], -1)
    out, total = CPU_KERNEL(query, key, value, attn_mask=mask, scale=scale)
    return out[..., :d_value], total


def on_gpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """The kernel wants the mask's rows aligned, and fills the log-sum-exps up to a multiple of 32 queries."""
    pos = key.shape[2]
    if mask is not None:
        padded = torch.nn.functional.pad(mask, (0, -pos % ALIGNED))[..., :pos]
        mask = padded.expand(*query.shape[:-1], pos)
    out, total, *_ = GPU_KERNEL(query, key, value, mask, True, scale=scale)
    return out, total[..., : query.shape[2]]


Fused = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]]
FUSED: Mapping[str, Fused] = {  # by kind of device: torch's kernels that give log-sum-exps beside the output
    kind: function for kind, kernel, function in (("cpu", CPU_KERNEL, on_cpu), ("cuda", GPU_KERNEL, on_gpu)) if kernel
}


def _fits(fused: Fused, query: Tensor, value: Tensor) -> bool:
    """The GPU's kernel wants heads of a multiple of 8 numbers."""
    return fused is not on_gpu or (query.shape[-1] % 8 == 0 and value.shape[-1] % 8 == 0)


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor | None,
    scale: float,
    softcap: float | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    scores = (query @ key.mT).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return scores.softmax(-1).to(value.dtype) @ value, scores.logsumexp(-1)


def _additive(seen: Tensor, query: Tensor, bias: Tensor | None) -> Tensor:
    added = query.new_zeros(()) if bias is None else bias
    # a quarter of the lowest, which a GPU's kernel, that reckons in powers of 2, can still multiply
    return added.to(query.dtype).expand(seen.shape).masked_fill(~seen, torch.finfo(query.dtype).min / 4)
