"""How sure a metric is, and whether two models differ by it: one interval and one paired test for any metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit import statistics
from vqkit.errors import DataError
from vqkit.evaluation.metric import Metric

Arrays = NDArray[Any]


def interval(
    metric: Metric, outputs: Arrays, labels: Arrays, weights: Arrays | None = None, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Lower and upper bound of a metric: Wilson's for a share of samples, else a bootstrap over samples.

    Args:
        metric: what is judged by.
        outputs: of the model, shape (n, …).
        labels: of the same samples.
        weights: of the samples, shape (n,), where the metric is weighted.
        confidence: coverage, 0..1.

    Raises:
        DataError: the metric cannot judge these outputs by these labels.
    """
    samples = metric.samples(outputs, labels, weights)
    if samples is None:
        metric.of(outputs, labels, weights)  # Raises where the samples cannot be judged, not only a draw of them.
        one = _statistic(metric, outputs, labels, weights)
        return statistics.bootstrap_of(one, len(outputs), confidence=confidence)
    return interval_of(metric, samples, confidence=confidence)


def _statistic(metric: Metric, outputs: Arrays, labels: Arrays, weights: Arrays | None) -> statistics.Statistic:
    """The metric of drawn samples; not a number where a draw cannot be judged, of one class alone for instance."""

    def value(i: NDArray[np.intp]) -> float:
        try:
            return metric.of(outputs[i], labels[i], None if weights is None else weights[i])
        except DataError:
            return float("nan")

    return value


def interval_of(metric: Metric, samples: Arrays, *, confidence: float = 0.95) -> tuple[float, float]:
    """The same from what each sample adds.

    Args:
        metric: what is judged by.
        samples: from `Metric.samples`, or `Evaluation.samples`, shape (n, k).
        confidence: coverage, 0..1.
    """
    if _is_share(metric, samples):
        low, high = statistics.wilson(samples.mean(), len(samples), confidence=confidence)
        return float(low), float(high)
    return statistics.bootstrap(metric.combined, samples, confidence=confidence)


def _is_share(metric: Metric, samples: Arrays) -> bool:
    return metric.combine is None and samples.dtype == bool


@dataclass(frozen=True, eq=False)
class Evidence:
    """How a model does on some samples: enough for a metric's value, its interval and paired tests.

    Attributes:
        metric: what is judged by.
        values: what each sample adds, shape (n, k); of a metric that has no such values the outputs, shape (n, …).
        labels: of the samples.
        weights: of the samples, shape (n,), where the metric is weighted.
    """

    metric: Metric
    values: Arrays = field(repr=False)
    labels: Arrays = field(repr=False)
    weights: Arrays | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, metric: Metric, outputs: Arrays, labels: Arrays, weights: Arrays | None = None, inputs: Any = None
    ) -> Evidence:
        """The evidence of a model's outputs.

        Args:
            metric: what is judged by.
            outputs: of the model, shape (n, …).
            labels: of the same samples.
            weights: of the same samples, where the metric is weighted.
            inputs: of the model, for metrics that judge what follows from both.

        Raises:
            DataError: the metric cannot judge these outputs by these labels.
        """
        seen = metric.seen(outputs, inputs)
        samples = metric.samples(seen, labels, weights)
        return cls(metric, seen if samples is None else samples, labels, weights)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_share(self) -> bool:
        """Whether the metric is the share of samples that are right."""
        return self.metric.parts is not None and _is_share(self.metric, self.values)

    @property
    def test(self) -> str:
        """Name of the paired test: "McNemar" or "permutation"."""
        return "McNemar" if self.is_share else "permutation"

    @cached_property
    def value(self) -> float:
        """The metric."""
        samples = None if self.metric.parts is None else self.values
        return self.metric.finished(samples, self.values, self.labels, self.weights)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound of the metric, 95 %."""
        if self.metric.parts is not None:
            return interval_of(self.metric, self.values)
        return statistics.bootstrap_of(_statistic(self.metric, self.values, self.labels, self.weights), len(self))

    def p_value(self, other: Evidence) -> float:
        """Chance of such a difference, were both models equally good.

        Args:
            other: by the same metric on the same samples.
        """
        if self.metric.parts is not None:
            return _p_value(self.metric, self.values, other.values)
        return _p_exchanged(self.metric, self.values, other.values, self.labels, self.weights)


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


def compared(metric: Metric, a: Arrays, b: Arrays, labels: Arrays, weights: Arrays | None = None) -> Verdict:
    """Whether two models differ by a metric.

    Args:
        metric: what is judged by.
        a: outputs of the first model, shape (n, …).
        b: outputs of the second one, on the same samples.
        labels: of these samples.
        weights: of these samples, shape (n,), where the metric is weighted.

    Raises:
        DataError: they are not of the same samples, or the metric cannot judge them.
    """
    if len(a) != len(b):
        raise DataError(f"metric {metric.name}: outputs of {len(a)} samples beside outputs of {len(b)}")
    x, y, n = metric.samples(a, labels, weights), metric.samples(b, labels, weights), len(a)
    if x is not None and y is not None:
        return compared_by(metric, x, y)
    values = metric.of(a, labels, weights), metric.of(b, labels, weights)
    first, second = (_statistic(metric, outputs, labels, weights) for outputs in (a, b))
    low, high = statistics.bootstrap_of(lambda i: second(i) - first(i), n)
    return Verdict(*values, low, high, _p_exchanged(metric, a, b, labels, weights), "permutation")


def _p_exchanged(metric: Metric, a: Arrays, b: Arrays, labels: Arrays, weights: Arrays | None) -> float:
    """p-value of a metric that must be computed anew from outputs that are exchanged."""
    everyone = np.arange(len(a))

    def exchanged(swap: NDArray[np.bool_]) -> tuple[float, float]:
        mask = swap.reshape(-1, *[1] * (a.ndim - 1))
        one, other = (_statistic(metric, np.where(mask, *two), labels, weights) for two in ((b, a), (a, b)))
        return one(everyone), other(everyone)

    return statistics.paired_of(exchanged, len(a))


def _p_value(metric: Metric, a: Arrays, b: Arrays) -> float:
    """p-value from what each sample adds: McNemar's exact test of a share, else permutations."""
    if _is_share(metric, a):
        return statistics.mcnemar(int(np.sum(a & ~b)), int(np.sum(b & ~a)))
    return statistics.paired(metric.combined, a, b)


def compared_by(metric: Metric, a: Arrays, b: Arrays) -> Verdict:
    """The same from what each sample adds.

    Args:
        metric: what is judged by.
        a: under the first model, from `Metric.samples` or `Evaluation.samples`, shape (n, k).
        b: under the second one, of the same samples.
    """
    first, second = (float(metric.combined(s.sum(axis=0, dtype=np.float64), len(s))) for s in (a, b))
    width = a.shape[1]
    low, high = statistics.bootstrap(
        lambda sums, n: metric.combined(sums[..., width:], n) - metric.combined(sums[..., :width], n),
        np.concatenate([a, b], axis=1),
    )
    test = "McNemar" if _is_share(metric, a) else "permutation"
    return Verdict(first, second, low, high, _p_value(metric, a, b), test)


def worst(metric: Metric, outputs: Arrays, labels: Arrays, n: int) -> NDArray[np.intp]:
    """Numbers of the samples that a model does worst on, worst first.

    Args:
        metric: with a value for each sample, which is then the metric of that sample alone.
        outputs: of the model, shape (samples, …).
        labels: of the same samples.
        n: how many; weights of samples say nothing here.

    Raises:
        DataError: the metric has no value for a sample.
    """
    samples = metric.samples(outputs, labels, np.ones(len(outputs)) if metric.weighted else None)
    if samples is None:
        raise DataError(f"metric {metric.name} has no value for a single sample")
    values = np.asarray(metric.combined(samples.astype(np.float64), 1), np.float64)
    order = np.argsort(np.nan_to_num(metric.sign * values, nan=np.inf), kind="stable")
    return np.asarray(order[:n])
