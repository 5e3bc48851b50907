"""Whether a model, run our way, gives what the plain transformers model gives."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from isp_mech.models.forward_types import Batch, Forward


@runtime_checkable
class Runnable(Protocol):
    """What is asked of a ``Model`` here."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def accepts_trees(self) -> bool: ...
    def forward(self, batch: Batch) -> Forward: ...
    def unembed(self, hidden: Tensor) -> Tensor: ...


def branches_come_out_right(model: Runnable, ids: Tensor) -> bool:
    """Two branches after one trunk, against each as a plain chain: closer than an error could be."""
    n = ids.shape[1]
    cut = n // 2
    tree = torch.cat([ids, ids[:, cut + 1 :]], 1)  # the second branch's first token is left out
    depth = torch.cat([torch.arange(n), torch.arange(cut, n - 1)])[None].to(ids.device)
    visible = torch.ones(1, 2 * n - 1 - cut, 2 * n - 1 - cut, dtype=torch.bool, device=ids.device).tril()
    visible[:, n:, cut:n] = False
    other = torch.cat([ids[:, :cut], ids[:, cut + 1 :]], 1)
    try:
        packed = model.forward(Batch(tree, depth, visible)).hidden
        plain = model.forward(Batch(other, torch.arange(n - 1, device=ids.device)[None])).hidden
    except Exception:  # whatever a model does that was not made for such a mask
        return False
    plain, packed = plain[:, cut:].float(), packed[:, n:].float()
    limit = 1e-5 if model.dtype == "float32" else 2e-2
    return bool((packed - plain).abs().max() <= limit * plain.abs().max().clamp(min=1))


def check_against_plain(model: Runnable, ids: Tensor, plain: Tensor) -> None:
    """Our forward, packed where the model packs, gives the plain model's logits."""
    length = ids.shape[1]
    depth = torch.arange(length, device=ids.device)[None]
    visible = torch.ones(1, length, length, dtype=torch.bool, device=ids.device).tril() if model.accepts_trees else None
    hidden = model.forward(Batch(ids, depth, visible)).hidden
    with torch.no_grad():
        ours = model.unembed(hidden[0])[None].to(plain.device)
        expect_equal(f"{model.name}: the packed forward", ours, plain, model.dtype)


def expect_equal(what: str, ours: Tensor, plain: Tensor, dtype: str) -> None:
    scale = max(1.0, float(plain.float().abs().max()))
    gap = float((ours.float() - plain.float()).abs().max()) / scale
    limit = 1e-3 if dtype == "float32" else 5e-2
    if not gap <= limit:
        raise RuntimeError(
            f"{what} gives other logits than the plain transformers model: they differ by {gap:.2g} of their size"
        )
