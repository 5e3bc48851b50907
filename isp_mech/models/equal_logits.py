"""How far our logits are from plain transformers' own, and how far they may be."""

from __future__ import annotations

from torch import Tensor


def expect_equal(what: str, ours: Tensor, plain: Tensor, dtype: str) -> None:
    gap = logit_gap(ours, plain)
    if not gap <= limit_of(dtype, 1e-3, 5e-2):
        raise RuntimeError(
            f"{what} gives other logits than the plain transformers model: they differ by {gap:.2g} of their size"
        )


def logit_gap(ours: Tensor, plain: Tensor) -> float:
    """The largest difference, as a part of the plain values' size."""
    scale = max(1.0, float(plain.float().abs().max()))
    return float((ours.float() - plain.float()).abs().max()) / scale


def limit_of(dtype: str, exact: float, half: float) -> float:
    return exact if dtype == "float32" else half
