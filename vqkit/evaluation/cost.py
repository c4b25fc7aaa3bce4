"""What a model computes: multiply-accumulates of each layer, and bit-operations under a plan.

Bit-operations weigh each multiply-accumulate with the bits of its two operands, so they compare mixed
strategies on hardware whose cost grows with both. Source: Y. Wang et al., Differentiable Joint Pruning and
Quantization for Hardware Efficiency, 2020; C. Baskin et al., UNIQ, 2018, add the accumulator's bits to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vqkit.errors import ModelError
from vqkit.graph.ir import Graph, Layer, Node
from vqkit.quantization.layer_kinds import HALF_BITS, KEEPS_GRID
from vqkit.quantization.plan import Plan, QuantizedRow, Row

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

FLOAT_BITS = 32
# Kernels of these are used once for each position of their output, those of the second once for each input's.
_PER_OUTPUT = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D")
_PER_INPUT = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_DENSE = ("Dense", "EinsumDense")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of each weighted layer for one sample, all its calls together.

    Convolutions, their depthwise, separable and transposed forms, and dense layers are counted; biases,
    element-wise operations and layers of other classes are not.

    Args:
        graph: lowered from a Keras model, or prepared.

    Returns:
        Layer name -> count, in graph order.

    Raises:
        ModelError: a counted layer's feature map has no fixed size.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        count = _macs_of(graph, node)
        if count is not None:
            found[node.layer] = found.get(node.layer, 0) + count
    return found


def _macs_of(graph: Graph, node: Node) -> int | None:
    layer = graph.layer_of(node)
    if layer.kind in _PER_OUTPUT:
        return _size(layer, "kernel") * _positions(graph, node, node.output, layer)
    if layer.kind in _PER_INPUT:
        return _size(layer, "kernel") * _positions(graph, node, node.inputs[0], layer)
    if layer.kind == "Dense":
        return _size(layer, "kernel") * _product(node, graph.values[node.output].shape[1:-1])
    if layer.kind == "EinsumDense":
        return _einsum(graph, node, layer)
    if layer.kind in _SEPARABLE:
        kernels = _size(layer, "depthwise_kernel") + _size(layer, "pointwise_kernel")
        return kernels * _positions(graph, node, node.output, layer)
    return None


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


def _einsum(graph: Graph, node: Node, layer: Layer) -> int:
    """Product of the sizes of all letters; an ellipsis or a batch letter counts by the input's shape."""
    left, _ = layer.config["equation"].replace(" ", "").split("->")
    first, second = left.split(",")
    shape = graph.values[node.inputs[0]].shape
    rest = first.replace("...", "")
    spread = shape[1 : len(shape) - len(rest)] if "..." in first else ()
    sizes: dict[str, int | None] = dict(zip(reversed(rest), reversed(shape), strict=False))
    sizes |= dict(zip(second.replace("...", ""), layer.weights["kernel"].shape, strict=True))
    batch = first[0] if "..." not in first else ""
    return _product(node, (*spread, *(s for letter, s in sizes.items() if letter != batch)))


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
    weights = {r.layer: _bits(r) for r in reversed(plan.rows) if r.is_weight and _is_kernel(r)}
    values = _value_bits(graph, rows, plan)
    found: dict[str, int] = {}
    for node in graph.nodes:
        count = _macs_of(graph, node)
        if count is not None:
            bits = weights.get(node.layer, FLOAT_BITS) * values[node.inputs[0]]
            found[node.layer] = found.get(node.layer, 0) + count * bits
    return found


def _is_kernel(row: Row) -> bool:
    return row.tensor.endswith("kernel")


def _bits(row: Row) -> int:
    if row.spec is not None:
        return row.spec.bit_width
    return HALF_BITS if row.data_type else FLOAT_BITS


def _value_bits(graph: Graph, rows: Mapping[str, QuantizedRow], plan: Plan) -> dict[int, int]:
    """Bits in which each value of the graph is held."""
    half = {r.layer for r in plan.typed if not r.is_weight}
    bits = dict.fromkeys(graph.inputs.values(), FLOAT_BITS)
    for node in graph.nodes:
        if node.layer in rows:
            width = _bits(rows[node.layer])
        elif graph.kind(node) in KEEPS_GRID:
            width = max((bits[v] for v in node.inputs), default=FLOAT_BITS)
        else:
            width = HALF_BITS if node.name in half else FLOAT_BITS
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
