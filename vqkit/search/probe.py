"""Quantize one tensor of an otherwise float model: run only what lies behind it.

All questions are asked batch by batch while the float model is walked once. At each cut (a place in the
graph where some question begins) the values that are still needed are at hand, so a question costs the layers
behind its cut. What lies between two cuts is compiled once, whatever is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from vqkit.flow.calibrate import calibrate
from vqkit.flow.data import batches
from vqkit.flow.instrument import instrument
from vqkit.flow.plan import Plan, Role, Row
from vqkit.flow.planner import resolve
from vqkit.flow.refine import refine
from vqkit.flow.solve import Encodings, solve_activations
from vqkit.flow.weights import WeightMemory
from vqkit.graph.ir import Graph, Ref, map_refs
from vqkit.graph.keras_io import make_all_live, tensors
from vqkit.graph.variables import assign_weights
from vqkit.primitives import ops
from vqkit.primitives.qparams import QParams
from vqkit.search.engine import EVAL_BATCH, Engine
from vqkit.search.questions import Question
from vqkit.search.tally import Tally

Values = dict[int, Any]


@dataclass(frozen=True, eq=False)
class Probe:
    """A question ready to be asked.

    Attributes:
        weights: layer name -> its quantized weights.
        start: cut from which the model differs from float.
        row: the value that is quantized, None for none.
        params: its range or position.
        end: the cut behind that value; `start` where there is none.
    """

    weights: Mapping[str, Mapping[str, np.ndarray]]
    start: int
    row: Row | None
    params: Any
    end: int


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
        self._live = make_all_live(graph)
        self._place = {n.name: i for i, n in enumerate(graph.nodes)}
        self._weights = WeightMemory()
        self._cuts = self._all_cuts(plans.values())
        self._functions: dict[tuple[int, int], Any] = {}
        self._facts = self._observe(plans)
        self.probes = {q: p for q, plan in plans.items() if (p := self._probe(plan)) is not None}

    def answers(self) -> dict[Question, dict[str, float]]:
        """Accuracy, output SQNR and KL of every question that can be asked here."""
        tallies = {q: Tally() for q in self.probes}
        reference, labels, at = self._engine.float_outputs(), np.asarray(self._engine.data.y_eval), 0
        for batch in batches(self._engine.data.x_eval, batch_size=EVAL_BATCH):
            here = slice(at, at + EVAL_BATCH)
            for question, outputs in self._ask(tensors(self._graph, batch)):
                tallies[question].add(outputs, reference[here], labels[here])
            at += EVAL_BATCH
        return {q: t.numbers() for q, t in tallies.items()}

    def _ask(self, inputs: Mapping[str, Any]) -> Iterable[tuple[Question, Any]]:
        state = {self._graph.inputs[name]: t for name, t in inputs.items()}
        at = 0
        for start in sorted({p.start for p in self.probes.values()}):
            state, at = self._run(at, start)(state), start
            for question, probe in self.probes.items():
                if probe.start == start:
                    yield question, self._answer(probe, state)

    def _answer(self, probe: Probe, state: Values) -> Any:
        with self._assigned(probe.weights):
            if probe.row is not None:
                state = dict(self._run(probe.start, probe.end)(state))
                value = probe.row.value
                assert value is not None
                state[value] = _fake_quantized(state[value], probe.params)
            state = self._run(probe.end, self._cuts[-1])(state)
        return [np.asarray(state[v]) for v in self._graph.outputs]

    # --- compiled pieces of the float graph ---

    def _needed(self, cut: int) -> list[int]:
        """Values made before a cut that are read behind it or leave the model."""
        made = set(self._graph.inputs.values()) | {v for n in self._graph.nodes[:cut] for v in n.outputs}
        read = {v for n in self._graph.nodes[cut:] for v in n.inputs} | set(self._graph.outputs)
        return sorted(made & read)

    def _all_cuts(self, plans: Iterable[Plan]) -> list[int]:
        """Places where a question may begin or go on, with both ends of the graph."""
        found = {0, len(self._graph.nodes)}
        for row in {r.name: r for p in plans for r in p.quantized}.values():
            found.add(self._first(row.layer) if row.is_weight else self._behind(row))
        return sorted(found)

    def _run(self, start: int, end: int) -> Any:
        """A function from the values needed at one cut to those needed at another."""
        places = [c for c in self._cuts if start <= c <= end]
        pieces = [self._piece(a, b) for a, b in pairwise(places)]

        def run(state: Values) -> Values:
            for piece in pieces:
                state = piece(state)
            return state

        return run

    def _piece(self, start: int, end: int) -> Any:
        if (start, end) not in self._functions:
            self._functions[start, end] = self._compiled(start, end)
        return self._functions[start, end]

    def _compiled(self, start: int, end: int) -> Any:
        import tensorflow as tf

        graph, before, after = self._graph, self._needed(start), self._needed(end)

        def run(*given: Any) -> list[Any]:
            values = dict(zip(before, given, strict=True))
            for node in graph.nodes[start:end]:
                args, kwargs = map_refs(lambda r: values[r.id], (node.args, dict(node.kwargs)))
                values.update(zip(node.outputs, _called(self._live[node.layer], args, kwargs), strict=True))
            return [values[v] for v in after]

        signature = [tf.TensorSpec(graph.values[v].shape, graph.values[v].dtype) for v in before]
        traced = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
        return lambda state: dict(zip(after, traced(*(state[v] for v in before)), strict=True))

    # --- what calibration would decide ---

    def _observe(self, plans: Mapping[Question, Plan]) -> Encodings:
        """Decisions about every asked value: what is before it is float, so one pass serves all questions.

        Keyed by row and spec, because questions differ in bits.
        """
        alone = [p for p in plans.values() if not any(r.is_weight for r in p.quantized)]
        wanted = {(r.name, r.spec): r for p in alone for r in p.quantized}
        found: Encodings = {}
        while wanted:
            # As many rows at once as there are values: what an observer sees is float all the same.
            together = {row.value: key for key, row in reversed(wanted.items())}
            rows = tuple(wanted.pop(key) for key in together.values())
            decided = self._calibrated(rows)
            found |= {f"{r.name} {r.spec}": decided[r.name] for r in rows}
        return found

    def _behind_weights(self, row: Row, weights: Mapping[str, Any], start: int) -> QParams:
        """What calibration decides about a value when the layers in front of it have these weights."""
        assert row.value is not None
        settings, seen = self._engine.settings, []
        source = batches(self._engine.data.x_calib, batch_size=settings.batch_size, steps=settings.steps)
        with self._assigned(weights):
            for batch in source:
                inputs = tensors(self._graph, batch).items()
                state = self._run(0, start)({self._graph.inputs[k]: t for k, t in inputs})
                seen.append(self._run(start, self._behind(row))(state)[row.value])
        graph = Graph(row.name, {"value": 0}, Ref(0), Ref(0), values={0: self._graph.values[row.value]})
        return self._calibrated((replace(row, value=0, readers=None),), graph, seen)[row.name]

    @contextmanager
    def _assigned(self, weights: Mapping[str, Any]) -> Iterator[None]:
        for layer, arrays in weights.items():
            assign_weights(self._live[layer], arrays)
        yield
        for layer in weights:
            assign_weights(self._live[layer], self._graph.layers[layer].weights)

    def _calibrated(
        self, rows: tuple[Row, ...], of: Graph | None = None, source: Iterable[Any] | None = None
    ) -> Encodings:
        settings = self._engine.settings
        plan = Plan(rows, "", "", "")
        graph, inserted = instrument(of or self._graph, plan)
        if source is None:
            calib = self._engine.data.x_calib
            source = batches(calib, batch_size=settings.batch_size, steps=settings.steps)
        compat = settings.vitis_compat
        facts = calibrate(graph, inserted, make_all_live(graph), source, mode="float", vitis_compat=compat)
        return solve_activations(facts, plan, vitis_compat=compat)

    def _probe(self, plan: Plan) -> Probe | None:
        """None where the plan is more than one layer's weights and one value."""
        values = [r for r in plan.quantized if not r.is_weight]
        layers = {r.layer for r in plan.quantized if r.is_weight}
        if len(values) > 1 or len(layers) > 1 or plan.typed or any(not self._read_by_all(r) for r in values):
            return None
        compat = self._engine.settings.vitis_compat
        encodings = self._weights.solve(self._graph, plan, compat)
        baked = self._weights.bake(self._graph, encodings, plan)
        starts = [self._first(name) for name in layers]
        for value in values:
            # Behind quantized weights a value is another one, so it is observed there.
            encodings[value.name] = (
                self._behind_weights(value, {k: baked.layers[k].weights for k in layers}, min(starts))
                if layers else self._facts[f"{value.name} {value.spec}"]
            )  # fmt: skip
        instrumented, inserted = instrument(self._graph, plan)
        refined, _ = refine(instrumented, inserted, encodings, self._base.refine, vitis_compat=compat)
        baked = self._weights.bake(self._graph, refined, plan)
        row = values[0] if values else None
        end = self._behind(row) if row is not None else None
        start = min([*starts, *([] if end is None else [end])], default=len(self._graph.nodes))
        params = None if row is None else refined[row.name]
        weights = {name: baked.layers[name].weights for name in layers}
        return Probe(weights, start, row, params, start if end is None else end)

    def _read_by_all(self, row: Row) -> bool:
        """Whether the quantizer stands in front of every reader of its value."""
        if row.readers is None:
            return True
        readers = {n.name for n in self._graph.nodes if row.value in n.inputs}
        return readers <= row.readers and row.value not in self._graph.outputs

    def _first(self, layer: str) -> int:
        return min(i for i, n in enumerate(self._graph.nodes) if n.layer == layer)

    def _behind(self, row: Row) -> int:
        producer = next((i for i, n in enumerate(self._graph.nodes) if row.value in n.outputs), -1)
        return producer + 1


def _called(operation: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
    from keras import tree

    at_inference = getattr(operation, "_call_has_training_arg", False)
    return tuple(
        tree.flatten(operation(*args, **({**kwargs, "training": False} if at_inference else kwargs)))
    )


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
