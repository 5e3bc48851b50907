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
from transformers.pytorch_utils import Conv1D

from isp_mech.models.fast_paths import fast_paths


def has_fast_products() -> bool:
    """Whether oneDNN's products are there, and the faster ones on this processor."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.cpu.get_cpu_capability() == "AVX512"


def use_fast_products(hf: Any) -> None:
    """Makes every linear layer of a float32 model on a CPU multiply by oneDNN, where that is the faster, when no
    gradient is asked for."""
    if not has_fast_products():
        return
    for module in hf.modules():
        if type(module) in (nn.Linear, Conv1D) and _is_for_us(module.weight):
            module.forward = MethodType(_product, module)


def _product(self: Any, x: Tensor) -> Any:
    if torch.is_grad_enabled() or not _is_for_us(x) or not x.numel() or not fast_paths():
        return type(self).forward(self, x)
    weight = self.weight if isinstance(self, nn.Linear) else self.weight.T  # GPT-2's Conv1D stores (in, out)
    return torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, "none", [], "")


def _is_for_us(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"
