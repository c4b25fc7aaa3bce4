"""Activation functions that Keras 3 defines otherwise than Keras 2, or names otherwise."""

from __future__ import annotations

from typing import Any

import keras

_SAME = {"softmax_v2": "softmax", "relu_v2": "relu", "swish": "silu", "leaky_relu_v2": "leaky_relu"}


@keras.saving.register_keras_serializable(package="vqkit")
def keras_2_hard_sigmoid(x: Any) -> Any:
    """What Keras 2 calls `hard_sigmoid`: 0.2 x + 0.5 within 0 and 1. That of Keras 3 is relu6(x + 3) / 6."""
    return keras.ops.clip(x * 0.2 + 0.5, 0.0, 1.0)


def in_keras_3(activation: Any) -> Any:
    """The activation of a layer of Keras 2 as Keras 3 takes it.

    Args:
        activation: a name, or what a configuration holds.

    Returns:
        A function where Keras 3 computes something else under this name, else a name or the configuration.
    """
    if isinstance(activation, dict) and activation.get("class_name") == "function":
        activation = activation.get("config", activation)
    if not isinstance(activation, str):
        return activation
    if activation == "hard_sigmoid":
        return keras_2_hard_sigmoid
    return _SAME.get(activation, activation)
