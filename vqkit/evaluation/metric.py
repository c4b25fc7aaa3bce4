"""What a model is judged by: a name, which direction is better, how it is printed, and the function.

Most metrics follow from sums over samples: the share of right answers, a mean error, the counts of a confusion
matrix. Such a metric says what each sample adds (`parts`) and how the sums become the number (`combine`), so it can
be computed batch by batch, and resampled without asking the model again. The others need all predictions at once
(`whole`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vqkit.errors import DataError
from vqkit.tables import Measure

Better = Literal["higher", "lower"]
Unit = Literal["percent", "plain"]
Numbers = NDArray[np.float64]
Parts = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""From outputs (n, …) and labels (n, …) to what each sample adds, shape (n, k)."""
Combine = Callable[[Numbers, Any], Any]
"""From sums of shape (…, k) over n samples to numbers of shape (…)."""
Whole = Callable[..., Any]
"""From outputs, labels and weights, where there are any, to a number, one for each sample, or several by name."""


class Running(Protocol):
    """A metric that is updated batch by batch."""

    def add(self, outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None) -> None:
        """One more batch."""

    def value(self) -> float:
        """The metric of all batches so far."""


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """What a function of (predict, data) is given beside the function that asks the model.

    Attributes:
        x: inputs as `vqkit.evaluate` was given them.
        y: labels; None where they come out of `x`.
        sample_weight: shape (n,); None where samples count alike.
    """

    x: Any
    y: Any
    sample_weight: Any = None


@dataclass(frozen=True, eq=False)
class Asked:
    """A model and its data, for metrics that compute everything themselves.

    Attributes:
        predict: from inputs to outputs.
        data: what to judge on.
    """

    predict: Callable[[Any], Any]
    data: EvaluationData


@dataclass(frozen=True)
class Metric:
    """One number that a model is judged by.

    Attributes:
        name: what records, tables and pictures call it.
        better: whether high or low values are wanted; None where nobody said: such a metric can be computed, but
            nothing can be ranked by it.
        unit: "percent" is printed times 100, differences in points; "plain" as it is.
        parts: what each sample adds; None where the metric needs all predictions at once.
        combine: how sums of these become the number.
        whole: the function of all predictions, where there are no parts.
        source: what it was stated as: JSON that `metric_of` takes.
        weighted: samples count by weights; what each adds is then multiplied by its weight, which stands behind it.
        running: makes what computes a `whole` batch by batch, where that is possible.
        key: which of several numbers that `whole` gives by name; "" where it gives one.
        asks: `whole` is a function of (predict, data): it asks the model itself.
        scores: from outputs and inputs to what is judged in the place of outputs; None where the outputs are.
    """

    name: str
    better: Better | None
    unit: Unit = "plain"
    parts: Parts | None = None
    combine: Combine | None = None
    whole: Whole | None = None
    source: Any = None
    weighted: bool = False
    running: Callable[[], Running] | None = None
    key: str = ""
    asks: bool = False
    scores: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]] | None = None

    def seen(self, outputs: NDArray[Any], inputs: Any) -> NDArray[Any]:
        """What is judged: outputs, or what follows from them and the inputs.

        Args:
            outputs: of the model, shape (n, …).
            inputs: what it was given; None where they are not known.

        Raises:
            DataError: the metric needs inputs like the outputs.
        """
        if self.scores is None:
            return outputs
        if np.shape(inputs) != np.shape(outputs):
            known = "no inputs are known here" if inputs is None else f"the inputs have shape {np.shape(inputs)}"
            raise DataError(f"metric {self.name}: it needs inputs like the outputs {np.shape(outputs)}; {known}")
        return self.scores(outputs, np.asarray(inputs))

    def of(self, outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
        """The metric's value.

        Args:
            outputs: of the model, shape (n, …).
            labels: shape (n, …).
            weights: of the samples, shape (n,); a metric without weights is then computed with them.

        Raises:
            DataError: it cannot judge these outputs by these labels.
        """
        if weights is not None and not self.weighted:
            return self.with_weights().of(outputs, labels, weights)
        return self.finished(self.samples(outputs, labels, weights), outputs, labels, weights)

    def with_weights(self) -> Metric:
        """The same metric of samples that count by weights; its name says so."""
        key = f"/{self.key}" if self.key else ""
        head, slash, last = self.name.removesuffix(key).rpartition("/")
        name = f"{head}{slash}{WEIGHTED}{last}{key}"
        return replace(self, name=name, combine=weighted(self.combine), weighted=True)

    def samples(
        self, outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None
    ) -> NDArray[Any] | None:
        """What each sample adds, shape (n, k); None where the metric has no value for a sample.

        Args:
            outputs: of the model, shape (n, …).
            labels: shape (n, …).
            weights: of the samples, shape (n,), where the metric is weighted.

        Raises:
            DataError: outputs and labels do not fit.
        """
        if len(outputs) != len(labels):
            raise DataError(f"metric {self.name}: {len(outputs)} outputs, {len(labels)} labels")
        if self.weighted and (weights is None or np.shape(weights) != (len(outputs),)):
            raise DataError(f"metric {self.name}: it needs a weight for each of {len(outputs)} samples")
        if self.parts is None:
            return None
        return self.added(np.asarray(self.parts(outputs, labels)), weights)

    def added(self, values: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
        """What samples add to the sums, from what each of them has, shape (n, k)."""
        if not self.weighted:
            return values
        own = np.asarray(weights, np.float64)[:, None]
        return np.concatenate([values * own, own], axis=1)

    def finished(
        self,
        samples: NDArray[Any] | None,
        outputs: NDArray[Any],
        labels: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> float:
        """The value, from what `samples` gave."""
        if samples is None:
            return self.number(self.numbers(outputs, labels, weights), weights)
        return float(self.combined(samples.sum(axis=0, dtype=np.float64), len(samples)))

    def numbers(
        self,
        outputs: NDArray[Any],
        labels: NDArray[Any],
        weights: NDArray[Any] | None = None,
        asked: Asked | None = None,
    ) -> Any:
        """What `whole` gives: one number, or several by name.

        Args:
            outputs: of the model, shape (n, …).
            labels: shape (n, …).
            weights: of the samples, where the metric is weighted.
            asked: model and data, where they are at hand.

        Raises:
            DataError: it asks the model itself, and there are only predictions.
        """
        assert self.whole is not None
        if not self.asks:
            return self.whole(outputs, labels, weights) if self.weighted else self.whole(outputs, labels)
        if asked is None:
            raise DataError(f"metric {self.name}: it asks the model itself, and here only predictions are known")
        return self.whole(asked.predict, asked.data)

    def number(self, found: Any, weights: NDArray[Any] | None = None) -> float:
        """The one number of this metric among what `numbers` gave; of one for each sample the mean.

        Raises:
            DataError: there are several, and nobody said which.
        """
        if not isinstance(found, Mapping):
            return float(np.average(found, weights=weights if np.ndim(found) else None))
        if self.key not in found:
            given = f"no {self.key!r}" if self.key else "several numbers"
            raise DataError(f"metric {self.name}: its function gave {given}; it has {', '.join(map(str, found))}")
        return float(found[self.key])

    def by_name(self, found: Any, weights: NDArray[Any] | None = None) -> dict[str, float]:
        """Every number among what `numbers` gave, by the name of its metric."""
        if isinstance(found, Mapping) and not self.key:
            return {(own := self.one_of(key)).name: own.number(found) for key in found}
        return {self.name: self.number(found, weights)}

    def settled(self, outputs: NDArray[Any], labels: NDArray[Any], asked: Asked | None) -> tuple[Metric, ...]:
        """The same as one metric or several, as far as what it gives of a few samples tells.

        Args:
            outputs: of the model, shape (n, …).
            labels: shape (n, …).
            asked: the model and these samples.
        """
        if self.whole is None or self.running is not None:
            return (self,)
        whole = self.whole
        try:
            found = replace(self, weighted=False).numbers(outputs, labels, None, asked)
        except Exception:
            return (self,)
        if isinstance(found, Mapping):
            better = None if self.key and self.better == direction(self.key) else self.better
            family = replace(self, name=self.name.removesuffix(f"/{self.key}"), key="", better=better)
            return tuple(family.one_of(key) for key in sorted(found, key=lambda k: k != self.key))
        if self.asks or np.shape(found) != (len(outputs),):
            return (self,)
        return (replace(self, parts=lambda o, y: np.asarray(whole(o, y), np.float64)[:, None], whole=None),)

    def one_of(self, key: str) -> Metric:
        """The metric that is one of several numbers by name."""
        # What its own name tells about the direction, a key tells better.
        guessed = direction(key) if self.better in (None, direction(self.name)) else None
        source = {**self.source, "key": key} if isinstance(self.source, Mapping) else self.source
        return replace(self, name=f"{self.name}/{key}", key=key, better=guessed or self.better, source=source)

    def combined(self, sums: Numbers, n: Any) -> Any:
        """The value that follows from sums over samples.

        Args:
            sums: shape (…, k).
            n: number of samples, shape (…).
        """
        return sums[..., 0] / n if self.combine is None else self.combine(sums, n)

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1.

        Raises:
            DataError: nobody said which.
        """
        if self.better is None:
            raise DataError(
                f"metric {self.name!r}: which direction is better? State it as {{name: {self.name}, function: …, "
                "better: higher}, or better: lower"
            )
        return self.measure.sign

    @property
    def measure(self) -> Measure:
        """How its values are named and printed."""
        return Measure(self.name, self.better or "", self.unit)

    def to_json(self) -> dict[str, Any]:
        """What a record keeps: enough to rank and print."""
        return {"name": self.name, "better": self.better, "unit": self.unit}


WEIGHTED = "weighted_"
"""In front of the names of metrics of samples that count by weights."""


@cache
def weighted(combine: Combine | None) -> Combine:
    """How sums become the number where the sum of the weights stands behind them and counts samples."""

    def combined(sums: Numbers, n: Any) -> Any:  # noqa: ARG001
        head, weight = sums[..., :-1], sums[..., -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return head[..., 0] / weight if combine is None else combine(head, weight)

    return combined


_UP = ("accuracy", "auc", "precision", "recall", "iou", "f1", "fbeta", "cosine", "r2", "dice", "score", "specificity")
_DOWN = ("error", "loss", "crossentropy", "divergence", "hinge", "poisson", "cosh", "mae", "mse", "mape", "msle")


def direction(name: str) -> Better | None:
    """Which direction is better, as far as a name tells."""
    words = name.lower()
    up, down = any(w in words for w in _UP), any(w in words for w in _DOWN)
    return None if up == down else "higher" if up else "lower"
