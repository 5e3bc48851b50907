"""Whether a model, run our way, gives what the plain transformers model gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isp_mech.models.batch import Batch, TokenPlaces
from isp_mech.models.model import Model


def branches_come_out_right(model: Model, ids: Tensor) -> bool:
    """Two branches after one beginning, against each as a plain chain: closer than an error could be."""
    n = ids.shape[1]
    cut = n // 2
    tree = torch.cat([ids, ids[:, cut + 1 :]], 1)  # the second branch's first token is left out
    depth = torch.cat([torch.arange(n), torch.arange(cut, n - 1)])[None].to(ids.device)
    visible = torch.ones(1, 2 * n - 1 - cut, 2 * n - 1 - cut, dtype=torch.bool, device=ids.device).tril()
    visible[:, n:, cut:n] = False
    other = torch.cat([ids[:, :cut], ids[:, cut + 1 :]], 1)

    def both() -> tuple[Tensor, Tensor]:
        packed = model.forward(Batch(tree, depth, visible)).hidden
        return packed[:, n:], model.forward(_chain(other)).hidden[:, cut:]

    return _come_out_alike(model, both)


def selected_tokens_come_out_right(model: Model, ids: Tensor) -> bool:
    """The last layer at two tokens alone, against all."""
    rows, nodes = torch.zeros(2, dtype=torch.long), torch.tensor([ids.shape[1] // 2, ids.shape[1] - 1])

    def both() -> tuple[Tensor, Tensor]:
        selected = model.forward(_chain(ids), at=TokenPlaces(rows, nodes)).hidden
        return selected, model.forward(_chain(ids)).hidden[rows, nodes]

    return _come_out_alike(model, both)


def _chain(ids: Tensor) -> Batch:
    return Batch(ids, torch.arange(ids.shape[1], device=ids.device)[None])


def _come_out_alike(model: Model, both: Callable[[], tuple[Tensor, Tensor]]) -> bool:
    try:
        ours, plain = both()
    except Exception:  # whatever a model does that was not made for it
        return False
    limit = 1e-5 if model.dtype == "float32" else 2e-2
    return bool((ours - plain).float().abs().max() <= limit * plain.float().abs().max().clamp(min=1))


def check_against_plain(model: Model, ids: Tensor, plain: Tensor) -> None:
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
