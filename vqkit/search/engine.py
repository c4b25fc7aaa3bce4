"""One model, its data, and the answer to "what does this strategy do": measured once, kept by content."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit import digest
from vqkit.experiment import significance
from vqkit.experiment.variant import Settings
from vqkit.files import DiskCache
from vqkit.flow.labels import first_output, right_answers
from vqkit.flow.quality import check_labels
from vqkit.search.tally import batch_size, tallied

if TYPE_CHECKING:
    from vqkit.flow.data import Data
    from vqkit.strategy import Strategy


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
        low, high = significance.wilson(self.accuracy, len(self.right))
        return float(low), float(high)

    def p_value(self, other: np.ndarray) -> float:
        """Exact McNemar p-value against another model's right answers on the same samples."""
        only_a = int(np.count_nonzero(self.right & ~other))
        return significance.mcnemar(only_a, int(np.count_nonzero(other & ~self.right)))

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

    def __init__(self, model: Any, data: Data, *, settings: Settings | None = None,
                 cache: str | Path | None = None, images: int | None = None) -> None:  # fmt: skip
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
        from vqkit.flow.content import graph_digest
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
            from vqkit.flow.bench import Bench

            self._bench = Bench(self.model, self.data, cache=self.cache)
        return self._bench

    def quantize(self, strategy: Strategy) -> Any:
        """The quantized model of a strategy, as a sweep's notebook would make it."""
        self.settings.set_seeds()
        return self.bench.quantize(strategy, **self.settings.for_quantize)

    def _measure(self, strategy: Strategy) -> Measured:
        from vqkit.flow.macs import totals

        made = self.quantize(strategy)
        outputs = first_output(self.bench.evaluate(made, metrics=[]).predictions)
        self.evaluations += 1
        numbers = tallied(outputs, self.float_outputs(), np.asarray(self.data.y_eval), batch_size(made.graph))
        right = right_answers(outputs, self.data.y_eval)
        work = totals(made).get("bit_operations", float("nan"))
        return Measured(
            strategy.digest, float_accuracy=float(self.float_right().mean()), right=right,
            size_bytes=made.size_bytes, bit_operations=work, **numbers,
        )  # fmt: skip

    def _name(self, key: str) -> str:
        return f"{self.context}/{key}.json"

    def _from_disk(self, key: str) -> Measured | None:
        found = self._kept.json(self._name(key))
        return None if found is None else Measured.from_json(found)

    def _keep(self, measured: Measured) -> Measured:
        self._kept.keep_json(self._name(measured.digest), measured.to_json())
        return measured


def _head(data: Data, images: int) -> Data:
    from vqkit.experiment.measure import first_samples
    from vqkit.flow.data import Data as Made

    x, y = first_samples(data.x_eval, images), first_samples(data.y_eval, images)
    return Made(f"{data.name}[:{images}]", data.x_calib, x, y, data.ref)
