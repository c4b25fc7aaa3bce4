"""Quantize one tensor of an otherwise float model: run only what lies behind it.

All questions are asked batch by batch while the float model is walked once. At each cut (a place in the
graph where some question begins) the values that are still needed are at hand, so a question costs the layers
behind its cut. What lies between two cuts is compiled once, whatever is asked (`CutRunner`). What calibration
would decide is found alike: one walk over the calibration data serves all questions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from vqkit.bench.calibration import SharedObserver, WantedStatistics
from vqkit.graph.execute import CutRunner, Values, numbers_at
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import mask_of, masked, tensors
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization.calibrate import Calibration, Mode, TensorStatistics, as_float, observe_batches, on_grid
from vqkit.quantization.data import batches, leaves
from vqkit.quantization.float_model import in_size
from vqkit.quantization.plan import Plan, QuantizedRow, Role
from vqkit.quantization.planner import resolve
from vqkit.quantization.prepare import PreparedModel, instrument
from vqkit.quantization.refine import refine
from vqkit.quantization.solve import Encodings, WeightMemory, solve_activations, weights_while_calibrating
from vqkit.search.engine import Engine, batch_size
from vqkit.strategy import Strategy

Place = tuple[Any, ...]
Observing = tuple[Place, QuantizerSpec]
K = TypeVar("K", bound=Hashable)
# Bytes of the float model's values that are held while questions are asked about them.
KEPT = 1 << 28


@dataclass(frozen=True, eq=False)
class Probe:
    """A question ready to be asked.

    Attributes:
        weights: layer name -> its quantized weights.
        start: cut from which the model differs from float.
        row: the value that is quantized, None for none.
        params: its range and position; None before anything was observed.
        end: the cut behind that value; `start` where there is none.
    """

    weights: Mapping[str, Mapping[str, np.ndarray]]
    start: int
    row: QuantizedRow | None
    params: QParams | None
    end: int

    @property
    def observing(self) -> Observing:
        """What decides what calibration sees: the value, the weights before it, and its quantizer."""
        assert self.row is not None
        before = [(k, v, id(a)) for k, arrays in self.weights.items() for v, a in arrays.items()]
        return (self.row.name, *before), self.row.spec


class Probes(Generic[K]):
    """Answers questions of mode "only" about one base strategy.

    Args:
        engine: model, data and settings.
        base: the strategy around which is asked; its passes may not train or correct.
        plans: question -> plan of its strategy.
        graph: the prepared graph that all these plans are about.
        decided: question -> decisions about its tensors, where calibration shall not make them.
    """

    def __init__(
        self,
        engine: Engine,
        base: Strategy,
        plans: Mapping[K, Plan],
        graph: Graph,
        decided: Mapping[K, Encodings] | None = None,
    ) -> None:
        self._engine, self._base, self._graph = engine, base, graph
        self._given = decided or {}
        self._first = {n.layer: i for i, n in reversed([*enumerate(graph.nodes)])}
        self._weights = WeightMemory()
        drafts = {q: self._draft(plan) for q, plan in plans.items() if self._fits(plan)}
        cuts = {cut for d in drafts.values() for cut in (d.start, d.end)}
        self._runner = CutRunner(graph, {0, len(graph.nodes), *cuts})
        facts = self._observe(d for q, d in drafts.items() if q not in self._given)
        self.probes = {
            q: self._probe(plans[q], draft, self._given.get(q) or self._decisions(plans[q], draft, facts))
            for q, draft in drafts.items()
        }

    def answers(self) -> dict[K, dict[str, float]]:
        """The metric, output SQNR and KL of every question that can be asked here."""
        tallies = {q: self._engine.sums() for q in self.probes}
        reference, labels, output = self._engine.float_outputs(), self._engine.labels, self._engine.output
        data, size = self._engine.data.x_eval, batch_size(self._graph)
        source = enumerate(in_size(batches(data, batch_size=size), self._graph, pad=True))
        in_a_row = self._in_a_row()
        while some := dict(islice(source, in_a_row)):
            for question, outputs in self._ask(list(some.values())):
                for number, own in zip(some, outputs, strict=True):
                    here = slice(number * size, (number + 1) * size)
                    n = len(labels[here])
                    beside = self._engine.beside(here)
                    tallies[question].add(own[output][:n], reference[here], labels[here], *beside)
        return {q: t.numbers() for q, t in tallies.items()}

    def _in_a_row(self) -> int:
        """How many batches a question is asked about in a row: as many as may be held at any start."""
        sizes = [numbers_at(self._graph, cut) for cut in self._starts]
        known = [4 * batch_size(self._graph) * size for size in sizes if size is not None]
        return 1 if len(known) < len(sizes) else max(1, KEPT // max([*known, 1]))

    @property
    def _starts(self) -> set[int]:
        return {p.start for p in self.probes.values()}

    def _ask(self, some: Sequence[Any]) -> Iterator[tuple[K, list[list[Any]]]]:
        for start, states in self._walked(some, self._starts):
            for question, probe in self.probes.items():
                if probe.start == start:
                    self._runner.assign(probe.weights)
                    yield question, [self._answer(probe, state) for state in states]

    def _answer(self, probe: Probe, state: Values) -> list[Any]:
        """Outputs for one batch, while the question's weights are assigned."""
        if probe.row is not None:
            state = dict(self._runner.run(probe.start, probe.end, state))
            value = probe.row.value
            assert value is not None
            assert probe.params is not None
            x = state[value]
            state[value] = masked(on_grid(as_float(x), probe.params), mask_of(x))
        state = self._runner.run(probe.end, self._runner.cuts[-1], state)
        return [np.asarray(state[v]) for v in self._graph.outputs]

    def _walked(self, some: Sequence[Any], stops: Iterable[int]) -> Iterator[tuple[int, list[Values]]]:
        """The values of the float model for some batches at some cuts, one cut after the other."""
        graph, at = self._graph, 0
        states = [{graph.inputs[name]: t for name, t in tensors(graph, batch).items()} for batch in some]
        for stop in sorted(stops):
            self._runner.assign({})
            states, at = [self._runner.run(at, stop, state) for state in states], stop
            yield stop, states

    # --- what calibration would decide ---

    def _observe(self, drafts: Iterable[Probe]) -> dict[Observing, QParams]:
        """Decisions about every asked value: before its cut all is float, so one pass serves all questions.

        Behind quantized weights a value is another one, and is observed there.
        """
        compat, x = self._engine.settings.vitis_compat, self._engine.data.x_calib
        asked = {d.observing: d for d in drafts if d.row is not None}
        watched = {place: draft for (place, _), draft in asked.items()}
        wanted: dict[Place, dict[QuantizerSpec, WantedStatistics]] = {place: {} for place in watched}
        for place, spec in asked:
            wanted[place][spec] = WantedStatistics(spec, TensorStatistics(), compat)
        starts = {d.start for d in watched.values()}

        def run(batch: Any, visit: Callable[[Place, Any], Any]) -> None:
            for start, (state,) in self._walked([batch], starts):
                for place, draft in watched.items():
                    if draft.start == start:
                        visit(place, self._watched(draft, state))

        source = batches(x, batch_size=self._engine.settings.batch_size, steps=self._engine.settings.steps)
        sized = ((len(leaves(batch)[0]), batch) for batch in in_size(source, self._graph))
        observers = {place: SharedObserver(list(wishes.values())) for place, wishes in wanted.items()}
        size = observe_batches(sized, run, observers)
        return {
            key: self._decided(d.row, Calibration({d.row.name: wanted[key[0]][key[1]].seen}, *size, Mode.FLOAT))
            for key, d in asked.items()
            if d.row is not None
        }

    def _watched(self, draft: Probe, state: Values) -> Any:
        """The value that a question quantizes, behind its quantized weights."""
        assert draft.row is not None
        assert draft.row.value is not None
        self._runner.assign(draft.weights)
        return self._runner.run(draft.start, draft.end, state)[draft.row.value]

    def _decided(self, row: QuantizedRow, facts: Calibration) -> QParams:
        plan = Plan((row,), "", "", "")
        return solve_activations(facts, plan, vitis_compat=self._engine.settings.vitis_compat)[row.name]

    # --- questions as probes ---

    def _fits(self, plan: Plan) -> bool:
        """Whether the plan is no more than one layer's weights and one value."""
        values = [r for r in plan.quantized if not r.is_weight]
        layers = {r.layer for r in plan.quantized if r.is_weight}
        alone = len(values) <= 1 and len(layers) <= 1 and not plan.typed
        return alone and all(self._read_by_all(r) for r in values)

    def _draft(self, plan: Plan) -> Probe:
        """A question before anything was observed: its weights are those to calibrate with."""
        row = next((r for r in plan.quantized if not r.is_weight), None)
        layer = next((r.layer for r in plan.quantized if r.is_weight), None)
        ends = [] if row is None else [self._behind(row)]
        start = min([*ends, *([] if layer is None else [self._first[layer]])], default=len(self._graph.nodes))
        settings = self._engine.settings
        weights: dict[str, Mapping[str, np.ndarray]] = {}
        if settings.calibration != Mode.FLOAT:
            seen = weights_while_calibrating(plan, vitis_compat=settings.vitis_compat)
            weights = self._baked(seen, self._weights.solve(self._graph, seen, settings.vitis_compat))
        return Probe(weights, start, row, None, ends[0] if ends else start)

    def _decisions(self, plan: Plan, draft: Probe, facts: Mapping[Observing, QParams]) -> Encodings:
        compat, row = self._engine.settings.vitis_compat, draft.row
        encodings = self._weights.solve(self._graph, plan, compat)
        if row is not None:
            encodings[row.name] = facts[draft.observing]
        instrumented, inserted = instrument(self._graph, plan)
        return refine(instrumented, inserted, encodings, self._base.refine, vitis_compat=compat)[0]

    def _probe(self, plan: Plan, draft: Probe, encodings: Encodings) -> Probe:
        params = None if draft.row is None else encodings[draft.row.name]
        return replace(draft, weights=self._baked(plan, encodings), params=params)

    def _baked(self, plan: Plan, encodings: Encodings) -> dict[str, Mapping[str, np.ndarray]]:
        layers = {r.layer for r in plan.quantized if r.is_weight}
        baked = self._weights.bake(self._graph, encodings, plan)
        return {name: baked.layers[name].weights for name in layers}

    def _read_by_all(self, row: QuantizedRow) -> bool:
        """Whether the quantizer stands in front of every reader of its value."""
        if row.readers is None:
            return True
        readers = {n.name for n in self._graph.nodes if row.value in n.inputs}
        return readers <= row.readers and row.value not in self._graph.outputs

    def _behind(self, row: QuantizedRow) -> int:
        producer = next((i for i, n in enumerate(self._graph.nodes) if row.value in n.outputs), -1)
        return producer + 1


def plan_of(prepared: PreparedModel, strategy: Strategy, compat: bool) -> Plan:
    """The plan of a strategy that has the same passes as the prepared one."""
    return resolve(strategy, prepared.graph, vitis_compat=compat)


def with_bits(plan: Plan, bits: int) -> Plan:
    """The plan of the same question at another width: what the rule about bits says, and nothing else.

    Args:
        plan: of a question of mode "only", where all that is quantized has the asked width.
        bits: the other width; biases keep theirs.
    """
    kinds = (Role.WEIGHT, Role.ACTIVATION, Role.INPUT)
    rows = tuple(
        replace(r, spec=r.spec.with_(bit_width=bits)) if isinstance(r, QuantizedRow) and r.role in kinds else r
        for r in plan.rows
    )
    return replace(plan, rows=rows)


def can_probe(base: Strategy) -> bool:
    """Whether the base strategy's answers follow from one tensor alone: nothing is trained or corrected."""
    return not (base.refine.include_fast_ft or base.refine.include_bias_corr)
