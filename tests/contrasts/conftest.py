"""Pairs that several tests look at, drawn once."""

from __future__ import annotations

from functools import cache

import pytest

from isp_mech.contrasts import contrast


@pytest.fixture(scope="session")
def drawn():
    """``drawn(task, variant)``: a thousand pairs of a task, or three hundred of a variant, from seed 5."""
    return cache(lambda task, variant="": contrast(task, n=300 if variant else 1000, seed=5, variant=variant))
