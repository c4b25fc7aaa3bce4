"""Run a graph stretch by stretch: compiled code between chosen layers, ordinary Python at them.

What happens at the chosen layers is then free to differ from variant to variant without compiling anything
again, and a run can begin in the middle, from values that an earlier run had there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vqkit.graph.ir import Graph, Node, Ref
from vqkit.graph.keras_io import mask_of, masked, replay
from vqkit.primitives.native import traced_here

Values = dict[int, Any]
Facts = dict[str, Any]
Visit = Callable[[str, Any], Any]
Watch = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Nodes that run as one compiled function, or a single chosen node.

    Attributes:
        nodes: in graph order.
        chosen: the chosen layer's name; "" for a compiled stretch.
        reads: ids of the values that come from before.
        writes: ids of the values that are read later.
        done: ids of the values that nothing reads afterwards.
    """

    nodes: tuple[Node, ...]
    chosen: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    done: tuple[int, ...]


def stretches(graph: Graph, chosen: Iterable[str]) -> list[Stretch]:
    """Cut a graph at the nodes of chosen layers.

    Args:
        graph: any; a chosen layer has one input and one output.
        chosen: layer names.

    Returns:
        Stretches in graph order.
    """
    chosen = set(chosen)
    groups: list[list[Node]] = []
    for node in graph.nodes:
        if node.layer in chosen or not groups or groups[-1][-1].layer in chosen:
            groups.append([node])
        else:
            groups[-1].append(node)
    last = {v: i for i, nodes in enumerate(groups) for n in nodes for v in n.inputs}
    found = []
    for i, nodes in enumerate(groups):
        made = [v for n in nodes for v in n.outputs]
        reads = tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v not in made))
        writes = tuple(v for v in made if last.get(v, -1) > i)
        done = tuple(v for v in (*reads, *writes) if last.get(v, -1) <= i)
        name = nodes[0].layer if nodes[0].layer in chosen else ""
        found.append(Stretch(tuple(nodes), name, reads, writes, done))
    return found


class Player:
    """Runs the stretches of a graph; each is traced when it is first reached.

    Args:
        graph: what to run.
        live: layer name -> live object; variables may be assigned between runs.
        chosen: names of the layers that are left to `visit`.
        watched: name of a layer with one input and one output -> what is computed in its place, inside
            compiled code: of its input, its facts from the batch before, and whether there was one, it
            gives its output and facts.

    Attributes:
        parts: the stretches.
        traces: number of a stretch -> how often it was traced.
    """

    def __init__(self, graph: Graph, live: Mapping[str, Any], chosen: Iterable[str],
                 watched: Mapping[str, Watch] | None = None) -> None:  # fmt: skip
        self.graph, self.parts = graph, stretches(graph, chosen)
        self.watched = watched or {}
        self.traces: dict[int, int] = {}
        self._live = live
        self._functions: dict[int, Any] = {}
        self._names: dict[int, str] = {}

    def run(self, values: Values, visit: Visit, *, begin: int = 0, end: int | None = None,
            before: Facts | None = None, started: bool = False) -> tuple[Values, Facts]:  # fmt: skip
        """Run some stretches.

        Args:
            values: value id -> tensor: the model's inputs, or what an earlier run left at `begin`.
            visit: called with a chosen layer's name and its input; gives its output.
            begin: number of the first stretch.
            end: number of the stretch to stop before; all by default.
            before: name of a watched layer -> its facts from the batch before.
            started: whether there was one.

        Returns:
            The values that later stretches read, and the facts of watched layers by name.
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

    def _compute(
        self, i: int, part: Stretch, values: Values, known: tuple[Facts, Any]
    ) -> tuple[Values, Facts]:
        given = [values[v] for v in part.reads]
        masks = [mask_of(x) for x in given]
        before = {n.layer: known[0][n.layer] for n in part.nodes if n.layer in self.watched}
        if i not in self._functions:
            self._functions[i] = self._compiled(i, given, masks, before)
        tensors, made_masks, facts = self._functions[i](
            given, [m for m in masks if m is not None], before, known[1]
        )
        return {v: masked(x, m) for v, x, m in zip(part.writes, tensors, made_masks, strict=True)}, facts

    def _compiled(self, i: int, given: list[Any], masks: list[Any], before: Facts) -> Any:
        import tensorflow as tf

        part = self.parts[i]
        has_mask = [m is not None for m in masks]
        names = [f"v{v}" for v in part.reads]
        inside = Graph("stretch", dict(zip(names, part.reads, strict=True)), None,
                       tuple(Ref(v) for v in part.writes), list(part.nodes), {}, {})  # fmt: skip
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
