"""Least squares, against normal equations, scipy and a line worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from isp_mech.scaling.regression import least_squares


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_least_squares_agrees_with_normal_equations(seed, k):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, k)), rng.normal(size=12)
    found = least_squares(x, y)
    inverse = np.linalg.inv(x.T @ x)
    coefficient = inverse @ x.T @ y
    se = np.sqrt(((y - x @ coefficient) ** 2).sum() / (12 - k) * np.diag(inverse))
    np.testing.assert_allclose(found.coefficient, coefficient, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.se, se, rtol=1e-7)
    np.testing.assert_allclose(found.p, 2 * scipy.stats.t.sf(np.abs(coefficient / se), 12 - k), rtol=1e-6)
    assert found.df == 12 - k


def test_least_squares_by_hand_and_by_scipy():
    x, y = np.arange(5.0), np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    found, theirs = least_squares(np.column_stack([np.ones(5), x]), y), scipy.stats.linregress(x, y)
    assert found.coefficient == pytest.approx([1.4, 0.8])  # 3 - 0.8 * 2, and 8 / 10
    assert (found.se[1], found.p[1]) == pytest.approx((theirs.stderr, theirs.pvalue))
    exact = least_squares(np.column_stack([np.ones(4), np.arange(4)]), 2 * np.arange(4.0))
    assert exact.coefficient == pytest.approx([0, 2]) and exact.p[1] < 1e-12


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([[1.0, 2.0]], [1.0, 2.0], r"predictors of shape \(1, 2\), values of shape \(2,\)"),
        ([[1.0], [math.nan]], [1.0, 2.0], "expected finite"),
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0], "2 rows and 2 predictors: expected more rows"),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [1.0, 2.0, 3.0], "one column is a sum of the others"),
    ],
)
def test_least_squares_refuses_what_has_no_answer(x, y, said):
    with pytest.raises(ValueError, match=said):
        least_squares(x, y)
