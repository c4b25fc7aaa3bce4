"""How sure a comparison is: intervals for accuracies, a paired test, and the Pareto front."""

from __future__ import annotations

import math
from statistics import NormalDist

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
