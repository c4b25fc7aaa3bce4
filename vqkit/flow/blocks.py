"""Walk a graph layer by layer with the data at hand: where layers are tuned one after the other.

Two copies of the graph advance side by side, the float one and the quantized one. Only the values that later
nodes still read are kept, for all batches, so each node runs once however many layers are tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vqkit.flow.kinds import QUANTIZED_AFTER
from vqkit.flow.plan import Plan, Row
from vqkit.graph.ir import Graph, Node, Ref
from vqkit.graph.keras_io import replay, tensors
from vqkit.graph.match import Chains, activation_name

Tune = Callable[["Block", list[Any], list[Any]], None]


@dataclass(frozen=True, eq=False)
class Block:
    """A quantized layer with the activation and the quantizer that alone read it.

    Attributes:
        nodes: the layer, then its activation and its fake-quantize node where it has them.
        graph: these nodes as a graph of their own, with the input "x".
        weights: variable name -> plan row of each quantized weight.
        quantizer: row of the output's quantizer, if the block ends with one.
    """

    nodes: tuple[Node, ...]
    graph: Graph
    weights: Mapping[str, Row]
    quantizer: Row | None

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.nodes[0].layer

    @property
    def computing(self) -> Graph:
        """The block without its quantizer."""
        return self.graph if self.quantizer is None else _alone(self.graph, self.nodes[:-1])


def find_blocks(graph: Graph, rows: Mapping[str, Row], plan: Plan) -> tuple[list[Block], list[str]]:
    """The layers that can be tuned on their own, and why others cannot.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.

    Returns:
        Blocks in graph order, and a line for each layer with quantized weights that is none.
    """
    chains, calls = Chains(graph), graph.calls()
    quantized = _quantized_weights(plan)
    blocks, left = [], []
    for node in {n.layer: n for n in reversed(graph.nodes) if n.layer in quantized}.values():
        reason = _obstacle(graph, node, calls)
        if reason:
            left.append(f"{node.layer}: {reason}, left as it is")
        else:
            blocks.append(_block(graph, rows, chains, node, quantized[node.layer]))
    return blocks[::-1], left[::-1]


def _quantized_weights(plan: Plan) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in plan.quantized:
        if row.is_weight:
            found.setdefault(row.layer, {})[row.tensor] = row
    return found


def _obstacle(graph: Graph, node: Node, calls: Mapping[str, int]) -> str:
    if calls[node.layer] > 1:
        return f"called {calls[node.layer]} times"
    if len(node.inputs) != 1 or len(node.outputs) != 1:
        return f"{len(node.inputs)} inputs and {len(node.outputs)} outputs"
    dtypes = {graph.values[v].dtype for v in (*node.inputs, *node.outputs)}
    return "" if dtypes == {"float32"} else f"computes {', '.join(sorted(dtypes))}"


def _block(graph: Graph, rows: Mapping[str, Row], chains: Chains, head: Node,
           weights: Mapping[str, Row]) -> Block:  # fmt: skip
    nodes, reader = [head], chains.only_reader(head)
    if reader is not None and _rectifies(graph, reader):
        nodes.append(reader)
        reader = chains.only_reader(reader)
    quantizer = rows.get(reader.layer) if reader is not None else None
    if reader is not None and quantizer is not None:
        nodes.append(reader)
    return Block(tuple(nodes), _alone(graph, nodes), weights, quantizer)


def _rectifies(graph: Graph, node: Node) -> bool:
    layer = graph.layer_of(node)
    plain = layer.kind == "Activation" and activation_name(layer) in (*QUANTIZED_AFTER, "relu6")
    return layer.kind in ("ReLU", "LeakyReLU") or plain


def _alone(graph: Graph, nodes: Sequence[Node]) -> Graph:
    """A chain of nodes as a graph with the input "x" and one output."""
    layers = {n.layer: graph.layers[n.layer] for n in nodes}
    value = nodes[0].inputs[0]
    return Graph(nodes[0].name, {"x": value}, Ref(value), Ref(nodes[-1].output), list(nodes), layers,
                 {v: graph.values[v] for n in nodes for v in (*n.inputs, *n.outputs)})  # fmt: skip


def walk(graph: Graph, sides: tuple[Mapping[str, Any], Mapping[str, Any]], batches: Iterable[Any],
         blocks: Iterable[Block], tune: Tune, *, float_inputs: bool = False) -> None:  # fmt: skip
    """Visit blocks in graph order, each with its inputs and the outputs it should have.

    Memory: for all samples, the values at one place of the graph, twice, and one block's target.

    Args:
        graph: with fake-quantize layers inserted.
        sides: live objects of the float and of the quantized graph, by layer name.
        batches: model inputs, readable twice.
        blocks: what to visit.
        tune: called with a block, its inputs and its float outputs, each a list with a tensor for each
            batch; it may assign the quantized layer's weights, which later blocks then see.
        float_inputs: give the float graph's values as inputs instead of the quantized graph's.
    """
    wanted = {b.nodes[0].name: b for b in blocks}
    floats, fakes = (_Frontier(graph, live, batches) for live in sides)
    for node in _up_to_last(graph, wanted):
        block = wanted.get(node.name)
        if block is not None:
            target = [replay(block.computing, sides[0], {"x": x}) for x in floats.inputs_of(node)]
            tune(block, (floats if float_inputs else fakes).inputs_of(node), target)
        floats.advance(node)
        fakes.advance(node)


def _up_to_last(graph: Graph, names: Iterable[str]) -> list[Node]:
    places = [i for i, n in enumerate(graph.nodes) if n.name in set(names)]
    return graph.nodes[: max(places, default=-1) + 1]


class _Frontier:
    """The values of all batches at the place where a walk stands."""

    def __init__(self, graph: Graph, live: Mapping[str, Any], batches: Iterable[Any]) -> None:
        self._live, self._graph = live, graph
        self._last_read = {v: n.name for n in graph.nodes for v in n.inputs}
        named = [tensors(graph, batch) for batch in batches]
        self._values = {v: [b[name] for b in named] for name, v in graph.inputs.items()}

    def inputs_of(self, node: Node) -> list[Any]:
        return self._values[node.inputs[0]]

    def advance(self, node: Node) -> None:
        """Compute a node for every batch; forget what only it read."""
        small = self._only(node)
        given = {v: self._values[v] for v in dict.fromkeys(node.inputs)}
        count = len(next(iter(self._values.values())))
        done = [
            replay(small, self._live, {str(v): values[i] for v, values in given.items()})
            for i in range(count)
        ]
        self._values |= {v: [outputs[k] for outputs in done] for k, v in enumerate(node.outputs)}
        for v in given:
            if self._last_read[v] == node.name:
                del self._values[v]

    def _only(self, node: Node) -> Graph:
        inputs = {str(v): v for v in node.inputs}
        outputs = [Ref(v) for v in node.outputs]
        return Graph(node.name, inputs, None, outputs, [node], {}, {})
