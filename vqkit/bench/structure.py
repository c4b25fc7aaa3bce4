"""One compiled evaluation for all variants that differ in numbers only: weights, ranges and positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vqkit import digest
from vqkit.graph.copies import LiveGraph
from vqkit.graph.execute import PartitionedRunner, part_of
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import compiled, replay, tensors
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization.calibrate import rounding_only
from vqkit.quantization.layers import FakeQuantize, computed_together
from vqkit.quantization.plan import QuantizedRow
from vqkit.quantization.prepare import passing_through
from vqkit.quantization.solve import Encodings


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
    rounding = rounding_only(spec).to_json() if isinstance(spec, QuantizerSpec) else None
    shapes = [(k, w.shape) for k, w in layer.weights.items()]
    return (
        layer.name,
        layer.kind,
        repr(sorted(config.items())),
        repr(rounding),
        repr(layer.build),
        layer.state,
        shapes,
    )


class Structure(LiveGraph):
    """Live layers of one structure, and functions compiled on them.

    Args:
        graph: with fake-quantize layers inserted.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._traces: dict[tuple[Any, ...], int] = {}
        self._runners: dict[tuple[str, ...], PartitionedRunner] = {}
        self._functions: dict[tuple[Any, ...], Any] = {}

    def apply(self, encodings: Encodings, rows: Mapping[str, QuantizedRow]) -> None:
        """Assign ranges and positions.

        Args:
            encodings: decisions.
            rows: fake-quantize layer name -> plan row.
        """
        for name, row in rows.items():
            self.live[name].assign(encodings[row.name])

    @property
    def traces(self) -> dict[tuple[Any, ...], int]:
        """What was traced -> how often."""
        partitions = {
            ("partition", *key, i): n for key, runner in self._runners.items() for i, n in runner.traces.items()
        }
        return {**self._traces, **partitions}

    def runner(self, names: Iterable[str], passing: Iterable[str]) -> PartitionedRunner:
        """Runs the graph partition by partition.

        Args:
            names: of the fake-quantize layers, which are left to the caller.
            passing: names of the layers that pass their input on.
        """
        key = tuple(sorted(passing))
        if key not in self._runners:
            self._runners[key] = PartitionedRunner(self.graph, passing_through(self.live, key), names)
        return self._runners[key]

    def evaluator(self, begin: int = 0, end: int | None = None) -> Any:
        """Nodes begin to end as a compiled function; traced once for each way of rounding.

        Args:
            begin: number of the first node.
            end: number of the node to stop before; all by default, and then the outputs are the model's.

        Returns:
            A function of the values by name (`v<id>`, or the model's input names from the start) that gives
            the model's outputs, or the crossing values by name.
        """

        def make() -> tuple[Graph, Any]:
            part = part_of(self.graph, begin, end)
            return part, lambda inputs: replay(part, self.live, inputs)

        return self.function(("evaluate", begin, end), make)

    def eagerly(self, begin: int = 0, end: int | None = None) -> Any:
        """As `evaluator`, layer by layer."""
        part = part_of(self.graph, begin, end)
        return lambda batch: replay(part, self.live, tensors(part, batch))

    def function(self, key: tuple[Any, ...], make: Callable[[], tuple[Graph, Any]]) -> Any:
        """A compiled function; traced once for a way of rounding.

        Args:
            key: what it is known by.
            make: gives a part of the graph, and a function of that part's inputs to compile.
        """
        rounding = tuple(
            repr(rounding_only(layer.spec)) for layer in self.live.values() if isinstance(layer, FakeQuantize)
        )
        key = (*key, rounding)
        if key not in self._functions:
            self._functions[key] = self._compiled(key, *make())
        return self._functions[key]

    def _compiled(self, key: tuple[Any, ...], part: Graph, body: Any) -> Any:
        used = {node.layer: self.live[node.layer] for node in part.nodes}

        def counted(inputs: Mapping[str, Any]) -> Any:
            self._traces[key] = self._traces.get(key, 0) + 1
            with computed_together(layer for layer in used.values() if isinstance(layer, FakeQuantize)):
                return body(inputs)

        return compiled(part, counted)
