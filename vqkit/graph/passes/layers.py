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
class AttentionBias(keras.layers.Layer):
    """What attention adds to its logits: 0 where a query may look, -1e9 where Keras' masks or an order forbid it.

    Args:
        causal: no query looks at what comes after it.
        window: a query looks less far than this; None as far as there is something.
        heads: axes of the logits between those of the batch and of the queries.
    """

    def __init__(self, causal: bool = False, window: int | None = None, heads: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.causal, self.window, self.heads = causal, window, heads

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,  # noqa: ARG002  Keras hands its mask in.
        attention_mask: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
    ) -> Any:
        """Shape (batch or 1, 1, …, queries, values), float32; arguments as those of attention."""
        ops = keras.ops
        ahead = ops.arange(query.shape[1])[:, None] - ops.arange(value.shape[1])
        allowed = ops.ones_like(ahead, "bool")[None]
        if self.causal:
            allowed &= ahead >= 0
        if self.window is not None:
            allowed &= ops.abs(ahead) < self.window
        for mask, axis in ((query_mask, 2), (value_mask, 1), (key_mask, 1)):
            allowed = allowed if mask is None else allowed & ops.expand_dims(ops.cast(mask, "bool"), axis)
        if attention_mask is not None:
            allowed &= ops.cast(attention_mask, "bool")
        return ops.expand_dims(ops.where(allowed, 0.0, -1e9), tuple(range(1, self.heads + 1)))

    def compute_mask(self, *_: Any) -> None:
        """None: what a mask says is in the numbers."""

    def compute_output_shape(self, query_shape: Any, value_shape: Any, **_: Any) -> Any:
        """As what `call` gives."""
        return (query_shape[0], *(1,) * self.heads, query_shape[1], value_shape[1])

    def get_config(self) -> dict[str, Any]:
        """With order and axes."""
        return {**super().get_config(), "causal": self.causal, "window": self.window, "heads": self.heads}


@keras.saving.register_keras_serializable(package="vqkit")
class Projection(keras.layers.EinsumDense):
    """An EinsumDense inside attention: that a mask ends here is no news."""

    registry_kind = "EinsumDense"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def compute_mask(self, *_: Any) -> None:
        """None."""


@keras.saving.register_keras_serializable(package="vqkit")
class CarryMask(keras.layers.Layer):
    """The first of two tensors, with the mask of the second."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """Shape and dtype as the first."""
        return keras.ops.copy(inputs[0])

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:  # noqa: ARG002
        """The second's."""
        return previous_mask[1]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Same as the first's."""
        return input_shape[0]


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
