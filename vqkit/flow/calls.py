"""What a plan says about each call of a layer: which quantizer it reads, which stands behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vqkit.flow.kinds import ACTIVATIONS, KEEPS_GRID
from vqkit.flow.plan import Plan, Row
from vqkit.flow.refine import converted_spec
from vqkit.graph.ir import Graph, Node
from vqkit.graph.match import Chains
from vqkit.primitives.spec import QuantizerSpec


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
        self._at: dict[int, list[Row]] = {}
        for row in plan.rows:
            if row.is_weight:
                self._weights.setdefault(row.layer, []).append(row)
            elif row.value is not None:
                self._at.setdefault(row.value, []).append(row)

    def spec(self, row: Row) -> QuantizerSpec:
        """The row's quantizer as the finished model has it."""
        assert row.spec is not None
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

    def seen_by(self, reader: Node, value: int) -> Row | None:
        """The row that quantized a value for one reader, found upwards through layers that keep the grid."""
        for row in self._at.get(value, ()):
            if row.readers is None or reader.name in row.readers:
                return row
        producer = self._producers.get(value)
        return None if producer is None else self._kept(producer)

    def behind(self, node: Node) -> Iterator[tuple[int, Row | None]]:
        """For each output its index and the row that quantizes it for all who read it."""
        kept = self._kept(node)
        for index, value in enumerate(node.outputs):
            own = next((r for r in self._at.get(value, ()) if r.readers is None), None)
            yield index, own or self._by_readers(value) or kept

    def _by_readers(self, value: int) -> Row | None:
        rows = [self.seen_by(reader, value) for reader in self._consumers[value]]
        return rows[0] if rows and None not in rows and value not in self.graph.outputs else None

    def _kept(self, node: Node) -> Row | None:
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
