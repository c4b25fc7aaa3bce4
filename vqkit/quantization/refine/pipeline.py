"""The refine pipeline: a table of passes, each of which makes one state of a quantized model from another.

A pass of one's own is a row of the table: a function of a state, the key of the strategy that asks for it, and what
it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vqkit.files import DiskCache
from vqkit.graph.copies import LiveGraph
from vqkit.graph.ir import Graph
from vqkit.quantization.calibrate import TensorStatistics
from vqkit.quantization.plan import Plan, QuantizedRow, Role
from vqkit.quantization.prepare import rounding_rows
from vqkit.quantization.refine import refine
from vqkit.quantization.refine.bias_correction import correct_biases, correctable
from vqkit.quantization.refine.block_reconstruction import reconstruct
from vqkit.quantization.refine.finetune import finetune, round_adaptively
from vqkit.quantization.refine.integer_arithmetic import in_integers
from vqkit.quantization.refine.outside import lines, values_outside, weights_outside
from vqkit.quantization.refine.threshold_search import ThresholdSearch
from vqkit.quantization.solve import Encodings, WeightSolver

if TYPE_CHECKING:
    from vqkit.strategy.schema import RefinePipelineConfig


class CalibrationBatches:
    """Calibration batches whose first one can be read again; all of them where `again` says so.

    Args:
        batches: inputs of the model.
        again: whether they can be read more than once.
    """

    def __init__(self, batches: Iterable[Any], *, again: bool) -> None:
        self._batches, self._first, self.again = batches, None, again

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self._first = batch if self._first is None else self._first
            yield batch

    @property
    def first(self) -> Iterator[Any]:
        """The first batch alone."""
        yield next(iter(self._batches)) if self._first is None else self._first


@dataclass(frozen=True, eq=False)
class RefineInputs:
    """What a pass may read and does not change.

    Attributes:
        plan: what was requested for each tensor.
        rows: fake-quantize layer name -> plan row.
        config: the strategy's refine section.
        vitis_compat: reproduce the reference's mistakes as well.
        statistics: plan row name -> what calibration saw.
        batches: of the calibration.
        judged: batches that a threshold search judges by.
        labels: of their samples, where it wants them.
        weights: decides and rounds weights.
        make_live: live layers of a graph.
        cache: where what takes long is kept.
        progress: whether to show it.
    """

    plan: Plan
    rows: Mapping[str, QuantizedRow]
    config: RefinePipelineConfig
    vitis_compat: bool
    statistics: Mapping[str, TensorStatistics]
    batches: CalibrationBatches
    judged: Iterable[Any]
    labels: Any
    weights: WeightSolver
    make_live: Callable[[Graph], LiveGraph]
    cache: DiskCache
    progress: bool


@dataclass(frozen=True, eq=False)
class RefineState:
    """A quantized model between two passes.

    Attributes:
        graph: the float graph with fake-quantize layers inserted.
        corrected: the same with the float weights that are quantized.
        live: live layers that hold it.
        calibrated: plan row name -> the decision of calibration.
        encodings: the decision that is applied.
        adjusted: a line for each position that was adjusted.
        notes: lines of other passes.
        outside: a line for each tensor of which much lies outside its range.
    """

    graph: Graph
    corrected: Graph
    live: LiveGraph
    calibrated: Encodings
    encodings: Encodings
    adjusted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    def applied(self, given: RefineInputs) -> RefineState:
        """The state, its live layers holding its weights and decisions."""
        self.live.load(given.weights.bake(self.corrected, self.encodings, given.plan))
        for fq, row in given.rows.items():
            self.live.live[fq].assign(self.encodings[row.name])
        return self

    def noted(self, lines: Iterable[str], **changes: Any) -> RefineState:
        """The state with changes, and lines about them."""
        return replace(self, notes=(*self.notes, *lines), **changes)


def search_thresholds(state: RefineState, given: RefineInputs) -> RefineState:
    """Ranges that the whole model's output likes best."""
    loss, labels = given.config.threshold_search_loss, given.labels
    live = state.live.live
    search = ThresholdSearch(state.graph, given.rows, given.plan, live, given.judged, loss=loss, labels=labels)
    found, notes = search.run(state.calibrated)
    return state.noted(notes, calibrated=found, encodings=found)


def adjust_positions(state: RefineState, given: RefineInputs) -> RefineState:
    """Positions that a DPU can shift; weights and decisions are applied."""
    found, adjusted = refine(state.graph, given.rows, state.calibrated, given.config, vitis_compat=given.vitis_compat)
    return replace(state, encodings=found, adjusted=tuple(adjusted)).applied(given)


def tune_weights(state: RefineState, given: RefineInputs) -> RefineState:
    """Each layer's weights trained to give the float layer's output again."""
    tuned = finetune(
        state.graph,
        given.rows,
        given.plan,
        state.encodings,
        state.live.live,
        given.batches,
        epochs=given.config.fast_ft_epochs,
        vitis_compat=given.vitis_compat,
    )
    return state.noted(tuned.report, corrected=tuned.graph)


def choose_rounding(state: RefineState, given: RefineInputs) -> RefineState:
    """For each weight whether it rounds up or down."""
    tuned = round_adaptively(
        state.graph,
        given.rows,
        given.plan,
        state.encodings,
        state.live.live,
        given.batches,
        weights=state.corrected,
        steps=given.config.adaround_steps,
    )
    return state.noted(tuned.report, corrected=tuned.graph)


def shift_biases(state: RefineState, given: RefineInputs) -> RefineState:
    """The mean error of each layer's output taken off its bias."""
    graph, inserted = state.graph, [*given.rows, *rounding_rows(state.graph, given.plan)]
    corrected = correct_biases(graph, inserted, state.live.live, given.batches, weights=state.corrected)
    biases = given.weights.solve(corrected, given.plan, given.vitis_compat, roles=(Role.BIAS,))
    shifted = replace(state, corrected=corrected, calibrated=state.calibrated | biases)
    return adjust_positions(shifted, given).noted([f"include_bias_corr: {len(correctable(graph))} biases shifted"])


def reconstruct_blocks(state: RefineState, given: RefineInputs) -> RefineState:
    """Each block trained to give the float block's output again."""
    made = reconstruct(
        state.graph,
        given.rows,
        given.plan,
        state.encodings,
        state.live.live,
        given.batches,
        given.config,
        weights=state.corrected,
        solver=given.weights,
        cache=given.cache,
        progress=given.progress,
    )
    return adjust_positions(replace(state, corrected=made.graph, calibrated=made.encodings), given).noted(made.report)


def find_outside(state: RefineState, given: RefineInputs) -> RefineState:
    """Which tensors lie outside the range that was chosen for them."""
    shares = weights_outside(state.corrected, given.plan, state.encodings)
    shares |= values_outside(
        state.graph, given.rows, state.encodings, given.statistics, state.live.live, given.batches.first
    )
    return replace(state, outside=tuple(lines(shares, given.plan)))


def to_integers(state: RefineState, given: RefineInputs) -> RefineState:
    """Layers that add integers."""
    form = in_integers(state.graph, state.corrected, given.rows, given.plan, state.encodings)
    live = given.make_live(form.graph)
    return state.noted(form.report, graph=form.graph, corrected=form.corrected, live=live).applied(given)


@dataclass(frozen=True)
class RefinePass:
    """A row of the pipeline.

    Attributes:
        key: of the strategy's refine section, that asks for it; "" for what is always done.
        step: under which its seconds are counted.
        run: makes the next state.
        reads_data: whether it reads the calibration batches again, and assigns variables itself.
        in_compat: whether `vitis_compat` has it.
    """

    key: str
    step: str
    run: Callable[[RefineState, RefineInputs], RefineState]
    reads_data: bool = False
    in_compat: bool = True


PIPELINE = (
    RefinePass("include_threshold_search", "search", search_thresholds, reads_data=True),
    RefinePass("", "refine", adjust_positions),
    RefinePass("include_fast_ft", "correct", tune_weights, reads_data=True),
    RefinePass("include_adaround", "correct", choose_rounding, reads_data=True),
    RefinePass("include_bias_corr", "correct", shift_biases, reads_data=True, in_compat=False),
    RefinePass("include_block_reconstruction", "correct", reconstruct_blocks, reads_data=True, in_compat=False),
    RefinePass("", "check", find_outside),
    RefinePass("integer_arithmetic", "build", to_integers),
)


def wanted(config: RefinePipelineConfig, *, vitis_compat: bool) -> list[RefinePass]:
    """The passes that a strategy asks for, in order.

    Args:
        config: its refine section.
        vitis_compat: with the reference's mistakes.
    """
    able = (p for p in PIPELINE if p.in_compat or not vitis_compat)
    return [p for p in able if not p.key or getattr(config, p.key)]


def run_pipeline(
    state: RefineState, given: RefineInputs, passes: Iterable[RefinePass], mark: Callable[[str], None]
) -> RefineState:
    """The state after some passes.

    Args:
        state: after calibration.
        given: what they may read.
        passes: from `wanted`.
        mark: told the step of each pass when it is done.
    """
    for each in passes:
        try:
            state = each.run(state, given)
        finally:
            if each.reads_data:
                state.live.forget()
        mark(each.step)
    return state
