"""Layers that add up integers and scale the sum once, as the kernels of integer runtimes do.

What they read lies on a grid, so its codes are known; sums of products of codes are the same in any order.

    sum    = Σ (code of input) · (code of weight) + round(bias / (input_scale · weight_scale))
    result = round_half_even(float32(sum) · multiplier) · output_scale
    multiplier = input_scale · weight_scale / output_scale   in float32

The quantizer behind clips the result. LiteRT's XNNPACK kernels and ONNX Runtime's QLinearConv compute so.
"""

from __future__ import annotations

from typing import Any

import keras

from vqkit.flow.integers import SCALES

INT32 = 2.0**31


class InIntegers:
    """What the layers share; mixed into a Keras layer that is linear and channels last.

    Attributes:
        wide: sums may pass 2**24, where float32 leaves out integers; they are added in float64.
    """

    wide: bool
    bias: Any
    use_bias: bool

    def add_scales(self: Any, channels: int) -> None:
        """The scale variables; `channels` of the output, 1 where one scale serves all."""
        for name in SCALES:
            shape = () if name in ("input_scale", "output_scale") else (channels,)
            made = self.add_weight(
                shape=shape, initializer="ones", trainable=False, name=name, dtype="float32"
            )
            setattr(self, name, made)

    def codes(self: Any, inputs: Any) -> Any:
        """The input's codes, its zero point taken off."""
        codes = keras.ops.round(keras.ops.cast(inputs, "float32") / self.input_scale)
        return keras.ops.cast(codes, "float64") if self.wide else codes

    def weight_codes(self: Any, shape: tuple[int, ...]) -> Any:
        """The kernel's codes; `shape` lays the scales out beside it."""
        codes = keras.ops.round(self.kernel / keras.ops.reshape(self.weight_scale, shape))
        return keras.ops.cast(codes, "float64") if self.wide else codes

    def scaled(self: Any, total: Any) -> Any:
        """From a sum of products to the values of the output grid, not clipped yet."""
        ops = keras.ops
        # Whole numbers whatever way a backend adds: it may transform its input first.
        total = ops.round(total)
        if getattr(self, "bias", None) is not None:
            bias = ops.round(ops.cast(self.bias, "float64") / ops.cast(self.unit, "float64"))
            total = total + ops.cast(ops.clip(bias, -INT32, INT32 - 1), total.dtype)
        return ops.round(ops.cast(total, "float32") * self.multiplier) * self.output_scale


class _Weighted(InIntegers):
    """Layers with a kernel."""

    def __init__(self, *args: Any, wide: bool = False, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wide, self.channels = wide, channels

    def build(self: Any, input_shape: Any) -> None:
        """With the scales."""
        super().build(input_shape)  # type: ignore[misc]
        self.add_scales(self.channels)

    def get_config(self: Any) -> dict[str, Any]:
        """With the width of the sum and the number of scales."""
        return {**super().get_config(), "wide": self.wide, "channels": self.channels}  # type: ignore[misc]

    def in_float(self: Any, inputs: Any) -> Any:
        """What the layer computes without quantization."""
        return super().call(inputs)  # type: ignore[misc]

    # Keras' own layers save kernel and bias by name and nothing else.

    def save_own_variables(self: Any, store: Any) -> None:
        """All variables, by number."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self: Any, store: Any) -> None:
        """All variables, by number."""
        keras.layers.Layer.load_own_variables(self, store)


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerConv2D(_Weighted, keras.layers.Conv2D):
    """A convolution of codes; `wide` and `channels` as `InIntegers` says."""

    registry_kind = "Conv2D"

    def call(self, inputs: Any) -> Any:
        """Shape as of the convolution."""
        return self.scaled(self.convolution_op(self.codes(inputs), self.weight_codes((-1,))))


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerDepthwiseConv2D(_Weighted, keras.layers.DepthwiseConv2D):
    """A depthwise convolution of codes."""

    registry_kind = "DepthwiseConv2D"

    def call(self, inputs: Any) -> Any:
        """Shape as of the convolution."""
        shape = (1, 1) if self.channels == 1 else (-1, self.depth_multiplier)
        total = keras.ops.depthwise_conv(
            self.codes(inputs), self.weight_codes(shape), strides=self.strides, padding=self.padding,
            dilation_rate=self.dilation_rate, data_format=self.data_format,
        )  # fmt: skip
        return self.scaled(total)


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerDense(_Weighted, keras.layers.Dense):
    """A product of codes."""

    registry_kind = "Dense"

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Shape (batch, units)."""
        del training
        return self.scaled(keras.ops.matmul(self.codes(inputs), self.weight_codes((-1,))))


class _Pool(InIntegers, keras.layers.Layer):
    """Average pools: a sum of codes, the share of one element in the multiplier.

    Keras' own pools are closed for variables once they are made, so they are not the base.
    """

    wide = False
    options: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        own = {k: kwargs.pop(k) for k in self.options if k in kwargs}
        super().__init__(**{**kwargs, "trainable": False})
        self.own = own
        self.add_scales(1)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """With what the pool was made with."""
        return {**super().get_config(), **self.own}


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerGlobalAveragePooling2D(_Pool):
    """The sum of all codes of a channel, scaled once; options as of `GlobalAveragePooling2D`."""

    registry_kind = "GlobalAveragePooling2D"
    options = ("data_format", "keepdims")

    def call(self, inputs: Any) -> Any:
        """Shape as of the pool."""
        return self.scaled(self._reduced(keras.ops.sum, self.codes(inputs)))

    def in_float(self, inputs: Any) -> Any:
        """What the pool computes without quantization."""
        return self._reduced(keras.ops.mean, inputs)

    def _reduced(self, function: Any, x: Any) -> Any:
        return function(x, axis=(1, 2), keepdims=bool(self.own.get("keepdims")))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Spatial axes gone, or 1."""
        return keras.layers.GlobalAveragePooling2D(**self.own).compute_output_shape(input_shape)


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerAveragePooling2D(_Pool):
    """The sum of the codes in a window, scaled once; options as of `AveragePooling2D`."""

    registry_kind = "AveragePooling2D"
    options = ("pool_size", "strides", "padding", "data_format")

    def call(self, inputs: Any) -> Any:
        """Shape as of the pool."""
        size = self.own["pool_size"]
        area = float(size[0] * size[1]) if isinstance(size, (list, tuple)) else float(size) ** 2
        return self.scaled(self.in_float(self.codes(inputs)) * area)

    def in_float(self, inputs: Any) -> Any:
        """What the pool computes without quantization."""
        size = self.own["pool_size"]
        return keras.ops.average_pool(inputs, size, self.own.get("strides") or size, "valid")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As of the pool."""
        return keras.layers.AveragePooling2D(**self.own).compute_output_shape(input_shape)
