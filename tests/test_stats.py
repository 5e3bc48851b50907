"""Oracles: scipy, exhaustive enumeration, hand-worked values, and the false-alarm rate itself."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from isp_mech import stats


def test_resampling_is_seeded_and_in_range():
    first, again, other = (stats.resample_indices(7, 50, seed) for seed in (3, 3, 4))
    assert first.shape == (50, 7) and (first == again).all() and (first != other).any()
    assert set(np.unique(first)) == set(range(7))
    with pytest.raises(ValueError, match="resampling 0 rows"):
        stats.resample_indices(0, 10, 0)


def test_bootstrap_of_the_mean_equals_the_plain_loop(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 3))
    draws = np.stack([values[i].mean(axis=0) for i in stats.resample_indices(30, 500, 5)])
    expected = np.quantile(draws, [0.05, 0.95], axis=0)
    for block in (stats._BLOCK, 100):  # one block, and many
        monkeypatch.setattr(stats, "_BLOCK", block)
        lo, hi = stats.bootstrap_interval(values, n_boot=500, level=0.9, seed=5)
        np.testing.assert_allclose([lo, hi], expected, rtol=1e-12)


def test_bootstrap_statistics_agree_and_columns_share_their_rows():
    values = np.random.default_rng(1).exponential(size=(40, 2))
    by_name = stats.bootstrap_interval(values, statistic="median", n_boot=200)
    by_function = stats.bootstrap_interval(values, statistic=lambda rows: np.median(rows, axis=0), n_boot=200)
    np.testing.assert_array_equal(by_name, by_function)
    mean = stats.bootstrap_interval(values, n_boot=200)
    np.testing.assert_allclose(mean, stats.bootstrap_interval(values, statistic=lambda r: r.mean(axis=0), n_boot=200))
    lo, hi = stats.bootstrap_interval(values[:, 1], n_boot=200)
    assert isinstance(lo, float) and (lo, hi) == pytest.approx((mean[0][1], mean[1][1]))
    ratio = stats.bootstrap_interval(values, statistic=lambda r: r[:, 0].mean() / r[:, 1].mean(), n_boot=200)
    assert isinstance(ratio[0], float) and ratio[0] < values[:, 0].mean() / values[:, 1].mean() < ratio[1]


def test_bootstrap_agrees_with_scipy_and_covers():
    rng = np.random.default_rng(2)
    values = rng.normal(size=200)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=rng)
    ours = stats.bootstrap_interval(values, n_boot=4000)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    lo, hi = stats.bootstrap_interval(rng.normal(size=(100, 1000)), n_boot=500)
    assert 0.92 < ((lo < 0) & (hi > 0)).mean() < 0.96


def test_bootstrap_refuses_bad_input_and_passes_nan_through():
    lo, hi = stats.bootstrap_interval([[1.0, math.nan], [2.0, 1.0]], n_boot=50)
    assert np.isnan(lo[1]) and np.isnan(hi[1]) and 1.0 <= lo[0] <= hi[0] <= 2.0
    with pytest.raises(ValueError, match="level 95: expected a number between 0 and 1"):
        stats.bootstrap_interval([1.0], level=95)
    with pytest.raises(ValueError, match="statistic 'mode': expected 'mean', 'median' or a function"):
        stats.bootstrap_interval([1.0], statistic="mode")
    with pytest.raises(ValueError, match="expected \\(n,\\) or \\(n, k\\)"):
        stats.bootstrap_interval(np.zeros((2, 2, 2)))


def _every_flip(column):
    sums = np.array([np.dot(signs, column) for signs in itertools.product((-1, 1), repeat=len(column))])
    return float((np.abs(sums) >= abs(column.sum()) - 1e-9).mean())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_sign_flips_of_few_rows_are_exact(values):
    column = np.array(values, dtype=float)
    assert stats.sign_flip_p(column[:, None])[0] == pytest.approx(_every_flip(column))


def test_the_tail_agrees_with_every_sign_pattern():
    rng = np.random.default_rng(3)
    for mean in (0.5, 1.0, 1.5):
        column = rng.normal(mean, 1.0, size=17)
        exact = _every_flip(column)
        tail = stats._flip_tail(np.abs(column)[:, None], np.abs(column.sum())[None])[0]
        assert tail == pytest.approx(exact, rel=0.1), (mean, exact)


def test_the_tail_reaches_far_and_agrees_with_t_on_normal_data():
    rng = np.random.default_rng(4)
    values = rng.normal(0.35, 1.0, size=(300, 20))
    p = stats.sign_flip_p(values)
    t = scipy.stats.ttest_1samp(values, 0.0).pvalue
    assert (p < 1e-4).all() and np.abs(np.log(p) / np.log(t) - 1).max() < 0.1


def test_sign_flips_at_the_edges():
    n = 40
    assert stats.sign_flip_p(np.ones((n, 1)))[0] == pytest.approx(2.0 ** (1 - n), rel=1e-6)
    assert stats.sign_flip_p(np.zeros((n, 1)))[0] == 1.0
    few = np.zeros((n, 1))
    few[:4] = 1.0  # four rows that count: 2 of 16 patterns
    assert stats.sign_flip_p(few)[0] == pytest.approx(2 / 16, abs=0.02)
    assert np.isnan(stats.sign_flip_p(np.full((n, 1), np.nan))[0])
    column = np.random.default_rng(5).normal(0.4, 1, size=(n, 1))
    flipped = np.hstack([column, -column, 1e6 * column, 1e-9 * column])
    np.testing.assert_allclose(stats.sign_flip_p(flipped), stats.sign_flip_p(column)[0], rtol=1e-6)
    with pytest.raises(ValueError, match="at least one row"):
        stats.sign_flip_p(np.zeros((0, 3)))


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_cauchy"])
def test_false_alarms_stay_at_their_level(draw):
    values = getattr(np.random.default_rng(6), draw)(size=(100, 4000))
    p = stats.sign_flip_p(values)
    for level in (0.05, 0.01, 0.001):
        expected = level * values.shape[1]
        assert abs((p <= level).sum() - expected) < 4 * np.sqrt(expected) + 1, (draw, level)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=30))
def test_benjamini_hochberg_equals_scipy(p):
    q, values = stats.benjamini_hochberg(p), np.array(p, dtype=float)
    here = ~np.isnan(values)
    if here.any():
        np.testing.assert_allclose(q[here], scipy.stats.false_discovery_control(values[here]), atol=1e-12)
    assert np.isnan(q[~here]).all()


def test_benjamini_hochberg_keeps_shape_and_refuses_what_is_no_p():
    assert stats.benjamini_hochberg([[0.01, 0.5], [0.5, 0.02]]).tolist() == [[0.04, 0.5], [0.5, 0.04]]
    with pytest.raises(ValueError, match="from 0 to 1"):
        stats.benjamini_hochberg([0.5, 1.5])


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.integers(1, 12))
def test_a_sequential_p_that_never_stops_is_the_plain_one(draws, stop_after):
    found = stats.sequential_random_p(draws, stop_after=stop_after, n_max=len(draws))
    if sum(draws) < stop_after:
        plain = (1 + sum(draws)) / (1 + len(draws))
        assert (found.p, found.drawn, found.hits) == (plain, len(draws), sum(draws))
    else:
        last = list(itertools.accumulate(draws)).index(stop_after) + 1
        assert (found.p, found.drawn, found.hits) == (stop_after / last, last, stop_after)


def test_no_draw_is_made_that_is_not_needed():
    asked = []
    endless = (asked.append(i) or i % 2 == 0 for i in itertools.count())
    assert stats.sequential_random_p(endless, stop_after=3, n_max=100) == stats.SequentialP(3 / 5, 5, 3)
    assert len(asked) == 5
    assert stats.sequential_random_p(iter([False] * 9), n_max=3) == stats.SequentialP(1 / 4, 3, 0)
    assert stats.sequential_random_p([False, True], n_max=9) == stats.SequentialP(2 / 3, 2, 1)
    with pytest.raises(ValueError, match="stop_after 0, n_max 5: expected 1 or more of each"):
        stats.sequential_random_p([], stop_after=0, n_max=5)


@pytest.mark.parametrize("stop_after", [1, 5, 10])
def test_a_sequential_p_keeps_its_level(stop_after):
    """Under the null the observed value is one more draw: its rank, and so each draw's chance of being as good, is
    uniform. P(p <= a) <= a, but for three standard errors of the simulation."""
    rng, n = np.random.default_rng(11), 4000
    p = np.array([
        stats.sequential_random_p(rng.random(99) < chance, stop_after=stop_after, n_max=99).p
        for chance in rng.random(n)
    ])  # fmt: skip
    for level in (0.01, 0.02, 0.05, 0.1, 0.3, 0.5):
        assert (p <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / n)


points = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=7)


@settings(deadline=None, max_examples=60)
@given(points)
def test_spearman_and_its_exact_p(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    rho = stats.spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(rho) and math.isnan(stats.spearman_exact_p(a, b))
        return
    assert rho == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    every = (
        [scipy.stats.pearsonr(stats.ranks(a), order).statistic for order in itertools.permutations(stats.ranks(b))]
        if len(a) <= 5
        else []
    )
    if every:
        assert stats.spearman_exact_p(a, b) == pytest.approx(np.mean(np.abs(every) >= abs(rho) - 1e-9))


def test_spearman_by_hand_and_beyond_nine_points():
    assert stats.spearman_exact_p(range(9), range(9)) == pytest.approx(2 / math.factorial(9))
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(2, 20))
    assert stats.spearman_exact_p(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).pvalue)
    assert math.isnan(stats.spearman([1.0], [2.0])) and math.isnan(stats.spearman([1, 2], [1, math.nan]))
    with pytest.raises(ValueError, match="two columns of one length"):
        stats.spearman([1, 2], [1])
