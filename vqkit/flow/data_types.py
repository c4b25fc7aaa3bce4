"""Layers that a name rule puts into float16 or bfloat16: which, and what that does to their tensors.

Such a layer's weights are rounded to the type, and so is what it gives; its sums stay float32, as on devices
that multiply in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vqkit.errors import StrategyError
from vqkit.flow.plan import Row
from vqkit.graph.ir import Graph, Layer

HALF_TYPES = ("float16", "bfloat16")
HALF_BITS = 16
# Integers up to 2**bits are exact in the type.
_SIGNIFICAND = {"float16": 11, "bfloat16": 8}

Named = Mapping[str, tuple[str, Any]]


def named_types(strategy: Any, graph: Graph) -> Named:
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
    return [
        _typed(row, graph, *named[row.layer]) if row.spec is None and row.layer in named else row
        for row in rows
    ]


def _typed(row: Row, graph: Graph, kind: str, origin: Any) -> Row:
    if row.is_weight:
        value, dtype = None, str(graph.layers[row.layer].weights[row.tensor].dtype)
    else:
        value = _value(row, graph)
        dtype = graph.values[value].dtype
    if dtype != "float32":
        return row
    return replace(row, data_type=kind, value=value, reason=f"{kind} by {origin.source} {origin.pointer}",
                   origins={"data_type": (origin.source, origin.pointer)})  # fmt: skip


def _value(row: Row, graph: Graph) -> int:
    if row.layer in graph.inputs:
        return graph.inputs[row.layer]
    index = row.tensor.rpartition("_")[2]
    return graph.node(row.layer).outputs[int(index) if index.isdigit() else 0]


def refuse_rounded_grids(rows: Iterable[Row], graph: Graph) -> None:
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
        if row.spec is None or not row.is_weight:
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
    from vqkit.flow.layers import RoundToType

    name = f"{row.layer}_{row.data_type}".replace("@", "_")
    return Layer(graph.unique(name), RoundToType, {"data_type": row.data_type})
