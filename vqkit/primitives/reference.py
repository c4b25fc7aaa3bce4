"""Quantization in plain numpy float32: short enough to check by eye, and the oracle of `ops`.

A range is (f_min, f_max); a position is the exponent of a pow-2 scale; codes are the integers. How a code
follows from a value is written in `affine`, how range and position follow from a tensor is written here.

Source: the behaviour of the Vitis AI quantizer for TensorFlow 2, release 2.5; no code of it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vqkit.primitives import spec as grid
from vqkit.primitives.affine import Array, framework_kernel, own_kernel, position_scale, round_
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType

if TYPE_CHECKING:
    from vqkit.primitives.qparams import QParams

__all__ = [
    "Array", "clip_position", "dequantize", "fake_quantize", "log_threshold", "position", "position_scale",
    "quantize", "range_from_extremes", "reduction_axes", "round_", "running_range", "value_range",
]  # fmt: skip

_LOG2_RECIPROCAL = grid.reciprocal(np.log(2.0))


def value_range(x: npt.ArrayLike, spec: QuantizerSpec) -> tuple[Array, Array]:
    """The range of a tensor, widened so that its grid suits the spec.

    Args:
        x: float32, any shape.
        spec: says symmetric or not, per channel or not, bits.

    Returns:
        (f_min, f_max), float32; shape () per tensor, else 1 everywhere but on the channel axis.

    Raises:
        ValueError: negative values under a symmetric unsigned spec.
    """
    x = np.asarray(x, np.float32)
    axes = reduction_axes(x.ndim, spec)
    low, high = (f(x, axis=axes, keepdims=spec.per_channel) for f in (np.min, np.max))
    return range_from_extremes(low, high, spec)


def reduction_axes(rank: int, spec: QuantizerSpec) -> tuple[int, ...]:
    """Axes a statistic is taken over: all of them, or all but the channel axis.

    Raises:
        ValueError: the tensor has no such channel axis.
    """
    if not spec.per_channel:
        return tuple(range(rank))
    if not -rank <= spec.channel_axis < rank:
        raise ValueError(f"channel_axis {spec.channel_axis} does not exist in a tensor of rank {rank}")
    return tuple(a for a in range(rank) if a != spec.channel_axis % rank)


def range_from_extremes(low: npt.ArrayLike, high: npt.ArrayLike, spec: QuantizerSpec) -> tuple[Array, Array]:
    """The range for observed extremes.

        symmetric, full grid   f_min = min(low, high * -128/127), f_max = max(high, low * -127/128)   (8 bit)
        symmetric, narrow      f_min = min(low, -high),           f_max = max(high, -low)
        symmetric, unsigned    f_min = 0,                         f_max = max(high, 0)
        symmetric, one bit     f_min = min(low, -high),           f_max = 0      (codes are -1 and 0)
        asymmetric             f_min = min(low, 0),               f_max = max(high, 0)

    Extremes beyond +-`grid.REACH` count as that, so that every step and its inverse is a normal float32.

    Args:
        low: smallest value seen, float32, any shape.
        high: largest value seen, same shape.
        spec: symmetric, unsigned, narrow or not; bits.

    Returns:
        (f_min, f_max), float32, finite, same shape.

    Raises:
        ValueError: negative values under a symmetric unsigned spec.
    """
    low, high = (np.asarray(v, np.float32) for v in (low, high))
    low, high = (np.minimum(np.maximum(v, -grid.REACH), grid.REACH) for v in (low, high))
    if not spec.symmetry:
        return np.minimum(low, 0), np.maximum(high, 0)
    if spec.unsigned:
        if np.any(low < 0):
            raise ValueError(
                f"a symmetric unsigned quantizer needs values >= 0, the tensor reaches {low.min()}; "
                "set symmetry or unsigned to false"
            )
        return np.zeros_like(low), np.maximum(high, 0)
    f_min = np.minimum(low, high * grid.symmetric_ratio(spec))
    if spec.bit_width == 1:
        return f_min, np.zeros_like(f_min)
    return f_min, np.maximum(high, low * grid.inverse_ratio(spec))


def running_range(
    before: Array, found: Array, spec: QuantizerSpec, started: bool, *, vitis_compat: bool = False
) -> tuple[Array, Array]:
    """The range over all batches so far: the widest, or a moving average, which starts at the first batch.

    Args:
        before: (f_min, f_max) that was kept of the batches before, float32, shape (2, …); zeros at first.
        found: the batch's own range, same shape.
        spec: a quantizer with a float scale.
        started: whether there was a batch before.
        vitis_compat: the first batch of a moving average is quantized with an average that starts at 0.

    Returns:
        (used, kept): the range that the batch is quantized with, and the one to go on with. They differ only
        in the first batch of a moving average with `vitis_compat`.
    """
    if spec.quantizer_type == QuantizerType.MAFS:
        mean = before * np.float32(grid.EMA_DECAY) + found * np.float32(1 - grid.EMA_DECAY)
        kept = mean if started else found
        return mean if vitis_compat else kept, kept
    used = np.stack([np.minimum(before[0], found[0]), np.maximum(before[1], found[1])])
    return used, used


def position(
    x: npt.ArrayLike,
    f_min: Array,
    f_max: Array,
    spec: QuantizerSpec,
    *,
    counts: npt.ArrayLike = 1,
    vitis_compat: bool = False,
) -> Array:
    """Position of a pow-2 scale: the number of fractional bits.

    NON_OVERFLOW is the largest position whose grid holds the range. Both ends of the range are rounded
    float32 numbers, so a range up to `grid.SLACK_ULPS` float32 steps too wide still counts as held; the
    exponent is read from the bits, so the answer does not depend on anybody's logarithm.
    MIN_MSE tries that position and the next four and takes the smallest sum of squared errors (summed in
    float64 for each channel; the first of equals). MIN_KL and PERCENTILE are NON_OVERFLOW on a range that
    a histogram has clipped before.

    Args:
        x: the tensor, float32; read by MIN_MSE only.
        f_min: lower end of the range, as `value_range` gives it.
        f_max: upper end.
        spec: a Pof2S or TQT quantizer.
        counts: how often each value of x occurs; once by default.
        vitis_compat: take floor of a float32 logarithm, add errors in float32, and share one MIN_MSE offset
            between all channels, as the reference does.

    Returns:
        float32 integers in the range's shape.

    Raises:
        ValueError: the scale is no power of two, or (compat) the reference refuses the spec.
    """
    if not spec.pow2:
        raise ValueError(f"{spec.quantizer_type} has a float scale, hence no position")
    if vitis_compat:
        grid.require_compat(spec)
    start = _non_overflow(f_min, f_max, spec, vitis_compat=vitis_compat)
    if spec.method != Method.MIN_MSE:
        return start
    x, counts = np.asarray(x, np.float32), np.asarray(counts)
    axes = reduction_axes(x.ndim, spec.with_(per_channel=False) if vitis_compat else spec)
    spec = spec if vitis_compat else grid.for_errors(spec)
    dtype = np.float32 if vitis_compat else np.float64
    errors = []
    for offset in range(grid.MSE_OFFSETS):
        values = own_kernel(x, f_min, f_max, clip_position(start + np.float32(offset)), spec)
        with np.errstate(over="ignore"):
            lost = np.square((x - values).astype(dtype)) * counts
            errors.append(np.sum(lost, axis=axes, keepdims=True, dtype=dtype))
    best = np.argmin(errors, axis=0).reshape(() if vitis_compat else start.shape)
    return clip_position(start + best.astype(np.float32))


def clip_position(pos: Array) -> Array:
    """Keep a position where scale and inverse scale are normal float32 numbers."""
    return np.minimum(np.maximum(pos, np.float32(grid.POS_MIN)), np.float32(grid.POS_MAX))


def log_threshold(f_min: Array, f_max: Array, spec: QuantizerSpec) -> Array:
    """TQT's trainable threshold, log2 of the larger end of the range, where training starts.

        th = max(|f_min|, f_max * 128/127, 1e-9)          (8 bit; 256/255 of f_max when unsigned)
        log_th = log(th) * (1 / log 2)

    Args:
        f_min: lower end of the range.
        f_max: upper end.
        spec: gives the grid.

    Returns:
        float32, shape of the range.
    """
    return _log(_threshold(f_min, f_max, spec)) * _LOG2_RECIPROCAL


def _log(x: Array) -> Array:
    """Natural logarithm, correctly rounded; TensorFlow's may differ by one float32 step in vectors."""
    return np.log(x.astype(np.float64)).astype(np.float32)


def _threshold(f_min: Array, f_max: Array, spec: QuantizerSpec) -> Array:
    high = f_max * grid.threshold_ratio(spec)
    return np.maximum(np.maximum(np.abs(f_min), high), np.float32(1e-9))


def _non_overflow(f_min: Array, f_max: Array, spec: QuantizerSpec, *, vitis_compat: bool) -> Array:
    if spec.quantizer_type == QuantizerType.TQT:
        top = np.float32(spec.bit_width - (not spec.unsigned))
        if vitis_compat:
            return top - np.ceil(log_threshold(f_min, f_max, spec))
        return clip_position(top + _floor_minus_log2(_threshold(f_min, f_max, spec)))
    step = np.maximum(_smallest_step(f_min, f_max, spec), grid.TINY_STEP)
    if vitis_compat:
        return np.floor(-_log(step) * _LOG2_RECIPROCAL)
    return clip_position(_floor_minus_log2(step))


def _smallest_step(f_min: Array, f_max: Array, spec: QuantizerSpec) -> Array:
    """The step at which the range just fits the grid."""
    if not spec.symmetry:
        return (f_max - f_min) * grid.reciprocal(grid.levels(spec))
    sides = [f * grid.reciprocal(q) for f, q in ((f_min, spec.q_min), (f_max, spec.q_max)) if q]
    return np.maximum(sides[0], sides[-1])


def _floor_minus_log2(value: Array) -> Array:
    """floor(-log2(value)) from the exponent bits; SLACK_ULPS above a power of two still is that power."""
    bits = np.asarray(value, np.float32).view(np.int32)
    return np.asarray(126 - ((bits - (grid.SLACK_ULPS + 1)) >> 23), np.float32)


def fake_quantize(x: npt.ArrayLike, qp: QParams, *, vitis_compat: bool = False) -> Array:
    """Round a tensor to its grid and come back to floats.

    A float-scale range without width (an all-zero tensor) gives zeros.

    Args:
        x: float32, any shape the range broadcasts against.
        qp: spec, range, position.
        vitis_compat: a range without width gives NaN in the own kernel, and specs that the framework kernel
            cannot do are refused.

    Returns:
        float32, shape of x.

    Raises:
        ValueError: (compat) the reference refuses the spec.
    """
    x = np.asarray(x, np.float32)
    if vitis_compat:
        grid.require_compat(qp.spec)
    if grid.framework_kernel(qp.spec):
        return framework_kernel(x, qp.f_min, qp.f_max, qp.spec)
    return own_kernel(x, qp.f_min, qp.f_max, qp.pos, qp.spec, vitis_compat=vitis_compat)


def quantize(x: npt.ArrayLike, qp: QParams) -> npt.NDArray[np.int64]:
    """Integer codes of a tensor.

    Args:
        x: float32, any shape the range broadcasts against.
        qp: spec, range, position.

    Returns:
        int64 codes in [q_min, q_max], shape of x. `dequantize` of them is `fake_quantize(x)`: exactly for
        pow-2 scales up to 24 bits, up to the float32 rounding of the kernel's sums for a float scale.
    """
    scale = np.where(qp.scale == 0, 1.0, qp.scale.astype(np.float64))
    near = fake_quantize(x, qp).astype(np.float64) / scale
    codes = np.rint(near + qp.zero_point.astype(np.float64))
    return np.clip(codes, qp.spec.q_min, qp.spec.q_max).astype(np.int64)


def dequantize(codes: npt.ArrayLike, qp: QParams) -> Array:
    """Floats of integer codes: (codes - zero_point) * scale.

    Args:
        codes: integers, any shape the range broadcasts against.
        qp: spec, range, position.

    Returns:
        float32, shape of codes.
    """
    centred = np.asarray(codes, np.float64) - qp.zero_point.astype(np.float64)
    return (centred * qp.scale.astype(np.float64)).astype(np.float32)
