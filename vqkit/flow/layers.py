"""The layers that a quantized model has and a float model has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from vqkit.flow.ends import known_end
from vqkit.flow.plan import spec_from_json, spec_to_json
from vqkit.primitives import ops
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec


@keras.saving.register_keras_serializable(package="vqkit")
class FakeQuantize(keras.layers.Layer):
    """Puts a tensor on an integer grid and back to float; shape and dtype stay.

    Its range and position are variables, so that another decision is assigned, not rebuilt.

    Args:
        spec: the quantizer, or its JSON form.
        grid_shape: shape of range and position: () per tensor, or 1s and the channels.
    """

    def __init__(
        self, spec: QuantizerSpec | Mapping[str, Any], grid_shape: tuple[int, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.supports_masking = True
        self.spec = spec if isinstance(spec, QuantizerSpec) else spec_from_json(spec)
        self.grid_shape = tuple(grid_shape)
        zeros, shape = "zeros", self.grid_shape
        self.f_min = self.add_weight(
            shape=shape, initializer=zeros, trainable=False, name="f_min", dtype="float32"
        )
        self.f_max = self.add_weight(
            shape=shape, initializer=zeros, trainable=False, name="f_max", dtype="float32"
        )
        self.quantize_pos = self.add_weight(
            shape=shape, initializer=zeros, trainable=False, name="quantize_pos", dtype="float32"
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The nearest points of the grid."""
        inputs = keras.ops.cast(inputs, "float32")
        if (end := known_end(self)) is not None:
            return ops.fake_quantize_up_to(inputs, self.spec, end)
        pos = self.quantize_pos.value if self.spec.pow2 else None
        return ops.fake_quantize(inputs, self.spec, self.f_min.value, self.f_max.value, pos)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Same as the input's."""
        return input_shape

    def assign(self, params: QParams) -> None:
        """Take over a decision.

        Args:
            params: spec, range and position; range and position have `grid_shape`.
        """
        self.spec = params.spec
        self.f_min.assign(np.reshape(params.f_min, self.grid_shape))
        self.f_max.assign(np.reshape(params.f_max, self.grid_shape))
        if params.pos is not None:
            self.quantize_pos.assign(np.reshape(params.pos, self.grid_shape))

    @property
    def params(self) -> QParams:
        """The decision this layer applies."""
        pos = np.array(self.quantize_pos.numpy()) if self.spec.pow2 else None
        return QParams(self.spec, np.array(self.f_min.numpy()), np.array(self.f_max.numpy()), pos)

    def get_config(self) -> dict[str, Any]:
        """With the quantizer as JSON."""
        return {**super().get_config(), "spec": spec_to_json(self.spec), "grid_shape": list(self.grid_shape)}


@keras.saving.register_keras_serializable(package="vqkit")
class RoundToType(keras.layers.Layer):
    """Rounds a tensor to a 16-bit floating-point type and back; shape and dtype stay.

    Args:
        data_type: "float16" or "bfloat16".
    """

    def __init__(self, data_type: str, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.supports_masking = True
        self.data_type = data_type
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The nearest values of the type, ties to even; infinite beyond its range."""
        return keras.ops.cast(keras.ops.cast(inputs, self.data_type), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Same as the input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """With the type."""
        return {**super().get_config(), "data_type": self.data_type}


def grid_shape(spec: QuantizerSpec, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Shape of a tensor's range: () per tensor, else 1s with the channels at `channel_axis`.

    Args:
        spec: the quantizer.
        shape: of the tensor, batch included; the channel axis must be known.

    Returns:
        A shape that broadcasts against the tensor.

    Raises:
        ValueError: the channel axis is free or does not exist.
    """
    if not spec.per_channel:
        return ()
    axis = spec.channel_axis % len(shape) if -len(shape) <= spec.channel_axis < len(shape) else None
    channels = None if axis is None else shape[axis]
    if axis is None or channels is None:
        raise ValueError(f"per_channel needs a known size at axis {spec.channel_axis} of shape {shape}")
    return tuple(channels if i == axis else 1 for i in range(len(shape)))
