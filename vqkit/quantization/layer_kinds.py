"""What is known about layer classes, and layers in 16-bit floats.

Such a layer's weights are rounded to the type, and so is what it gives; its sums stay float32, as on devices
that multiply in 16 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import StrategyError
from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.passes.match import Chains, activation_name, kind_in, reference_name
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.primitives.spec import compat_refusal
from vqkit.quantization.plan import FloatRow, QuantizedRow, Row

if TYPE_CHECKING:
    from vqkit.strategy import Strategy

ACTIVATIONS = ("ReLU", "LeakyReLU", "Activation")
DEVICE_POOLS = ("MaxPooling2D", "VitisAveragePooling2D", "VitisGlobalAveragePooling2D")
QUANTIZED_AFTER = ("linear", "relu")
QUANTIZED_BEFORE = (
    "softmax", "elu", "selu", "softplus", "softsign", "swish", "gelu", "tanh", "sigmoid", "exponential",
    "hard_sigmoid",
)  # fmt: skip
# These only move, drop or repeat values (or add zeros), so a tensor on a grid stays on it.
KEEPS_GRID = frozenset((
    "Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", "op:Reshape", "op:Transpose",
    "op:Squeeze", "op:ExpandDims",
))  # fmt: skip
_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential")
_KEEPS_SIGN = KEEPS_GRID | {
    "Add", "Multiply", "Maximum", "Average", "Concatenate", "AveragePooling2D", "GlobalAveragePooling2D",
    "VitisAveragePooling2D", "VitisGlobalAveragePooling2D", "UpSampling2D", "FakeQuantize", "RoundToType",
}  # fmt: skip


def linear_weighted(layer: Layer, weighted: Collection[str] = WEIGHTED) -> bool:
    """Whether a layer is a convolution or dense layer without activation.

    Args:
        layer: any.
        weighted: class names of the layers that count as such.
    """
    return layer.kind in weighted and activation_name(layer) == "linear"


class Signs:
    """Which values of a graph can never be negative, as far as layer classes show."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._producers = graph.producers()
        self._known: dict[int, bool] = {}

    def never_negative(self, node: Node) -> bool:
        """Whether all outputs of a node are >= 0."""
        return all(self.value(v) for v in node.outputs)

    def before(self, name: str) -> bool:
        """Whether all that a node reads is >= 0."""
        return all(self.value(v) for v in self._graph.node(name).inputs)

    def value(self, value: int) -> bool:
        """Whether a value is >= 0 everywhere."""
        if value not in self._known:
            node = self._producers.get(value)
            self._known[value] = node is not None and self._made_by(node)
        return self._known[value]

    def _made_by(self, node: Node) -> bool:
        layer = self._graph.layer_of(node)
        if layer.kind == "ReLU":
            return not layer.config.get("negative_slope")
        if layer.kind in ("VitisSigmoid", "Softmax"):
            return True
        if layer.kind == "Activation" or layer.kind in WEIGHTED:
            return activation_name(layer) in _NEVER_NEGATIVE
        if layer.config.get("interpolation", "nearest") not in ("nearest", "bilinear"):
            return False
        return layer.kind in _KEEPS_SIGN and all(self.value(v) for v in node.inputs)


HALF_TYPES = ("float16", "bfloat16")
HALF_BITS = 16
# Integers up to 2**bits are exact in the type.
_SIGNIFICAND = {"float16": 11, "bfloat16": 8}

Named = Mapping[str, tuple[str, Any]]


def named_types(strategy: Strategy, graph: Graph) -> Named:
    """The inputs, layers and nodes that a name rule puts into a 16-bit floating-point type.

    Args:
        strategy: its name rules.
        graph: optimized and in device form, candidates selected.

    Returns:
        Name of an input, layer or node -> (type, origin of the rule). A node is also found by the name of the
        user's layer that it was split off.
    """
    found = {name: strategy.named_float(name) for name in graph.inputs if _selected(graph, name)}
    for node in filter(graph.is_candidate, graph.nodes):
        names = [n for n in (node.layer, *node.origin[:1]) if strategy.speaks_of(n)]
        rule = strategy.named_float(names[0] if names else node.layer)
        found |= {node.layer: rule, node.name: rule}
    return {name: (kind, origin) for name, (origin, kind) in found.items() if kind in HALF_TYPES}


def _selected(graph: Graph, name: str) -> bool:
    return graph.candidates is None or name in graph.candidates


def with_data_types(rows: Iterable[Row], graph: Graph, named: Named) -> list[Row]:
    """The rows with the type of each float tensor that a name rule gives one.

    Args:
        rows: a plan's.
        graph: what the plan is about.
        named: from `named_types`.
    """
    return [_typed(r, graph, *named[r.layer]) if isinstance(r, FloatRow) and r.layer in named else r for r in rows]


def _typed(row: FloatRow, graph: Graph, kind: str, origin: Any) -> FloatRow:
    if row.is_weight:
        value, dtype = None, str(graph.layers[row.layer].weights[row.tensor].dtype)
    else:
        value = _value(row, graph)
        dtype = graph.values[value].dtype
    if dtype != "float32":
        return row
    return replace(
        row,
        data_type=kind,
        value=value,
        reason=f"{kind} by {origin.source} {origin.pointer}",
        origins={"data_type": (origin.source, origin.pointer)},
    )


def _value(row: Row, graph: Graph) -> int:
    if row.layer in graph.inputs:
        return graph.inputs[row.layer]
    index = row.tensor.rpartition("_")[2]
    return graph.node(row.layer).outputs[int(index) if index.isdigit() else 0]


def refuse_rounded_grids(rows: Iterable[QuantizedRow], graph: Graph) -> None:
    """Refuse weights whose variable cannot hold the values of their quantizer.

    A layer whose dtype is float16 or bfloat16 keeps its variables in it (one with a mixed policy does not).
    Values on a power-of-two grid of few bits are exact there; code × float scale is not, so the model would
    compute with other weights than were decided.

    Args:
        rows: those of a plan that have a quantizer.
        graph: what the plan is about.

    Raises:
        StrategyError: such a weight; layer, type, quantizer and the way out are named.
    """
    for row in rows:
        if not row.is_weight:
            continue
        kind = str(graph.layers[row.layer].weights[row.tensor].dtype)
        bits = _SIGNIFICAND.get(kind)
        if bits is None or (row.spec.pow2 and row.spec.bit_width - 1 <= bits):
            continue
        scale = "power-of-two" if row.spec.pow2 else "float"
        raise StrategyError(
            f"{row.name}: the layer keeps its variables in {kind}, which cannot hold quantized values of "
            f"{row.spec.bit_width} bits with {scale} scale. Allowed there: power-of-two scale and at most "
            f"{bits + 1} bits, or a model whose variables are float32 (policy 'mixed_{kind}' or 'float32')"
        )


def rounded(weight: np.ndarray, row: Row) -> np.ndarray:
    """A weight rounded to its row's type, ties to even, as float32 again.

    Args:
        weight: float32, any shape.
        row: with a `data_type`.

    Returns:
        float32, same shape.

    Raises:
        StrategyError: a value lies beyond the type's range.
    """
    import tensorflow as tf

    result: np.ndarray = tf.cast(tf.cast(weight, row.data_type), tf.float32).numpy()
    if not np.array_equal(np.isfinite(result), np.isfinite(weight)):
        raise StrategyError(
            f"{row.name}: {row.data_type} cannot hold {np.abs(weight).max():g}, it ends at "
            f"{float(tf.dtypes.as_dtype(row.data_type).max):g}; allowed there: bfloat16, float32"
        )
    return result


def rounding_layer(graph: Graph, row: Row) -> Layer:
    """The layer that rounds a value of the graph to its row's type."""
    from vqkit.quantization.layers import RoundToType

    name = f"{row.layer}_{row.data_type}".replace("@", "_")
    return Layer(graph.unique(name), RoundToType, {"data_type": row.data_type})


class ReferenceRules:
    """What the reference decides from a node's neighbours.

    Args:
        graph: optimized and in device form.
        rules: node name -> the strategy's rule.
        merged: node name -> the activation behind which its output is quantized instead.
        float_scale: whether the strategy's scales are floats (`fs`, `fsx`).
    """

    def __init__(self, graph: Graph, rules: Mapping[str, Any], merged: Mapping[str, str], float_scale: bool) -> None:
        self._graph, self._rules, self._merged, self._float_scale = graph, rules, merged, float_scale
        self._chains, self._producers = Chains(graph), graph.producers()

    def standalone(self) -> set[str]:
        """Activations that it leaves float: it knows them behind what they are computed with only.

        Behind a pool the activation is quantized and the pool as well; average pools count where they were
        converted to the device's form.
        """
        tails = set(self._merged.values())
        found = [n for n in self._graph.nodes if self._graph.kind(n) in ACTIVATIONS and n.name not in tails]
        return {n.name for n in found if not self._behind_pool(n)}

    def _behind_pool(self, node: Node) -> bool:
        if self._float_scale or self._graph.kind(node) not in ("ReLU", "Activation"):
            return False
        chain = self._chains.upstream(node, kind_in(*DEVICE_POOLS))
        return chain is not None and chain[0].name in self._rules

    def wants_input_quantizer(self, node: Node, value: int) -> bool:
        """Whether a quantizer stands between a value and the quantized layer that reads it."""
        if len(node.inputs if self._float_scale else set(node.inputs)) != 1:
            return False
        producer = self.maker(value)
        if producer is None:
            return self._float_scale
        rule = self._rules.get(producer.name)
        if rule is None:
            return self._float_scale or self._graph.is_candidate(producer)
        whole_layer_off = producer.name in self._merged and self._graph.kind(producer) not in WEIGHTED
        return self._float_scale and (whole_layer_off or not (rule.activations or rule.outputs))

    def maker(self, value: int) -> Node | None:
        """The producer of a value; of a shown inline function the layer that computes it."""
        node = self._producers.get(value)
        shown = node is not None and is_inline(self._graph.layer_of(node))
        return self._producers.get(node.inputs[0]) if node is not None and shown else node

    def inline_function(self, node: Node) -> str | None:
        """Name of the function that a layer computes itself, where it is shown behind the layer.

        Raises:
            StrategyError: the reference cannot quantize in front of it.
        """
        reader = self._chains.only_reader(node)
        if reader is None or not is_inline(layer := self._graph.layer_of(reader)):
            return None
        if (name := reference_name(layer)) not in QUANTIZED_BEFORE:
            raise unknown_function(node, name)
        return name


def is_inline(layer: Layer) -> bool:
    """Whether a layer only shows the function of the layer before it."""
    return getattr(layer.cls, "inline", False)


def unknown_function(node: Node, name: str) -> StrategyError:
    """The error for an activation function that the reference does not quantize."""
    return StrategyError(
        f"{node.name}: activation {name!r} cannot be quantized; "
        f"allowed: {', '.join((*QUANTIZED_AFTER, *QUANTIZED_BEFORE))}"
    )


def refuse_what_the_reference_refuses(rows: Iterable[Row]) -> None:
    """Raise where the reference has no such quantizer.

    Args:
        rows: of a plan.

    Raises:
        StrategyError: naming the first tensor and the reference's reason.
    """
    for row in rows:
        if isinstance(row, QuantizedRow) and (refusal := compat_refusal(row.spec)):
            raise StrategyError(f"{row.name}: vitis_compat: {refusal}. Without vitis_compat it works")
