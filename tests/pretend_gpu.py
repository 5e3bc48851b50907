"""A GPU that is none: tensors that say they lie on another device, and are computed here, to the same numbers.

As a real GPU it refuses to compute with tensors of both sides; and it tells what makes the host wait for the device, or
carries tensors from one side to the other. The device is torch's "meta", which needs no driver.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from isp_mech.models import Model

DEVICE = "meta"
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
CARRIED = {aten._to_copy.default, aten.copy_.default}
WAITING = {
    aten._local_scalar_dense.default,  # item(), bool(), int()
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.equal.default,
}


class There(Tensor):
    """A tensor of the device, and what it holds."""

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, [])


class PretendGpu(TorchDispatchMode):
    """Within it there is the device; ``told`` is what made the host wait, or was carried from side to side."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, self.told)


def _is_here(x) -> bool:
    return isinstance(x, Tensor) and not isinstance(x, There)


def _run(func, args, kwargs, told: list[str]):
    leaves = tree_leaves((args, kwargs))
    there, mixed = any(isinstance(x, There) for x in leaves), any(_is_here(x) and x.dim() for x in leaves)
    to = kwargs.get("device")
    stays = there if to is None else torch.device(to).type == DEVICE
    if there and mixed and func not in INDEXED | CARRIED:
        raise RuntimeError(f"{func}: expected all tensors on one device")
    masks = func in INDEXED and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    carried = func in CARRIED and there != stays or there and mixed
    if there and (func in WAITING or masks) or carried:
        told.append(str(func))
    computed = kwargs if to is None else {**kwargs, "device": torch.device("cpu")}
    with torch.no_grad():
        out = func(*tree_map(_held, args), **tree_map(_held, computed))
    if func._schema.name.endswith("_"):
        return args[0]
    return tree_map(lambda x: There(x) if stays and _is_here(x) else x, out)


def _held(x):
    return x.held if isinstance(x, There) else x


def on_pretend_gpu(model: Model) -> Model:
    """The model with its parameters there."""

    def there(x: Tensor) -> Tensor:
        return nn.Parameter(There(x.detach()), x.requires_grad) if isinstance(x, nn.Parameter) else There(x)

    memo = {id(x): there(x) for x in (*model.hf.parameters(), *model.hf.buffers())}
    hf, architecture = copy.deepcopy((model.hf, model.architecture), memo)
    return replace(model, hf=hf, architecture=architecture, device=DEVICE)


def tensor_by_way_of_here(data, *, dtype=None, device=None):
    """``torch.tensor``, which would give its numbers up on the device "meta"."""
    made = _TENSOR(data, dtype=dtype)
    return made if device is None else made.to(device)


_TENSOR = torch.tensor


@contextmanager
def told_within(module_in: nn.Module, module_out: nn.Module, gpu: PretendGpu):
    """What is told between the beginning of ``module_in`` and the end of ``module_out``: a list for each forward."""
    forwards: list[list[str]] = []
    since: list[int] = []
    handles = [
        module_in.register_forward_pre_hook(lambda module, args, kwargs: since.append(len(gpu.told)), with_kwargs=True),
        module_out.register_forward_hook(lambda module, args, out: forwards.append(gpu.told[since[-1] :])),
    ]
    try:
        yield forwards
    finally:
        for handle in handles:
            handle.remove()
