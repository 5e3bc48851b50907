"""Attention of branches over a trunk that is done already: to the trunk's tokens, and to their own.

The two parts are separate softmaxes, put together by their log-sum-exps. On a CPU both are torch's fused
attention, so that no scores are kept; elsewhere they are written out.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FUSED: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def attend_over_prefix(
    query: Float[Tensor, "row head n d"],
    key: Float[Tensor, "row kv m d"],
    value: Float[Tensor, "row kv m d"],
    trunk: tuple[Float[Tensor, "row kv pos d"], Float[Tensor, "row kv pos d"]],
    reach: Bool[Tensor, "row q pos"],
    own: Bool[Tensor, "row copies_or_one s t"],
    scale: float,
    softcap: float | None,
) -> Float[Tensor, "row n head d"]:
    """Head outputs at ``s`` tokens of each of ``copies`` branches of ``t``, one after the other in every row.

    ``reach[row, q, j]`` says whether the trunk's token j is seen, by all queries (q = 1) or by each of a
    row's n; ``own[row, c, i, j]`` whether query i of copy c sees token j of it (one copy stands for all).
    """
    rows, heads, n, d = query.shape
    kv, s = key.shape[1], own.shape[-2]
    group, copies = heads // kv, n // s
    q = query.reshape(rows, kv, group, n, d)
    one = own.expand(-1, copies, -1, -1).flatten(0, 1)[:, None]  # (row copy) 1 s t
    if reach.shape[1] > 1:  # the same for every query head of a group
        reach = reach[:, None].expand(-1, group, -1, -1).flatten(1, 2)
    far, far_sum = _attend(q.flatten(2, 3), trunk[0], trunk[1], reach[:, None], scale, softcap)
    mine = q.unflatten(3, (copies, s)).permute(0, 3, 1, 2, 4, 5).reshape(rows * copies, heads, s, d)
    keys, values = _of_copies(key, copies, group), _of_copies(value, copies, group)
    near, near_sum = _attend(mine, keys, values, one, scale, softcap)
    near = near.view(rows, copies, heads, s, d).permute(0, 1, 3, 2, 4).reshape(rows, n, heads, d)
    near_sum = near_sum.view(rows, copies, heads, s).permute(0, 1, 3, 2).reshape(rows, n, heads, 1)
    far = far.view(rows, kv * group, n, d).transpose(1, 2)
    far_sum = far_sum.reshape(rows, kv * group, n, 1).transpose(1, 2)
    share = torch.sigmoid(far_sum - near_sum).to(far.dtype)  # of the weight, how much goes to the trunk
    return torch.lerp(near, far, share)


def _of_copies(x: Float[Tensor, "row kv m d"], copies: int, group: int) -> Float[Tensor, "row_copy head t d"]:
    rows, kv, m, d = x.shape
    split = x.view(rows, kv, copies, m // copies, d) if x.is_contiguous() else x.unflatten(2, (copies, m // copies))
    by_copy = split.transpose(1, 2).flatten(0, 1)
    return by_copy if group == 1 else by_copy.repeat_interleave(group, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float, softcap: float | None):
    """Attention and the log-sum-exp of its scores, (.., query); a query that sees nothing gets -inf there."""
    everything = bool(seen.all())
    differentiable = torch.is_grad_enabled()  # the fused one gives no gradient of its log-sum-exps
    if FUSED is not None and not differentiable and softcap is None and query.device.type == "cpu":
        mask = None if everything else _additive(seen, query)
        out, total = FUSED(query, key, value, attn_mask=mask, scale=scale)
        return out, total if everything else total.masked_fill(~seen.any(-1), -torch.inf)
    scores = (query @ key.mT).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if not everything:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    total = scores.logsumexp(-1)
    out = scores.softmax(-1).to(value.dtype) @ value
    return out, total if everything else total.masked_fill(~seen.any(-1), -torch.inf)


def _additive(seen: Tensor, query: Tensor) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=query.dtype).masked_fill_(~seen, torch.finfo(query.dtype).min)
    return mask.expand(-1, -1, query.shape[2], -1) if mask.shape[2] == 1 else mask
