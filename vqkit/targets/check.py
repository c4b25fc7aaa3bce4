"""What a DPU does with each call of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_layers import is_custom
from vqkit.graph.passes.match import Chains, activation_name
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization.layer_kinds import ACTIVATIONS, KEEPS_GRID
from vqkit.quantization.plan import FloatRow, Plan, QuantizedRow, Row
from vqkit.quantization.refine import converted_spec
from vqkit.targets.target import (
    AT_AN_END,
    AT_THE_END,
    FORMS,
    FUNCTIONS,
    GATES,
    GRID,
    KINDS,
    SHIFTS,
    WAYS_BY_KIND,
    DeviceFinding,
)

if TYPE_CHECKING:
    from vqkit.strategy import Strategy


class Calls:
    """A plan seen from the nodes of its graph.

    Args:
        graph: what the plan was made on.
        plan: its rows.
        refine: the strategy's `refine_pipeline_config`, which may convert quantizers at the end.
    """

    def __init__(self, graph: Graph, plan: Plan, refine: Any) -> None:
        self.graph, self._refine = graph, refine
        self._chains, self._producers = Chains(graph), graph.producers()
        self._consumers = graph.consumers()
        self._rows = {row.name: row for row in plan.rows}
        self._weights: dict[str, list[Row]] = {}
        self._at: dict[int, list[QuantizedRow]] = {}
        for row in plan.rows:
            if row.is_weight:
                self._weights.setdefault(row.layer, []).append(row)
            elif isinstance(row, QuantizedRow) and row.value is not None:
                self._at.setdefault(row.value, []).append(row)

    def spec(self, row: QuantizedRow) -> QuantizerSpec:
        """The row's quantizer as the finished model has it."""
        return converted_spec(row.spec, self._refine)

    def weights(self, node: Node) -> list[Row]:
        """The rows of the layer's variables, also those that stay float."""
        return self._weights.get(node.layer, [])

    def output_row(self, node: Node, index: int = 0) -> Row | None:
        """The node's own row of an output; None where its input is what is quantized."""
        return self._rows.get(f"{node.name}/output" + (f"_{index}" if index else ""))

    def producer(self, value: int) -> Node | None:
        """The node that makes a value; None for an input of the model."""
        return self._producers.get(value)

    def seen_by(self, reader: Node, value: int) -> QuantizedRow | None:
        """The row that quantized a value for one reader, found upwards through layers that keep the grid."""
        for row in self._at.get(value, ()):
            if row.readers is None or reader.name in row.readers:
                return row
        producer = self._producers.get(value)
        return None if producer is None else self._kept(producer)

    def behind(self, node: Node) -> Iterator[tuple[int, QuantizedRow | None]]:
        """For each output its index and the row that quantizes it for all who read it."""
        kept = self._kept(node)
        for index, value in enumerate(node.outputs):
            own = next((r for r in self._at.get(value, ()) if r.readers is None), None)
            yield index, own or self._by_readers(value) or kept

    def _by_readers(self, value: int) -> QuantizedRow | None:
        rows = [self.seen_by(reader, value) for reader in self._consumers[value]]
        return rows[0] if rows and None not in rows and value not in self.graph.outputs else None

    def _kept(self, node: Node) -> QuantizedRow | None:
        """The row of the input, where the layer keeps its grid."""
        if self.graph.kind(node) not in KEEPS_GRID:
            return None
        rows = [self.seen_by(node, v) for v in node.inputs]
        return rows[0] if rows and None not in rows else None

    def fused(self, node: Node) -> Node | None:
        """The activation that is computed with this node, so that only its output is quantized."""
        if any(row is not None for _, row in self.behind(node)):
            return None
        reader = self._chains.only_reader(node)
        if reader is None or self.graph.kind(reader) not in ACTIVATIONS:
            return None
        row = self.output_row(reader)
        return reader if row is not None and row.spec is not None else None


_CONVERT = "set convert_sigmoid_to_hard_sigmoid and convert_hard_sigmoid_to_dpu_version to true"
_POOL = "set convert_average_pooling2d_to_dpu_version to true, and fix the size of the image"
# What lets a layer share the quantizer of the activation behind it; pools always do.
_MERGING = {
    **dict.fromkeys(WEIGHTED, "/quantize_pipeline_config/no_quant_in_conv_act"),
    **dict.fromkeys(("Add", "Multiply"), "/quantize_pipeline_config/no_quant_in_add_act"),
}


class DpuCheck:
    """The rules of `dpu_target` applied to one plan.

    Args:
        calls: the plan, seen from its graph.
        strategy: what it was made from.
        vitis_compat: whether it was made as the reference would.
    """

    def __init__(self, calls: Calls, strategy: Strategy, *, vitis_compat: bool = False) -> None:
        self.calls, self.graph, self.strategy = calls, calls.graph, strategy
        self._instead = "plan without vitis_compat, or " if vitis_compat else ""
        self._uses = calls.graph.calls()
        self._own = {node.name: self._first(node, self._alone()) for node in self.graph.nodes}
        self._why: dict[str, DeviceFinding | None] = {}
        for node in self.graph.nodes:
            self._why[node.name] = self._own[node.name] or self._company(node)

    def why_not(self, node: Node) -> DeviceFinding | None:
        """Why a call is left to the CPU; None where the device runs it."""
        return self._why[node.name]

    def note(self, node: Node) -> DeviceFinding | None:
        """What differs on the device, for a call that it runs."""
        return self._first(node, (self._inexact, self._shifts))

    @staticmethod
    def _first(node: Node, checks: tuple[Callable[[Node], DeviceFinding | None], ...]) -> DeviceFinding | None:
        return next((found for check in checks if (found := check(node)) is not None), None)

    def _alone(self) -> tuple[Callable[[Node], DeviceFinding | None], ...]:
        return (
            self._selection,
            self._kind,
            self._function,
            self._form,
            self._rule,
            self._weights,
            self._outputs,
        )

    # --- what the layer itself decides ---

    def _selection(self, node: Node) -> DeviceFinding | None:
        if self.graph.is_candidate(node):
            return None
        way = "select it with input_layers and output_layers, or take it out of ignore_layers"
        return DeviceFinding("not in the selected part of the model", way)

    def _kind(self, node: Node) -> DeviceFinding | None:
        layer = self.graph.layer_of(node)
        if layer.kind in KINDS:
            return None
        name = layer.kind.removeprefix("op:")
        if layer.is_op:
            return DeviceFinding(f"the DPU has no operation {name}", WAYS_BY_KIND.get(layer.kind, AT_AN_END))
        what = f"custom layer {name}" if is_custom(layer.cls) else f"layer {name}"
        return DeviceFinding(f"the DPU has no {what}", WAYS_BY_KIND.get(name, AT_AN_END))

    def _function(self, node: Node) -> DeviceFinding | None:
        layer = self.graph.layer_of(node)
        function = activation_name(layer) if layer.kind in (*WEIGHTED, "Activation") else "linear"
        if function in FUNCTIONS:
            return None
        return DeviceFinding(f"{function} is computed in float", self._function_way(node, function))

    def _function_way(self, node: Node, function: str) -> str:
        if function == "softmax":
            return AT_THE_END
        if function not in GATES:
            return "train with relu, LeakyReLU(0.1), sigmoid or swish; at the end of the model it may stay"
        if self._uses[node.layer] > 1:
            return "give each place an activation layer of its own, so that it can be converted"
        if function in ("hard_sigmoid", "hard_silu", "hard_swish"):
            return f"{_CONVERT}, without vitis_compat"
        return _CONVERT

    def _form(self, node: Node) -> DeviceFinding | None:
        layer = self.graph.layer_of(node)
        form = FORMS.get(layer.kind)
        return form(layer, self.graph.values[node.inputs[0]].shape) if form else None

    def _rule(self, node: Node) -> DeviceFinding | None:
        name = next((n for n in (node.layer, *node.origin[:1]) if self.strategy.speaks_of(n)), node.layer)
        kind = self.graph.kind(node)
        rule = self.strategy.layer_rule(kind, name)
        if rule is None:
            return DeviceFinding(
                f"the strategy has no entry for {kind}", "give it one, or plan with pof2s or pof2s_tqt"
            )
        if rule.left_float:
            source, pointer = rule.left_float.source, rule.left_float.pointer
            return DeviceFinding(f"left float by {source} {pointer}", f"take {pointer} out of the strategy")
        return None

    def _weights(self, node: Node) -> DeviceFinding | None:
        return next((f for row in self.calls.weights(node) if (f := self._weight(row)) is not None), None)

    def _weight(self, row: Row) -> DeviceFinding | None:
        if isinstance(row, FloatRow):
            way = f"{self._instead}give {row.tensor} a quantizer in the entry of {row.kind}"
            return DeviceFinding(f"its {row.tensor} stays float: {row.reason}", way)
        return self._grid(row, f"its {row.tensor}")

    def _outputs(self, node: Node) -> DeviceFinding | None:
        activation = self.calls.fused(node)
        if activation is not None:
            return None
        for index, row in self.calls.behind(node):
            if row is None:
                return self._float_output(node, index)
            if (found := self._grid(row, "its output")) is not None:
                return found
        return None

    def _float_output(self, node: Node, index: int) -> DeviceFinding:
        row = self.calls.output_row(node, index)
        reason = f": {row.reason}" if row is not None and row.reason else ""
        way = f"{self._instead}give it an output quantizer in the entry of {self.graph.kind(node)}"
        return DeviceFinding(f"its output stays float{reason}", way)

    def _grid(self, row: QuantizedRow, what: str) -> DeviceFinding | None:
        spec = self.calls.spec(row)
        broken = next((rule for rule in GRID if not rule.holds(spec)), None)
        if broken is None:
            return None
        way = _changed(row, broken.param, broken.wanted)
        if broken.param == "quantizer_type":
            way = "set convert_to_fs_quantize_strategy to false" if row.spec.pow2 else "plan with pof2s or pof2s_tqt"
        return DeviceFinding(f"{what} {broken.reason.format(spec=spec)}", way)

    # --- what its neighbours decide ---

    def _company(self, node: Node) -> DeviceFinding | None:
        activation = self.calls.fused(node)
        behind = None if activation is None else self._own[activation.name]
        if activation is not None and behind is not None:
            key = _MERGING.get(self.graph.kind(node))
            way = f"{behind.way_out}; or set {key} to false" if key else behind.way_out
            return DeviceFinding(f"quantized only behind {activation.name}, where {behind.reason}", way)
        return next((f for v in dict.fromkeys(node.inputs) if (f := self._input(node, v)) is not None), None)

    def _input(self, node: Node, value: int) -> DeviceFinding | None:
        producer = self.calls.producer(value)
        if producer is not None and self.calls.fused(producer) is node:
            before = self._why[producer.name]
            return before and DeviceFinding(f"one with {producer.name}, which is on the CPU", before.way_out)
        row = self.calls.seen_by(node, value)
        name = "an input of the model" if producer is None else producer.name
        if row is not None:
            return self._grid(row, f"reads {name}, which")
        way = "quantize it" if producer is None else f"give {self.graph.kind(producer)} an output quantizer"
        return DeviceFinding(f"reads {name}, which is float", self._instead + way)

    # --- what differs on the device ---

    def _inexact(self, node: Node) -> DeviceFinding | None:
        if self.graph.kind(node) not in ("AveragePooling2D", "GlobalAveragePooling2D"):
            return None
        return DeviceFinding("the device divides by a multiplication and a shift, this model exactly", _POOL)

    def _shifts(self, node: Node) -> DeviceFinding | None:
        kind, refine = self.graph.kind(node), self.strategy.refine
        off = [s for s in SHIFTS if kind in s.kinds and not getattr(refine, s.key, False)]
        if not off:
            return None
        keys = " and ".join(s.key for s in off)
        return DeviceFinding(f"not ensured: {'; '.join(s.limit for s in off)}", f"set {keys} to true")


def _changed(row: Row, param: str, wanted: str) -> str:
    source, pointer = row.origins.get(param, ("", ""))
    return f"set {pointer} to {wanted} ({source})" if pointer else f"set {param} of {row.name} to {wanted}"
