"""Partitioned execution of a graph: compiled from cut to cut, with callbacks between.

Run a graph partition by partition: compiled code between chosen layers, ordinary Python at them.

What happens at the chosen layers is then free to differ from variant to variant without compiling anything
again, and a run can begin in the middle, from values that an earlier run had there.

The float graph in compiled pieces, from any cut to any other.

A function of its own from each cut to the end would be the fastest to run, but tracing them all grows with
the square of the graph. So some cuts are stations: a run goes to the next one, and from station to station in
functions that all runs share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph, Node, Ref, map_refs
from vqkit.graph.keras_io import mask_of, masked, replay
from vqkit.graph.keras_layers import assign_weights
from vqkit.primitives.native import traced_here


def part_of(graph: Graph, begin: int, end: int | None) -> Graph:
    """Some nodes of a graph as a graph of their own.

    Args:
        graph: the whole.
        begin: number of the first node; from 0 on the inputs are the model's.
        end: number of the node to stop before; None for the model's end and outputs.

    Returns:
        A graph whose values have the whole graph's ids; values that cross the border are named `v<id>`.
    """
    inputs = dict(graph.inputs) if begin == 0 else {f"v{v}": v for v in crossing_values(graph, begin)}
    outputs = graph.output_struct
    if end is not None:
        outputs = {f"v{v}": Ref(v) for v in crossing_values(graph, end)}
    return Graph(graph.name, inputs, graph.input_struct, outputs, graph.nodes[begin:end], {}, graph.values)


def leading_to(graph: Graph, layers: Iterable[str]) -> Graph:
    """What has to run for the outputs of some layers; without outputs of its own.

    Args:
        graph: the whole.
        layers: layer names.
    """
    layers, read, nodes = set(layers), set[int](), list[Node]()
    for node in reversed(graph.nodes):
        if node.layer in layers or read & set(node.outputs):
            read.update(node.inputs)
            nodes.append(node)
    return Graph(graph.name, graph.inputs, graph.input_struct, (), nodes[::-1], {}, graph.values)


def numbers_at(graph: Graph, at: int) -> int | None:
    """How many numbers cross in front of a node for one sample; None where a size is free."""
    numbers = 0
    for v in crossing_values(graph, at):
        shape = graph.values[v].shape[1:]
        sizes = [size for size in shape if size is not None]
        if len(sizes) < len(shape):
            return None
        numbers += prod(sizes)
    return numbers


def crossing_values(graph: Graph, at: int, *, outputs: bool = True) -> list[int]:
    """Ids of the values that are made before a node (or given) and read from it on; the model's outputs are read."""
    made = {*graph.inputs.values(), *(v for n in graph.nodes[:at] for v in n.outputs)}
    read = [*(v for n in graph.nodes[at:] for v in n.inputs), *(graph.outputs if outputs else ())]
    return sorted(made & set(read))


Values = dict[int, Any]
Facts = dict[str, Any]
Visit = Callable[[str, Any], Any]
Watch = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Partition:
    """A partition of a graph: nodes that run as one compiled function, or a single chosen node.

    Attributes:
        nodes: in graph order.
        chosen: the chosen layer's name; "" for a compiled partition.
        begin: number of the first node.
        reads: ids of the values that come from before.
        writes: ids of the values that are read later.
        done: ids of the values that nothing reads afterwards.
    """

    nodes: tuple[Node, ...]
    chosen: str
    begin: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    done: tuple[int, ...]


def partitions(graph: Graph, chosen: Iterable[str]) -> list[Partition]:
    """Cut a graph at the nodes of chosen layers.

    Args:
        graph: any; a chosen layer has one input and one output.
        chosen: layer names.

    Returns:
        Partitions in graph order.
    """
    chosen = set(chosen)
    groups: list[list[Node]] = []
    for node in graph.nodes:
        if node.layer in chosen or not groups or groups[-1][-1].layer in chosen:
            groups.append([node])
        else:
            groups[-1].append(node)
    last = {v: i for i, nodes in enumerate(groups) for n in nodes for v in n.inputs}
    found: list[Partition] = []
    for i, nodes in enumerate(groups):
        made = [v for n in nodes for v in n.outputs]
        reads = tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v not in made))
        writes = tuple(v for v in made if last.get(v, -1) > i)
        done = tuple(v for v in (*reads, *writes) if last.get(v, -1) <= i)
        name = nodes[0].layer if nodes[0].layer in chosen else ""
        begin = sum(len(part.nodes) for part in found)
        found.append(Partition(tuple(nodes), name, begin, reads, writes, done))
    return found


class PartitionedRunner:
    """Partitioned execution of a graph; each partition is traced when it is first reached.

    Args:
        graph: what to run.
        live: layer name -> live object; variables may be assigned between runs.
        chosen: names of the layers that are left to `visit`.
        watched: name of a layer with one input and one output -> what is computed in its place, inside
            compiled code: of its input, its facts from the batch before, and whether there was one, it
            gives its output and facts.

    Attributes:
        parts: the partitions.
        traces: number of a partition -> how often it was traced.
    """

    def __init__(
        self,
        graph: Graph,
        live: Mapping[str, Any],
        chosen: Iterable[str],
        watched: Mapping[str, Watch] | None = None,
    ) -> None:
        self.graph, self.parts = graph, partitions(graph, chosen)
        self.watched = watched or {}
        self.traces: dict[int, int] = {}
        self._live = live
        self._functions: dict[int, Any] = {}
        self._names: dict[int, str] = {}

    def run(
        self,
        values: Values,
        visit: Visit,
        *,
        begin: int = 0,
        end: int | None = None,
        before: Facts | None = None,
        started: bool = False,
    ) -> tuple[Values, Facts]:
        """Run some partitions.

        Args:
            values: value id -> tensor: the model's inputs, or what an earlier run left at `begin`.
            visit: called with a chosen layer's name and its input; gives its output.
            begin: number of the first partition.
            end: number of the partition to stop before; all by default.
            before: name of a watched layer -> its facts from the batch before.
            started: whether there was one.

        Returns:
            The values that later partitions read, and the facts of watched layers by name.
        """
        import tensorflow as tf

        values, facts = dict(values), {}
        known = (before or {}, tf.constant(started))
        for i, part in enumerate(self.parts[begin:end], start=begin):
            if part.chosen:
                x = values[part.reads[0]]
                made = {part.nodes[0].output: masked(visit(part.chosen, x), mask_of(x))}
            else:
                made, found = self._compute(i, part, values, known)
                facts.update(found)
            values.update(made)
            for v in part.done:
                values.pop(v, None)
        return values, facts

    def _compute(self, i: int, part: Partition, values: Values, known: tuple[Facts, Any]) -> tuple[Values, Facts]:
        given = [values[v] for v in part.reads]
        masks = [mask_of(x) for x in given]
        before = {n.layer: known[0][n.layer] for n in part.nodes if n.layer in self.watched}
        if i not in self._functions:
            self._functions[i] = self._compiled(i, given, masks, before)
        tensors, made_masks, facts = self._functions[i](given, [m for m in masks if m is not None], before, known[1])
        return {v: masked(x, m) for v, x, m in zip(part.writes, tensors, made_masks, strict=True)}, facts

    def _compiled(self, i: int, given: list[Any], masks: list[Any], before: Facts) -> Any:
        import tensorflow as tf

        part = self.parts[i]
        has_mask = [m is not None for m in masks]
        names = [f"v{v}" for v in part.reads]
        inside = Graph(
            "partition",
            dict(zip(names, part.reads, strict=True)),
            None,
            tuple(Ref(v) for v in part.writes),
            list(part.nodes),
            {},
            {},
        )
        made_mask: list[bool] = []

        def call(tensors: list[Any], given_masks: list[Any], before: Facts, started: Any) -> tuple[Any, ...]:
            facts: Facts = {}

            def watching(name: str) -> Callable[[Any], Any]:
                def watch(x: Any) -> Any:
                    y, facts[name] = self.watched[name](x, before[name], started)
                    return masked(y, mask_of(x))

                return watch

            self.traces[i] = self.traces.get(i, 0) + 1
            waiting = iter(given_masks)
            inputs = {
                name: masked(x, next(waiting)) if has else x
                for name, x, has in zip(names, tensors, has_mask, strict=True)
            }
            outputs = replay(inside, {**self._live, **{k: watching(k) for k in before}}, inputs)
            found = [mask_of(x) for x in outputs]
            made_mask[:] = [m is not None for m in found]
            return list(outputs), [m for m in found if m is not None], facts

        free = [self._free(v, x) for v, x in zip(part.reads, given, strict=True)]
        free_masks = [tf.TensorSpec([None] * m.shape.rank, m.dtype) for m in masks if m is not None]
        free_facts = {name: tf.TensorSpec(x.shape, x.dtype) for name, x in before.items()}
        signature = [free, free_masks, free_facts, tf.TensorSpec([], tf.bool)]
        run = traced_here(call, signature)

        def with_all(*given: Any) -> tuple[list[Any], list[Any], Facts]:
            outputs, found, facts = run(*given)
            waiting = iter(found)
            return outputs, [next(waiting) if has else None for has in made_mask], facts

        return with_all

    def _free(self, value: int, x: Any) -> Any:
        """The shape to trace with: sizes that the model leaves free stay free."""
        import tensorflow as tf

        known = self.graph.values[value].shape if value in self.graph.values else ()
        if len(known) != x.shape.rank:
            return tf.TensorSpec([None] * x.shape.rank, x.dtype)
        shape = [None if k is None else s for k, s in zip(known, x.shape, strict=True)]
        return tf.TensorSpec(shape, x.dtype)


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
    return tuple(tree.flatten(operation(*args, **({**kwargs, "training": False} if at_inference else kwargs))))
