"""A second skeleton of modules over the same parameters: what is changed in it leaves the first as it was."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def second_skeleton(
    hf: PreTrainedModel, *, device: str | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Modules of their own, with a config of their own, that share ``hf``'s parameters and buffers; those that lie on
    another device than ``device`` or are floating-point of another type than ``dtype`` are copied there."""
    memo: dict[int, Any] = {id(t): _moved(t, device, dtype) for t in (*hf.parameters(), *hf.buffers())}
    for shared in (getattr(hf, "hf_quantizer", None), *(getattr(m, "_hf_hook", None) for m in hf.modules())):
        memo[id(shared)] = shared  # accelerate's hooks hold weights; they are told the module they act on
    return copy.deepcopy(hf, memo)


def without_weights(hf: PreTrainedModel) -> PreTrainedModel:
    """The modules that ``hf`` would have if it were not quantised, with shapes and no weights."""
    config = copy.deepcopy(hf.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        return type(hf)(config)


def _moved(tensor: Tensor, device: str | None, dtype: torch.dtype | None) -> Tensor:
    moved = tensor.detach().to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    if moved.device == tensor.device and moved.dtype == tensor.dtype:
        return tensor
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
