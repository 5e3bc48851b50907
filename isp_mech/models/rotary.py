"""GPT-NeoX's attention in our forwards: the same numbers with fewer passes over memory.

transformers rotates queries and keys by slices, halves put together, and copies; on a CPU that takes six times as long
as one copy, head by head, that is rotated in place, and attention reads such a copy faster too.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isp_mech.models.attention import attend
from isp_mech.models.fast_paths import fast_paths
from isp_mech.models.forward_context import CONTEXT


def neox_attention(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Any]:
    """``GPTNeoXAttention.forward``: rotates in place in our forwards, and there alone."""
    if CONTEXT.get() is None or not fast_paths():
        return type(self).forward(self, hidden_states, attention_mask, **kwargs)
    cos, sin = kwargs.pop("position_embeddings")
    kwargs.pop("layer_past", None)  # our forwards keep no cache
    qkv = self.query_key_value(hidden_states).unflatten(-1, (-1, 3, self.head_size))
    by_head = qkv.permute(3, 0, 2, 1, 4).contiguous()  # part row head pos d_head
    rotate(by_head[:2], cos[:, None], sin[:, None])
    query, key, value = by_head
    out = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
    return self.dense(out.flatten(-2)), None


def rotate(x: Float[Tensor, "... d_head"], cos: Float[Tensor, "... d"], sin: Float[Tensor, "... d"]) -> None:
    """Turns each pair (x[i], x[i + d/2]) of the first ``d`` dimensions by its angle, in place.

    ``cos`` and ``sin`` are those of the angles, the d/2 of them twice over.
    """
    turned = x[..., : cos.shape[-1]]
    half = cos.shape[-1] // 2
    exchanged = torch.cat([turned[..., half:], turned[..., :half]], -1)
    signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
    turned.mul_(cos).addcmul_(exchanged, signed)
