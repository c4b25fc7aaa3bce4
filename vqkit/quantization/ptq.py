"""The straight line: prepare, decide the weights, calibrate, solve, refine, raise a model, audit it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vqkit.files import DiskCache
from vqkit.graph.copies import LiveGraph
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import lower
from vqkit.quantization.calibrate import Calibration, Mode, calibrate, checked
from vqkit.quantization.data import Samples, batches
from vqkit.quantization.float_model import check_float, in_size, whole
from vqkit.quantization.plan import QuantizedRow
from vqkit.quantization.prepare import (
    PreparedModel,
    as_strategy,
    graphs,
    instrument,
    passing_through,
    planned,
    rounding_rows,
)
from vqkit.quantization.quantized import Quantized
from vqkit.quantization.refine.pipeline import CalibrationBatches, RefineInputs, RefineState, run_pipeline, wanted
from vqkit.quantization.solve import WeightSolver, solve_activations, weights_while_calibrating
from vqkit.strategy import Strategy

if TYPE_CHECKING:
    import keras


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


def quantize(
    model: keras.Model,
    strategy: Strategy | str | Path,
    calib_data: Samples,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    calibration: str = "quantized",
    vitis_compat: bool = False,
    progress: bool = False,
    calib_labels: Any = None,
    search_data: Samples | None = None,
) -> Quantized:
    """Quantize a Keras model after training.

    As `vqkit.quantize` it also writes the file that the strategy's finalize section asks for; as
    `vqkit.quantization.quantize` it writes nothing.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        strategy: a `Strategy`, or the name or path of one.
        calib_data: inputs to calibrate on: arrays, lists or dicts of arrays of shape (n, …), a tf.data
            dataset, a Keras PyDataset, or a generator of batches; labels are ignored.
        batch_size: samples in a batch, for arrays. A model with a fixed batch size is calibrated in that.
        steps: number of batches; all by default.
        calibration: "quantized" observes each tensor on the quantized model before it (the reference's
            way), "float" on the float model (shared by sweeps).
        vitis_compat: reproduce the reference's mistakes as well.
        progress: show a progress bar over the calibration batches.
        calib_labels: class numbers of the calibration samples, shape (n,); read only by a threshold search
            with `threshold_search_loss` "labels".
        search_data: inputs that a threshold search judges by, to which the labels then belong; those of the
            calibration by default.

    Returns:
        The quantized model with plan, decisions and report; audited.

    Raises:
        ModelError: the model cannot be read.
        StrategyError: the strategy does not fit the model.
        DataError: the calibration data are unusable.
        AuditError: what was requested was not applied.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu")])
        >>> images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
        >>> quantized = vqkit.quantize(model, "pof2s", images)
        >>> quantized.model.output_shape
        (None, 6, 6, 4)
    """
    work = _Fresh(model, calib_data, batch_size, steps, progress)
    judged = None
    if search_data is not None:
        judged = list(in_size(batches(search_data, batch_size=batch_size), work.lowered))
    labels = whole(calib_labels, work.lowered)
    result, live = assemble(
        work, strategy, calibration=calibration, vitis_compat=vitis_compat, labels=labels, judged=judged
    )
    result.keep_live(live.live)
    result.audit()
    return result


class Work(Protocol):
    """What `assemble` leaves to others: to do each time anew, or to remember from other variants."""

    weights: WeightSolver
    """Decides and rounds weights."""
    cache: DiskCache
    """Where what takes long is kept, so that a run that was killed goes on."""
    progress: bool
    """Whether to show it."""

    def prepare(self, strategy: Strategy, compat: bool) -> PreparedModel:
        """Lower, optimize and plan."""

    def live(self, graph: Graph) -> LiveGraph:
        """Live layers of an instrumented graph, holding its weights."""

    def data(self, again: bool) -> CalibrationBatches:
        """Calibration batches, readable more than once where that is asked for."""

    def notes(self) -> list[str]:
        """What became known of model and data: lines for the report."""

    def calibrate(
        self,
        live: LiveGraph,
        rows: Mapping[str, QuantizedRow],
        passed: Iterable[str],
        data: Iterable[Any],
        mode: Mode,
        compat: bool,
    ) -> Calibration:
        """Observe each tensor on live layers, of which some pass their input on."""


def assemble(
    work: Work,
    strategy: Strategy | str | Path,
    *,
    calibration: str = "quantized",
    vitis_compat: bool = False,
    labels: Any = None,
    judged: list[Any] | None = None,
) -> tuple[Quantized, LiveGraph]:
    """The steps of `quantize`, in their order.

    Args:
        work: does the expensive ones.
        strategy: a `Strategy`, or the name or path of one.
        calibration: "quantized" or "float".
        vitis_compat: reproduce the reference's mistakes as well.
        labels: of the samples that a threshold search judges by, where it wants them.
        judged: their batches; those of the calibration by default.

    Returns:
        The quantized model, not audited, and the live layers that now hold it.
    """
    strategy, clock, mode = as_strategy(strategy), _Clock(), checked(calibration)
    prepared = work.prepare(strategy, vitis_compat)
    plan = prepared.plan
    graph, rows = instrument(prepared.graph, plan)
    live = work.live(graph)
    clock.mark("prepare")
    encodings = work.weights.solve(graph, plan, vitis_compat)
    if mode is Mode.QUANTIZED:
        seen = weights_while_calibrating(plan, vitis_compat=vitis_compat)
        live.load(work.weights.bake(graph, encodings, seen))
    clock.mark("weights")
    passes = wanted(strategy.refine, vitis_compat=vitis_compat)
    # A generator can be read only once.
    data = work.data(any(each.reads_data for each in passes))
    passed = rounding_rows(graph, plan) if mode is Mode.FLOAT else ()
    facts = work.calibrate(live, rows, passed, data, mode, vitis_compat)
    encodings |= solve_activations(facts, plan, vitis_compat=vitis_compat)
    clock.mark("calibrate")
    given = RefineInputs(
        plan,
        rows,
        strategy.refine,
        vitis_compat,
        facts.tensors,
        data,
        data if judged is None else judged,
        labels,
        work.weights,
        work.live,
        work.cache,
        work.progress,
    )
    state = run_pipeline(RefineState(graph, graph, live, encodings, encodings), given, passes, clock.mark)
    result = Quantized(
        plan,
        state.encodings,
        state.calibrated,
        strategy,
        state.graph,
        state.corrected,
        prepared.optimized,
        rows,
        (*prepared.report, *work.notes(), *state.adjusted, *state.notes, *state.outside),
        clock.seconds,
        calibration,
        vitis_compat,
        state.outside,
    )
    return result, state.live


class _Fresh:
    """Every step anew, for one model and one strategy."""

    def __init__(self, model: keras.Model, data: Samples, batch_size: int, steps: int | None, progress: bool) -> None:
        self._model, self._data, self.progress = model, data, progress
        self.cache = DiskCache(None)
        self._cut: dict[str, Any] = {"batch_size": batch_size, "steps": steps}
        self.weights, self.lowered = WeightSolver(), lower(model)
        self._notes: list[str] = []

    def prepare(self, strategy: Strategy, compat: bool) -> PreparedModel:
        return planned(graphs(self.lowered, strategy, vitis_compat=compat), strategy, compat)

    def live(self, graph: Graph) -> LiveGraph:
        return LiveGraph(graph)

    def data(self, again: bool) -> CalibrationBatches:
        source = in_size(batches(self._data, **self._cut), self.lowered, tell=self._notes.append)
        first = next(source)
        self._notes += check_float(self._model, self.lowered, first)
        source = chain([first], source)
        return CalibrationBatches(list(source) if again else source, again=again)

    def notes(self) -> list[str]:
        return list(dict.fromkeys(self._notes))

    def calibrate(
        self,
        live: LiveGraph,
        rows: Mapping[str, QuantizedRow],
        passed: Iterable[str],
        data: Iterable[Any],
        mode: Mode,
        compat: bool,
    ) -> Calibration:
        seen = passing_through(live.live, passed) if passed else live.live
        return calibrate(live.graph, rows, seen, with_progress(data, self.progress), mode=mode, vitis_compat=compat)


def with_progress(source: Iterable[Any], show: bool) -> Iterable[Any]:
    """The batches, under a progress bar where one is wanted."""
    if not show:
        return source
    from tqdm.auto import tqdm

    return tqdm(source, desc="calibrating", unit="batch")
