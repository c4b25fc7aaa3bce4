"""Reading the graphs that TensorFlow traces: operations, attributes, functions inside."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


def needed(graph: tf.Graph) -> set[str]:
    """Names of the operations that a graph's results depend on."""
    found: set[str] = set()
    open_ = [t.op for t in graph.outputs]
    while open_:
        op = open_.pop()
        if op.name not in found:
            found.add(op.name)
            open_.extend(t.op for t in op.inputs)
    return found


def source(tensor: Any) -> Any:
    """A tensor without the identities behind it."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def function(graph: tf.Graph, name: str) -> Any:
    """The graph of a function that an operation calls."""
    while graph is not None:
        known = graph._functions.get(name)
        known = getattr(known, "graph", known)
        if hasattr(known, "get_operations"):
            return known
        graph = getattr(graph, "outer_graph", None)
    raise ValueError(f"function {name} is not at hand as a graph")


def array(proto: Any) -> np.ndarray:
    """A constant's proto as an array."""
    import tensorflow as tf

    return np.asarray(tf.make_ndarray(proto))


def pure(op: Any) -> bool:
    """Whether an operation gives the same for the same inputs, and calls no function."""
    return not op.op_def.is_stateful and not any(a.type == "func" for a in op.op_def.attr)


def count(op: Any, arg: Any) -> int | None:
    """How many tensors an argument takes; None for one that is no list."""
    if arg.number_attr:
        return int(op.get_attr(arg.number_attr))
    return len(op.get_attr(arg.type_list_attr)) if arg.type_list_attr else None


def keywords(op: Any, raw: Any, arrays: Sequence[Any]) -> dict[str, Any]:
    """The arguments of an operation for its function in `tf.raw_ops`, which calls some inputs otherwise."""
    wanted = [p for p in inspect.signature(raw).parameters if p != "name"]
    named, attrs = [a.name for a in op.op_def.input_arg], {a.name for a in op.op_def.attr}
    renamed = dict(
        zip(
            [n for n in named if n not in wanted],
            [p for p in wanted if p not in named and p not in attrs],
            strict=False,
        )
    )
    found: dict[str, Any] = {p: op.get_attr(p) for p in wanted if p in attrs}
    left = iter(arrays)
    for arg in op.op_def.input_arg:
        n = count(op, arg)
        found[renamed.get(arg.name, arg.name)] = next(left) if n is None else [next(left) for _ in range(n)]
    return found


def attrs(op: Any) -> dict[str, Any]:
    """An operation's attributes that are no functions."""
    found = {}
    for attr in op.op_def.attr:
        if attr.type in ("func", "list(func)"):
            continue
        value = op.get_attr(attr.name)
        if attr.type == "type":
            value = value.name
        found[attr.name] = value.decode() if isinstance(value, bytes) else value
    return found
