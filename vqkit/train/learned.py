"""The quantizer that a model has while it is trained: fake-quantization whose range learns with the weights.

What learns depends on the quantizer type:

    TQT     `log_threshold`, log2 of the threshold; gradient of Jain et al. 2020 in the log domain
    Pof2S   nothing: the position stays as calibrated, gradients pass straight through
    FS      `range_factor`, by which the calibrated range is multiplied; an end's gradient is what lies beyond
            it. A symmetric grid has one factor for both ends, so it stays symmetric; else each end has one.

All three are relative to the range, so one learning rate suits tensors of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vqkit.errors import ModelError, not_allowed
from vqkit.flow.plan import spec_from_json, spec_to_json
from vqkit.primitives import kernels, ops
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

    def __init__(self, spec: QuantizerSpec | Mapping[str, Any], grid_shape: tuple[int, ...] = (),
                 tensor: str = "", estimate: str = "never", **kwargs: Any) -> None:  # fmt: skip
        super().__init__(**{**kwargs, "dtype": "float32"})
        if estimate not in set(Estimate):
            raise ModelError(not_allowed(f"{self.name}: estimate", estimate, [e.value for e in Estimate]))
        self.supports_masking = True
        self.spec = spec if isinstance(spec, QuantizerSpec) else spec_from_json(spec)
        self.grid_shape, self.tensor = tuple(grid_shape), tensor
        self.estimate = Estimate(estimate)
        pow2, tqt = self.spec.pow2, self.spec.quantizer_type is QuantizerType.TQT
        ends = () if self.spec.symmetry else (2,)
        self.f_min, self.f_max = self._variable("f_min"), self._variable("f_max")
        self.log_threshold = self._variable("log_threshold", trainable=True) if tqt else None
        self.quantize_pos = self._variable("quantize_pos") if pow2 and not tqt else None
        self.range_factor = None if pow2 else self.add_weight(
            shape=(*ends, *self.grid_shape), initializer="ones", name="range_factor", dtype="float32",
            constraint=keras.constraints.NonNeg(),
        )  # fmt: skip
        self.known = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="known", dtype="float32"
        )
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
        step = kernels.position_scale(-_position(self.spec, tf.stop_gradient(log_th)))
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
            return np.float32(self.spec.bit_width - (not self.spec.unsigned)) - np.array(
                self.quantize_pos.numpy()
            )
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
        own = {"spec": spec_to_json(self.spec), "grid_shape": list(self.grid_shape), "tensor": self.tensor,
               "estimate": self.estimate.value}  # fmt: skip
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
