"""Keras layers FakeQuantize and RoundToType, and the class of the resulting model.

The layers that a quantized model has and a float model has not.

Where the grids of a whole network end, computed at once: a few operations for all, not for each.

An operation on a single number costs a traced function as much as one on sixty-five, and for a small batch
the arithmetic of the positions would be two percent of an inference.

The Keras model that quantization gives: ordinary, and able to say how its weights were quantized.

Its activations' grids stand in its `FakeQuantize` layers. Weights are in place on their grids, where the grid
cannot be read from the values alone; so the model carries it, also through `save` and `load_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from vqkit.primitives import native
from vqkit.primitives.kernels import far_code, far_end, v4_is_exact
from vqkit.primitives.native import in_process
from vqkit.primitives.ops import fake_quantize, fake_quantize_up_to
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec

_KNOWN: ContextVar[Mapping[int, Any]] = ContextVar("_KNOWN", default=MappingProxyType({}))


@contextmanager
def computed_together(layers: Iterable[Any]) -> Iterator[None]:
    """While a function is traced, these layers find the ends of their grids computed.

    Eagerly nothing happens: there the operations cost what they cost, and a function that is called inside
    could keep an end that is no longer true.

    Args:
        layers: fake-quantize layers that will be called; others of a kind that needs no end are passed over.
    """
    import tensorflow as tf

    layers = [layer for layer in layers if needs_end(layer.spec)]
    if tf.executing_eagerly() or len(layers) < 2:
        yield
        return
    codes = np.stack([far_code(layer.spec) for layer in layers])
    ends = far_end(codes, tf.stack([layer.quantize_pos.value for layer in layers]))
    known = zip(map(id, layers), tf.unstack(ends), strict=True)
    token = _KNOWN.set({**_KNOWN.get(), **dict(known)})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def needs_end(spec: QuantizerSpec) -> bool:
    """Whether the operation that will put a tensor on this grid takes the grid's end, not its position."""
    return spec.pow2 and v4_is_exact(spec) and not native.wanted(spec)


def known_end(layer: Any) -> Any:
    """The end of a layer's grid where it is computed already, else None.

    Args:
        layer: a fake-quantize layer.

    Returns:
        As `kernels.far_end`, shape ().
    """
    return _KNOWN.get().get(id(layer))


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
        self.spec = spec if isinstance(spec, QuantizerSpec) else QuantizerSpec.from_json(spec)
        self.grid_shape = tuple(grid_shape)
        zeros, shape = "zeros", self.grid_shape
        self.f_min = self.add_weight(shape=shape, initializer=zeros, trainable=False, name="f_min", dtype="float32")
        self.f_max = self.add_weight(shape=shape, initializer=zeros, trainable=False, name="f_max", dtype="float32")
        self.quantize_pos = self.add_weight(
            shape=shape, initializer=zeros, trainable=False, name="quantize_pos", dtype="float32"
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The nearest points of the grid."""
        inputs = keras.ops.cast(inputs, "float32")
        if (end := known_end(self)) is not None:
            return fake_quantize_up_to(inputs, self.spec, end)
        pos = self.quantize_pos.value if self.spec.pow2 else None
        return fake_quantize(inputs, self.spec, self.f_min.value, self.f_max.value, pos)

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
        return {**super().get_config(), "spec": self.spec.to_json(), "grid_shape": list(self.grid_shape)}


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


@keras.saving.register_keras_serializable(package="vqkit")
class QuantizedModel(keras.Model):
    """A functional model with the grids of its weights; make it with `carrying`."""

    _weight_grids: tuple[tuple[str, str, Any], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As any model; the positions of all grids are read at once."""
        with computed_together(layer for layer in self.layers if isinstance(layer, FakeQuantize)):
            return super().__call__(*args, **kwargs)

    def predict_step(self, data: tuple[Any, ...]) -> Any:
        """As any model's; what `predict` compiles never leaves the process."""
        with self._in_process():
            return super().predict_step(data)

    def test_step(self, data: tuple[Any, ...]) -> Any:
        """As any model's; what `evaluate` compiles never leaves the process."""
        with self._in_process():
            return super().test_step(data)

    def _in_process(self) -> AbstractContextManager[None]:
        # XLA knows TensorFlow's operations only.
        return nullcontext() if self.jit_compile else in_process()

    @property
    def weight_grids(self) -> dict[tuple[str, str], QParams]:
        """(layer, weight) -> the grid that the weight is on; float weights are absent."""
        return {(layer, weight): QParams.from_json(grid) for layer, weight, grid in _plain(self)}

    def get_config(self) -> dict[str, Any]:
        """With the grids as JSON values."""
        return {**super().get_config(), "weight_grids": [list(entry) for entry in _plain(self)]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
        """The model that `get_config` describes."""
        rest = {k: v for k, v in config.items() if k != "weight_grids"}
        model = super().from_config(rest, custom_objects=custom_objects)
        return _with(model, config.get("weight_grids", ()))


def carrying(model: QuantizedModel, grids: Mapping[tuple[str, str], QParams]) -> QuantizedModel:
    """Note the grids of the weights in the model.

    Args:
        model: the model.
        grids: (layer, weight) -> grid.

    Returns:
        The same model.
    """
    return _with(model, [(layer, weight, grid.to_json()) for (layer, weight), grid in grids.items()])


def _with(model: keras.Model, entries: Any) -> Any:
    # A plain attribute: Keras would look for layers in what it tracks.
    object.__setattr__(model, "_weight_grids", tuple(tuple(entry) for entry in entries))
    return model


def _plain(model: keras.Model) -> tuple[tuple[str, str, Any], ...]:
    return object.__getattribute__(model, "_weight_grids")


# An .h5 file holds the bare name of the model's class.
keras.saving.get_custom_objects()[QuantizedModel.__name__] = QuantizedModel
