"""The straight line: prepare, decide the weights, calibrate, solve, refine, raise a model, audit it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import lower, raise_model
from vqkit.graph.keras_layers import assign_weights
from vqkit.quantization.calibrate import Calibration, Mode, calibrate
from vqkit.quantization.data import batches
from vqkit.quantization.float_model import check_float, in_size, whole
from vqkit.quantization.layer_kinds import HALF_BITS
from vqkit.quantization.plan import Plan, QuantizedRow, Role, Row
from vqkit.quantization.prepare import (
    PreparedModel,
    as_strategy,
    graphs,
    instrument,
    passing_through,
    planned,
    rounding_rows,
)
from vqkit.quantization.refine import refine
from vqkit.quantization.refine.audit import audit
from vqkit.quantization.refine.bias_correction import correct_biases, correctable
from vqkit.quantization.refine.finetune import finetune, round_adaptively
from vqkit.quantization.refine.integer_arithmetic import SCALES, in_integers
from vqkit.quantization.refine.outside import lines, values_outside, weights_outside
from vqkit.quantization.refine.threshold_search import ThresholdSearch
from vqkit.quantization.solve import (
    Encodings,
    bake,
    solve_activations,
    solve_weights,
    weights_while_calibrating,
)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model with everything that explains it.

    Attributes:
        plan: what was requested for each tensor.
        encodings: plan row name -> the decision that is applied.
        calibrated: the same before refinement.
        strategy: the strategy it was made with.
        graph: the float graph with fake-quantize layers inserted.
        corrected: the same with weights as refinement corrected them before they were quantized.
        optimized: the float graph after the optimize pipeline, before conversions to device form.
        rows: fake-quantize layer name -> plan row.
        report: what passes and refinement did, and the lines of `outside`.
        timings: step -> seconds.
        calibration: "quantized" or "float".
        vitis_compat: whether the reference's mistakes were reproduced.
        outside: a line for each tensor of which much lies outside the range that was chosen for it.
    """

    plan: Plan
    encodings: Encodings
    calibrated: Encodings
    strategy: Any
    graph: Graph
    corrected: Graph
    optimized: Graph
    rows: Mapping[str, QuantizedRow]
    report: tuple[str, ...]
    timings: Mapping[str, float]
    calibration: str = "quantized"
    vitis_compat: bool = False
    outside: tuple[str, ...] = ()
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """One line: model, strategy, how many tensors are quantized; `report` and `plan` tell more."""
        clipped = f", {len(self.outside)} with much outside their range" if self.outside else ""
        return f"<Quantized: {self.plan.summary()}{clipped}>"

    @cached_property
    def live(self) -> Mapping[str, Any]:
        """Layer name -> live object that `model` is made of."""
        live = make_all_live(bake(self.corrected, self.encodings, self.plan))
        for fq, row in self.rows.items():
            live[fq].assign(self.encodings[row.name])
        return live

    @cached_property
    def model(self) -> Any:
        """An ordinary Keras model: predict, evaluate, save, load. Built when first asked for."""
        from vqkit.quantization.layers import QuantizedModel, carrying

        grids = {(r.layer, r.tensor): self.encodings[r.name] for r in self.plan.quantized if r.is_weight}
        return carrying(raise_model(self.graph, self.live, QuantizedModel), grids)

    @cached_property
    def float_model(self) -> Any:
        """The optimized float model, as an ordinary Keras model."""
        return raise_model(self.optimized)

    def audit(self) -> Any:
        """Requested against applied, tensor by tensor.

        Returns:
            A pandas table.

        Raises:
            AuditError: some tensor is not what the plan says.
        """
        return audit(self)

    @property
    def size_bytes(self) -> float:
        """Bytes of the weights at their bit widths; 16-bit floats count 2, other float ones 4."""
        return sum(self._bits(r) for r in self._weight_rows()) / 8 + self._unplanned_bytes()

    @property
    def float_size_bytes(self) -> float:
        """Bytes of all weights as float32."""
        return float(sum(w.size * 4 for layer in self.optimized.layers.values() for w in layer.weights.values()))

    def _weight_rows(self) -> Iterable[Row]:
        return (r for r in self.plan.rows if r.is_weight)

    def _bits(self, row: Row) -> float:
        width = (HALF_BITS if row.data_type else 32) if row.spec is None else row.spec.bit_width
        return float(self.graph.layers[row.layer].weights[row.tensor].size * width)

    def _unplanned_bytes(self) -> float:
        planned = {r.name for r in self._weight_rows()}
        return float(
            sum(
                w.size * 4
                for name, layer in self.graph.layers.items()
                if name not in self.rows
                for key, w in layer.weights.items()
                if f"{name}/{key}" not in planned and key not in SCALES
            )
        )


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now


def quantize(
    model: Any,
    strategy: Any,
    calib_data: Any,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    calibration: str = "quantized",
    vitis_compat: bool = False,
    progress: bool = False,
    calib_labels: Any = None,
    search_data: Any = None,
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
    result = assemble(
        work,
        strategy,
        calibration=calibration,
        vitis_compat=vitis_compat,
        labels=whole(calib_labels, work.lowered),
        judged=judged,
    )
    result.audit()
    return result


class Work(Protocol):
    """What `assemble` leaves to others: to do each time anew, or to remember from other variants."""

    def prepare(self, strategy: Any, compat: bool) -> PreparedModel:
        """Lower, optimize and plan."""

    def live(self, graph: Graph) -> dict[str, Any]:
        """Live layers of an instrumented graph."""

    def weights(self, graph: Graph, plan: Plan, compat: bool) -> Encodings:
        """Decide the weights and biases."""

    def bake(self, graph: Graph, encodings: Encodings, plan: Plan) -> Graph:
        """Put quantized weights in place of the float ones."""

    def assign(self, baked: Graph, plan: Plan) -> None:
        """Give the live layers these weights."""

    def data(self, again: bool) -> Iterable[Any]:
        """Calibration batches, readable more than once where that is asked for."""

    def notes(self) -> list[str]:
        """What became known of model and data: lines for the report."""

    def calibrate(
        self,
        graph: Graph,
        rows: Mapping[str, QuantizedRow],
        live: Mapping[str, Any],
        data: Iterable[Any],
        mode: str,
        compat: bool,
    ) -> Calibration:
        """Observe each tensor; `live` holds what the mode wants."""

    def finish(self, result: Quantized, live: Mapping[str, Any]) -> None:
        """Called with the result and the live layers that now hold it."""


def assemble(
    work: Work,
    strategy: Any,
    *,
    calibration: str = "quantized",
    vitis_compat: bool = False,
    labels: Any = None,
    judged: list[Any] | None = None,
) -> Quantized:
    """The steps of `quantize`, in their order.

    Args:
        work: does the expensive ones.
        strategy: a `Strategy`, or the name or path of one.
        calibration: "quantized" or "float".
        vitis_compat: reproduce the reference's mistakes as well.
        labels: of the samples that a threshold search judges by, where it wants them.
        judged: their batches; those of the calibration by default.

    Returns:
        The quantized model, not audited.
    """
    strategy, clock = as_strategy(strategy), _Clock()
    prepared = work.prepare(strategy, vitis_compat)
    plan = prepared.plan
    graph, rows = instrument(prepared.graph, plan)
    live = work.live(graph)
    clock.mark("prepare")
    encodings = work.weights(graph, plan, vitis_compat)
    if calibration != Mode.FLOAT:
        seen_by_calibration = weights_while_calibrating(plan, vitis_compat=vitis_compat)
        work.assign(work.bake(graph, encodings, seen_by_calibration), plan)
    clock.mark("weights")
    # Corrections read the data again, and a generator can be read only once.
    config = strategy.refine
    correcting = config.include_bias_corr and not vitis_compat
    again = (correcting, config.include_fast_ft, config.include_adaround, config.include_threshold_search)
    data = work.data(any(again))
    rounding = rounding_rows(graph, plan)
    seen = passing_through(live, rounding) if calibration == Mode.FLOAT else live
    source = _Source(data)
    facts = work.calibrate(graph, rows, seen, source, calibration, vitis_compat)
    encodings |= solve_activations(facts, plan, vitis_compat=vitis_compat)
    clock.mark("calibrate")
    notes: list[str] = []
    if config.include_threshold_search:
        search = ThresholdSearch(
            graph,
            rows,
            plan,
            live,
            data if judged is None else judged,
            loss=config.threshold_search_loss,
            labels=labels,
        )
        encodings, notes = search.run(encodings)
        clock.mark("search")
    refined, adjusted = refine(graph, rows, encodings, strategy.refine, vitis_compat=vitis_compat)
    _apply(work, graph, refined, plan, rows, live)
    clock.mark("refine")
    corrected = graph
    if config.include_fast_ft:
        tuned = finetune(
            graph, rows, plan, refined, live, data, epochs=config.fast_ft_epochs, vitis_compat=vitis_compat
        )
        corrected, notes = tuned.graph, [*notes, *tuned.report]
    if config.include_adaround:
        tuned = round_adaptively(graph, rows, plan, refined, live, data, weights=corrected, steps=config.adaround_steps)
        corrected, notes = tuned.graph, [*notes, *tuned.report]
    if correcting:
        corrected = correct_biases(graph, [*rows, *rounding], live, data, weights=corrected)
        encodings |= solve_weights(corrected, plan, roles=(Role.BIAS,))
        refined, adjusted = refine(graph, rows, encodings, strategy.refine)
        _apply(work, corrected, refined, plan, rows, live)
        notes.append(f"include_bias_corr: {len(correctable(graph))} biases shifted")
    clock.mark("correct")
    shares = weights_outside(corrected, plan, refined)
    shares |= values_outside(graph, rows, refined, facts.tensors, live, source.first)
    beyond = tuple(lines(shares, plan))
    clock.mark("check")
    if config.integer_arithmetic:
        form = in_integers(graph, corrected, rows, plan, refined)
        graph, corrected, notes = form.graph, form.corrected, [*notes, *form.report]
        live = work.live(graph)
        _apply(work, corrected, refined, plan, rows, live)
    result = Quantized(
        plan,
        refined,
        encodings,
        strategy,
        graph,
        corrected,
        prepared.optimized,
        rows,
        (*prepared.report, *work.notes(), *adjusted, *notes, *beyond),
        clock.seconds,
        calibration,
        vitis_compat,
        beyond,
    )
    work.finish(result, live)
    clock.mark("build")
    return result


class _Source:
    """Calibration batches whose first one can be read again; a generator's others cannot."""

    def __init__(self, data: Iterable[Any]) -> None:
        self._data, self._first = data, None

    def __iter__(self) -> Iterator[Any]:
        for batch in self._data:
            self._first = batch if self._first is None else self._first
            yield batch

    @property
    def first(self) -> Iterator[Any]:
        """The first batch alone."""
        yield next(iter(self._data)) if self._first is None else self._first


class _Fresh:
    """Every step anew, for one model and one strategy."""

    def __init__(self, model: Any, data: Any, batch_size: int, steps: int | None, progress: bool) -> None:
        self._model, self._data, self._progress = model, data, progress
        self._cut: dict[str, Any] = {"batch_size": batch_size, "steps": steps}
        self._live: dict[str, Any] = {}
        self.lowered = lower(model)
        self._notes: list[str] = []

    def prepare(self, strategy: Any, compat: bool) -> PreparedModel:
        return planned(graphs(self.lowered, strategy, vitis_compat=compat), strategy, compat)

    def live(self, graph: Graph) -> dict[str, Any]:
        self._live = make_all_live(graph)
        return self._live

    def assign(self, baked: Graph, plan: Plan) -> None:
        for name in dict.fromkeys(r.layer for r in (*plan.quantized, *plan.typed) if r.is_weight):
            assign_weights(self._live[name], baked.layers[name].weights)

    def weights(self, graph: Graph, plan: Plan, compat: bool) -> Encodings:
        return solve_weights(graph, plan, vitis_compat=compat)

    def bake(self, graph: Graph, encodings: Encodings, plan: Plan) -> Graph:
        return bake(graph, encodings, plan)

    def data(self, again: bool) -> Iterable[Any]:
        source = in_size(batches(self._data, **self._cut), self.lowered, tell=self._notes.append)
        first = next(source)
        self._notes += check_float(self._model, self.lowered, first)
        source = chain([first], source)
        return list(source) if again else source

    def notes(self) -> list[str]:
        return list(dict.fromkeys(self._notes))

    def calibrate(
        self,
        graph: Graph,
        rows: Mapping[str, QuantizedRow],
        live: Mapping[str, Any],
        data: Iterable[Any],
        mode: str,
        compat: bool,
    ) -> Calibration:
        shown = with_progress(data, self._progress)
        return calibrate(graph, rows, live, shown, mode=mode, vitis_compat=compat)

    def finish(self, result: Quantized, live: Mapping[str, Any]) -> None:
        # What is assigned already is what `Quantized` would build.
        result.__dict__["live"] = live
        assert result.model is not None


def _apply(
    work: Work,
    graph: Graph,
    encodings: Encodings,
    plan: Plan,
    rows: Mapping[str, QuantizedRow],
    live: Mapping[str, Any],
) -> None:
    work.assign(work.bake(graph, encodings, plan), plan)
    for fq, row in rows.items():
        live[fq].assign(encodings[row.name])


def with_progress(source: Iterable[Any], show: bool) -> Iterable[Any]:
    """The batches, under a progress bar where one is wanted."""
    if not show:
        return source
    from tqdm.auto import tqdm

    return tqdm(source, desc="calibrating", unit="batch")
