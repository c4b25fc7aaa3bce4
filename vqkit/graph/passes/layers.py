"""Keras layers that passes put into a graph.

The strategy's registry knows a layer by its class name, or by `registry_kind` where it has one.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="vqkit")
class VitisSigmoid(keras.layers.Layer):
    """Hard sigmoid with the device's constant: relu6(x + 3) * 2731 / 16384."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """Shape and dtype as the input."""
        return keras.ops.relu6(inputs + 3.0) * (2731.0 / 16384.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Same as the input's."""
        return input_shape


@keras.saving.register_keras_serializable(package="vqkit")
class InlineActivation(keras.layers.Activation):
    """The activation function of the layer in front of it; a strategy sees one layer in the two."""

    registry_kind = "Activation"
    inline = True


@keras.saving.register_keras_serializable(package="vqkit")
class VitisAveragePooling2D(keras.layers.AveragePooling2D):
    """Average pooling whose 1/n is the shift-and-multiply approximation of the device.

    Args:
        factor: what the exact average is multiplied by.
    """

    def __init__(self, *args: Any, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = factor

    def call(self, inputs: Any) -> Any:
        """Pooled and rescaled."""
        return super().call(inputs) * self.factor

    def get_config(self) -> dict[str, Any]:
        """With the factor."""
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="vqkit")
class VitisGlobalAveragePooling2D(keras.layers.GlobalAveragePooling2D):
    """Global average pooling with the device's approximation of 1/n.

    Args:
        factor: what the exact average is multiplied by.
    """

    def __init__(self, *args: Any, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = factor

    def call(self, inputs: Any) -> Any:
        """Pooled and rescaled."""
        return super().call(inputs) * self.factor

    def get_config(self) -> dict[str, Any]:
        """With the factor."""
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="vqkit")
class EqualizedReLU(keras.layers.Layer):
    """ReLU with a ceiling for each channel: what ReLU6 becomes when its channels are rescaled.

    Args:
        channels: size of the last axis.
    """

    registry_kind = "ReLU"

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.supports_masking = True
        self.channels = channels
        self.ceiling = self.add_weight(
            shape=(channels,), initializer="ones", trainable=False, name="ceiling", dtype="float32"
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """min(relu(x), ceiling), shape as the input."""
        return keras.ops.minimum(keras.ops.relu(inputs), self.ceiling)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Same as the input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """With the number of channels."""
        return {**super().get_config(), "channels": self.channels}
