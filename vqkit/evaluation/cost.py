"""What a model computes: multiply-accumulates of each layer, and bit-operations under a plan.

Bit-operations weigh each multiply-accumulate with the bits of its two operands, so they compare mixed
strategies on hardware whose cost grows with both. Source: Y. Wang et al., Differentiable Joint Pruning and
Quantization for Hardware Efficiency, 2020; C. Baskin et al., UNIQ, 2018, add the accumulator's bits to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vqkit.errors import ModelError
from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.keras_layers import is_custom
from vqkit.quantization.layer_kinds import HALF_BITS, KEEPS_GRID
from vqkit.quantization.plan import Plan, QuantizedRow, Row
from vqkit.quantization.refine.integer_arithmetic import SCALES

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

FLOAT_BITS = 32
# Kernels of these are used once for each position of their output, those of the second once for each input's.
_PER_OUTPUT = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D")
_PER_INPUT = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional")
_CONV_RECURRENT = ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_PROJECTED = ("MultiHeadAttention", "GroupedQueryAttention")
_MATCHED = ("Attention", "AdditiveAttention")
KERNEL, RECURRENT = "kernel", "recurrent_kernel"


class Work(NamedTuple):
    """Multiply-accumulates of one call of a layer.

    Attributes:
        macs: how many for one sample.
        weight: name of the variable that is one operand, or the end of it; "" where both are values.
        values: ids of the values that are operands; what the layer makes inside, and keeps float, has none.
    """

    macs: int
    weight: str
    values: tuple[int, ...]


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of each layer that has some, for one sample, all its calls together.

    Convolutions, their depthwise, separable and transposed forms, dense and recurrent layers, attention and
    einsum are counted; biases, element-wise operations and layers of other classes are not.

    Args:
        graph: lowered from a Keras model, or prepared.

    Returns:
        Layer name -> count, in graph order.

    Raises:
        ModelError: a counted layer's feature map has no fixed size.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        work = work_of(graph, node)
        if work:
            found[node.layer] = found.get(node.layer, 0) + sum(w.macs for w in work)
    return found


def work_of(graph: Graph, node: Node) -> list[Work]:
    """The multiply-accumulates of a call; none where its layer is not counted.

    Raises:
        ModelError: its feature map has no fixed size.
    """
    layer, values = graph.layer_of(node), node.inputs[:1]
    if layer.kind in _PER_OUTPUT:
        return [Work(_size(layer, KERNEL) * _positions(graph, node, node.output, layer), KERNEL, values)]
    if layer.kind in _PER_INPUT:
        return [Work(_size(layer, KERNEL) * _positions(graph, node, node.inputs[0], layer), KERNEL, values)]
    if layer.kind == "Dense" or _each_step_dense(layer):
        return [Work(_size(layer, KERNEL) * _product(node, graph.values[node.output].shape[1:-1]), KERNEL, values)]
    if is_custom(layer.cls):
        return []
    if layer.kind == "EinsumDense":
        shapes = graph.values[node.inputs[0]].shape, layer.weights[KERNEL].shape
        return [Work(_einsum(node, layer.config["equation"], shapes), KERNEL, values)]
    if layer.kind in _PRODUCTS and len(node.inputs) == 2:
        return [Work(_PRODUCTS[layer.kind](graph, node, layer), "", node.inputs)]
    if layer.kind in _SEPARABLE:
        kernels = _size(layer, "depthwise_kernel") + _size(layer, "pointwise_kernel")
        return [Work(kernels * _positions(graph, node, node.output, layer), KERNEL, values)]
    if layer.kind in (*_RECURRENT, *_CONV_RECURRENT):
        return _recurrent(graph, node, layer)
    return _attention(graph, node, layer) if layer.kind in (*_PROJECTED, *_MATCHED) else []


def _each_step_dense(layer: Layer) -> bool:
    return layer.kind == "TimeDistributed" and layer.config["layer"].get("class_name") == "Dense"


def _recurrent(graph: Graph, node: Node, layer: Layer) -> list[Work]:
    """Each step multiplies its input and the state before it."""
    steps = _product(node, graph.values[node.inputs[0]].shape[1:2])
    if layer.kind in _CONV_RECURRENT:
        rank, shape = int(layer.kind[-2]), graph.values[node.output].shape
        first = layer.config["data_format"] == "channels_first"
        steps *= _product(node, shape[-rank:] if first else shape[-rank - 1 : -1])
    sizes = {k: int(w.size) for k, w in layer.weights.items() if k.endswith(KERNEL)}
    own = sum(n for k, n in sizes.items() if not k.endswith(RECURRENT))
    return [
        Work(own * steps, KERNEL, node.inputs[:1]),
        Work((sum(sizes.values()) - own) * steps, RECURRENT, ()),
    ]


def _attention(graph: Graph, node: Node, layer: Layer) -> list[Work]:
    """Of a layer that was not taken apart: projections, logits, context, projection."""
    query, value = (graph.values[v].shape for v in (*node.inputs, *node.inputs)[:2])
    read, seen = _product(node, query[1:-1]), _product(node, value[1:-1])
    if layer.kind in _MATCHED:
        return [Work(_product(node, (query[-1], read, seen)) + _product(node, (value[-1], read, seen)), "", ())]
    size = {k: _size(layer, f"{k}/kernel") for k in ("query", "key", "value", "attention_output")}
    # A kernel is (read, heads, size of one), and the last one (heads, size of one, given).
    heads = math.prod(layer.weights["query/kernel"].shape[1:]) + math.prod(
        layer.weights["attention_output/kernel"].shape[:2]
    )
    return [
        Work(size["query"] * read + (size["key"] + size["value"]) * seen, KERNEL, node.inputs[:1]),
        Work(heads * read * seen, "", ()),
        Work(size["attention_output"] * read, KERNEL, ()),
    ]


def _size(layer: Layer, weight: str) -> int:
    return int(layer.weights[weight].size)


def _positions(graph: Graph, node: Node, value: int, layer: Layer) -> int:
    shape = graph.values[value].shape
    first = layer.config.get("data_format") == "channels_first"
    return _product(node, shape[2:] if first else shape[1:-1])


def _product(node: Node, sizes: tuple[int | None, ...]) -> int:
    known = [s for s in sizes if s is not None]
    if len(known) < len(sizes):
        raise ModelError(
            f"{node.name}: multiply-accumulates cannot be counted, its feature map has the free "
            f"size {sizes}; give the model a fixed input shape"
        )
    return math.prod(known)


def _einsum(node: Node, equation: str, shapes: tuple[tuple[int | None, ...], ...]) -> int:
    """Product of the sizes of all letters; an ellipsis or a batch letter counts by the input's shape."""
    left, _ = equation.replace(" ", "").split("->")
    first, second = left.split(",")
    shape = shapes[0]
    rest = first.replace("...", "")
    spread = shape[1 : len(shape) - len(rest)] if "..." in first else ()
    sizes: dict[str, int | None] = dict(zip(reversed(rest), reversed(shape), strict=False))
    sizes |= dict(zip(reversed(second.replace("...", "")), reversed(shapes[1]), strict=False))
    batch = first[0] if "..." not in first else ""
    return _product(node, (*spread, *(s for letter, s in sizes.items() if letter != batch)))


def _of_einsum(graph: Graph, node: Node, layer: Layer) -> int:
    return _einsum(node, layer.source.subscripts, tuple(graph.values[v].shape for v in node.inputs))


def _of_matmul(graph: Graph, node: Node, _: Layer) -> int:
    return _product(node, (*graph.values[node.output].shape[1:], graph.values[node.inputs[0]].shape[-1]))


def _of_dot(graph: Graph, node: Node, layer: Layer) -> int:
    axes = layer.config["axes"]
    inner = graph.values[node.inputs[0]].shape[axes if isinstance(axes, int) else axes[0]]
    return _product(node, (*graph.values[node.output].shape[1:], inner))


_PRODUCTS: Mapping[str, Callable[[Graph, Node, Layer], int]] = {
    "op:Einsum": _of_einsum,
    "op:Matmul": _of_matmul,
    "Dot": _of_dot,
}


def bit_operations(graph: Graph, rows: Mapping[str, QuantizedRow], plan: Plan) -> dict[str, int]:
    """Bit-operations of each counted layer: multiply-accumulates x weight bits x bits of what it reads.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.

    Returns:
        Layer name -> count, in graph order; a tensor that stays float counts 32 bits, 16-bit floats 16.

    Raises:
        ModelError: as `macs`.
    """
    weights = _weight_bits(plan)
    values = _value_bits(graph, rows, plan)
    found: dict[str, int] = {}
    for node in graph.nodes:
        for work in work_of(graph, node):
            first, second = _operands(node, work, weights, values)
            found[node.layer] = found.get(node.layer, 0) + work.macs * first * second
    return found


def _weight_bits(plan: Plan, half: int = HALF_BITS) -> dict[tuple[str, str], int]:
    """(layer, variable) -> bits; a variable inside a layer also stands under the end of its name."""
    kernels = [r for r in reversed(plan.rows) if r.is_weight and _is_kernel(r)]
    ends = {(r.layer, RECURRENT if r.tensor.endswith(RECURRENT) else KERNEL): _bits(r, half) for r in kernels}
    return ends | {(r.layer, r.tensor): _bits(r, half) for r in kernels}


def _operands(
    node: Node, work: Work, weights: Mapping[tuple[str, str], int], values: Mapping[int, int]
) -> tuple[int, int]:
    """Bits of both operands."""
    own = [weights.get((node.layer, work.weight), FLOAT_BITS)] if work.weight else []
    first, second, *_ = (*own, *(values[v] for v in work.values), FLOAT_BITS, FLOAT_BITS)
    return first, second


def _is_kernel(row: Row) -> bool:
    return row.tensor.endswith("kernel")


def _bits(row: Row, half: int = HALF_BITS) -> int:
    if row.spec is not None:
        return row.spec.bit_width
    return half if row.data_type else FLOAT_BITS


def _value_bits(graph: Graph, rows: Mapping[str, QuantizedRow], plan: Plan, half: int = HALF_BITS) -> dict[int, int]:
    """Bits in which each value of the graph is held; a 16-bit float counts as `half`."""
    typed = {r.layer for r in plan.typed if not r.is_weight}
    bits = dict.fromkeys(graph.inputs.values(), FLOAT_BITS)
    for node in graph.nodes:
        if node.layer in rows:
            width = _bits(rows[node.layer])
        elif graph.kind(node) in KEEPS_GRID:
            width = max((bits[v] for v in node.inputs), default=FLOAT_BITS)
        else:
            width = half if node.name in typed else FLOAT_BITS
        bits |= dict.fromkeys(node.outputs, width)
    return bits


def totals(quantized: Quantized) -> dict[str, float]:
    """What a record says about a quantized model's work.

    Args:
        quantized: a `Quantized`.

    Returns:
        `macs` and `bit_operations` for one sample; empty where the model has a free size.
    """
    try:
        counted = macs(quantized.graph), bit_operations(quantized.graph, quantized.rows, quantized.plan)
    except ModelError:
        return {}
    return {"macs": float(sum(counted[0].values())), "bit_operations": float(sum(counted[1].values()))}


@dataclass(frozen=True)
class Coverage:
    """How much of a model is quantized.

    Attributes:
        weights: share of the numbers that are weights; 1.0 where there are none.
        macs: share of the multiply-accumulates of which both operands are; None where they cannot be counted.
        left: name -> why it is float, what costs most first.
    """

    weights: float
    macs: float | None
    left: Mapping[str, str]

    def __str__(self) -> str:
        """One line for people."""
        shares = [f"{_percent(self.weights)} of weights"]
        shares += [] if self.macs is None else [f"{_percent(self.macs)} of multiply-accumulates"]
        shown = [f"{name} ({why})" for name, why in list(self.left.items())[:_SHOWN]]
        more = [f"{len(self.left) - _SHOWN} more"] if len(self.left) > _SHOWN else []
        told = f"; float: {', '.join([*shown, *more])}" if shown else ""
        return f"quantized: {', '.join(shares)}{told}"

    @property
    def numbers(self) -> dict[str, float]:
        """What a record says of it."""
        macs = {} if self.macs is None else {"quantized_macs": self.macs}
        return {"quantized_weights": self.weights, **macs}


_SHOWN = 3


def _percent(share: float) -> str:
    # All of it is said where it is all.
    return "100 %" if share == 1 else f"{min(100 * share, 99.9):.1f} %"


def coverage(quantized: Quantized) -> Coverage:
    """How much of the weights and of the multiply-accumulates is quantized, and why the rest is not.

    Args:
        quantized: a `Quantized`.
    """
    graph, plan = quantized.graph, quantized.plan
    sizes = {
        (name, key): int(w.size)
        for name, layer in graph.layers.items()
        if name not in quantized.rows
        for key, w in layer.weights.items()
        if key not in SCALES
    }
    done = {(r.layer, r.tensor) for r in plan.quantized if r.is_weight}
    total = sum(sizes.values())
    share = sum(n for key, n in sizes.items() if key in done) / total if total else 1.0
    work, floats, why = _float_work(quantized)
    everything = sum(work.values())
    rows = {(r.layer, r.tensor): r.reason for r in plan.float_rows if r.is_weight}
    left: dict[str, tuple[int, int, str]] = {}
    for (name, key), n in sizes.items():
        if (name, key) not in done:
            whole = not any(layer == name for layer, _ in done)
            label = name if whole else f"{name}/{key}"
            old = left.get(label, (0, 0, ""))
            left[label] = (floats.get(name, 0) if whole else 0, old[1] + n, rows.get((name, key), old[2]))
    for name, n in floats.items():
        if name not in left and n:
            left[name] = (n, 0, why[name])
    order = sorted(left, key=lambda name: left[name][:2], reverse=True)
    macs = 1 - sum(floats.values()) / everything if everything else None
    return Coverage(share, macs, {name: left[name][2] for name in order})


def _float_work(quantized: Quantized) -> tuple[dict[str, int], dict[str, int], dict[str, str]]:
    """Multiply-accumulates of each layer: all, and those with a float operand, and why; none where a size is free."""
    graph, weights = quantized.graph, _weight_bits(quantized.plan, FLOAT_BITS)
    values = _value_bits(graph, quantized.rows, quantized.plan, FLOAT_BITS)
    try:
        calls = [(node, work) for node in graph.nodes for work in work_of(graph, node)]
    except ModelError:
        return {}, {}, {}
    work: dict[str, int] = {}
    floats: dict[str, int] = {}
    why: dict[str, str] = {}
    for node, each in calls:
        work[node.layer] = work.get(node.layer, 0) + each.macs
        if max(_operands(node, each, weights, values)) >= FLOAT_BITS:
            floats[node.layer] = floats.get(node.layer, 0) + each.macs
            why[node.layer] = "it reads float tensors" if each.values else "what is inside stays float"
    return work, floats, why
