"""Build a Keras model from the neutral architecture description of the golden data."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from vqkit.errors import ModelError, nearest

# Keras 2, in which the data were recorded, and what Keras 3 calls the same.
_WEIGHTS = {"depthwise_kernel": "kernel"}
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
}
_FUNCTIONS = {
    "concat": "concatenate",
    "reduce_mean": "mean",
    "reduce_max": "max",
    "reduce_sum": "sum",
    "swish": "silu",
}
FIRST = "in"
"""Name of the first input, and of its arrays `calib` and `eval`; those of others are `calib/<name>`."""


class UnknownTypeError(ModelError):
    """A recorded layer type that Keras 3 does not have."""


def build(ir: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None) -> Any:
    """A Keras model with the recorded float weights.

    Args:
        ir: `{name, input_shape, layers: [{name, type, inputs, config}], outputs}` and, for further inputs,
            `extra_inputs: {name: shape}`; shapes without the batch.
        arrays: holds `float/<layer>/<weight>`; None leaves the weights as Keras initializes them.

    Returns:
        A functional `keras.Model`.

    Raises:
        UnknownTypeError: Keras has no such layer or operation.
        ModelError: the recorded weights are not the layer's.
    """
    import keras

    shapes = {FIRST: ir["input_shape"], **ir.get("extra_inputs", {})}
    values = {name: keras.Input(shape=tuple(shape), name=name) for name, shape in shapes.items()}
    ends = list(values.values())
    layers: dict[str, Any] = {}
    for entry in ir["layers"]:
        read = [values[name] for name in entry["inputs"]]
        values[entry["name"]] = _call(entry, layers, read)
    model = keras.Model(_one(ends), _one([values[n] for n in ir["outputs"]]), name=ir["name"])
    for layer in model.layers if arrays is not None else ():
        _assign(layer, arrays)
    return model


def inputs(ir: Mapping[str, Any], arrays: Mapping[str, np.ndarray], part: str, count: int | None = None) -> Any:
    """The recorded inputs: one array, or a list of them in the model's order.

    Args:
        ir: the architecture.
        arrays: the recorded arrays.
        part: "calib" or "eval".
        count: how many samples; all by default.
    """
    names = [part, *(f"{part}/{name}" for name in ir.get("extra_inputs", {}))]
    return _one([arrays[name][:count] for name in names])


def outputs(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """What was recorded of every output: arrays `name`, `name/1`, `name/2`, …"""
    found = [arrays[name]]
    while f"{name}/{len(found)}" in arrays:
        found.append(arrays[f"{name}/{len(found)}"])
    return found


def our_name(recorded: str, weights: Iterable[str]) -> str:
    """The name in Keras 3 of a variable.

    Args:
        recorded: its name in Keras 2, below its layer's.
        weights: names of the layer's variables in Keras 3.
    """
    return recorded if recorded in weights else _WEIGHTS.get(recorded, recorded)


def _one(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items


def _call(entry: Mapping[str, Any], layers: dict[str, Any], read: list[Any]) -> Any:
    kind, config = entry["type"], dict(entry["config"])
    if kind.startswith("op."):
        return _operation(entry["name"], kind.removeprefix("op."), config, read)
    if kind == "@call":
        return layers[config["layer"]](_one(read))
    layer = layers[entry["name"]] = _layer(entry["name"], kind, config)
    return layer(_one(read))


def _layer(name: str, kind: str, config: dict[str, Any]) -> Any:
    import keras

    from vqkit.models.keras2.layers import make_layer

    if not hasattr(keras.layers, kind):
        raise UnknownTypeError(f"{name}: layer type {kind!r} is not known{nearest(kind, dir(keras.layers))}")
    return make_layer({"class_name": kind, "config": {**config, "name": name}}, {}, name)


def _operation(name: str, kind: str, config: dict[str, Any], read: list[Any]) -> Any:
    """`op.<name>` of tensors, or `op.<name>_scalar` of a tensor and a number."""
    from keras import ops

    base = kind.removesuffix("_scalar")
    operands = [*read, config.pop("value")] if "value" in config else read
    if base in _OPERATORS and len(operands) == 2:
        return _OPERATORS[base](*operands)
    function = getattr(ops, _FUNCTIONS.get(base, base), None)
    if function is None:
        raise UnknownTypeError(f"{name}: no operation {kind!r} is known{nearest(base, [*_OPERATORS, *dir(ops)])}")
    together = base in ("concat", "concatenate", "stack")
    return function(operands, **config) if together else function(*operands, **config)


def _assign(layer: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a layer its recorded weights: by name, or by order where Keras 3 names the variables otherwise."""
    prefix = f"float/{layer.name}/"
    recorded = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    variables = {v.path.removeprefix(f"{layer.path}/"): v for v in layer.weights if v.dtype == "float32"}
    named = {our_name(k, variables): v for k, v in recorded.items()}
    if named.keys() != variables.keys():
        named = dict(zip(variables, recorded.values(), strict=False))
    wanted = {k: tuple(v.shape) for k, v in variables.items()}
    if len(recorded) != len(variables) or wanted != {k: v.shape for k, v in named.items()}:
        found = {k: v.shape for k, v in recorded.items()}
        raise ModelError(f"{layer.name}: recorded weights {found} are not those of the layer, {wanted}")
    for name, variable in variables.items():
        variable.assign(named[name])
