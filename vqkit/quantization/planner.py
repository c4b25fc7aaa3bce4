"""Resolve a strategy on a prepared graph: the only place where the two meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import filter as matching
from functools import partial
from typing import TYPE_CHECKING, Any

from vqkit.errors import StrategyError
from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.keras_layers import is_custom
from vqkit.graph.passes.match import Chains, activation_name, kind_in, reference_name
from vqkit.graph.passes.select import input_nodes
from vqkit.graph.passes.simplify import EXTRA_WEIGHTED, WEIGHTED
from vqkit.quantization.layer_kinds import (
    ACTIVATIONS,
    KEEPS_GRID,
    QUANTIZED_AFTER,
    QUANTIZED_BEFORE,
    ReferenceRules,
    Signs,
    is_inline,
    linear_weighted,
    named_types,
    refuse_what_the_reference_refuses,
    unknown_function,
    with_data_types,
)
from vqkit.quantization.plan import (
    FloatRow,
    Plan,
    QuantizedRow,
    Role,
    Row,
    Slot,
    constant,
    float_constant,
    float_input,
    origins_of,
    tensor_name,
)
from vqkit.strategy.fit import UnusedError

if TYPE_CHECKING:
    from vqkit.strategy import Strategy

# The strategy format has Keras 2's name for this variable; Keras 3 calls it plainly kernel.
_VARIABLES = {"depthwise_kernel": "kernel"}


def resolve(strategy: Strategy, graph: Graph, *, vitis_compat: bool = False) -> Plan:
    """Decide every tensor of a graph.

    Args:
        strategy: what is wanted.
        graph: optimized and in device form, candidates selected.
        vitis_compat: with the reference's gaps (standalone activations and shared layers stay float, …).

    Returns:
        The plan; its rows are in graph order.

    Raises:
        StrategyError: an override reaches no quantizer; with compat, an activation cannot be quantized or
            the reference has no such quantizer.
    """
    planner = _Planner(strategy, graph, vitis_compat)
    rows = with_data_types(planner.rows(), graph, planner.typed)
    if vitis_compat:
        refuse_what_the_reference_refuses(rows)
    else:
        _refuse_unused(strategy, rows, planner.silenced())
    return Plan(tuple(rows), strategy.name, strategy.digest, graph.name)


def _refuse_unused(strategy: Strategy, rows: Iterable[Row], silenced: set[tuple[str, str]]) -> None:
    used = {(s, p) for r in rows if r.spec is not None or r.data_type for s, p in r.origins.values()}
    if unused := strategy.unused_overrides(used | silenced):
        raise UnusedError(unused)


class _Planner:
    """One resolution; a class only because its tables are shared by many small decisions."""

    def __init__(self, strategy: Strategy, graph: Graph, compat: bool) -> None:
        self.strategy, self.graph, self.compat = strategy, graph, compat
        self.float_scale = not strategy.input_rule().spec.pow2
        self.typed = named_types(strategy, graph)
        self.chains, self.signs = Chains(graph), Signs(graph)
        self.first = {n.layer: n for n in reversed(graph.nodes)}
        self.producers, self.consumers = graph.producers(), graph.consumers()
        self.rules = {n.name: rule for n in graph.nodes if (rule := self._rule(n)) is not None}
        self.merged = self._merged()
        self.reference = ReferenceRules(graph, self.rules, self.merged, self.float_scale)
        if compat:
            for name in self.reference.standalone():
                self.rules.pop(name, None)
        else:
            # A layer of which a call is in the selected part has the weights that this call wants.
            self.first |= {n.layer: n for n in reversed(graph.nodes) if n.name in self.rules}
        self.on_grid: dict[int, str] = {}
        self.inserted: dict[int, QuantizedRow] = {}

    # --- which layers have a rule ---

    def _rule(self, node: Node) -> Any:
        if is_inline(self.graph.layer_of(node)):
            return None
        shared = self.graph.calls()[node.layer] > 1 if self.compat else False
        if not self.graph.is_candidate(node) or shared:
            return None
        rule = self._stated(node)
        return None if rule is None or rule.left_float else rule

    def _stated(self, node: Node) -> Any:
        """The strategy's rule, found by the layer's own name or that of the user's layer it was split off."""
        kind, positive = self.graph.kind(node), self.signs.never_negative(node)
        named = [n for n in (node.layer, *node.origin[:1]) if self.strategy.speaks_of(n)]
        name = named[0] if named else node.layer
        return self.strategy.layer_rule(kind, name, vitis_compat=self.compat, relu_like=positive)

    def _merged(self) -> dict[str, str]:
        """Node name -> the activation behind which its output is quantized instead."""
        found: dict[str, str] = {}
        for node in self.graph.nodes:
            if node.name in self.rules or node.name in self.graph.ignored:
                for heads, tails in self._fusions():
                    fits = self.graph.kind(node) in tails
                    chain = self.chains.upstream(node, heads, ignored=True) if fits else None
                    if chain and chain[0].name in self.rules and chain[0].name not in found:
                        found[chain[0].name] = node.name
        return found

    def _fusions(self) -> list[tuple[Any, tuple[str, ...]]]:
        config = self.strategy.quantize
        adds = kind_in("Add") if self.float_scale else kind_in("Add", "Multiply")
        patterns: list[tuple[Any, tuple[str, ...]]] = []
        if getattr(config, "no_quant_in_conv_act", True):
            leaky = not (self.compat and self.float_scale)
            weighted = EXTRA_WEIGHTED if self.strategy.extra_layers and not self.compat else WEIGHTED
            heads = partial(linear_weighted, weighted=weighted)
            patterns.append((heads, ACTIVATIONS if leaky else ("ReLU", "Activation")))
        if getattr(config, "no_quant_in_add_act", True):
            patterns.append((adds, ("ReLU", "Activation")))
        if getattr(config, "no_quant_in_conv_bn_act", True) and not self.compat:
            patterns.append((kind_in("BatchNormalization"), ("ReLU", "Activation")))
        return patterns

    def silenced(self) -> set[tuple[str, str]]:
        """Origins of what a name rule's word leaves float; they are heard, if only to be overruled."""
        found = {(o.source, o.pointer) for rule in self.rules.values() for o in rule.silenced}
        inputs = [n for n in self.graph.inputs if self.strategy.gives_float(n)]
        return found | {o for name in inputs for o in origins_of(self.strategy.input_rule(name)).values()}

    # --- rows, in graph order ---

    def rows(self) -> list[Row]:
        found = self._model_inputs()
        for node in self.graph.nodes:
            found += self._inputs_of(node)
            found += self._own(node) if node.name in self.rules else self._left_float(node)
            found += self._behind(node)
        return [self._final(r) for r in found]

    def _final(self, row: Row) -> Row:
        """The inserted quantizer as it stands after all its readers are known."""
        if isinstance(row, QuantizedRow) and row.slot is Slot.INPUT and row.value is not None:
            return self.inserted[row.value]
        return row

    def _model_inputs(self) -> list[Row]:
        rows: list[Row] = []
        for name, value in self.graph.inputs.items():
            reason = self._input_stays_float(name, value)
            if reason is None:
                rows.append(self._insert(value, name, None, "model input"))
            else:
                rows.append(float_input(name, reason))
        return rows

    def _input_stays_float(self, name: str, value: int) -> str | None:
        if "float" not in self.graph.values[value].dtype:
            return f"{self.graph.values[value].dtype} input"
        stays = self.strategy.input_left_float(name)
        if stays is not None:
            return f"left float by {stays.source} {stays.pointer}"
        if self.strategy.input_layers:
            return "before input_layers, or quantized at its reader"
        if self.graph.candidates is not None and name not in self.graph.candidates:
            return "not in the selected part of the model"
        if not self.compat and not any(n.name in self.rules for n in self.consumers[value]):
            return "no reader is quantized"
        return None

    def _insert(
        self, value: int, producer: str, readers: frozenset[str] | None, reason: str, stated: Any = None
    ) -> QuantizedRow:
        node = self.producers.get(value)
        name = producer if node is None else node.name
        rule = stated or self.strategy.input_rule(name, vitis_compat=self.compat)
        old = self.inserted.get(value)
        if old is not None:
            if old.spec != rule.spec:
                others = ", ".join(sorted(old.readers or ()))
                raise StrategyError(f"{reason} ({name}), for which {others} states another quantizer")
            both = None if old.readers is None or readers is None else old.readers | readers
            row = replace(old, readers=both)
        else:
            origin = (producer,) if node is None else node.origin
            name = self.graph.unique(f"quant_{producer}")
            row = QuantizedRow(
                name,
                "input",
                Role.INPUT,
                Slot.INPUT,
                reason,
                origins_of(rule),
                "FakeQuantize",
                origin,
                value,
                spec=rule.spec,
                readers=readers,
                quantizer=name,
            )
        self.inserted[value] = row
        if readers is None:
            self.on_grid[value] = row.name
        return row

    # --- quantizers in front of a layer ---

    def _inputs_of(self, node: Node) -> list[Row]:
        started = self.strategy.input_layers and node in input_nodes(self.graph, self.strategy.input_layers)
        if started and self.compat and node.name not in self.rules:
            return []
        rule = self.rules.get(node.name)
        if (rule is None and not started) or (rule is not None and rule.quantizes_nothing):
            return []
        rows: list[Row] = []
        stated = self._stated_inputs(node)
        for value in dict.fromkeys(node.inputs):
            left_float = value in stated and stated[value] is None
            left_float = left_float or self._given_float(value)
            if not left_float and self._wants_quantizer(node, value, bool(started)):
                fresh, reason = value not in self.inserted, f"{node.name} reads a float tensor"
                producer, reader = self._producer_name(value), frozenset([node.name])
                row = self._insert(value, producer, reader, reason, stated.get(value))
                rows += [row] if fresh else []
        return rows

    def _given_float(self, value: int) -> bool:
        """Whether a name rule's word leaves a value float for every reader."""
        producer = self.producers.get(value)
        if producer is None:
            names = [k for k, v in self.graph.inputs.items() if v == value]
            return any(self.strategy.gives_float(name) for name in names)
        rule = self._stated(producer)
        if rule is not None and (rule.gives_float or not rule.transparent):
            return bool(rule.gives_float)
        if self.strategy.gives_float(producer.layer):
            return True
        keeps = self.graph.kind(producer) in KEEPS_GRID
        return keeps and bool(producer.inputs) and all(self._given_float(v) for v in producer.inputs)

    def _stated_inputs(self, node: Node) -> dict[int, Any]:
        """The quantizers that the layer's own entry names for what it reads."""
        rule = self.rules.get(node.name)
        named = {} if rule is None or self.compat else dict(rule.inputs)
        return {v: named[str(i)] for i, v in enumerate(node.inputs) if str(i) in named}

    def _producer_name(self, value: int) -> str:
        node = self.reference.maker(value)
        if node is not None:
            if self.compat and node.name in self.rules:
                return f"quant_{node.name}"
            index = node.outputs.index(value) if value in node.outputs else 0
            return node.name if index == 0 else f"{node.name}_{index}"
        return next(k for k, v in self.graph.inputs.items() if v == value)

    def _wants_quantizer(self, node: Node, value: int, started: bool) -> bool:
        row = self.inserted.get(value)
        if "float" not in self.graph.values[value].dtype or (row is not None and row.readers is None):
            return False
        if self.compat:
            return self.reference.wants_input_quantizer(node, value)
        if node.name in self.merged.values() and self._is_merged_head(value):
            return False
        if not started and self._reads_nothing(node):
            return False
        return not self._is_on_grid(value)

    def _reads_nothing(self, node: Node) -> bool:
        """A rule without any quantizer does not ask for quantized inputs."""
        rule = self.rules[node.name]
        return not (rule.weights or rule.biases or rule.activations or rule.outputs or rule.inputs)

    def _is_merged_head(self, value: int) -> bool:
        producer = self.producers.get(value)
        return producer is not None and producer.name in self.merged

    def _is_on_grid(self, value: int) -> bool:
        producer = self.producers.get(value)
        if value in self.on_grid or producer is None:
            return value in self.on_grid
        keeps = self.graph.kind(producer) in KEEPS_GRID and producer.name not in self.typed
        return keeps and all(self._is_on_grid(v) for v in producer.inputs)

    def _behind(self, node: Node) -> list[Row]:
        """The reference quantizes behind a named input layer that stays float itself."""
        named = self.strategy.input_layers and node in input_nodes(self.graph, self.strategy.input_layers)
        if not (self.compat and named) or node.name in self.rules:
            return []
        return [self._insert(node.output, node.name, None, "named in input_layers (vitis_compat)")]

    # --- a layer's own tensors ---

    def _own(self, node: Node) -> list[Row]:
        rule, layer = self.rules[node.name], self.graph.layer_of(node)
        rows = []
        if self._is_first(node):
            rows += self._constants(layer, rule.weights, Role.WEIGHT)
            rows += self._constants(layer, rule.biases, Role.BIAS)
            named = {r.tensor for r in rows}
            rows += [float_constant(layer, w, "the strategy does not name it") for w in layer.weights if w not in named]
        return [*rows, *(self._value(node, i, rule) for i in range(len(node.outputs)))]

    def _value(self, node: Node, index: int, rule: Any) -> Row:
        layer, outputs = self.graph.layer_of(node), dict(rule.outputs)
        if rule.activations and index == 0:
            return self._activation(node, layer, rule.activations[0][1])
        if str(index) in outputs and not rule.activations:
            return self._output(node, index, outputs[str(index)], Slot.OUTPUT)
        no_quantizer = f"the strategy has no output quantizer for {layer.kind}"
        return self._float(node, "moves values only" if rule.transparent else no_quantizer, index)

    def _is_first(self, node: Node) -> bool:
        """Whether this is the call of its layer where its weights are listed."""
        return node is self.first[node.layer]

    def _constants(self, layer: Layer, quantizers: Any, role: Role) -> list[Row]:
        rows = []
        for stated, q in quantizers:
            name = stated if stated in layer.weights else _VARIABLES.get(stated, stated)
            names = [name] if name in layer.weights else matching(layer.weights, name)
            rows += [constant(layer, each, role, q) for each in names]
        return rows

    def _activation(self, node: Node, layer: Layer, quantizer: Any) -> Row:
        function = reference_name(layer) if self.compat else activation_name(layer)
        if self.compat and (inline := self.reference.inline_function(node)) is not None:
            row = self._output(node, 0, quantizer, Slot.PRE_ACTIVATION)
            return replace(row, reason=row.reason or f"{inline} is computed in float")
        if function in QUANTIZED_AFTER or layer.kind != "Activation":
            return self._output(node, 0, quantizer, Slot.POST_ACTIVATION)
        if function in QUANTIZED_BEFORE:
            return self._before(node, quantizer)
        if self.compat:
            raise unknown_function(node, function)
        return self._output(node, 0, quantizer, Slot.POST_ACTIVATION)

    def _output(self, node: Node, index: int, quantizer: Any, slot: Slot) -> Row:
        if node.name in self.merged:
            tail = self.merged[node.name]
            after = "goes on in float to" if tail in self.graph.ignored else "quantized after"
            return self._float(node, f"{after} {tail}", index)
        if quantizer is None:
            return self._float(node, "left float by the strategy", index)
        value, tensor = node.outputs[index], tensor_name(index)
        if "float" not in self.graph.values[value].dtype:
            return self._float(node, f"{self.graph.values[value].dtype} output", index)
        self.on_grid[value] = f"{node.name}/{tensor}"
        return QuantizedRow(
            node.name,
            tensor,
            Role.ACTIVATION,
            slot,
            "",
            origins_of(quantizer),
            self.graph.kind(node),
            node.origin,
            value,
            spec=quantizer.spec,
            quantizer=f"quant_{node.name}",
        )

    def _before(self, node: Node, quantizer: Any) -> Row:
        (value,) = node.inputs
        if quantizer is None:
            return self._float(node, "left float by the strategy")
        covered = value in self.inserted and node.name in (self.inserted[value].readers or ())
        reason = f"{activation_name(self.graph.layer_of(node))} is computed in float"
        if self._given_float(value) and not self.rules[node.name].only:
            return self._float(node, "a name rule leaves its input float")
        if not self.compat and (covered or self._is_on_grid(value)):
            return self._float(node, f"its input is quantized already; {reason}")
        return QuantizedRow(
            node.name,
            "input",
            Role.ACTIVATION,
            Slot.PRE_ACTIVATION,
            reason,
            origins_of(quantizer),
            self.graph.kind(node),
            node.origin,
            value,
            spec=quantizer.spec,
            readers=frozenset([node.name]),
            quantizer=f"quant_{node.name}",
        )

    # --- what stays float ---

    def _float(self, node: Node, reason: str, index: int = 0) -> FloatRow:
        kind, slot = self.graph.kind(node), Slot.OUTPUT
        return FloatRow(node.name, tensor_name(index), Role.ACTIVATION, slot, reason, {}, kind, node.origin)

    def _left_float(self, node: Node) -> list[Row]:
        reason = self._why_float(node)
        layer = self.graph.layer_of(node)
        constants = [float_constant(layer, name, reason) for name in layer.weights] if self._is_first(node) else []
        return [*constants, *(self._float(node, reason, i) for i in range(len(node.outputs)))]

    def _why_float(self, node: Node) -> str:
        if is_inline(self.graph.layer_of(node)):
            return "computed by the layer before it"
        if not self.graph.is_candidate(node):
            return "not in the selected part of the model"
        rule = self._stated(node)
        if rule is None:
            return self._no_entry(self.graph.layer_of(node))
        if rule.left_float:
            return f"left float by {rule.left_float.source} {rule.left_float.pointer}"
        if self.graph.calls()[node.layer] > 1:
            return "shared layer (vitis_compat)"
        return "standalone activation (vitis_compat)"

    def _no_entry(self, layer: Layer) -> str:
        named = self.strategy.custom_type_origin(layer.kind)
        if named is not None:
            return f"custom layer, left float by {named.source} {named.pointer}"
        reason = f"the strategy has no entry for {layer.kind}"
        hint = "; a layer_quantize_config entry with this layer_type quantizes it"
        return reason + hint if is_custom(layer.cls) and not layer.is_op else reason
