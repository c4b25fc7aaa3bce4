"""Partitioned execution of a graph: compiled from cut to cut.

`PartitionedRunner` cuts at chosen layers, where ordinary Python is called: what happens there is free to differ
from variant to variant without compiling anything again, and a run can begin in the middle, from values that an
earlier run had there.

`CutRunner` runs from any of some cuts to any other. A function of its own from each cut to the end would be the
fastest to run, but tracing them all grows with the square of the graph. So some cuts are stations: a run goes to
the next one, and from station to station in functions that all runs share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph, Node, Ref
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
    """Some nodes of a graph in a row: they run as one compiled function, or are a single chosen node.

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

    @property
    def graph(self) -> Graph:
        """The nodes as a graph of their own, from `reads` (named `v<id>`) to `writes`."""
        inputs, outputs = {f"v{v}": v for v in self.reads}, tuple(Ref(v) for v in self.writes)
        return Graph("partition", inputs, None, outputs, list(self.nodes), {}, {})


def partition(graph: Graph, begin: int, end: int, *, chosen: str = "", outputs: bool = True) -> Partition:
    """Some nodes of a graph in a row.

    Args:
        graph: the whole.
        begin: number of the first node.
        end: number of the node to stop before.
        chosen: the layer's name where it is a single chosen node.
        outputs: whether the model's outputs are read at its end.
    """
    nodes = graph.nodes[begin:end]
    made = [v for n in nodes for v in n.outputs]
    later = {*(v for n in graph.nodes[end:] for v in n.inputs), *(graph.outputs if outputs else ())}
    reads = tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v not in made))
    writes = tuple(v for v in made if v in later)
    return Partition(tuple(nodes), chosen, begin, reads, writes, tuple(v for v in reads if v not in later))


def partitions(graph: Graph, chosen: Iterable[str]) -> list[Partition]:
    """Cut a graph at the nodes of chosen layers; what only the model's outputs need is computed, and not kept.

    Args:
        graph: any; a chosen layer has one input and one output.
        chosen: layer names.

    Returns:
        Partitions in graph order.
    """
    alone = [n.layer in set(chosen) for n in graph.nodes]
    cuts = [i for i in range(1, len(alone)) if alone[i] or alone[i - 1]]
    return [
        partition(graph, a, b, chosen=graph.nodes[a].layer if alone[a] else "", outputs=False)
        for a, b in pairwise([0, *cuts, len(alone)])
    ]


class _Runner:
    """Compiled functions of partitions of a graph; each is traced when it is first reached.

    Args:
        graph: what to run.
        live: layer name -> live object; variables may be assigned between runs.
        watched: name of a layer with one input and one output -> what is computed in its place, inside
            compiled code: of its input, its facts from the batch before, and whether there was one, it
            gives its output and facts.

    Attributes:
        traces: number of a partition's first node -> how often it was traced.
    """

    def __init__(self, graph: Graph, live: Mapping[str, Any], watched: Mapping[str, Watch] | None = None) -> None:
        self.graph, self.live, self.watched = graph, live, watched or {}
        self.traces: dict[int, int] = {}
        self._functions: dict[tuple[Any, ...], Any] = {}

    def compute(self, part: Partition, values: Values, before: Facts, started: Any) -> tuple[Values, Facts]:
        """What a partition writes, and the facts of watched layers in it.

        Args:
            part: a compiled partition of the graph.
            values: value id -> tensor, with its mask if it has one.
            before: name of a watched layer -> its facts from the batch before.
            started: boolean tensor, whether there was one.
        """
        given = [values[v] for v in part.reads]
        masks = [mask_of(x) for x in given]
        known = {n.layer: before[n.layer] for n in part.nodes if n.layer in self.watched}
        key = (part.begin, len(part.nodes), *(m is not None for m in masks))
        if key not in self._functions:
            self._functions[key] = self._compiled(part, given, masks, known)
        tensors, made_masks, facts = self._functions[key](given, [m for m in masks if m is not None], known, started)
        return {v: masked(x, m) for v, x, m in zip(part.writes, tensors, made_masks, strict=True)}, facts

    def _compiled(self, part: Partition, given: list[Any], masks: list[Any], before: Facts) -> Any:
        import tensorflow as tf

        inside, has_mask = part.graph, [m is not None for m in masks]
        made_mask: list[bool] = []

        def call(tensors: list[Any], given_masks: list[Any], before: Facts, started: Any) -> tuple[Any, ...]:
            facts: Facts = {}

            def watching(name: str) -> Callable[[Any], Any]:
                def watch(x: Any) -> Any:
                    y, facts[name] = self.watched[name](x, before[name], started)
                    return masked(y, mask_of(x))

                return watch

            self.traces[part.begin] = self.traces.get(part.begin, 0) + 1
            waiting = iter(given_masks)
            inputs = {
                name: masked(x, next(waiting)) if has else x
                for name, x, has in zip(inside.inputs, tensors, has_mask, strict=True)
            }
            outputs = replay(inside, {**self.live, **{k: watching(k) for k in before}}, inputs)
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
        """The shape to trace with: sizes that the model leaves free stay free, and those that it states wrongly.

        Keras' Add of a batch and a constant, a position embedding for instance, says one sample.
        """
        import tensorflow as tf

        known = self.graph.values[value].shape if value in self.graph.values else ()
        if len(known) != x.shape.rank:
            return tf.TensorSpec([None] * x.shape.rank, x.dtype)
        shape = [s if k == s else None for k, s in zip(known, x.shape, strict=True)]
        return tf.TensorSpec(shape, x.dtype)


class PartitionedRunner(_Runner):
    """Runs a graph from one chosen layer to the next.

    Args:
        graph: what to run.
        live: as in `_Runner`.
        chosen: names of the layers that are left to `visit`.
        watched: as in `_Runner`.

    Attributes:
        parts: the partitions.
    """

    def __init__(
        self,
        graph: Graph,
        live: Mapping[str, Any],
        chosen: Iterable[str],
        watched: Mapping[str, Watch] | None = None,
    ) -> None:
        super().__init__(graph, live, watched)
        self.parts = partitions(graph, chosen)

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

        values, facts, known = dict(values), {}, (before or {}, tf.constant(started))
        for part in self.parts[begin:end]:
            if part.chosen:
                x = values[part.reads[0]]
                made = {part.nodes[0].output: masked(visit(part.chosen, x), mask_of(x))}
            else:
                made, found = self.compute(part, values, *known)
                facts.update(found)
            values.update((v, made[v]) for v in part.writes)
            for v in part.done:
                values.pop(v, None)
        return values, facts


# Nodes between two stations, at least. Calls cost less than tracing does from here on.
STATION = 8


class CutRunner(_Runner):
    """Runs a graph from any of some cuts to any other.

    Args:
        graph: what to run; its weights are the ones to go back to.
        cuts: numbers of nodes in front of which a run may begin or end, both ends of the graph among them.
    """

    def __init__(self, graph: Graph, cuts: Iterable[int]) -> None:
        super().__init__(graph, make_all_live(graph))
        self.cuts = sorted(cuts)
        self._changed: set[str] = set()
        self._stations: list[int] = []
        for cut in self.cuts:
            if cut - (self._stations[-1] if self._stations else 0) >= STATION:
                self._stations.append(cut)
        self._parts: dict[tuple[int, int], Partition] = {}

    def run(self, start: int, end: int, state: Values) -> Values:
        """The values needed at one cut, from those needed at an earlier one.

        One run at a time: TensorFlow's convolution that is fused with a sum keeps what it works on in itself,
        so two threads in the same function get each other's numbers, or crash.

        Args:
            start: cut where the state was taken.
            end: cut to go to.
            state: value id -> tensor, shape (batch, …).
        """
        import tensorflow as tf

        state = dict(state)
        for a, b in pairwise([start, *(s for s in self._stations if start < s < end), end] if start < end else []):
            if (a, b) not in self._parts:
                self._parts[a, b] = partition(self.graph, a, b)
            part = self._parts[a, b]
            state.update(self.compute(part, state, {}, tf.constant(False))[0])
            for v in part.done:
                state.pop(v, None)
        return state

    def assign(self, weights: Mapping[str, Any]) -> None:
        """Runs from now on have these weights, and the graph's own elsewhere.

        Args:
            weights: layer name -> variable name -> array.
        """
        own = {name: self.graph.layers[name].weights for name in self._changed - weights.keys()}
        for name, arrays in {**own, **weights}.items():
            assign_weights(self.live[name], arrays)
        self._changed = set(weights)
