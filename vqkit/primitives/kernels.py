"""TensorFlow: fake-quantization with gradients, and arithmetic of the DPU.

The arithmetic is defined in `reference`; this module computes the same float32 values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from vqkit.primitives import native
from vqkit.primitives.spec import QuantizerSpec, RoundMode, framework_ends, levels

Tensor = Any

_V4_BITS = 23
"""Widest grid on which clamping before rounding, as the V4 op does, gives the same float32 values."""


def round_(x: Tensor, mode: RoundMode) -> Tensor:
    """Round to integers in float32, ties by `mode`; the same values as `affine.round_`.

    Args:
        x: float32 tensor.
        mode: what happens to ties.

    Returns:
        float32 integers, same shape.
    """
    if mode == RoundMode.HALF_TO_EVEN:
        return tf.round(x)
    if mode == RoundMode.HALF_UP:
        return tf.floor(x + 0.5)
    below = tf.floor(x)
    away = tf.where(x > 0, below + 1.0, below)
    return tf.where(tf.equal(x - below, 0.5), away, tf.round(x))


def position_scale(pos: Tensor) -> Tensor:
    """2**pos, exact: the exponent bits are written directly.

    Args:
        pos: integers as float32, in -126..127.

    Returns:
        float32, same shape.
    """
    return tf.bitcast((tf.cast(pos, tf.int32) + 127) * (1 << 23), tf.float32)


def multiplier(spec: QuantizerSpec, f_min: Tensor, f_max: Tensor, pos: Tensor | None) -> Tensor:
    """The factor s that multiplies x; infinite where a float-scale range has no width.

    Args:
        spec: the quantizer.
        f_min: lower end of the range.
        f_max: upper end.
        pos: position, for pow-2 scales.

    Returns:
        float32, shape of the range.
    """
    if spec.pow2:
        return position_scale(pos)
    return np.float32(levels(spec)) / (f_max - f_min)


def shift(spec: QuantizerSpec, f_min: Tensor, s: Tensor) -> Tensor:
    """Where the lowest code of an asymmetric grid lies, nudged so that 0 is on the grid.

    Args:
        spec: an asymmetric quantizer.
        f_min: lower end of the range.
        s: `multiplier` of that range.

    Returns:
        float32, shape of the range.
    """
    low, high = np.float32(spec.q_min), np.float32(spec.q_max)
    zero = tf.clip_by_value(round_(low - f_min * s, RoundMode.HALF_AWAY), low, high)
    return tf.math.divide_no_nan(low - zero, s)


def codes_and_values(x: Tensor, spec: QuantizerSpec, f_min: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The plain chain: integer codes as floats, and the values they stand for.

    The division is not `/`: were s a constant, the graph optimizer would multiply by its reciprocal.

    Args:
        x: float32 tensor.
        spec: the quantizer.
        f_min: lower end of the range; read on an asymmetric grid only.
        s: `multiplier` of that range, finite.

    Returns:
        (codes, values), float32, shape of x.
    """
    low, high = np.float32(spec.q_min), np.float32(spec.q_max)
    if spec.symmetry:
        q = tf.clip_by_value(round_(x * s, spec.round_mode), low, high)
        return q, tf.math.divide_no_nan(q, s)
    base = shift(spec, f_min, s)
    q = tf.clip_by_value(low + round_((x - base) * s, spec.round_mode), low, high)
    return q, tf.math.divide_no_nan(q - low, s) + base


def pow2_values(x: Tensor, spec: QuantizerSpec, f_min: Tensor, pos: Tensor) -> Tensor:
    """Fake-quantized values for a pow-2 scale, by the cheapest exact kernel; no gradient of its own.

    Args:
        x: float32 tensor.
        spec: a Pof2S or TQT quantizer.
        f_min: lower end of the range; read on an asymmetric grid only.
        pos: position.

    Returns:
        float32, shape of x.
    """
    if native.wanted(spec):
        return native.values(x, spec, pos)
    if v4_is_exact(spec):
        return values_up_to(x, spec, far_end(far_code(spec), pos))
    return codes_and_values(x, spec, f_min, position_scale(pos))[1]


def v4_is_exact(spec: QuantizerSpec) -> bool:
    """Whether TensorFlow's quantize-and-dequantize op gives the values of the plain chain."""
    whole = spec.symmetry and not spec.per_channel and spec.round_mode != RoundMode.HALF_AWAY
    return whole and 2 <= spec.bit_width <= _V4_BITS


def far_code(spec: QuantizerSpec) -> np.float32:
    """The code farthest from 0 of a quantizer that `v4_is_exact` accepts."""
    return np.float32(spec.q_max if spec.unsigned else spec.q_min)


def far_end(codes: Tensor, pos: Tensor) -> Tensor:
    """Where grids end, on the side that is farther from 0: code · 2**-pos, exact.

    Args:
        codes: `far_code` of each quantizer.
        pos: positions, integers as float32 in -127..126, same shape.

    Returns:
        float32, same shape.
    """
    return codes * position_scale(-pos)


def values_up_to(x: Tensor, spec: QuantizerSpec, end: Tensor) -> Tensor:
    """Fake-quantized values by TensorFlow's op, for a quantizer that `v4_is_exact` accepts.

    The op takes its scale from the one end it is given, which spares it the other's arithmetic.

    Args:
        x: float32 tensor.
        spec: the quantizer.
        end: `far_code` times 2**-pos, shape ().

    Returns:
        float32, shape of x.
    """
    nothing = np.float32(0)
    return tf.raw_ops.QuantizeAndDequantizeV4(
        input=x,
        input_min=nothing if spec.unsigned else end,
        input_max=end if spec.unsigned else nothing,
        signed_input=not spec.unsigned,
        num_bits=spec.bit_width,
        range_given=True,
        round_mode="HALF_UP" if spec.round_mode == RoundMode.HALF_UP else "HALF_TO_EVEN",
        narrow_range=spec.narrow_range and not spec.unsigned,
    )


def framework_values(x: Tensor, spec: QuantizerSpec, f_min: Tensor, f_max: Tensor) -> Tensor:
    """The framework's fake-quantization: TensorFlow's op, and its formula where the op does not fit.

    The per-channel op wants channels last, and since TensorFlow 2.9 it rounds differently from the release
    the reference ran on (see `affine.framework_kernel`), so per channel the formula is computed here.

    Args:
        x: float32 tensor.
        spec: a float-scale quantizer that `grid.framework_kernel` accepts.
        f_min: lower end of the range, shape () or keepdims-channel.
        f_max: upper end, same shape.

    Returns:
        float32, shape of x.
    """
    if spec.per_channel:
        return _masked(x, f_min, f_max, lambda x, low, high: _framework_chain(x, spec, low, high))
    if native.framework_wanted():
        return _masked(x, f_min, f_max, lambda x, low, high: native.framework_values(x, spec, low, high))
    return tf.quantization.fake_quant_with_min_max_vars(
        x,
        tf.reshape(f_min, []),
        tf.reshape(f_max, []),
        num_bits=spec.bit_width,
        narrow_range=spec.narrow_range and not spec.unsigned,
    )


def _framework_chain(x: Tensor, spec: QuantizerSpec, f_min: Tensor, f_max: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = framework_ends(spec)
    empty = tf.logical_and(tf.equal(f_min, 0.0), tf.equal(f_max, 0.0))
    width = tf.where(empty, 1.0, f_max - f_min)
    # Not `/`, where the graph optimizer would turn quotients into products with a reciprocal and back.
    step, s = tf.math.divide_no_nan(width, high - low), (high - low) / width
    zero = tf.clip_by_value(tf.floor(low - f_min / step + 0.5), low, high)
    nudged_min, nudged_max = (low - zero) * step, (high - zero) * step
    code_of_zero = tf.floor(-nudged_min * s + 0.5)
    per_step = tf.math.divide_no_nan(1.0, step)
    codes = (tf.clip_by_value(x, nudged_min, nudged_max) - nudged_min) * per_step - code_of_zero
    values = tf.where(empty, 0.0, tf.floor(codes + 0.5) * step)
    infinity = np.float32(np.inf)
    return values, tf.where(empty, -infinity, nudged_min), tf.where(empty, infinity, nudged_max)


def straight_through(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`forward(x)` whose gradient is the incoming one: d/dx = 1 everywhere, clipped values included.

    Args:
        forward: float32 tensor to float32 tensor of the same shape.
        x: float32 tensor.

    Returns:
        `forward(x)`.
    """

    @tf.custom_gradient
    def run(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return forward(x), lambda dy: dy

    return run(x)


def float_values(x: Tensor, spec: QuantizerSpec, f_min: Tensor, f_max: Tensor, *, vitis_compat: bool) -> Tensor:
    """Own float-scale kernel with its gradient.

        dx     = dy inside [f_min, f_max], else 0           (the nudged ends on an asymmetric grid)
        df_min = sum of dy where x < f_min
        df_max = sum of dy where x > f_max

    Args:
        x: float32 tensor.
        spec: a float-scale quantizer.
        f_min: lower end, shape () or keepdims-channel.
        f_max: upper end, same shape.
        vitis_compat: a range without width gives NaN instead of zeros.

    Returns:
        Fake-quantized values, shape of x.
    """

    def forward(x: Tensor, f_min: Tensor, f_max: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = multiplier(spec, f_min, f_max, None)
        if not vitis_compat and native.wanted(spec):
            return native.values(x, spec, s), f_min, f_max
        has_width = tf.logical_or(tf.math.is_finite(s), vitis_compat)
        s = tf.where(has_width, s, 1.0)
        values = tf.where(has_width, codes_and_values(x, spec, f_min, s)[1], 0.0)
        if spec.symmetry:
            return values, f_min, f_max
        low = shift(spec, f_min, s)
        return values, low, low + np.float32(levels(spec)) / s

    return _masked(x, f_min, f_max, forward)


def _masked(x: Tensor, f_min: Tensor, f_max: Tensor, forward: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """`forward` gives values and the ends the gradient is masked by; the ends collect what lies beyond."""

    @tf.custom_gradient
    def run(x: Tensor, f_min: Tensor, f_max: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        values, low, high = forward(x, f_min, f_max)

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            below, above = x < low, x > high
            inside = tf.where(tf.logical_or(below, above), 0.0, dy)
            return inside, _sum_to(tf.where(below, dy, 0.0), f_min), _sum_to(tf.where(above, dy, 0.0), f_max)

        return values, gradient

    return run(x, f_min, f_max)


def threshold_gradient(x: Tensor, spec: QuantizerSpec, f_min: Tensor, f_max: Tensor, log_th: Tensor) -> Tensor:
    """TQT: fake-quantize at the position of a trainable log2 threshold.

        pos     = bit_width - 1 - ceil(log_th)                              (bit_width when unsigned)
        dx      = dy inside [f_min, f_max], else 0
        dlog_th = sum(dy * ln 2 * (x' - x inside, q / s outside))

    Args:
        x: float32 tensor.
        spec: a TQT quantizer.
        f_min: lower end of the observed range, shape () or keepdims-channel.
        f_max: upper end, same shape.
        log_th: log2 of the threshold, same shape.

    Returns:
        Fake-quantized values, shape of x.

    Source: Jain et al., Trained Quantization Thresholds, MLSys 2020.
    """

    @tf.custom_gradient
    def run(x: Tensor, log_th: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        pos = np.float32(spec.bit_width - (not spec.unsigned)) - tf.math.ceil(log_th)
        s = position_scale(pos)
        q, values = codes_and_values(x, spec, f_min, s)

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            inside = tf.logical_and(x >= f_min, x <= f_max)
            slope = np.float32(np.log(2.0)) * tf.where(inside, values - x, q / s)
            return tf.where(inside, dy, 0.0), _sum_to(dy * slope, log_th)

        return values, gradient

    return run(x, log_th)


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """Sum x over every axis along which `like` was broadcast."""
    if like.shape.rank == 0:
        return tf.reduce_sum(x)
    axes = [a for a in range(x.shape.rank) if like.shape[a] == 1]
    return tf.reshape(tf.reduce_sum(x, axis=axes, keepdims=True), tf.shape(like))


SIGMOID_FACTOR = 2731 / 16384
"""The DPU's 1/6."""

LEAKY_RELU_SLOPE = 26 / 256
"""The DPU's 0.1."""

LARGEST_WINDOW = 255
"""Sides of an average pool beyond this many pixels are not pooled by the DPU."""
_FIXED_FACTORS = {
    (3, 3): 9 * 7 / 64,
    (5, 5): 25 * 10 / 256,
    (6, 6): 36 * 7 / 256,
    (7, 7): 49 * 21 / 1024,
    (14, 14): 196 * 21 / 4096,
}


def average_pool_scale(kernel_height: int, kernel_width: int) -> float:
    """What the DPU's average is, relative to the true one: it multiplies by k / 2**n instead of 1 / area.

    Some square windows have factors fixed in hardware; for the others n is the first of
    0 .. 6 + ceil(log2(area)) whose best k comes closest to 1 / area.

    Args:
        kernel_height: window height in pixels.
        kernel_width: window width in pixels.

    Returns:
        k / 2**n * area; 1 for windows over 255 pixels on a side, which the DPU does not pool.

    Raises:
        ValueError: a side is not positive.
    """
    if min(kernel_height, kernel_width) < 1:
        raise ValueError(f"a pooling window needs positive sides, got {kernel_height} x {kernel_width}")
    if max(kernel_height, kernel_width) > LARGEST_WINDOW:
        return 1.0
    fixed = _FIXED_FACTORS.get((kernel_height, kernel_width))
    return _nearest_shift(kernel_height * kernel_width) if fixed is None else fixed


def _nearest_shift(area: int) -> float:
    shifts = range(7 + math.ceil(math.log2(area)))
    factors = [round(2**n / area) / 2**n for n in shifts]
    return min(factors, key=lambda factor: abs(factor - 1 / area)) * area


def dpu_sigmoid(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The DPU's sigmoid: relu6(x + 3) * 2731 / 16384.

    Args:
        x: float32, any shape.

    Returns:
        float32, same shape, in [0, 1.00012].
    """
    x = np.asarray(x, np.float32)
    return np.clip(x + np.float32(3), np.float32(0), np.float32(6)) * np.float32(SIGMOID_FACTOR)
