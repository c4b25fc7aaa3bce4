"""A call of a layer as the plain operations that TensorFlow traces it to.

A layer that is not quantized may be anything: attention, a normalization, a recurrent cell, the user's own
class. TensorFlow writes each as the same hundred operations. Here they are read into a small form of our own:
constants computed, what nothing reads left out, weights under their names, loops and branches with bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.export import tf_graphs
from vqkit.export.program import Constant, Shape

if TYPE_CHECKING:
    import tensorflow as tf

Slot = int | Constant
"""A value by its number, or a constant."""

_SAME = {"Identity", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "PlaceholderWithDefault",
         "EnsureShape"}  # fmt: skip
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_LARGEST_FOLDED = 1 << 22
"""Constants of more elements are left to the runtime to compute, unless they shrink."""


@dataclass(frozen=True, eq=False)
class Op:
    """One TensorFlow operation.

    Attributes:
        kind: its type, e.g. "StridedSlice".
        name: unique in the call.
        inputs: what it reads.
        outputs: numbers of the values it makes.
        attrs: its attributes, functions left out.
        bodies: "cond" and "body" of a loop, "then" and "else" of a branch.
    """

    kind: str
    name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[int, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    bodies: Mapping[str, Body] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Body:
    """A function inside: it may read values of the functions around it.

    Attributes:
        inputs: numbers of its arguments; those that stand for an outer value are absent (None).
        outputs: what it returns.
        ops: in order.
    """

    inputs: tuple[int | None, ...]
    outputs: tuple[Slot, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced call.

    Attributes:
        body: arguments, results and operations.
        shapes: number of a value -> shape; None where the rank is not known.
        dtypes: number of a value -> numpy name, or "variant" for a list of tensors.
        run: the traced function: tensors in, list of tensors out.
        again: the function as it was given, to be traced otherwise.
    """

    body: Body
    shapes: Mapping[int, Shape | None]
    dtypes: Mapping[int, str]
    run: Callable[..., Any]
    again: Callable[..., Any]

    def only(self, outputs: Sequence[int]) -> Traced:
        """The same with the results at these places."""
        body = self.body
        kept = Body(body.inputs, tuple(body.outputs[i] for i in outputs), body.ops)
        run, again = (_chosen(f, outputs) for f in (self.run, self.again))
        return replace(self, body=_alive(kept), run=run, again=again)

    def kind_of(self, slot: Slot) -> tuple[Shape | None, str]:
        """Shape and type of a value."""
        if isinstance(slot, Constant):
            return slot.value.shape, slot.value.dtype.name
        return self.shapes[slot], self.dtypes[slot]

    @property
    def kinds(self) -> set[str]:
        """All types of operations, those of bodies included."""
        return set(_kinds(self.body))


def _chosen(function: Callable[..., Any], outputs: Sequence[int]) -> Callable[..., Any]:
    def run(*tensors: Any) -> list[Any]:
        found = function(*tensors)
        return [found[i] for i in outputs]

    return run


def _kinds(body: Body) -> Sequence[str]:
    return [k for op in body.ops for k in (op.kind, *(k for b in op.bodies.values() for k in _kinds(b)))]


def trace(function: Callable[..., Any], signature: Sequence[Any], weights: Mapping[int, Constant], name: str) -> Traced:
    """Trace a function and read what came of it.

    Args:
        function: of tensors, returns a list of tensors.
        signature: a `tf.TensorSpec` for each argument.
        weights: id of a variable's handle -> the constant that stands for it.
        name: what constants and operations are named after.

    Returns:
        The operations.
    """
    import tensorflow as tf

    whole = tf.function(function, input_signature=list(signature), autograph=False)
    concrete = whole.get_concrete_function()
    reader = _GraphReader(weights, name)
    reader.handles = {id(v.handle): v for v in concrete.graph.variables}
    body = reader.outermost(concrete)
    return Traced(_alive(body), reader.shapes, reader.dtypes, concrete, function)


class _GraphReader:
    """Reads graphs into operations; numbers of values are unique over all bodies."""

    def __init__(self, weights: Mapping[int, Constant], name: str) -> None:
        self.weights, self.name = weights, name
        self.handles: dict[int, Any] = {}
        self.shapes: dict[int, Shape | None] = {}
        self.dtypes: dict[int, str] = {}
        self._next = count()
        self._names: dict[str, int] = {}
        self._makers: dict[int, Op] = {}

    def outermost(self, concrete: Any) -> Body:
        graph = concrete.graph
        inner = {id(t) for _, t in graph.captures}
        given = [t for t in graph.inputs if id(t) not in inner]
        bound = {
            **{id(t): self.value(t) for t in given},
            **{id(t): self._captured(outer) for outer, t in graph.captures},
        }
        inputs = tuple(bound[id(t)] for t in given)
        ops, outputs = self.read(graph, bound)
        return Body(inputs, outputs, ops)

    def value(self, tensor: Any) -> int:
        number = next(self._next)
        rank = tensor.shape.rank
        self.shapes[number] = None if rank is None else tuple(tensor.shape)
        self.dtypes[number] = tensor.dtype.name
        return number

    def _captured(self, outer: Any) -> Any:
        if outer.dtype.name != "resource":
            return Constant(f"{self.name}/captured", np.asarray(outer))
        if id(outer) in self.weights:
            return self.weights[id(outer)]
        variable = self.handles.get(id(outer))
        if variable is None:
            return outer
        return Constant(f"{self.name}/{variable.name.partition(':')[0]}", np.asarray(variable))

    def read(self, graph: tf.Graph, bound: dict[int, Any]) -> tuple[tuple[Op, ...], tuple[Slot, ...]]:
        """Operations and results of a graph whose arguments are bound."""
        ops: list[Op] = []
        needed = tf_graphs.needed(graph)
        for op in graph.get_operations():
            if op.name in needed and op.type != "Placeholder":
                for tensor, slot in zip(op.outputs, self._visit(op, bound, ops), strict=True):
                    bound[id(tensor)] = slot
        return tuple(ops), tuple(bound[id(t)] for t in graph.outputs)

    def _visit(self, op: Any, bound: dict[int, Any], ops: list[Op]) -> Sequence[Any]:
        given = [bound[id(t)] for t in op.inputs]
        if op.type in _SAME:
            return given[:1]
        if op.type in ("IdentityN", "ReadVariableOp"):
            return given
        if op.type == "Const":
            return [self._constant(op, tf_graphs.array(op.get_attr("value")))]
        if op.type in _CALLS:
            return self._inlined(op.graph, op.get_attr("f").name, given, ops)[1]
        known = self._known(op, given)
        if known is not None:
            return known
        if op.type in ("While", "StatelessWhile"):
            return self._loop(op, given, ops)
        if op.type in ("If", "StatelessIf"):
            return self._branch(op, given, ops)
        if op.type == "Reshape":
            given[1] = self._target(op, given[1])
        outputs = tuple(self.value(t) for t in op.outputs)
        made = Op(op.type, self._unique(op.name), tuple(given), outputs, tf_graphs.attrs(op))
        ops.append(made)
        self._makers.update(dict.fromkeys(outputs, made))
        return outputs

    def _constant(self, op: Any, array: np.ndarray, index: int = 0) -> Constant:
        return Constant(f"{self.name}/{op.name}" + (f"_{index}" if index else ""), array)

    def _unique(self, name: str) -> str:
        n = self._names[name] = self._names.get(name, 0) + 1
        return name if n == 1 else f"{name}_{n}"

    # --- what is known beforehand ---

    def _known(self, op: Any, given: Sequence[Any]) -> list[Constant] | None:
        import tensorflow as tf

        if any(t.dtype.name in ("variant", "resource") for t in (*op.inputs, *op.outputs)) or not op.outputs:
            return None
        if all(isinstance(s, Constant) and s.params is None for s in given) and tf_graphs.pure(op):
            return self._folded(op, given)
        if op.type == "Minimum":
            return self._between(given)
        if op.type == "StridedSlice":
            return self._size(op, given)
        if all(t.dtype.is_integer and (t.shape.rank or 0) <= 1 for t in op.outputs):
            # Shapes and what is computed from them.
            values = [tf.get_static_value(t) for t in op.outputs]
            if all(v is not None for v in values):
                return [self._constant(op, np.asarray(v), i) for i, v in enumerate(values)]
        return None

    def _between(self, given: Sequence[Any]) -> list[Constant] | None:
        """The least of a number and of what is no less: how TensorFlow writes some fixed sizes."""
        top = [s for s in given if isinstance(s, Constant)]
        makers = [self._makers.get(s) for s in given if isinstance(s, int)]
        if len(top) != 1 or makers[0] is None or makers[0].kind != "Maximum":
            return None
        low = [s for s in makers[0].inputs if isinstance(s, Constant) and s.value.shape == top[0].value.shape]
        return top if low and np.all(low[0].value >= top[0].value) else None

    def _size(self, op: Any, given: Sequence[Any]) -> list[Constant] | None:
        """Sizes taken from a shape, where they are fixed."""
        maker = self._makers.get(given[0]) if isinstance(given[0], int) else None
        flags = {k: op.get_attr(f"{k}_mask") for k in ("begin", "end", "shrink_axis", "new_axis", "ellipsis")}
        if maker is None or maker.kind != "Shape" or flags["new_axis"] or flags["ellipsis"]:
            return None
        shape = self.shapes[maker.inputs[0]] if isinstance(maker.inputs[0], int) else None
        if shape is None or not all(isinstance(s, Constant) for s in given[1:]):
            return None
        begin, end, step = (int(s.value[0]) for s in given[1:])
        cut = slice(None if flags["begin"] else begin, None if flags["end"] else end, step)
        picked = np.asarray(shape, object)[begin if flags["shrink_axis"] else cut]
        if any(n is None for n in np.ravel(picked)):
            return None
        return [self._constant(op, np.asarray(picked, op.outputs[0].dtype.as_numpy_dtype))]

    def _folded(self, op: Any, given: Sequence[Constant]) -> list[Constant] | None:
        import tensorflow as tf

        raw = getattr(tf.raw_ops, op.type, None)
        sizes = [t.shape.num_elements() for t in op.outputs]
        room = max(_LARGEST_FOLDED, sum(c.value.size for c in given))
        if raw is None or any(n is None or n > room for n in sizes):
            return None
        arrays = [tf.constant(c.value, t.dtype) for c, t in zip(given, op.inputs, strict=True)]
        made = raw(**tf_graphs.keywords(op, raw, arrays))
        flat = made if isinstance(made, (list, tuple)) else [made]
        flat = [t for item in flat for t in (item if isinstance(item, (list, tuple)) else [item])]
        return [self._constant(op, np.asarray(t), i) for i, t in enumerate(flat)]

    def _target(self, op: Any, shape: Any) -> Any:
        """The shape of a reshape as a constant, where at most one size is free."""
        result = op.outputs[0].shape
        if isinstance(shape, Constant) or result.rank is None or sum(n is None for n in result) > 1:
            return shape
        if 0 in tuple(result):
            return shape
        return self._constant(op, np.asarray([-1 if n is None else n for n in result], np.int64))

    # --- functions inside ---

    def _inlined(self, graph: tf.Graph, name: str, given: Sequence[Any], ops: list[Op]) -> tuple[Any, Sequence[Any]]:
        inner = tf_graphs.function(graph, name)
        found, outputs = self.read(inner, {id(t): s for t, s in zip(inner.inputs, given, strict=True)})
        ops.extend(found)
        return inner, outputs

    def _branch(self, op: Any, given: Sequence[Any], ops: list[Op]) -> Sequence[Any]:
        words = {"then": "then_branch", "else": "else_branch"}
        if isinstance(given[0], Constant):
            chosen = "then" if given[0].value else "else"
            return self._inlined(op.graph, op.get_attr(words[chosen]).name, given[1:], ops)[1]
        bodies = {}
        for word, attr in words.items():
            inside: list[Op] = []
            _, outputs = self._inlined(op.graph, op.get_attr(attr).name, given[1:], inside)
            bodies[word] = Body((), tuple(outputs), tuple(inside))
        outputs = tuple(self.value(t) for t in op.outputs)
        ops.append(Op("If", self._unique(op.name), (given[0],), outputs, {}, bodies))
        return outputs

    def _loop(self, op: Any, given: Sequence[Any], ops: list[Op]) -> Sequence[Any]:
        inner, test = (tf_graphs.function(op.graph, op.get_attr(a).name) for a in ("body", "cond"))
        still = [tf_graphs.source(o) is i for i, o in zip(inner.inputs, inner.outputs, strict=True)]
        bodies, moving = {}, [i for i, same in enumerate(still) if not same]
        for word, graph in (("body", inner), ("cond", test)):
            slots = [given[i] if still[i] else self.value(t) for i, t in enumerate(graph.inputs)]
            found, results = self.read(graph, {id(t): s for t, s in zip(graph.inputs, slots, strict=True)})
            kept = tuple(results[i] for i in moving) if word == "body" else results
            bodies[word] = Body(tuple(slots[i] for i in moving), kept, found)
        outputs = [given[i] if still[i] else self.value(t) for i, t in enumerate(op.outputs)]
        ops.append(
            Op(
                "While",
                self._unique(op.name),
                tuple(given[i] for i in moving),
                tuple(outputs[i] for i in moving),
                {},
                bodies,
            )
        )
        return outputs


def _alive(body: Body) -> Body:
    """Without the operations that nothing reads."""
    needed = {s for s in body.outputs if isinstance(s, int)}
    kept: list[Op] = []
    for op in reversed(body.ops):
        if needed.intersection(op.outputs):
            kept.append(op)
            needed.update(s for s in op.inputs if isinstance(s, int))
            needed.update(s for inner in op.bodies.values() for s in _read(inner))
    return Body(body.inputs, body.outputs, tuple(kept[::-1]))


def _read(body: Body) -> set[int]:
    """All values that a body reads, its own among them."""
    slots = [*body.outputs, *(s for op in body.ops for s in op.inputs)]
    own = {s for s in slots if isinstance(s, int)}
    return own.union(*(_read(b) for op in body.ops for b in op.bodies.values()))
