"""How sure a metric is, and whether two models differ by it: one interval and one paired test for any metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit import statistics
from vqkit.errors import DataError
from vqkit.evaluation.metrics import Metric

Arrays = NDArray[Any]


def interval(metric: Metric, outputs: Arrays, labels: Arrays, *, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound of a metric: Wilson's for a share of samples, else a bootstrap over samples.

    Args:
        metric: what is judged by.
        outputs: of the model, shape (n, …).
        labels: of the same samples.
        confidence: coverage, 0..1.

    Raises:
        DataError: the metric cannot judge these outputs by these labels.
    """
    samples = metric.samples(outputs, labels)
    if samples is None:
        return statistics.bootstrap_of(lambda i: metric.of(outputs[i], labels[i]), len(outputs), confidence=confidence)
    if _is_share(metric, samples):
        low, high = statistics.wilson(samples.mean(), len(samples), confidence=confidence)
        return float(low), float(high)
    return statistics.bootstrap(metric.combined, samples, confidence=confidence)


def _is_share(metric: Metric, samples: Arrays) -> bool:
    return metric.combine is None and samples.dtype == bool


@dataclass(frozen=True)
class Verdict:
    """Two models on the same samples.

    Attributes:
        a: the metric of the first model.
        b: of the second one.
        low: lower bound of b - a.
        high: upper bound of it.
        p_value: of the two being equally good.
        test: "McNemar" or "permutation".
    """

    a: float
    b: float
    low: float
    high: float
    p_value: float
    test: str

    @property
    def level(self) -> bool:
        """Whether chance could explain the difference."""
        return self.p_value > 1 - statistics.CONFIDENCE


def compared(metric: Metric, a: Arrays, b: Arrays, labels: Arrays) -> Verdict:
    """Whether two models differ by a metric.

    Args:
        metric: what is judged by.
        a: outputs of the first model, shape (n, …).
        b: outputs of the second one, on the same samples.
        labels: of these samples.

    Raises:
        DataError: they are not of the same samples, or the metric cannot judge them.
    """
    if len(a) != len(b):
        raise DataError(f"metric {metric.name}: outputs of {len(a)} samples beside outputs of {len(b)}")
    x, y, n = metric.samples(a, labels), metric.samples(b, labels), len(a)
    first, second = metric.finished(x, a, labels), metric.finished(y, b, labels)
    if x is None or y is None:
        low, high = statistics.bootstrap_of(lambda i: metric.of(b[i], labels[i]) - metric.of(a[i], labels[i]), n)
        p = statistics.paired_of(lambda s: _exchanged(metric, a, b, labels, s), n)
        return Verdict(first, second, low, high, p, "permutation")
    width = x.shape[1]
    low, high = statistics.bootstrap(
        lambda sums, n: metric.combined(sums[..., width:], n) - metric.combined(sums[..., :width], n),
        np.concatenate([x, y], axis=1),
    )
    if _is_share(metric, x):
        p = statistics.mcnemar(int(np.sum(x & ~y)), int(np.sum(y & ~x)))
        return Verdict(first, second, low, high, p, "McNemar")
    return Verdict(first, second, low, high, statistics.paired(metric.combined, x, y), "permutation")


def _exchanged(metric: Metric, a: Arrays, b: Arrays, labels: Arrays, swap: NDArray[np.bool_]) -> tuple[float, float]:
    mask = swap.reshape(-1, *[1] * (a.ndim - 1))
    return metric.of(np.where(mask, b, a), labels), metric.of(np.where(mask, a, b), labels)


def worst(metric: Metric, outputs: Arrays, labels: Arrays, n: int) -> NDArray[np.intp]:
    """Numbers of the samples that a model does worst on, worst first.

    Args:
        metric: with a value for each sample, which is then the metric of that sample alone.
        outputs: of the model, shape (samples, …).
        labels: of the same samples.
        n: how many.

    Raises:
        DataError: the metric has no value for a sample.
    """
    samples = metric.samples(outputs, labels)
    if samples is None:
        raise DataError(f"metric {metric.name} has no value for a single sample")
    values = np.asarray(metric.combined(samples.astype(np.float64), 1), np.float64)
    order = np.argsort(np.nan_to_num(metric.sign * values, nan=np.inf), kind="stable")
    return np.asarray(order[:n])
