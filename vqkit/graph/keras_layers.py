"""Live Keras layers: their variables, custom code, functions, inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy as np

from vqkit.errors import DataError, ModelError
from vqkit.graph.ir import Graph, Layer

_KNOWN = ("keras", "vqkit")


def is_custom(cls: type) -> bool:
    """Whether a layer class is neither Keras' nor vqkit's."""
    return cls.__module__.split(".")[0] not in _KNOWN


def has_custom(graph: Graph) -> bool:
    """Whether code of the user's runs in a graph, which no digest of configurations and weights covers."""
    return any(
        layer.kind == "Lambda" or is_custom(layer.cls) or _holds_code(layer.source, set())
        for layer in graph.layers.values()
    )


def _holds_code(value: Any, seen: set[int]) -> bool:
    """Whether a function or class of the user's is in the attributes of a Keras object, at any depth."""
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, Mapping):
        return any(_holds_code(item, seen) for item in list(value.values()))
    if isinstance(value, (list, tuple)):
        return any(_holds_code(item, seen) for item in value)
    if isinstance(value, FunctionType):
        return value.__module__.split(".")[0] not in _KNOWN
    if hasattr(value, "get_config") and not isinstance(value, type):
        return is_custom(type(value)) or any(_holds_code(item, seen) for item in list(vars(value).values()))
    return False


def inner_kinds(layer: Layer) -> set[str]:
    """Class names of a graph layer and of the user's layers inside it."""
    return {layer.kind} | {part.__name__ for part in _parts(layer.source, set()) if isinstance(part, type)}


def objects_within(operation: Any) -> dict[str, Any]:
    """The user's classes and functions that a live layer is made of, by the names a config calls them.

    A config names classes; Keras finds only those that are registered, while the objects are at hand.

    Args:
        operation: a live Keras layer, or None.

    Returns:
        What `keras.saving.custom_object_scope` takes.
    """
    from keras.saving import get_registered_name

    parts = list(_parts(operation, set()))
    return {part.__name__: part for part in parts} | {get_registered_name(part): part for part in parts}


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Custom classes and functions in the attributes of a Keras object, at any depth."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, FunctionType):
        if is_custom_function(value):
            yield value
    elif isinstance(value, Mapping):
        for item in list(value.values()):
            yield from _parts(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item, seen)
    elif hasattr(value, "get_config") and not isinstance(value, type):
        if is_custom(type(value)):
            yield type(value)
        for item in list(vars(value).values()):
            yield from _parts(item, seen)


def is_custom_function(function: FunctionType) -> bool:
    """Whether a named function is the user's; Keras saves a nameless one with its code."""
    return function.__name__ != "<lambda>" and function.__module__.split(".")[0] not in _KNOWN


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    """Copies of a live layer's weights by variable name, in the layer's order."""
    return {k: np.array(v.numpy()) for k, v in zip(weight_names(layer), layer.weights, strict=True)}


def weight_names(layer: Any) -> list[str]:
    """Names of a live layer's variables in order: short where unique, else with their parents."""
    short = [v.name for v in layer.weights]
    if len(set(short)) == len(short):
        return short
    tails = ["/".join(v.path.split("/")[1:]) or v.name for v in layer.weights]
    return tails if len(set(tails)) == len(tails) else [f"{t}#{i}" for i, t in enumerate(tails)]


def assign_weights(live: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Set a live layer's variables by name.

    Args:
        live: a built Keras layer.
        weights: variable name -> array of the variable's shape.

    Raises:
        ModelError: names and shapes differ.
    """
    for key, variable in variables(live, weights).items():
        variable.assign(weights[key])


def variables(live: Any, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A live layer's variables under the names that a graph layer's weights have.

    Args:
        live: a built Keras layer.
        weights: variable name -> array of the variable's shape.

    Returns:
        Name -> variable.

    Raises:
        ModelError: names and shapes differ.
    """
    names = weight_names(live)
    if set(names) == set(weights):
        return dict(zip(names, live.weights, strict=True))
    # Layers inside a layer may be numbered anew in a copy; their order stays.
    if [tuple(v.shape) for v in live.weights] == [w.shape for w in weights.values()]:
        return dict(zip(weights, live.weights, strict=True))
    raise ModelError(f"layer {live.name!r} has variables {sorted(names)}, the graph has {sorted(weights)}")


def build_without_drawing(live: Any, build: dict[str, Any]) -> None:
    """Build a layer whose weights are assigned next: random starting values would be drawn for nothing.

    Args:
        live: a Keras layer, not built.
        build: its build config.
    """
    from keras.initializers import Initializer, Zeros

    drawn = {k: v for k, v in vars(live).items() if isinstance(v, Initializer) and hasattr(v, "seed")}
    try:
        vars(live).update(dict.fromkeys(drawn, Zeros()))
        live.build_from_config(build)
    finally:
        vars(live).update(drawn)


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


_NAMELESS = "<lambda>"


def lambda_config(layer: Any) -> dict[str, Any]:
    """A stand-in for the config of a Lambda layer whose function Keras cannot save.

    Args:
        layer: a live `Lambda`, e.g. with a `functools.partial` or an object that is called.
    """
    from keras.layers import Layer as KerasLayer

    return {**KerasLayer.get_config(layer), "function": layer.function, "arguments": dict(layer.arguments)}


def copied_lambda(layer: Any, name: str) -> Any:
    """A Lambda layer with the very functions of another.

    Args:
        layer: a live `Lambda`; only read.
        name: of the copy.
    """
    return type(layer)(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=dict(layer.arguments),
        name=name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def with_code(layer: Layer) -> dict[str, Any]:
    """The config of a layer with the nameless functions themselves, where Keras wrote their code.

    Args:
        layer: the graph layer; one that a pass made of another's activation has that one as its source.
    """
    return {k: _function(layer.source, k, _copied(v)) for k, v in layer.config.items()}


def _copied(value: Any) -> Any:
    """Some classes of Keras write into the config that they are made from."""
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if type(value) is list else value


def _function(source: Any, key: str, value: Any) -> Any:
    found = getattr(source, key, None)
    written = isinstance(value, dict) and ("value" in value or value.get("class_name") == "__lambda__")
    return found if written and getattr(found, "__name__", "") == _NAMELESS else value
