"""Positions that depend on how long a text is: longrope takes other frequencies beyond a length, dynamic NTK scaling
stretches them by it. transformers looks at the longest row of a batch; here every text has those that it has alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isp_mech.models.forward_context import CONTEXT


@dataclass(frozen=True)
class LengthRule:
    """Up to ``limit`` tokens positions are as in short texts; beyond, of one other kind (longrope) or by the length
    itself (dynamic)."""

    kind: Literal["longrope", "dynamic"]
    limit: int

    def length(self, n_tokens: int) -> int:
        """What stands for the lengths whose positions are those of ``n_tokens``: 0 for short texts."""
        if n_tokens <= self.limit:
            return 0
        return self.limit + 1 if self.kind == "longrope" else n_tokens


def length_rule_of(config: Any) -> LengthRule | None:
    """The rule of a model's rotary embedding; None where positions do not depend on the length."""
    given = getattr(config, "rope_parameters", None) or {}
    for one in (given, *given.values()) if isinstance(given, Mapping) else ():
        kind = one.get("rope_type") if isinstance(one, Mapping) else None
        most = int(getattr(config, "max_position_embeddings", 0) or 0)
        if kind == "longrope":
            return LengthRule("longrope", int(one.get("original_max_position_embeddings") or most))
        if kind == "dynamic":
            return LengthRule("dynamic", most)
    return None


def follow_lengths(hf: nn.Module) -> None:
    """Makes rotary embeddings, in our forwards, go by the length that the batch names."""
    for module in hf.modules():
        kinds: Any = getattr(module, "rope_type", None)
        kinds = list(kinds.values()) if isinstance(kinds, Mapping) else [kinds]
        if hasattr(module, "max_seq_len_cached") and {"longrope", "dynamic"} & {k for k in kinds if k}:
            module.forward = MethodType(_by_length, module)


def _by_length(self: Any, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward, with one more position: the last of a text as long as the batch says."""
    context = CONTEXT.get()
    if context is None or context.length is None:
        return type(self).forward(self, x, position_ids, *args, **kwargs)
    for name in [name for name in vars(self) if name.endswith("max_seq_len_cached")]:
        setattr(self, name, 0)  # what earlier texts left is computed again
    last = torch.full_like(position_ids[..., :1], max(0, context.length - 1))
    found = type(self).forward(self, x, torch.cat([position_ids, last], -1), *args, **kwargs)
    return type(found)(part[..., :-1, :] for part in found)
