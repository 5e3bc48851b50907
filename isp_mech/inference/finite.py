"""Numbers that are none: NaN and infinity are refused by name, wherever a model gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isp_mech.errors import InputError

WHY = "a weight that is not finite, or a number format too small for what the model computes"


def check_finite(values: np.ndarray, names: Sequence[str], model: str) -> None:
    """``InputError`` that names every item, by its place along the first axis, some of whose values are not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(1) if len(values) else np.zeros(0, dtype=bool)
    problems = list(dict.fromkeys(name for name, is_bad in zip(names, bad, strict=True) if is_bad))
    if problems:
        raise InputError(
            model, [f"{name}: its logits are NaN or infinite, expected numbers: {WHY}" for name in problems]
        )
