"""Functions of the user's in layers of a live model: they run as they are, with their globals and closures.

A config holds a function as bytes of its code, or by its name, which is less than the function.
"""

from __future__ import annotations

from typing import Any

from vqkit.graph.ir import Layer

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
        layer.function, output_shape=layer._output_shape, mask=layer.mask, arguments=dict(layer.arguments),
        name=name, dtype=layer.dtype_policy, trainable=layer.trainable,
    )  # fmt: skip


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
