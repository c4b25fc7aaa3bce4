"""Build a Keras model from the neutral architecture description of the golden data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}}


def build(ir: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """A Keras model with the recorded float weights.

    Args:
        ir: `{name, input_shape, layers: [{name, type, inputs, config}], outputs}`.
        arrays: holds `float/<layer>/<weight>`.

    Returns:
        A functional `keras.Model`.
    """
    import keras

    values: dict[str, Any] = {"in": keras.Input(shape=tuple(ir["input_shape"]), name="in")}
    for entry in ir["layers"]:
        inputs = [values[name] for name in entry["inputs"]]
        values[entry["name"]] = _apply(entry, inputs if len(inputs) > 1 else inputs[0])
    outputs = [values[name] for name in ir["outputs"]]
    model = keras.Model(values["in"], outputs if len(outputs) > 1 else outputs[0], name=ir["name"])
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(arrays[f"float/{layer.name}/{recorded_name(layer, variable.name)}"])
    return model


def recorded_name(layer: Any, variable: str) -> str:
    """A variable's name in Keras 2, in which the data were recorded."""
    return (
        "depthwise_kernel" if type(layer).__name__ == "DepthwiseConv2D" and variable == "kernel" else variable
    )


def _apply(entry: Mapping[str, Any], inputs: Any) -> Any:
    import keras

    config = dict(entry["config"])
    if entry["type"].startswith("op."):
        value = config["value"]
        return inputs + value if entry["type"] == "op.add_scalar" else inputs * value
    for old, new in _RENAMED.get(entry["type"], {}).items():
        if old in config:
            config[new] = config.pop(old)
    return getattr(keras.layers, entry["type"])(**config, name=entry["name"])(inputs)
