"""Matrix products on a CPU: oneDNN's kernels where torch would take another library's.

For float32 torch hands linear layers to the BLAS it was built with, which on many processors with AVX-512 leaves half
of their speed unused; oneDNN, which torch carries for other types, does not. On processors without it torch's own are a
sixth faster. The numbers are the same up to rounding, and loading compares them with the plain model's.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from isp_mech.models.fast_paths import fast_paths


def use_fast_products(hf: Any) -> None:
    """Makes every linear layer of a float32 model on a CPU multiply by oneDNN, where that is the faster, when no
    gradient is asked for."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return
    for module in hf.modules():
        forward = {nn.Linear: _linear, Conv1D: _conv1d}.get(type(module))
        if forward and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.forward = MethodType(forward, module)


def _linear(self: nn.Linear, x: Tensor) -> Tensor:
    if _not_for_us(x):
        return F.linear(x, self.weight, self.bias)
    return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def _conv1d(self: Conv1D, x: Tensor) -> Tensor:
    """GPT-2's linear layer, which stores its weight as (in, out)."""
    if _not_for_us(x):
        return Conv1D.forward(self, x)
    return torch.ops.mkldnn._linear_pointwise(x, self.weight.T, self.bias, "none", [], "")


def _not_for_us(x: Tensor) -> bool:
    unfit = torch.is_grad_enabled() or x.dtype != torch.float32 or x.device.type != "cpu" or x.numel() == 0
    return unfit or not fast_paths()
