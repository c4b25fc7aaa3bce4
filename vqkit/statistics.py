"""How sure a comparison is: intervals for accuracies, a paired test, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


def wilson(
    accuracy: ArrayLike, n: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson score interval of a proportion, because it stays inside 0..1 and is honest near both ends.

    Args:
        accuracy: proportion of right answers, 0..1, any shape; NaN gives NaN.
        n: number of samples, broadcast against `accuracy`; NaN or 0 gives NaN.
        confidence: coverage of the interval, 0..1.

    Returns:
        Lower and upper bound, float64, the broadcast shape, with low <= accuracy <= high.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    p, count = np.broadcast_arrays(np.asarray(accuracy, np.float64), np.asarray(n, np.float64))
    count = np.where(count > 0, count, np.nan)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    scale = 1 + z * z / count
    centre = (p + z * z / (2 * count)) / scale
    half = z / scale * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    # Rounding may put a bound on the wrong side of the proportion at 0 and 1.
    return np.clip(np.minimum(centre - half, p), 0, 1), np.clip(np.maximum(centre + half, p), 0, 1)


def clopper_pearson(hits: int, n: int, *, error: float) -> tuple[float, float]:
    """Exact one-sided bounds of a proportion: each is wrong with a chance of at most `error`.

    Args:
        hits: samples that count.
        n: all samples.
        error: 0..1.

    Returns:
        Lower and upper bound.

    Source: C. J. Clopper and E. S. Pearson, The Use of Confidence or Fiducial Limits, 1934.
    """
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, error))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - error))
    return low, high


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test: could the samples that one of two models gets right be chance.

    Args:
        only_a: samples that only the first model gets right.
        only_b: samples that only the second model gets right.

    Returns:
        p-value, 0..1; 1.0 when the two never disagree.

    Source: Q. McNemar, 1947, in the exact binomial form.
    """
    total, smaller = only_a + only_b, min(only_a, only_b)
    tail, term = 0, 1
    for k in range(smaller + 1):
        tail += term
        term = term * (total - k) // (k + 1)
    # Whole numbers to the end: 2**total leaves the range of a float at 1,024 disagreements.
    return min(1.0, _ratio(2 * tail, total))


def _ratio(numerator: int, power_of_two: int) -> float:
    shift = max(0, numerator.bit_length() - 64)
    return math.ldexp(float(numerator >> shift), shift - power_of_two)


def pareto(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Points that no other point beats: none is at most as costly and at least as good, and better in one.

    Args:
        cost: what to have little of (bytes), shape (n,).
        value: what to have much of (accuracy), shape (n,).

    Returns:
        Shape (n,), True on the front. Equal points are on it together; NaN never is.
    """
    losses = np.stack([np.asarray(cost, np.float64), -np.asarray(value, np.float64)], axis=1)
    known = ~np.isnan(losses).any(axis=1)
    front = np.zeros(known.shape, bool)
    front[known] = undominated(losses[known])
    return front


def undominated(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Points that no other point beats: none is at most as large in every column, and smaller in one.

    Args:
        losses: what to have little of, shape (n, k), without NaN.

    Returns:
        Shape (n,). Equal points are on the front together.
    """
    points, where = np.unique(losses + 0.0, axis=0, return_inverse=True)
    on = np.ones(len(points), bool)
    for i, point in enumerate(points):  # who beats a point comes before it in this order, and is on the front
        on[i] = not (points[:i][on[:i]] <= point).all(axis=1).any()
    return on[where.reshape(-1)]


# --- any metric ---

RESAMPLES = 2000
Statistic = Callable[[NDArray[np.intp]], float]
"""A metric of the samples with these numbers, which may repeat; shape (n,)."""


def bootstrap(
    sums: Callable[[NDArray[np.float64], int], NDArray[np.float64]],
    samples: NDArray[Any],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """BCa bootstrap interval of a metric that follows from sums over samples.

    Args:
        sums: from sums of shape (…, k) over n samples to the metric, shape (…).
        samples: what each sample adds, shape (n, k).
        confidence: coverage of the interval, 0..1.
        resamples: how often the samples are drawn anew.
        seed: of the draws.

    Returns:
        Lower and upper bound; both the metric itself where no draw differs from it, NaN where it is not a number.

    Source: B. Efron, Better Bootstrap Confidence Intervals, 1987.
    """
    values, n = np.asarray(samples, np.float64), len(samples)
    total = values.sum(axis=0)
    metric = float(sums(total, n))
    drawn = _drawn(sums, values, resamples, seed)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(metric) or not drawn.size or n < 2:
        return float("nan"), float("nan")
    left_out = np.asarray(sums(total - values, n - 1), np.float64)
    return _bca(metric, drawn, left_out[np.isfinite(left_out)], confidence)


def _drawn(
    sums: Callable[[NDArray[np.float64], int], NDArray[np.float64]],
    values: NDArray[np.float64],
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """The metric of samples drawn with replacement."""
    random, (n, k) = np.random.default_rng(seed), values.shape
    at_once = max(1, min(resamples, _NUMBERS // max(n * k, 1)))
    found = []
    for start in range(0, resamples, at_once):
        drawn = random.integers(0, n, (min(at_once, resamples - start), n), np.int32)
        found.append(np.asarray(sums(values[drawn].sum(axis=1), n), np.float64))
    return np.concatenate(found)


_NUMBERS = 1 << 22
"""Numbers held at once while samples are drawn."""


def bootstrap_of(
    statistic: Statistic, n: int, *, confidence: float = CONFIDENCE, resamples: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of a metric that must be computed anew from each draw of samples: BCa, or percentiles.

    Args:
        statistic: the metric of the samples with these numbers.
        n: how many samples there are; up to 1,000 the interval is BCa, which asks once for each of them.
        confidence: coverage of the interval, 0..1.
        resamples: how often the samples are drawn anew.
        seed: of the draws.

    Returns:
        Lower and upper bound.
    """
    random, everyone = np.random.default_rng(seed), np.arange(n)
    metric = float(statistic(everyone))
    drawn = np.array([statistic(random.integers(0, n, n)) for _ in range(resamples)], np.float64)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(metric) or not drawn.size or n < 2:
        return float("nan"), float("nan")
    left_out = [statistic(np.delete(everyone, i)) for i in range(n)] if n <= _JACKKNIFE else []
    return _bca(metric, drawn, np.array(left_out, np.float64), confidence)


_JACKKNIFE = 1000


def _bca(
    metric: float, drawn: NDArray[np.float64], left_out: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """Quantiles of the draws, corrected for bias and skew; plain percentiles without the values left out."""
    normal = NormalDist()
    below = (np.sum(drawn < metric) + np.sum(drawn == metric) / 2) / len(drawn)
    if not 0 < below < 1:
        return float(min(metric, drawn.min())), float(max(metric, drawn.max()))
    bias = normal.inv_cdf(float(below))
    apart = left_out.mean() - left_out if left_out.size else np.zeros(1)
    spread = float(np.sum(apart**2) ** 1.5)
    skew = float(np.sum(apart**3)) / (6 * spread) if spread > 0 else 0.0
    ends = []
    for share in (0.5 - confidence / 2, 0.5 + confidence / 2):
        z = bias + normal.inv_cdf(share)
        ends.append(float(np.quantile(drawn, normal.cdf(bias + z / (1 - skew * z)))))
    return ends[0], ends[1]


def paired(
    sums: Callable[[NDArray[np.float64], int], NDArray[np.float64]],
    a: NDArray[Any],
    b: NDArray[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Paired permutation test of two models on the same samples, for a metric that follows from sums.

    If the two were equally good, which of them gave which answer to a sample would not matter. Where the metric is the
    share of right answers this is McNemar's test, which `mcnemar` computes exactly.

    Args:
        sums: from sums of shape (…, k) over n samples to the metric, shape (…).
        a: what each sample adds under the first model, shape (n, k).
        b: the same under the second one.
        resamples: random exchanges; all of them where there are fewer.
        seed: of the exchanges.

    Returns:
        Two-sided p-value, 0..1; 1.0 where the two answer alike.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    moving = np.any(x != y, axis=1)
    if not moving.any():
        return 1.0
    fixed, n = x[~moving].sum(axis=0), len(x)
    p, q = x[moving], y[moving]
    observed = abs(float(sums(fixed + p.sum(0), n) - sums(fixed + q.sum(0), n)))
    count = len(p)
    swaps: Iterable[NDArray[Any]]
    if count <= _ALL_EXCHANGES:
        swaps, total, extra = [(np.arange(1 << count)[:, None] >> np.arange(count)) & 1], 1 << count, 0
    else:
        swaps, total, extra = _exchanges(count, resamples, seed), resamples, 1
    reached = 0
    for swap in swaps:
        difference = np.abs(_swapped(sums, p, q, fixed, n, swap) - _swapped(sums, q, p, fixed, n, swap))
        reached += int(np.sum(difference >= observed * (1 - 1e-9)))
    return min(1.0, (reached + extra) / (total + extra))


def _exchanges(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int8]]:
    """Random exchanges of so many samples, as many at once as fit."""
    random, at_once = np.random.default_rng(seed), max(1, _NUMBERS // count)
    for start in range(0, resamples, at_once):
        yield random.integers(0, 2, (min(at_once, resamples - start), count), np.int8)


_ALL_EXCHANGES = 11


def _swapped(
    sums: Callable[[NDArray[np.float64], int], NDArray[np.float64]],
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    fixed: NDArray[np.float64],
    n: int,
    swap: NDArray[Any],
) -> NDArray[np.float64]:
    return np.asarray(sums(fixed + p.sum(0) + swap.astype(np.float64) @ (q - p), n), np.float64)


def paired_of(
    statistic: Callable[[NDArray[np.bool_]], tuple[float, float]], n: int, *, resamples: int = 500, seed: int = 0
) -> float:
    """The same test for a metric that must be computed anew.

    Args:
        statistic: from which samples are exchanged, shape (n,), to the metric of both models.
        n: number of samples.
        resamples: random exchanges.
        seed: of the exchanges.

    Returns:
        Two-sided p-value, 0..1.
    """
    random = np.random.default_rng(seed)
    a, b = statistic(np.zeros(n, bool))
    observed = abs(a - b)
    if observed == 0:
        return 1.0
    found = [statistic(random.integers(0, 2, n).astype(bool)) for _ in range(resamples)]
    reached = sum(abs(x - y) >= observed * (1 - 1e-9) for x, y in found)
    return (reached + 1) / (resamples + 1)
