"""Put the plan's activation quantizers into the graph as layers of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vqkit.errors import StrategyError
from vqkit.flow.data_types import rounding_layer
from vqkit.flow.plan import Plan, Row
from vqkit.graph.ir import Graph, Layer


def instrument(graph: Graph, plan: Plan) -> tuple[Graph, dict[str, Row]]:
    """Insert a `FakeQuantize` wherever the plan quantizes a value, a `RoundToType` where it has 16 bits.

    Args:
        graph: the graph the plan was made on.
        plan: its rows.

    Returns:
        The new graph, and fake-quantize layer name -> plan row.

    Raises:
        StrategyError: a per-channel quantizer stands on an axis of unknown size.
    """
    graph = graph.copy()
    typed = {
        row.value: graph.insert_after(row.value, rounding_layer(graph, row), origin=row.origin).output
        for row in plan.typed
        if row.value is not None
    }
    rows: dict[str, Row] = {}
    for row in plan.quantized:
        if row.value is not None:
            layer = _layer(graph, row)
            readers = None if row.readers is None else set(row.readers)
            graph.insert_after(typed.get(row.value, row.value), layer, only=readers, origin=row.origin)
            rows[layer.name] = row
    return graph, rows


def _layer(graph: Graph, row: Row) -> Layer:
    from vqkit.flow.layers import FakeQuantize, grid_shape

    assert row.spec is not None
    assert row.value is not None
    try:
        shape = grid_shape(row.spec, graph.values[row.value].shape)
    except ValueError as error:
        raise StrategyError(f"{row.name}: {error}") from error
    # TensorFlow takes the layer's name for a scope, where the "@" of a second call is not allowed.
    name = graph.unique(row.quantizer.replace("@", "_"))
    return Layer(name, FakeQuantize, {"spec": row.spec, "grid_shape": shape})


def rounding_rows(graph: Graph, plan: Plan) -> dict[str, Row]:
    """Name of each inserted `RoundToType` -> its plan row.

    Args:
        graph: with these layers inserted.
        plan: its rows.
    """
    readers = graph.consumers()
    return {readers[r.value][0].layer: r for r in plan.typed if r.value is not None}


def passing_through(live: Mapping[str, Any], *names: Iterable[str]) -> dict[str, Any]:
    """The live layers, the named ones replaced by the identity: what makes the float graph again.

    Layers that add integers compute in floats.

    Args:
        live: layer name -> live object.
        names: of inserted layers.
    """
    floats = {name: getattr(layer, "in_float", layer) for name, layer in live.items()}
    return {**floats, **dict.fromkeys((n for some in names for n in some), _identity)}


def _identity(x: Any) -> Any:
    return x
