"""Quantize and evaluate in memory, watched and stoppable, and keep the result as a run like any other.

What a sweep does in a notebook of its own, the bench does beside the person who asks. The record is written
by the same functions, so comparison and tracking see no difference.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vqkit import digest, environment
from vqkit.errors import DataError, RecordError, VqkitError
from vqkit.execution import attempt, run_api
from vqkit.execution.run_api import Inputs, Scores
from vqkit.files import lock, write_json
from vqkit.quantization.data import EVAL_BATCH, Data, leaves
from vqkit.runs import store
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.sweeps.qat import calib_labels
from vqkit.sweeps.variant import Settings, Source, Variant, code_digest

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from vqkit.evaluation import Evaluation
    from vqkit.evaluation.tasks import Judge
    from vqkit.quantization.quantized import Quantized
    from vqkit.strategy import Strategy

Tell = Callable[[float, str], None]


class CancelledError(VqkitError):
    """A trial was stopped by whoever asked for it."""


@dataclass(frozen=True, eq=False)
class InMemoryRun:
    """What came of one strategy.

    Attributes:
        strategy: the one that was used.
        quantized: from `vqkit.quantize`.
        sqnr: from `vqkit.sqnr`.
        scores: float and quantized metrics; None without labelled data.
        settings: how it was made.
    """

    strategy: Strategy
    quantized: Quantized
    sqnr: pd.DataFrame
    scores: Scores | None
    settings: Settings


def run_trial(
    model: keras.Model,
    strategy: Strategy,
    data: Data | Inputs,
    settings: Settings,
    *,
    tell: Tell | None = None,
    cancelled: threading.Event | None = None,
    float_metrics: Any = None,
) -> InMemoryRun:
    """Quantize, evaluate and measure the noise of one strategy.

    Args:
        model: the float Keras model.
        strategy: a `Strategy`.
        data: a `Data`, or calibration inputs alone (then there are no scores).
        settings: how to calibrate.
        tell: called with the share that is done, 0 to 1, and what is being done.
        cancelled: stops the trial at the next batch once it is set.
        float_metrics: of the float model on the same data, if known.

    Returns:
        The trial.

    Raises:
        CancelledError: it was stopped.
        VqkitError: as `vqkit.quantize`.
    """
    from vqkit.evaluation import judges_for
    from vqkit.evaluation.noise import sqnr
    from vqkit.quantization.ptq import quantize

    judges = judges_for(model, data, settings.metrics)[0] if isinstance(data, Data) else ()
    watch = _Watch(tell or (lambda _, __: None), cancelled or threading.Event())
    calib, x_eval = (data.x_calib, data.x_eval) if isinstance(data, Data) else (data, data)
    scores = None
    watch.phase("preparing", 0.0, 0.05)
    calibration = watch.batches(calib, settings.batch_size, "calibrating", 0.05, 0.5)
    labels = calib_labels(data, settings) if isinstance(data, Data) else None
    quantized = quantize(model, strategy, calibration, calib_labels=labels, **_for_quantize(settings))
    if isinstance(data, Data):
        labels_eval = data.y_eval
        if float_metrics is None or labels_eval is None:
            seen = watch.batches(x_eval, EVAL_BATCH, "evaluating the float model", 0.55, 0.7)
            found = _judged(model, seen, data, labels_eval, judges)
            float_metrics, labels_eval = found.metrics, found.predictions if labels_eval is None else labels_eval
        began = time.perf_counter()
        seen = watch.batches(x_eval, EVAL_BATCH, "evaluating the quantized model", 0.7, 0.85)
        result = _judged(quantized.model, seen, data, labels_eval, judges)
        seconds = time.perf_counter() - began
        scores = Scores(float_metrics, result, labels_eval, seconds, judges, data.weights_eval)
    few = run_api.first_samples(x_eval, settings.sqnr_images) if _cuttable(x_eval) else x_eval
    table = sqnr(quantized, watch.batches(few, 50, "measuring the noise", 0.85, 1.0))
    watch.phase("done", 1.0, 1.0)
    return InMemoryRun(strategy, quantized, table, scores, settings)


def _judged(model: keras.Model, seen: Iterable[Any], data: Data, labels: Any, judges: tuple[Judge, ...]) -> Evaluation:
    """Metrics of a model; of the float one beside its own outputs where there are no labels."""
    from vqkit.evaluation import asking, judged, known_answers
    from vqkit.evaluation.metric import Asked, EvaluationData

    weights = data.weights_eval
    ask = asking(model)
    outputs = ask(seen)
    labels = outputs if labels is None else labels
    asked = Asked(ask, EvaluationData(data.x_eval, labels, weights))
    return judged(outputs, labels, judges, weights=weights, asked=known_answers(asked, outputs))


def _for_quantize(settings: Settings) -> dict[str, Any]:
    """Without `batch_size`: the data come in batches already."""
    return {k: v for k, v in settings.for_quantize.items() if k != "batch_size"}


def _cuttable(data: Inputs) -> bool:
    return all(hasattr(leaf, "__getitem__") and hasattr(leaf, "shape") for leaf in leaves(data))


class _Watch:
    """Tells how far a trial is and stops it."""

    def __init__(self, tell: Tell, cancelled: threading.Event) -> None:
        self._tell, self._cancelled = tell, cancelled

    def phase(self, words: str, share: float, end: float) -> None:
        del end
        if self._cancelled.is_set():
            raise CancelledError(f"stopped while {words}")
        self._tell(share, words)

    def batches(self, data: Inputs, size: int, words: str, start: float, end: float) -> _Watched:
        return _Watched(self, data, size, words, start, end)


@dataclass(frozen=True, eq=False)
class _Watched:
    """Batches that can be read again (corrections do) and report each one."""

    watch: _Watch
    data: Inputs
    size: int
    words: str
    start: float
    end: float

    def __iter__(self) -> Iterator[Any]:
        from vqkit.quantization.data import batches

        count = max(1, -(-len(leaves(self.data)[0]) // self.size)) if _cuttable(self.data) else 0
        for i, batch in enumerate(batches(self.data, batch_size=self.size)):
            share = min(1.0, i / count) if count else 0.5
            self.watch.phase(self.words, self.start + share * (self.end - self.start), self.end)
            yield batch


def keep_trial(runs: Store, trial: InMemoryRun, model: Source, data: Data | Inputs, *, name: str) -> RunRecord:
    """Write a trial as a finished run.

    Args:
        runs: the run folder.
        trial: with scores.
        model: how the model is named, and its content's digest.
        data: the `Data` it was made with.
        name: of the run, for people.

    Returns:
        The record, as on disk. The same trial kept twice is one run.

    Raises:
        DataError: without labelled data there is no accuracy to record.
        RecordError: another process holds the run.
    """
    if trial.scores is None or not isinstance(data, Data):
        raise DataError("a run needs labelled data: give explore a Data with x_eval and y_eval")
    source = Source(data.ref, data.digest, (("n_calib", data.n_calib), ("n_eval", data.n_eval)))
    variant = Variant(
        name,
        trial.strategy.base,
        trial.strategy.overrides(),
        trial.strategy.digest,
        model,
        source,
        trial.settings,
        code_digest(digest.of_json("explore")),
    )
    folder = runs.variant_dir(variant.key)
    with lock(folder):
        known = runs.record(variant.key)
        if known is not None and known.status is Status.FINISHED:
            return known
        record = RunRecord(
            variant.key,
            name,
            Status.RUNNING,
            variant.inputs(),
            None,
            started=store.now(),
            attempt=secrets.token_hex(8),
            environment=environment.describe(),
        )
        runs.write(record)
        write_json(folder / attempt.ARTIFACTS["strategy"], trial.strategy.dump())
        run_api.record(
            folder,
            variant.key,
            record.inputs,
            quantized=trial.quantized,
            scores=trial.scores,
            sqnr=trial.sqnr,
        )
        finished = attempt.completed(runs, record)
    if finished is None:
        raise RecordError(f"run {variant.key}: its result was not written")
    return finished


def model_source(model: keras.Model, ref: Any = None) -> Source:
    """A Keras model as the source of a run.

    Args:
        model: any Keras model.
        ref: path of its file; None for a model that lives in memory only.
    """
    if ref is not None:
        return Source(str(ref), digest.of_file(ref))
    weights = {f"{i}": w.numpy() for i, w in enumerate(model.weights)}
    content = digest.of_json({"layers": model.to_json(), "weights": digest.of_arrays(weights)})
    return Source(f"{model.name} (in memory)", content)
