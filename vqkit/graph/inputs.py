"""Match the arrays of a batch with a graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqkit.errors import DataError
from vqkit.graph.ir import Graph


def named_inputs(graph: Graph, batch: Any) -> dict[str, Any]:
    """Match a batch, nested as the model's inputs or a dict by input name, to the graph's inputs.

    Args:
        graph: whose inputs.
        batch: array, list/tuple or dict of arrays, shape (batch, …).

    Returns:
        Input name -> array.

    Raises:
        DataError: the number or names of inputs differ.
    """
    if isinstance(batch, Mapping):
        if set(batch) == set(graph.inputs):
            return dict(batch)
        if not isinstance(graph.input_struct, Mapping) or set(batch) != set(graph.input_struct):
            raise DataError(f"the model has inputs {list(graph.inputs)}, the batch has {list(batch)}")
    from keras import tree

    flat = tree.flatten(batch)
    if len(flat) != len(graph.inputs):
        raise DataError(f"the model has inputs {list(graph.inputs)}, the batch has {len(flat)} arrays")
    order = [r.id for r in tree.flatten(graph.input_struct)]
    names = {v: k for k, v in graph.inputs.items()}
    return {names[v]: a for v, a in zip(order, flat, strict=True)}


def check_shapes(graph: Graph, named: Mapping[str, Any]) -> None:
    """Raise where an array has not the shape of its input.

    Args:
        graph: whose inputs.
        named: input name -> array or tensor.

    Raises:
        DataError: naming the input, the shape given and the shape wanted.
    """
    for name, array in named.items():
        wanted, given = graph.values[graph.inputs[name]].shape, tuple(array.shape)
        if len(wanted) != len(given) or any(w not in (None, g) for w, g in zip(wanted, given, strict=True)):
            raise DataError(f"input {name!r}: shape {given} does not fit the model's input {tuple(wanted)}")
