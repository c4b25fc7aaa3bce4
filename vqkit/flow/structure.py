"""One compiled evaluation for all variants that differ in numbers only: weights, ranges and positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vqkit import digest
from vqkit.flow.layers import FakeQuantize
from vqkit.flow.plan import Row, spec_to_json
from vqkit.flow.solve import Encodings
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import compiled, make_all_live, replay
from vqkit.graph.variables import variables
from vqkit.primitives.spec import Method, QuantizerSpec

_CHOICE = {"method": Method.NON_OVERFLOW, "method_percentile": 100.0}


def numeric(spec: QuantizerSpec) -> QuantizerSpec:
    """The part of a quantizer that says how values are rounded, not how its range is chosen."""
    return spec.with_(**_CHOICE)


def structure_key(graph: Graph) -> str:
    """Digest of operations, configurations and shapes; weights and ranges do not enter.

    Args:
        graph: with fake-quantize layers inserted.

    Returns:
        Equal for graphs that one set of live layers can compute.
    """
    layers = [_layer_key(layer) for layer in graph.layers.values()]
    nodes = [(n.name, n.layer, repr(n.args), repr(sorted(n.kwargs.items())), n.outputs) for n in graph.nodes]
    values = [(v, graph.values[v].shape, graph.values[v].dtype) for v in graph.inputs.values()]
    return digest.of_bytes(repr((list(graph.inputs), values, nodes, layers, graph.output_struct)).encode())


def _layer_key(layer: Layer) -> tuple[Any, ...]:
    config = {k: v for k, v in layer.config.items() if k != "spec"}
    spec = layer.config.get("spec")
    rounding = spec_to_json(numeric(spec)) if isinstance(spec, QuantizerSpec) else None
    shapes = [(k, w.shape) for k, w in layer.weights.items()]
    return layer.name, layer.kind, repr(sorted(config.items())), repr(rounding), repr(layer.build), shapes


class Structure:
    """Live layers of one structure, and functions compiled on them.

    Args:
        graph: with fake-quantize layers inserted.

    Attributes:
        graph: the given one.
        live: layer name -> live object; they hold whatever was assigned last.
        traces: what was traced -> how often.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.live = graph, make_all_live(graph)
        self.traces: dict[tuple[Any, ...], int] = {}
        self._held: dict[tuple[str, str], np.ndarray] = {}
        self._functions: dict[tuple[Any, ...], Any] = {}

    def load(self, graph: Graph) -> None:
        """Assign all weights of a graph; those that are held already stay.

        Args:
            graph: of this structure.
        """
        for name, layer in graph.layers.items():
            fresh = {k: w for k, w in layer.weights.items() if self._held.get((name, k)) is not w}
            if fresh:
                found = variables(self.live[name], layer.weights)
                for key, weight in fresh.items():
                    found[key].assign(weight)
                    self._held[name, key] = weight

    def forget(self) -> None:
        """Assume nothing about what the variables hold."""
        self._held.clear()

    def apply(self, encodings: Encodings, rows: Mapping[str, Row]) -> None:
        """Assign ranges and positions.

        Args:
            encodings: decisions.
            rows: fake-quantize layer name -> plan row.
        """
        for name, row in rows.items():
            self.live[name].assign(encodings[row.name])

    def evaluator(self) -> Any:
        """The compiled model as a function of a batch; traced once for each way of rounding."""
        rounding = tuple(
            repr(numeric(layer.spec)) for layer in self.live.values() if isinstance(layer, FakeQuantize)
        )
        return self.function(("evaluate", rounding), lambda inputs: replay(self.graph, self.live, inputs))

    def function(self, key: tuple[Any, ...], body: Any) -> Any:
        """A function of the graph's inputs under a key, traced when first asked for."""

        def counted(inputs: Mapping[str, Any]) -> Any:
            self.traces[key] = self.traces.get(key, 0) + 1
            return body(inputs)

        if key not in self._functions:
            self._functions[key] = compiled(self.graph, counted)
        return self._functions[key]
