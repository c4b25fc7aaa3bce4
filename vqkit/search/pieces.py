"""The float graph in compiled pieces, from any cut to any other.

A function of its own from each cut to the end would be the fastest to run, but tracing them all grows with
the square of the graph. So some cuts are stations: a run goes to the next one, and from station to station in
functions that all runs share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from vqkit.flow.structure import crossing_values
from vqkit.graph.ir import Graph, map_refs
from vqkit.graph.keras_io import make_all_live
from vqkit.graph.variables import assign_weights
from vqkit.primitives.native import traced_here

Values = dict[int, Any]
# Nodes between two stations, at least. Calls cost less than tracing does from here on.
STATION = 8


class Pieces:
    """Runs parts of a graph.

    Args:
        graph: what to run; its weights are the ones to go back to.
        cuts: numbers of nodes in front of which a run may begin or end, both ends of the graph among them.
    """

    def __init__(self, graph: Graph, cuts: Iterable[int]) -> None:
        self.graph, self.cuts = graph, sorted(cuts)
        self._live = make_all_live(graph)
        self._changed: set[str] = set()
        self._stations = _stations(self.cuts)
        self._functions: dict[tuple[int, int], Callable[[Values], Values]] = {}

    def run(self, start: int, end: int, state: Values) -> Values:
        """The values needed at one cut, from those needed at an earlier one.

        One run at a time: TensorFlow's convolution that is fused with a sum keeps what it works on in itself,
        so two threads in the same function get each other's numbers, or crash.

        Args:
            start: cut where the state was taken.
            end: cut to go to.
            state: value id -> tensor, shape (batch, …).
        """
        if start == end:
            return state
        for a, b in pairwise([start, *(s for s in self._stations if start < s < end), end]):
            if (a, b) not in self._functions:
                self._functions[a, b] = self._compiled(a, b)
            state = self._functions[a, b](state)
        return state

    def assign(self, weights: Mapping[str, Any]) -> None:
        """Runs from now on have these weights, and the graph's own elsewhere.

        Args:
            weights: layer name -> variable name -> array.
        """
        own = {name: self.graph.layers[name].weights for name in self._changed - weights.keys()}
        for name, arrays in {**own, **weights}.items():
            assign_weights(self._live[name], arrays)
        self._changed = set(weights)

    def _compiled(self, start: int, end: int) -> Callable[[Values], Values]:
        import tensorflow as tf

        graph = self.graph
        before, after = crossing_values(graph, start), crossing_values(graph, end)

        def run(*given: Any) -> list[Any]:
            values = dict(zip(before, given, strict=True))
            for node in graph.nodes[start:end]:
                args, kwargs = map_refs(lambda r: values[r.id], (node.args, dict(node.kwargs)))
                values.update(zip(node.outputs, _called(self._live[node.layer], args, kwargs), strict=True))
            return [values[v] for v in after]

        signature = [tf.TensorSpec(graph.values[v].shape, graph.values[v].dtype) for v in before]
        traced = traced_here(run, signature)
        return lambda state: dict(zip(after, traced(*(state[v] for v in before)), strict=True))


def _stations(cuts: list[int]) -> list[int]:
    found: list[int] = []
    for cut in cuts:
        if cut - (found[-1] if found else 0) >= STATION:
            found.append(cut)
    return found


def _called(operation: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
    from keras import tree

    at_inference = getattr(operation, "_call_has_training_arg", False)
    return tuple(
        tree.flatten(operation(*args, **({**kwargs, "training": False} if at_inference else kwargs)))
    )
