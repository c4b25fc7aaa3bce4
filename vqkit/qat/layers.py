"""Quantizers that learn, and layers wrapped with them.

The quantizer that a model has while it is trained: fake-quantization whose range learns with the weights.

What learns depends on the quantizer type:

    TQT     `log_threshold`, log2 of the threshold; gradient of Jain et al. 2020 in the log domain
    Pof2S   nothing: the position stays as calibrated, gradients pass straight through
    FS      `range_factor`, by which the calibrated range is multiplied; an end's gradient is what lies beyond
            it. A symmetric grid has one factor for both ends, so it stays symmetric; else each end has one.

All three are relative to the range, so one learning rate suits tensors of any size.

Layers whose weights are fake-quantized each time they are called, while the float weights are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vqkit.errors import ModelError, not_allowed
from vqkit.graph.keras_layers import weight_names
from vqkit.primitives import ops
from vqkit.primitives.kernels import position_scale
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType

LEARNED = ("log_threshold", "range_factor")
"""Names of the variables that a learned range trains."""


class Estimate(StrEnum):
    """When a range is taken from the batches that training feeds."""

    NEVER = "never"
    FIRST = "first"
    ALWAYS = "always"


@keras.saving.register_keras_serializable(package="vqkit")
class LearnedQuantize(keras.layers.Layer):
    """Puts a tensor on an integer grid whose range is trained; shape stays, float32 comes out.

    Args:
        spec: the quantizer, or its JSON form.
        grid_shape: shape of range and position: () per tensor, or 1s and the channels.
        tensor: name of the plan row it stands for, `<layer>/<tensor>`.
        estimate: "never": the range is assigned before training; "first": taken from the first training
            batch; "always": from every training batch. A range that was neither assigned nor estimated
            passes values through.

    Source: Jain et al. 2020, Trained Quantization Thresholds (arXiv:1903.08066), for TQT.
    """

    def __init__(
        self,
        spec: QuantizerSpec | Mapping[str, Any],
        grid_shape: tuple[int, ...] = (),
        tensor: str = "",
        estimate: str = "never",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        if estimate not in set(Estimate):
            raise ModelError(not_allowed(f"{self.name}: estimate", estimate, [e.value for e in Estimate]))
        self.supports_masking = True
        self.spec = spec if isinstance(spec, QuantizerSpec) else QuantizerSpec.from_json(spec)
        self.grid_shape, self.tensor = tuple(grid_shape), tensor
        self.estimate = Estimate(estimate)
        pow2, tqt = self.spec.pow2, self.spec.quantizer_type is QuantizerType.TQT
        ends = () if self.spec.symmetry else (2,)
        self.f_min, self.f_max = self._variable("f_min"), self._variable("f_max")
        self.log_threshold = self._variable("log_threshold", trainable=True) if tqt else None
        self.quantize_pos = self._variable("quantize_pos") if pow2 and not tqt else None
        self.range_factor = (
            None
            if pow2
            else self.add_weight(
                shape=(*ends, *self.grid_shape),
                initializer="ones",
                name="range_factor",
                dtype="float32",
                constraint=keras.constraints.NonNeg(),
            )
        )
        self.known = self.add_weight(shape=(), initializer="zeros", trainable=False, name="known", dtype="float32")
        self.built = True

    def _variable(self, name: str, *, trainable: bool = False) -> Any:
        return self.add_weight(
            shape=self.grid_shape, initializer="zeros", trainable=trainable, name=name, dtype="float32"
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The nearest points of the grid as the range is now."""
        x = keras.ops.cast(inputs, "float32")
        if self.estimate is Estimate.NEVER:
            return self._values(x)
        if training:
            self._estimate(x)
        return tf.where(self.known.value > 0, self._values(x), x)

    def _values(self, x: Any) -> Any:
        spec = self.spec
        if self.log_threshold is not None:
            log_th = self.log_threshold.value
            f_min, f_max = self._inside(log_th)
            return ops.trained_threshold(x, spec, f_min, f_max, log_th)
        pos = None if self.quantize_pos is None else self.quantize_pos.value
        return ops.fake_quantize(x, spec, *self._range(), pos)

    def _range(self) -> tuple[Any, Any]:
        low, high = self.f_min.value, self.f_max.value
        if self.range_factor is None:
            return low, high
        factor = self.range_factor.value
        factors = (factor, factor) if self.spec.symmetry else (factor[0], factor[1])
        return low * factors[0], high * factors[1]

    def _inside(self, log_th: Any) -> tuple[Any, Any]:
        """The ends between which values round to a code of the grid rather than being clipped to it."""
        if not self.spec.symmetry:
            return self._range()
        step = position_scale(-_position(self.spec, tf.stop_gradient(log_th)))
        return (self.spec.q_min - 0.5) * step, (self.spec.q_max + 0.5) * step

    # --- the range: assigned, estimated, read ---

    def _estimate(self, x: Any) -> None:
        x = tf.stop_gradient(x)
        f_min, f_max = ops.value_range(x, self.spec)
        pos = ops.position(x, f_min, f_max, self.spec) if self.spec.pow2 else None
        wanted = tf.logical_or(self.estimate is Estimate.ALWAYS, tf.equal(self.known.value, 0))
        for variable, value in self._decided(f_min, f_max, pos):
            variable.assign(tf.where(wanted, tf.reshape(value, self.grid_shape), variable.value))
        self.known.assign(1.0)

    def assign(self, params: QParams) -> None:
        """Start from a decision, e.g. of calibration.

        Args:
            params: spec, range and position; range and position have `grid_shape`.
        """
        for variable, value in self._decided(*map(_tensor, (params.f_min, params.f_max, params.pos))):
            variable.assign(tf.reshape(value, self.grid_shape))
        self.known.assign(1.0)

    def _decided(self, f_min: Any, f_max: Any, pos: Any) -> Iterator[tuple[Any, Any]]:
        """The variables that a range and a position decide, with their values."""
        yield self.f_min, f_min
        yield self.f_max, f_max
        if self.log_threshold is not None:
            yield self.log_threshold, _start(self.spec, ops.log_threshold(f_min, f_max, self.spec), pos)
        if self.quantize_pos is not None:
            yield self.quantize_pos, pos

    @property
    def params(self) -> QParams:
        """The decision that training has arrived at.

        Raises:
            ModelError: there is no range yet.
        """
        if not self.is_known:
            raise ModelError(
                f"{self.tensor or self.name} has no range yet: train at least one batch, or let qat_model "
                "calibrate (init_quant=True)"
            )
        f_min, f_max = (np.array(v) for v in self._range())
        return QParams(self.spec, f_min, f_max, self.position)

    @property
    def is_known(self) -> bool:
        """Whether there is a range: assigned, or estimated from a training batch."""
        return bool(self.known.numpy())

    @property
    def log2_threshold(self) -> np.ndarray:
        """log2 of the largest magnitude that the grid reaches now, shape of the range."""
        if self.log_threshold is not None:
            return np.array(self.log_threshold.numpy())
        if self.quantize_pos is not None:
            return np.float32(self.spec.bit_width - (not self.spec.unsigned)) - np.array(self.quantize_pos.numpy())
        ends = [np.abs(np.array(v)) for v in self._range()]
        return np.array(np.log2(np.maximum(np.maximum(*ends), 1e-30)))

    @property
    def position(self) -> np.ndarray | None:
        """Fractional bits that the range stands for now; None for a float scale."""
        if self.log_threshold is not None:
            return np.array(_position(self.spec, tf.constant(self.log_threshold.numpy())))
        return None if self.quantize_pos is None else np.array(self.quantize_pos.numpy())

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Shape as the input's, float32."""
        del training
        return keras.KerasTensor(inputs.shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """With the quantizer as JSON."""
        own = {
            "spec": self.spec.to_json(),
            "grid_shape": list(self.grid_shape),
            "tensor": self.tensor,
            "estimate": self.estimate.value,
        }
        return {**super().get_config(), **own}


def _position(spec: QuantizerSpec, log_th: Any) -> Any:
    """What `kernels.threshold_gradient` rounds to."""
    return np.float32(spec.bit_width - (not spec.unsigned)) - tf.math.ceil(log_th)


def _start(spec: QuantizerSpec, log_th: Any, pos: Any) -> Any:
    """The log2 threshold to start from: the exact one of the range, unless the position says otherwise.

    A position that a search or a vote decided gets the middle of the octave that stands for it, so that
    neither neighbour is nearer.
    """
    top = np.float32(spec.bit_width - (not spec.unsigned))
    agrees = tf.logical_and(spec.method == Method.NON_OVERFLOW, tf.equal(top - tf.math.ceil(log_th), pos))
    return tf.where(agrees, log_th, top - pos - 0.5)


def _tensor(value: Any) -> Any:
    return None if value is None else tf.constant(value, tf.float32)


@keras.saving.register_keras_serializable(package="vqkit")
class QuantizedWeights(keras.layers.Layer):
    """Calls a layer with quantized weights; the layer's own float weights are what is trained.

    The inner layer is called as it is, under a scope that gives it other values for some variables, so any
    Keras or custom layer can be wrapped, and what it computes stays its own business.

    Args:
        layer: the inner layer, or its serialized form.
        quantizers: variable name -> quantizer, in either form.
    """

    def __init__(self, layer: Any, quantizers: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.layer = _object(layer)
        self.names = tuple(quantizers)
        self.quantizers: list[LearnedQuantize] = [_object(q) for q in quantizers.values()]
        self.supports_masking = getattr(self.layer, "supports_masking", False)
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the inner layer gives with its weights on their grids."""
        return self.call_with(self.quantized(), *args, **kwargs)

    def quantized(self) -> list[tuple[Any, Any]]:
        """The inner layer's quantized variables with their values on the grid."""
        own = self.variables_by_name()
        return [(own[name], q(own[name])) for name, q in zip(self.names, self.quantizers, strict=True)]

    def call_with(self, values: Iterable[tuple[Any, Any]], *args: Any, **kwargs: Any) -> Any:
        """Call the inner layer with other values for some of its variables.

        Args:
            values: variable and value.
            args: the inner layer's.
            kwargs: likewise.
        """
        with keras.StatelessScope(state_mapping=list(values)) as scope:
            outputs = self.layer(*args, **kwargs)
        # What the layer assigned (moving statistics, random state) was held back by the scope.
        for variable in self.layer.non_trainable_variables:
            value = scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)
        return outputs

    def variables_by_name(self) -> dict[str, Any]:
        """The inner layer's variables by the names that the graph knows them by.

        Raises:
            ModelError: a quantizer stands for a variable that the layer does not have.
        """
        found = dict(zip(weight_names(self.layer), self.layer.weights, strict=True))
        missing = [name for name in self.names if name not in found]
        if missing:
            raise ModelError(f"layer {self.layer.name!r} has no variable {missing[0]!r}, it has {sorted(found)}")
        return found

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The inner layer's."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """With inner layer and quantizers serialized."""
        quantizers = dict(zip(self.names, map(keras.saving.serialize_keras_object, self.quantizers), strict=True))
        own = {"layer": keras.saving.serialize_keras_object(self.layer), "quantizers": quantizers}
        return {**super().get_config(), **own}


def _object(value: Any) -> Any:
    return keras.saving.deserialize_keras_object(value) if isinstance(value, Mapping) else value
