"""Layers that are the user's own code: recognize them, and find what their configs refer to by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

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
