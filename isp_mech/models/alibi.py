"""Bloom, whose attention transformers does not hand over: ours in its place, linear biases included.

A bias is the head's slope times the key's position; what is common to a query's keys cancels in the
softmax. In a tree the position is the depth, so branches see what they would see alone. It goes in as one
more dimension of queries (the slope) and keys (the position), and so through every way of attending.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isp_mech.models.attention import attend
from isp_mech.models.batch import attention_mask
from isp_mech.models.forward_context import CONTEXT


def slopes_of(n_heads: int, device: torch.device | None = None) -> Tensor:
    """(head,): how fast each head's weights fall with distance, as ALiBi defines it.

    Powers of 2^(-8/n) for n heads, a power of two; further heads take every second one of 2n's.

    >>> slopes_of(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    whole = 1 << (n_heads.bit_length() - 1)
    head = torch.arange(n_heads, device=device)  # reckoned there: nothing is carried to the device, layer by layer
    power = torch.where(head < whole, -8 * (head + 1), -4 * (2 * (head - whole) + 1))
    return torch.exp2(power.double() / whole).float()


def bloom_attention(
    self: Any, hidden_states: Tensor, residual: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Any]:
    """``BloomAttention.forward``: by our attention function in our forwards, and there alone."""
    context = CONTEXT.get()
    if context is None:
        return type(self).forward(self, hidden_states, residual, *args, **kwargs)
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    slopes = slopes_of(self.num_heads, query.device).to(query.dtype) / self.inv_norm_factor
    query = torch.cat([query, slopes[:, None, None].expand(*query.shape[:3], 1)], -1)
    key = torch.cat([key, context.batch.depth[:, None, :, None].expand(*key.shape[:3], 1).to(key)], -1)
    value = torch.cat([value, torch.zeros_like(value[..., :1])], -1)  # kernels want as many dimensions here
    mask = attention_mask(context.batch, key.dtype)
    out = attend(self, query, key, value, mask, scaling=self.inv_norm_factor)
    return self.dense(out[..., :-1].flatten(-2)) + residual, None
