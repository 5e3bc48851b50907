"""Bloom, whose attention transformers does not hand over: ours in its place, linear biases included.

A bias is the head's slope times the key's position; what is common to a query's keys cancels in the
softmax. In a tree the position is the depth, so branches see what they would see alone.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor

from isp_mech.models.attention import attend
from isp_mech.models.forward import ACTIVE


def use_our_attention(hf: Any) -> None:
    """Makes every attention of a Bloom model attend by our function in our forwards, and there alone."""
    for module in hf.modules():
        if type(module).__name__ == "BloomAttention":
            module.forward = MethodType(_attention, module)


def slopes_of(n_heads: int) -> Tensor:
    """(head,): how fast each head's weights fall with distance, as ALiBi defines it.

    Powers of 2^(-8/n) for n heads, a power of two; further heads take every second one of 2n's.

    >>> slopes_of(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    whole = 1 << (n_heads.bit_length() - 1)
    first = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    between = [2 ** (-4 * (2 * i + 1) / whole) for i in range(n_heads - whole)]
    return torch.tensor(first + between)


def _attention(self: Any, hidden_states: Tensor, residual: Tensor, *args: Any, **kwargs: Any) -> tuple:
    if ACTIVE.get() is None:
        return type(self).forward(self, hidden_states, residual, *args, **kwargs)
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    slopes = slopes_of(self.num_heads).to(query.device)
    out, _ = attend(self, query, key, value, None, scaling=self.inv_norm_factor, slopes=slopes)
    return self.dense(out.flatten(-2)) + residual, None
