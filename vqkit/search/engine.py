"""One model, its data, and the answer to "what does this strategy do": measured once, kept by content."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqkit import digest, statistics
from vqkit.evaluation import check_labels
from vqkit.evaluation.noise import decibel
from vqkit.files import DiskCache
from vqkit.graph.ir import Graph
from vqkit.quantization.data import EVAL_BATCH
from vqkit.quantization.float_model import size_of
from vqkit.quantization.labels import first_output, right_answers
from vqkit.sweeps.variant import Settings

if TYPE_CHECKING:
    import keras

    from vqkit.quantization.data import Data
    from vqkit.strategy import Strategy

_TINY = 1e-12


@dataclass
class OutputSums:
    """Sums over batches; a model with several outputs is judged by the first, as `evaluate` does.

    Attributes:
        n: samples seen.
        right: samples whose label was hit.
        signal, noise: energies of the float outputs and of the difference.
        divergence: sum over samples of KL(float || quantized), nats; NaN where outputs are no distribution.
    """

    n: int = 0
    right: int = 0
    signal: float = 0.0
    noise: float = 0.0
    divergence: float = 0.0

    def add(self, outputs: Any, reference: Any, labels: NDArray[Any]) -> None:
        """Count one batch.

        Args:
            outputs: of the quantized model, shape (n, …).
            reference: of the float model, same shape.
            labels: class numbers (n,) or (n, 1), or one-hot (n, classes).
        """
        own, other = first_output(outputs), first_output(reference)
        self.n += len(own)
        self.right += int(np.count_nonzero(right_answers(own, labels)))
        wide = other.astype(np.float64)
        self.signal += float(np.sum(wide**2))
        self.noise += float(np.sum((own - wide) ** 2))
        self.divergence += float(np.sum(kl(other, own)))

    def numbers(self) -> dict[str, float]:
        """`accuracy` (fraction), `sqnr_db` of the output, `kl` (nats per sample)."""
        accuracy, divergence = self.right / self.n, self.divergence / self.n
        return {"accuracy": accuracy, "sqnr_db": decibel(self.signal, self.noise), "kl": divergence}


def batch_size(graph: Graph) -> int:
    """Samples that are evaluated at once: the size that a model is made for, where that is fixed."""
    return size_of(graph) or EVAL_BATCH


def tallied(outputs: Any, reference: Any, labels: NDArray[Any], size: int = EVAL_BATCH) -> dict[str, float]:
    """The numbers of a whole evaluation, summed in the batches in which `evaluate` computes it.

    Sums of floats depend on their order: so a question that is asked batch by batch has the same numbers.

    Args:
        outputs: as in `Tally.add`, of all samples.
        reference: likewise.
        labels: likewise.
        size: samples in a batch.
    """
    tally = OutputSums()
    for begin in range(0, len(outputs), size):
        here = slice(begin, begin + size)
        tally.add(outputs[here], reference[here], labels[here])
    return tally.numbers()


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


@dataclass(frozen=True, eq=False)
class Measured:
    """What a strategy does to the model.

    Attributes:
        digest: of the strategy.
        accuracy: fraction of the evaluated samples.
        float_accuracy: of the float model on the same samples.
        sqnr_db: signal-to-quantization-noise ratio of the model's output, dB.
        kl: mean divergence from the float model's class distribution, nats.
        size_bytes: weights at their bit widths.
        bit_operations: for one sample; NaN where the model has a free size.
        right: which samples were answered right, shape (n,).
    """

    digest: str
    accuracy: float
    float_accuracy: float
    sqnr_db: float
    kl: float
    size_bytes: float
    bit_operations: float
    right: np.ndarray

    @property
    def drop(self) -> float:
        """Accuracy lost against float, fraction."""
        return self.float_accuracy - self.accuracy

    def interval(self) -> tuple[float, float]:
        """Wilson interval of the accuracy."""
        low, high = statistics.wilson(self.accuracy, len(self.right))
        return float(low), float(high)

    def p_value(self, other: np.ndarray) -> float:
        """Exact McNemar p-value against another model's right answers on the same samples."""
        only_a = int(np.count_nonzero(self.right & ~other))
        return statistics.mcnemar(only_a, int(np.count_nonzero(other & ~self.right)))

    def to_json(self) -> dict[str, Any]:
        """Plain values; right answers as a string of 0 and 1."""
        bits = "".join("1" if r else "0" for r in self.right)
        numbers = {k: v if np.isfinite(v) else str(v) for k, v in self._numbers().items()}
        return {"digest": self.digest, **numbers, "right": bits}

    def _numbers(self) -> dict[str, float]:
        return {k: v for k, v in self.__dict__.items() if k not in ("digest", "right")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Measured:
        """Read what `to_json` wrote."""
        right = np.array([c == "1" for c in value["right"]])
        numbers = {k: float(v) for k, v in value.items() if k not in ("digest", "right")}
        return cls(digest=value["digest"], right=right, **numbers)


class Engine:
    """Measures strategies on one model; a strategy that was measured before costs nothing.

    Args:
        model: a built functional or Sequential Keras model.
        data: calibration samples and labelled ones.
        settings: seed, calibration, batches; those of a sweep.
        cache: folder that runs share; None keeps results in memory only.
        images: how many evaluation samples, from the first; None means all.

    Raises:
        DataError: top-1 accuracy cannot judge by the labels.

    Attributes:
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
    ) -> None:
        self.model, self.settings = model, settings or Settings()
        self.data = data if images is None or images >= data.n_eval else _head(data, images)
        self.cache = None if cache is None else Path(cache)
        self._kept = DiskCache(None if self.cache is None else self.cache / "measured")
        check_labels(model, self.data)
        self.evaluations = 0
        self._known: dict[str, Measured] = {}
        self._bench: Any = None
        self._reference: Any = None

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

    def float_outputs(self) -> np.ndarray:
        """The float model's first output on the evaluation samples, shape (n, …)."""
        if self._reference is None:
            self._reference = first_output(self.bench.float_evaluation(metrics=[]).predictions)
        return np.asarray(self._reference)

    def float_right(self) -> np.ndarray:
        """Which samples the float model answers right, shape (n,)."""
        return right_answers(self.float_outputs(), self.data.y_eval)

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
        from vqkit.evaluation.cost import totals

        made = self.quantize(strategy)
        outputs = first_output(self.bench.evaluate(made, metrics=[]).predictions)
        self.evaluations += 1
        numbers = tallied(outputs, self.float_outputs(), np.asarray(self.data.y_eval), batch_size(made.graph))
        right = right_answers(outputs, self.data.y_eval)
        work = totals(made).get("bit_operations", float("nan"))
        return Measured(
            strategy.digest,
            float_accuracy=float(self.float_right().mean()),
            right=right,
            size_bytes=made.size_bytes,
            bit_operations=work,
            **numbers,
        )

    def _name(self, key: str) -> str:
        return f"{self.context}/{key}.json"

    def _from_disk(self, key: str) -> Measured | None:
        found = self._kept.json(self._name(key))
        return None if found is None else Measured.from_json(found)

    def _keep(self, measured: Measured) -> Measured:
        self._kept.keep_json(self._name(measured.digest), measured.to_json())
        return measured


def _head(data: Data, images: int) -> Data:
    from vqkit.execution.run_api import first_samples
    from vqkit.quantization.data import Data as Made

    x, y = first_samples(data.x_eval, images), first_samples(data.y_eval, images)
    return Made(f"{data.name}[:{images}]", data.x_calib, x, y, data.ref)
