"""Intervals, the paired test and the Pareto front against brute force and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vqkit import statistics


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_what_scipy_computes_and_holds_the_proportion(counts):
    right, n = counts
    low, high = statistics.wilson(right / n, n)
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=1e-12)
    assert 0 <= low <= right / n <= high <= 1


def test_wilson_of_unknown_counts_is_unknown_and_shapes_broadcast():
    low, high = statistics.wilson([0.5, np.nan, 0.5], [100, 100, 0])
    np.testing.assert_array_equal(np.isnan(low), [False, True, True])
    np.testing.assert_array_equal(np.isnan(high), [False, True, True])
    assert statistics.wilson(np.full((2, 1), 0.9), [10, 1000])[0].shape == (2, 2)


@given(st.integers(1, 5_000))
def test_more_samples_never_widen_the_interval(n):
    narrow, wide = (np.ptp(statistics.wilson(0.75, count)) for count in (n + 1, n))
    assert narrow <= wide


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(a, b):
    expected = stats.binomtest(a, a + b).pvalue if a + b else 1.0
    assert statistics.mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert statistics.mcnemar(a, b) == statistics.mcnemar(b, a)


def test_mcnemar_of_many_disagreements_neither_overflows_nor_takes_long():
    assert statistics.mcnemar(5_000, 5_000) == 1.0
    assert 0 <= statistics.mcnemar(4_000, 6_000) < 1e-80


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30)


@given(points)
def test_pareto_is_the_definition(found):
    cost = np.array([p[0] for p in found], float)
    value = np.array([p[1] for p in found], float)
    expected = [not any((c <= x and v >= y) and (c < x or v > y) for c, v in found) for x, y in found]
    np.testing.assert_array_equal(statistics.pareto(cost, value), expected)


@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), max_size=30))
def test_the_front_of_three_objectives_is_the_definition(found):
    losses = np.array(found, float).reshape(-1, 3)
    expected = [not any(o != p and all(a <= b for a, b in zip(o, p, strict=True)) for o in found) for p in found]
    np.testing.assert_array_equal(statistics.undominated(losses), expected)


def test_pareto_leaves_out_what_is_unknown():
    front = statistics.pareto([1, np.nan, 2], [0.5, 0.9, np.nan])
    np.testing.assert_array_equal(front, [True, False, False])
    assert statistics.pareto([], []).shape == (0,)
