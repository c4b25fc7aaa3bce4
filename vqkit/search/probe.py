"""Quantize one tensor of an otherwise float model: run only what lies behind it.

All questions are asked batch by batch while the float model is walked once. At each cut (a place in the
graph where some question begins) the values that are still needed are at hand, so a question costs the layers
behind its cut. What lies between two cuts is compiled once, whatever is asked (`pieces`). What calibration
would decide is found alike: one walk over the calibration data serves all questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from vqkit.errors import DataError
from vqkit.flow.calibrate import Calibration, Mode, as_float
from vqkit.flow.data import batches, leaves
from vqkit.flow.instrument import instrument
from vqkit.flow.observers import Observed, observe
from vqkit.flow.plan import Plan, Role, Row
from vqkit.flow.planner import resolve
from vqkit.flow.refine import refine
from vqkit.flow.solve import Encodings, solve_activations
from vqkit.flow.weights import WeightMemory
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import tensors
from vqkit.primitives import ops
from vqkit.primitives.qparams import QParams
from vqkit.search.engine import EVAL_BATCH, Engine
from vqkit.search.pieces import Pieces, Values
from vqkit.search.questions import Question
from vqkit.search.tally import Tally

Observing = tuple[Any, ...]
# Bytes of the largest activation of a batch up to which two batches are held at once.
SMALL = 1 << 27


@dataclass(frozen=True, eq=False)
class Probe:
    """A question ready to be asked.

    Attributes:
        weights: layer name -> its quantized weights.
        start: cut from which the model differs from float.
        row: the value that is quantized, None for none.
        params: its range or position; None before anything was observed.
        end: the cut behind that value; `start` where there is none.
    """

    weights: Mapping[str, Mapping[str, np.ndarray]]
    start: int
    row: Row | None
    params: Any
    end: int

    @property
    def observing(self) -> Observing:
        """What decides what calibration sees: the value, its quantizer, the weights before it."""
        assert self.row is not None
        before = [(k, v, id(a)) for k, arrays in self.weights.items() for v, a in arrays.items()]
        return (self.row.name, self.row.spec, *before)


class Probes:
    """Answers questions of mode "only" about one base strategy.

    Args:
        engine: model, data and settings.
        base: the strategy around which is asked; its passes may not train or correct.
        plans: question -> plan of its strategy.
        graph: the prepared graph that all these plans are about.
    """

    def __init__(self, engine: Engine, base: Any, plans: Mapping[Question, Plan], graph: Graph) -> None:
        self._engine, self._base, self._graph = engine, base, graph
        self._first = {n.layer: i for i, n in reversed([*enumerate(graph.nodes)])}
        self._weights = WeightMemory()
        drafts = {q: self._draft(plan) for q, plan in plans.items() if self._fits(plan)}
        cuts = {cut for d in drafts.values() for cut in (d.start, d.end)}
        self._pieces = Pieces(graph, {0, len(graph.nodes), *cuts})
        facts = self._observe(drafts.values())
        self.probes = {q: self._probe(plans[q], draft, facts) for q, draft in drafts.items()}

    def answers(self) -> dict[Question, dict[str, float]]:
        """Accuracy, output SQNR and KL of every question that can be asked here."""
        tallies = {q: Tally() for q in self.probes}
        reference, labels, at = self._engine.float_outputs(), np.asarray(self._engine.data.y_eval), 0
        source = iter(batches(self._engine.data.x_eval, batch_size=EVAL_BATCH))
        with ThreadPoolExecutor(self._together()) as pool:
            while some := [*islice(source, self._together())]:
                here = [slice(at + i * EVAL_BATCH, at + (i + 1) * EVAL_BATCH) for i in range(len(some))]
                for question, outputs in self._ask(some, pool):
                    for where, found in zip(here, outputs, strict=True):
                        tallies[question].add(found, reference[where], labels[where])
                at += len(some) * EVAL_BATCH
        return {q: t.numbers() for q, t in tallies.items()}

    def _together(self) -> int:
        """How many batches are evaluated at once: one leaves cores idle, more need more memory."""
        sizes = [prod(size or 1 for size in v.shape[1:]) for v in self._graph.values.values()]
        return 2 if 4 * EVAL_BATCH * max(sizes) <= SMALL else 1

    def _ask(self, some: list[Any], pool: ThreadPoolExecutor) -> Iterator[tuple[Question, list[Any]]]:
        starts = {p.start for p in self.probes.values()}
        for start, *states in zip(sorted(starts), *(self._walked(x, starts) for x in some), strict=True):
            for question, probe in self.probes.items():
                if probe.start == start:
                    with self._pieces.assigned(probe.weights):
                        answers = [*pool.map(partial(self._answer, probe), (s for _, s in states))]
                    yield question, answers

    def _answer(self, probe: Probe, state: Values) -> Any:
        """Outputs for one batch, while the question's weights are assigned."""
        if probe.row is not None:
            state = dict(self._pieces.run(probe.start, probe.end, state))
            value = probe.row.value
            assert value is not None
            state[value] = _fake_quantized(state[value], probe.params)
        state = self._pieces.run(probe.end, self._pieces.cuts[-1], state)
        return [np.asarray(state[v]) for v in self._graph.outputs]

    def _walked(self, batch: Any, stops: Iterable[int]) -> Iterator[tuple[int, Values]]:
        """The values of the float model at some cuts, one cut after the other."""
        state = {self._graph.inputs[name]: t for name, t in tensors(self._graph, batch).items()}
        at = 0
        for stop in sorted(stops):
            state, at = self._pieces.run(at, stop, state), stop
            yield stop, state

    # --- what calibration would decide ---

    def _observe(self, drafts: Iterable[Probe]) -> dict[Observing, QParams]:
        """Decisions about every asked value: before its cut all is float, so one pass serves all questions.

        Behind quantized weights a value is another one, and is observed there.
        """
        settings = self._engine.settings
        watched = {d.observing: d for d in drafts if d.row is not None}
        seen = {key: Observed() for key in watched}
        starts = {d.start for d in watched.values()}
        source = batches(self._engine.data.x_calib, batch_size=settings.batch_size, steps=settings.steps)
        count = samples = 0
        for batch in source:
            for start, state in self._walked(batch, starts):
                for key, draft in watched.items():
                    if draft.start == start:
                        self._watch(draft, state, seen[key])
            count, samples = count + 1, samples + len(leaves(batch)[0])
        if not count:
            raise DataError("calibration data: no batch was given; pass at least one")
        return {key: self._decided(d.row, Calibration({d.row.name: seen[key]}, count, samples, Mode.FLOAT))
                for key, d in watched.items() if d.row is not None}  # fmt: skip

    def _watch(self, draft: Probe, state: Values, seen: Observed) -> None:
        assert draft.row is not None
        assert draft.row.value is not None
        assert draft.row.spec is not None
        with self._pieces.assigned(draft.weights):
            value = self._pieces.run(draft.start, draft.end, state)[draft.row.value]
        observe(as_float(value), draft.row.spec, seen, False, self._engine.settings.vitis_compat)

    def _decided(self, row: Row, facts: Calibration) -> QParams:
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
        encodings = self._weights.solve(self._graph, plan, self._engine.settings.vitis_compat)
        return Probe(self._baked(plan, encodings), start, row, None, ends[0] if ends else start)

    def _probe(self, plan: Plan, draft: Probe, facts: Mapping[Observing, QParams]) -> Probe:
        compat, row = self._engine.settings.vitis_compat, draft.row
        encodings = self._weights.solve(self._graph, plan, compat)
        if row is not None:
            encodings[row.name] = facts[draft.observing]
        instrumented, inserted = instrument(self._graph, plan)
        refined, _ = refine(instrumented, inserted, encodings, self._base.refine, vitis_compat=compat)
        params = None if row is None else refined[row.name]
        return replace(draft, weights=self._baked(plan, refined), params=params)

    def _baked(self, plan: Plan, encodings: Encodings) -> dict[str, Mapping[str, np.ndarray]]:
        layers = {r.layer for r in plan.quantized if r.is_weight}
        baked = self._weights.bake(self._graph, encodings, plan)
        return {name: baked.layers[name].weights for name in layers}

    def _read_by_all(self, row: Row) -> bool:
        """Whether the quantizer stands in front of every reader of its value."""
        if row.readers is None:
            return True
        readers = {n.name for n in self._graph.nodes if row.value in n.inputs}
        return readers <= row.readers and row.value not in self._graph.outputs

    def _behind(self, row: Row) -> int:
        producer = next((i for i, n in enumerate(self._graph.nodes) if row.value in n.outputs), -1)
        return producer + 1


def _fake_quantized(x: Any, params: Any) -> Any:
    import tensorflow as tf

    pos = None if params.pos is None else tf.constant(params.pos)
    return ops.fake_quantize(tf.cast(x, tf.float32), params.spec, tf.constant(params.f_min),
                             tf.constant(params.f_max), pos)  # fmt: skip


def plan_of(prepared: Any, strategy: Any, compat: bool) -> Plan:
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
        replace(r, spec=r.spec.with_(bit_width=bits)) if r.spec is not None and r.role in kinds else r
        for r in plan.rows
    )
    return replace(plan, rows=rows)


def can_probe(base: Any) -> bool:
    """Whether the base strategy's answers follow from one tensor alone: nothing is trained or corrected."""
    return not (base.refine.include_fast_ft or base.refine.include_bias_corr)
