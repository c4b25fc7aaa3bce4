"""Intervals and paired tests of any metric: known answers, coverage, and agreement with the exact test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqkit import statistics
from vqkit.errors import DataError
from vqkit.evaluation.judgement import compared, interval, worst
from vqkit.evaluation.metrics import NAMED


def mean(sums: np.ndarray, n: int) -> np.ndarray:
    return sums[..., 0] / n


@given(right=st.integers(0, 11), wrong=st.integers(0, 11), same=st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_of_shares_the_permutation_test_is_mcnemars(right: int, wrong: int, same: int) -> None:
    if right + wrong > 11:
        return
    a = np.array([1] * right + [0] * wrong + [1] * same, float)[:, None]
    b = np.array([0] * right + [1] * wrong + [1] * same, float)[:, None]
    if len(a):
        assert statistics.paired(mean, a, b) == pytest.approx(statistics.mcnemar(right, wrong))


def test_intervals_cover_what_they_should() -> None:
    """95 % intervals of 150 draws hold the truth about 95 times in a hundred: 88 to 99 here, by chance alone."""
    hits = {"mean": 0, "root": 0}
    for i in range(150):
        x = np.random.default_rng(i).gamma(2.0, size=(200, 1))
        low, high = statistics.bootstrap(mean, x, resamples=600, seed=i + 10**6)
        hits["mean"] += low <= 2.0 <= high
        low, high = statistics.bootstrap(lambda s, n: np.sqrt(s[..., 0] / n), x**2, resamples=600, seed=i + 10**6)
        hits["root"] += low <= 6**0.5 <= high
    assert all(0.88 <= n / 150 <= 0.99 for n in hits.values()), hits


def test_the_test_rejects_seldom_where_nothing_differs_and_always_where_much_does() -> None:
    rejected = 0
    for i in range(120):
        random = np.random.default_rng(i)
        x = random.exponential(size=(80, 1))
        rejected += statistics.paired(mean, x, x + random.normal(0, 0.3, (80, 1)), resamples=400, seed=i) <= 0.05
    assert rejected <= 14
    assert statistics.paired(mean, x, x + 0.2) < 0.01


def test_what_is_alike_is_level() -> None:
    y = np.arange(20.0)
    verdict = compared(NAMED["mae"], y[:, None] + 1, y[:, None] + 1, y)
    assert (verdict.p_value, verdict.level, verdict.low, verdict.high) == (1.0, True, 0.0, 0.0)


@pytest.mark.parametrize("name", ["mae", "rmse", "r2"])
def test_a_worse_model_is_told_from_a_better_one(name: str) -> None:
    random = np.random.default_rng(0)
    y = random.normal(size=(200, 1))
    near, far = y + random.normal(0, 0.1, y.shape), y + random.normal(0, 0.5, y.shape)
    verdict = compared(NAMED[name], near, far, y)
    assert not verdict.level
    assert NAMED[name].sign * (verdict.b - verdict.a) < 0
    assert verdict.low <= verdict.b - verdict.a <= verdict.high
    assert verdict.low > 0 or verdict.high < 0
    low, high = interval(NAMED[name], near, y)
    assert low <= NAMED[name].of(near, y) <= high


def test_a_metric_without_sums_is_resampled_whole() -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 120)
    good, bad = (y + random.normal(0, s, 120) for s in (0.4, 2.0))
    verdict = compared(NAMED["auc"], good[:, None], bad[:, None], y)
    assert verdict.a > verdict.b
    assert not verdict.level
    low, high = interval(NAMED["auc"], good[:, None], y)
    assert 0.5 < low < verdict.a < high <= 1
    assert compared(NAMED["auc"], good[:, None], good[:, None] * 3, y).p_value == 1.0


def test_accuracy_keeps_its_exact_test_and_interval() -> None:
    y = np.arange(100) % 4
    a, b = np.eye(4)[y], np.eye(4)[np.where(np.arange(100) < 7, (y + 1) % 4, y)]
    verdict = compared(NAMED["accuracy"], a, b, y)
    assert (verdict.test, verdict.p_value) == ("McNemar", statistics.mcnemar(7, 0))
    low, high = statistics.wilson(0.93, 100)
    assert interval(NAMED["accuracy"], b, y) == (float(low), float(high))


def test_the_worst_samples_come_first() -> None:
    y, x = np.zeros(6), np.array([[0], [3], [1], [-5], [0.5], [2.0]])
    assert worst(NAMED["mae"], x, y, 3).tolist() == [3, 1, 5]
    with pytest.raises(DataError, match="no value for a single sample"):
        worst(NAMED["auc"], x, y, 1)
    with pytest.raises(DataError, match="6 samples beside outputs of 5"):
        compared(NAMED["mae"], x, x[:5], y)
