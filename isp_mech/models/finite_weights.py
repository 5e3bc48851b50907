"""Weights and logits that are no numbers: refused when a model is loaded, by the tensors' names."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from isp_mech.errors import InputError


def check_weights(hf: PreTrainedModel, name: str) -> None:
    """``InputError`` that names every tensor of weights that holds NaN or infinity."""
    problems = []
    for tensor, values in hf.named_parameters():
        if not values.is_floating_point() or values.device.type == "meta" or not values.numel():
            continue
        low, high = torch.aminmax(values.detach())
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            n = int((~torch.isfinite(values)).sum())
            problems.append(f"weights {tensor}: {n} of {values.numel()} are NaN or infinite, expected numbers")
    if problems:
        raise InputError(name, problems)


def check_logits(logits: Tensor, name: str, dtype: str) -> None:
    """``InputError`` where a model gives logits that are NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise InputError(name, [f"its logits after a short prompt are NaN or infinite in {dtype}, expected numbers"])
