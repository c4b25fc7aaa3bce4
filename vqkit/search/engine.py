"""One model, its data, and the answer to "what does this strategy do": measured once, kept by content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqkit import digest, tables
from vqkit.errors import DataError
from vqkit.evaluation import asking, judged, judges_for, known_answers, pairs_of
from vqkit.evaluation.compiled import compiled_of
from vqkit.evaluation.cost import totals
from vqkit.evaluation.judgement import Evidence
from vqkit.evaluation.metric import WEIGHTED, Asked, EvaluationData, Metric
from vqkit.evaluation.metrics import NAMED
from vqkit.evaluation.noise import decibel
from vqkit.evaluation.stated_metrics import metrics_of
from vqkit.files import DiskCache
from vqkit.graph.ir import Graph
from vqkit.quantization.data import EVAL_BATCH
from vqkit.quantization.float_model import size_of
from vqkit.sweeps.variant import Settings
from vqkit.tables import Measure

if TYPE_CHECKING:
    import keras

    from vqkit.quantization.data import Data
    from vqkit.quantization.quantized import Quantized
    from vqkit.strategy import Strategy

_TINY = 1e-12


class OutputSums:
    """What batches of one output add up to.

    Args:
        metric: what the output is judged by.
        classes: whether its values are scores of classes.
    """

    def __init__(self, metric: Metric = NAMED["accuracy"], classes: bool = True) -> None:
        self._metric, self._classes = metric, classes
        self._signal = self._noise = self._divergence = 0.0
        self._parts: list[Evidence] = []

    def add(
        self,
        outputs: NDArray[Any],
        reference: NDArray[Any],
        labels: NDArray[Any],
        weights: NDArray[Any] | None = None,
        inputs: Any = None,
    ) -> None:
        """Count one batch.

        Args:
            outputs: of the quantized model, shape (n, …).
            reference: of the float model, same shape.
            labels: of the samples, as the metric wants them.
            weights: of the samples, where the metric is weighted.
            inputs: of the model, for metrics that judge what follows from both.
        """
        self._parts.append(Evidence.of(self._metric, outputs, labels, weights, inputs))
        wide = reference.astype(np.float64)
        self._signal += float(np.sum(wide**2))
        self._noise += float(np.sum((outputs - wide) ** 2))
        self._divergence += float(np.sum(kl(reference, outputs))) if self._classes else float("nan")

    @property
    def evidence(self) -> Evidence:
        """Of all samples."""
        values, labels, weights = (
            [own for p in self._parts if (own := getattr(p, name)) is not None]
            for name in ("values", "labels", "weights")
        )
        return Evidence(
            self._metric, np.concatenate(values), np.concatenate(labels), np.concatenate(weights) if weights else None
        )

    def numbers(self) -> dict[str, float]:
        """The metric, `sqnr_db` of the output, `kl` (nats per sample; NaN without classes)."""
        found = self.evidence
        noise = {"sqnr_db": decibel(self._signal, self._noise), "kl": self._divergence / len(found)}
        return {self._metric.measure.column: found.value, **noise}


def batch_size(graph: Graph) -> int:
    """Samples that are evaluated at once: the size that a model is made for, where that is fixed."""
    return size_of(graph) or EVAL_BATCH


def tallied(
    sums: OutputSums,
    outputs: NDArray[Any],
    reference: NDArray[Any],
    labels: NDArray[Any],
    size: int = EVAL_BATCH,
    beside: Callable[[slice], Sequence[Any]] = lambda _: (),
) -> OutputSums:
    """A whole evaluation, summed in the batches in which `evaluate` computes it.

    Sums of floats depend on their order: so a question that is asked batch by batch has the same numbers.

    Args:
        sums: without samples.
        outputs: as in `OutputSums.add`, of all samples.
        reference: likewise.
        labels: likewise.
        size: samples in a batch.
        beside: from samples to their weights and inputs.
    """
    for begin in range(0, len(outputs), size):
        here = slice(begin, begin + size)
        sums.add(outputs[here], reference[here], labels[here], *beside(here))
    return sums


def kl(reference: NDArray[Any], outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of each sample's class distribution from the float model's.

    Args:
        reference: float model's outputs, shape (n, classes), logits or probabilities; (n, 1) is a probability
            or a logit of class 1.
        outputs: quantized model's outputs, same shape.

    Returns:
        Nats, shape (n,); NaN where the outputs are not one vector for each sample.
    """
    if reference.ndim != 2:
        return np.full(len(reference), np.nan)
    p, q = _distributions(reference, outputs)
    return np.asarray(np.sum(p * (np.log(np.maximum(p, _TINY)) - np.log(np.maximum(q, _TINY))), axis=-1))


def _distributions(reference: NDArray[Any], outputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    a, b = reference.astype(np.float64), outputs.astype(np.float64)
    inside = bool(np.all((a >= 0) & (a <= 1)))
    if a.shape[1] == 1:
        p, q = (v if inside else 1 / (1 + np.exp(-np.clip(v, -60, 60))) for v in (a, b))
        return np.hstack([1 - p, p]), np.hstack([1 - q, q])
    if inside and np.allclose(a.sum(-1), 1, atol=1e-3):
        return a, b
    return _softmax(a), _softmax(b)


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def are_classes(metric: Metric, outputs: NDArray[Any]) -> bool:
    """Whether outputs are scores of classes, so that a divergence between two models' answers means something.

    Args:
        metric: what they are judged by.
        outputs: of the float model, shape (n, …).
    """
    if metric.name.rpartition("/")[2].removeprefix(WEIGHTED) in _OF_CLASSES:
        return outputs.ndim == 2
    shares = outputs.ndim == 2 and outputs.shape[1] > 1 and bool(np.all(outputs >= 0))
    return shares and np.allclose(outputs.sum(-1), 1, atol=1e-3)


_OF_CLASSES = ("accuracy", "accuracy_from_logit", "agreement", "top5")


@dataclass(frozen=True, eq=False)
class Measured:
    """What a strategy does to the model.

    Attributes:
        digest: of the strategy.
        evidence: by the metric that decides.
        float_value: the metric of the float model on the same samples.
        sqnr_db: signal-to-quantization-noise ratio of the judged output, dB.
        kl: mean divergence from the float model's class distribution, nats; NaN where there are no classes.
        size_bytes: weights at their bit widths.
        bit_operations: for one sample; NaN where the model has a free size.
        metrics: every metric by name.
    """

    digest: str
    evidence: Evidence
    float_value: float
    sqnr_db: float
    kl: float
    size_bytes: float
    bit_operations: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def measure(self) -> Measure:
        """How the metric that decides is named and printed."""
        return self.evidence.metric.measure

    @property
    def value(self) -> float:
        """The metric that decides; of accuracy a fraction."""
        return self.evidence.value

    @property
    def goodness(self) -> float:
        """What is greater for a better strategy."""
        return self.measure.sign * self.value if self.value == self.value else float("-inf")

    @property
    def drop(self) -> float:
        """What is lost against float, in the metric's unit; of accuracy a fraction."""
        return float(self.measure.drop(self.value, self.float_value))

    @property
    def numbers(self) -> dict[str, float]:
        """The answer to a question about a layer: the metric, `sqnr_db` and `kl`."""
        return {self.measure.column: self.value, "sqnr_db": self.sqnr_db, "kl": self.kl}

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps: each number, and what the samples add."""
        plain = {name: getattr(self, name) for name in _NUMBERS}
        every = plain | {f"{_METRIC}{name}": value for name, value in self.metrics.items()}
        return {"values": self.evidence.values, **{name: np.asarray(value) for name, value in every.items()}}

    @classmethod
    def from_arrays(cls, strategy: str, like: Evidence, found: Mapping[str, NDArray[Any]]) -> Measured:
        """Read what `to_arrays` gave.

        Args:
            strategy: its digest.
            like: evidence of another model on the same samples.
            found: the arrays.
        """
        numbers = {name: float(found[name]) for name in _NUMBERS}
        others = {k.removeprefix(_METRIC): float(v) for k, v in found.items() if k.startswith(_METRIC)}
        return cls(strategy, replace(like, values=found["values"]), metrics=others, **numbers)


_NUMBERS = ("float_value", "sqnr_db", "kl", "size_bytes", "bit_operations")
_METRIC = "metric "


class Engine:
    """Measures strategies on one model; a strategy that was measured before costs nothing.

    Args:
        model: a built functional or Sequential Keras model.
        data: calibration samples and labelled ones.
        settings: seed, calibration, batches; those of a sweep.
        cache: folder that runs share; None keeps results in memory only.
        images: how many evaluation samples, from the first; None means all.
        metrics: what `vqkit.evaluate` takes, the deciding one first; those of the settings, or of the task, by default.

    Raises:
        DataError: the metrics cannot judge the model by the labels.

    Attributes:
        judges: the metrics, and which output each of them judges; the first one decides.
        task: why they were chosen; "" where they were stated.
        answers: folder where measurements are kept; None where a metric is known by no file or name.
        evaluations: strategies that were really quantized and evaluated here.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        *,
        settings: Settings | None = None,
        cache: str | Path | None = None,
        images: int | None = None,
        metrics: Sequence[Any] | None = None,
    ) -> None:
        self.model, self.settings = model, settings or Settings()
        self.data = data if images is None or images >= data.n_eval else _head(data, images)
        self.cache = None if cache is None else Path(cache)
        stated = self.settings.metrics if metrics is None else metrics
        self.metrics = None if stated is None else metrics_of(list(stated))
        if self.metrics is not None:
            self.settings = replace(self.settings, metrics=[m.source for m in self.metrics])
        self.judges, self.task = judges_for(model, self.data, self.metrics, compiled=compiled_of(model))
        if self.metric.asks:
            raise DataError(
                f"metric {self.metric.name}: it asks the model itself; a search needs one of predictions and labels to "
                "decide, and takes this one beside it"
            )
        self.answers = self.cache if _is_json(stated) else None
        self._kept = DiskCache(None if self.answers is None else self.answers / "measured")
        self.evaluations = 0
        self._known: dict[str, Measured] = {}
        self._bench: Any = None

    @property
    def metric(self) -> Metric:
        """The metric that decides."""
        return self.judges[0].metric

    @property
    def judged_by(self) -> str:
        """The metric that decides, its direction and why it was chosen, for people."""
        why = self.task.partition("; judged by")[0]
        return f"{self.metric.measure.judges}{why and f': {why}'}"

    @property
    def context(self) -> str:
        """Digest of everything but the strategy that decides a result."""
        from vqkit.bench.cache import graph_digest
        from vqkit.graph.keras_io import lower

        if not hasattr(self, "_context"):
            parts = {
                "model": graph_digest(lower(self.model)),
                "data": self.data.digest,
                "settings": asdict(self.settings),
                "judged": [judge.metric.source for judge in self.judges],
                "code": digest.code_digest(),
            }
            self._context = digest.of_json(parts)
        return self._context

    def measure(self, strategy: Strategy) -> Measured:
        """Quantize and evaluate a strategy, unless that was done before.

        Raises:
            StrategyError: it does not fit the model.
        """
        key = strategy.digest
        if key not in self._known:
            self._known[key] = self._from_disk(key) or self._keep(self._measure(strategy))
        return self._known[key]

    def outputs_of(self, predictions: Any) -> NDArray[Any]:
        """The output that the deciding metric judges, shape (n, …).

        Args:
            predictions: of a model, nested as its outputs.
        """
        return pairs_of(predictions, self.bench.labels)[self.judges[0].output][1]

    @cached_property
    def output(self) -> int:
        """Place of that output among the graph's."""
        from keras import tree

        predictions = self._float_predictions
        own = self.outputs_of(predictions)
        return next(i for i, each in enumerate(tree.flatten(predictions)) if each is own)

    @cached_property
    def labels(self) -> NDArray[Any]:
        """Labels that the deciding metric judges by, shape (n, …); without any the float model's outputs."""
        return np.asarray(pairs_of(self._float_predictions, self.bench.labels)[self.judges[0].output][2])

    def beside(self, where: slice) -> tuple[Any, Any]:
        """Weights and inputs of some evaluation samples; None where there are none, or several inputs."""
        weights, inputs = self.data.weights_eval, self.data.x_eval
        known = inputs[where] if self.metric.scores is not None and isinstance(inputs, np.ndarray) else None
        return None if weights is None else weights[where], known

    def float_outputs(self) -> NDArray[Any]:
        """The float model's judged output on the evaluation samples, shape (n, …)."""
        return self.outputs_of(self._float_predictions)

    @cached_property
    def _float_predictions(self) -> Any:
        return self.bench.float_evaluation(metrics=[]).predictions

    @cached_property
    def float_metrics(self) -> Mapping[str, float]:
        """Every metric of the float model."""
        return self._every_metric(self.model, self._float_predictions)

    def _every_metric(self, model: keras.Model | Quantized, predictions: Any) -> Mapping[str, float]:
        labels, weights = self.bench.labels, self.data.weights_eval
        asked = known_answers(Asked(asking(model), EvaluationData(self.data.x_eval, labels, weights)), predictions)
        return judged(predictions, labels, self.judges, weights=weights, asked=asked).metrics

    @cached_property
    def reference(self) -> Evidence:
        """How the float model does."""
        return Evidence.of(self.metric, self.float_outputs(), self.labels, *self.beside(slice(None)))

    @cached_property
    def sums(self) -> Callable[[], OutputSums]:
        """Makes sums over the judged output, without samples."""
        return partial(OutputSums, self.metric, are_classes(self.metric, self.float_outputs()))

    def bound(self, text: str) -> float:
        """How much of the deciding metric may be lost, as its values count: of accuracy a fraction.

        Args:
            text: `0.5`, points of a percentage, else the metric's unit; or `1%` of the float model's value.

        Raises:
            SweepError: it is none of these.
        """
        return tables.parse_drop(text, self.metric.measure, self.reference.value)

    @property
    def bench(self) -> Any:
        """What variants share: graphs, weights, compiled functions."""
        if self._bench is None:
            from vqkit.bench import Bench

            self._bench = Bench(self.model, self.data, cache=self.cache)
        return self._bench

    def quantize(self, strategy: Strategy) -> Any:
        """The quantized model of a strategy, as a sweep's notebook would make it."""
        self.settings.set_seeds()
        return self.bench.quantize(strategy, **self.settings.for_quantize)

    def _measure(self, strategy: Strategy) -> Measured:
        made = self.quantize(strategy)
        predictions = self.bench.evaluate(made, metrics=[]).predictions
        self.evaluations += 1
        size, outputs = batch_size(made.graph), self.outputs_of(predictions)
        sums = tallied(self.sums(), outputs, self.float_outputs(), self.labels, size, self.beside)
        numbers = sums.numbers()
        return Measured(
            strategy.digest,
            sums.evidence,
            float_value=self.reference.value,
            sqnr_db=numbers["sqnr_db"],
            kl=numbers["kl"],
            size_bytes=made.size_bytes,
            bit_operations=totals(made).get("bit_operations", float("nan")),
            metrics=self._every_metric(made, predictions),
        )

    def _name(self, key: str) -> str:
        return f"{self.context}/{key}.npz"

    def _from_disk(self, key: str) -> Measured | None:
        found = self._kept.arrays(self._name(key))
        return None if found is None else Measured.from_arrays(key, self.reference, found)

    def _keep(self, measured: Measured) -> Measured:
        self._kept.keep_arrays(self._name(measured.digest), measured.to_arrays())
        return measured


def _is_json(stated: Any) -> bool:
    """Whether metrics are stated by names and files: of an object nobody can tell whether it is still the same."""
    try:
        digest.canonical_json(stated)
    except TypeError:
        return False
    return True


def _head(data: Data, images: int) -> Data:
    from vqkit.execution.run_api import first_samples

    known = {name: getattr(data, name) for name in ("x_eval", "y_eval", "weights_eval")}
    some = {name: first_samples(own, images) for name, own in known.items() if own is not None}
    return replace(data, name=f"{data.name}[:{images}]", digest="", y_calib=None, **some)
