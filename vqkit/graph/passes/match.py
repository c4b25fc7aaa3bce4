"""Recognizing chains of layers: the one rule about what a pass may fuse."""

from __future__ import annotations

from collections.abc import Callable

from vqkit.graph.ir import Graph, Layer, Node

Test = Callable[[Layer], bool]


class Chains:
    """Looks upstream from a node for a chain of layers that can be treated as one.

    A chain holds when each link has one input, is read by the next link alone, is no model output, is a
    candidate, and calls a layer that nothing else calls.

    Args:
        graph: read once; make a new object after changing the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._producers = graph.producers()
        self._consumers = graph.consumers()
        self._outputs = set(graph.outputs)
        self._calls = graph.calls()

    def free(self, node: Node) -> bool:
        """Whether a pass may change this node at all."""
        return self._graph.is_candidate(node) and self._calls[node.layer] == 1

    def only_reader(self, node: Node) -> Node | None:
        """The node that alone reads this node's single output, if it is no model output."""
        readers = self._consumers[node.output]
        if len(node.outputs) != 1 or len(readers) != 1 or node.output in self._outputs:
            return None
        return readers[0]

    def upstream(self, node: Node, *tests: Test, ignored: bool = False) -> tuple[Node, ...] | None:
        """The chain that ends at `node`.

        Args:
            node: last link.
            tests: one for each earlier link, nearest first.
            ignored: whether the last link may be a layer that is ignored.

        Returns:
            The earlier links, nearest first; None when there is no such chain.
        """
        found: list[Node] = []
        current = node
        left = ignored and node.name in self._graph.ignored and self._calls[node.layer] == 1
        if not (left or self.free(node)):
            return None
        for test in tests:
            before = self._producers.get(current.inputs[0]) if len(current.inputs) == 1 else None
            if before is None or not self.free(before) or self.only_reader(before) is not current:
                return None
            if not test(self._graph.layer_of(before)):
                return None
            found.append(before)
            current = before
        return tuple(found)


def kind_in(*kinds: str) -> Test:
    """A test for the layer's class name."""
    return lambda layer: layer.kind in kinds


def activation_name(layer: Layer) -> str:
    """Name of a layer's fused or own activation function, in the strategy format's spelling.

    Args:
        layer: any layer; without an `activation` entry it counts as linear.

    Returns:
        e.g. "linear", "relu", "swish" (Keras 3 calls it silu).
    """
    value = layer.config.get("activation", "linear")
    if value is None:
        return "linear"
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("registered_name") or value.get("class_name", "custom")
    name = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
    return {"silu": "swish"}.get(name, name)


def reference_name(layer: Layer) -> str:
    """`activation_name` without the package that a function is registered in, as the reference would say it.

    The reference ran on Keras 2: what is the hard sigmoid of Keras 2 here is its `hard_sigmoid`.
    """
    return activation_name(layer).rpartition(">")[2].removeprefix("keras_2_")
