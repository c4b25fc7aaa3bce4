"""The arithmetic of one affine grid in numpy float32: rounding, and both kernels written out.

s multiplies:

    pow-2 scale    s = 2**pos
    float scale    s = (q_max - q_min) / (f_max - f_min)
    symmetric      q = clip(round(x * s), q_min, q_max)
                   x' = q / s
    asymmetric     zp = clip(round_half_away(q_min - f_min * s), q_min, q_max)
                   shift = (q_min - zp) / s
                   q = clip(q_min + round((x - shift) * s), q_min, q_max)
                   x' = (q - q_min) / s + shift

Artefacts of float32, kept because the reference (Vitis AI 2.5) computes so:

    HALF_UP is floor(x + 0.5): 0.49999997 rounds to 1, and 8388609 to 8388610.
    HALF_AWAY compares x - floor(x) with 0.5: -0.49999997 rounds to -1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vqkit.primitives import spec as grid
from vqkit.primitives.spec import QuantizerSpec, RoundMode

Array = npt.NDArray[np.float32]

_HALF = np.float32(0.5)


def round_(x: npt.ArrayLike, mode: RoundMode) -> Array:
    """Round to integers, ties by `mode`, in float32.

    Args:
        x: float32, any shape.
        mode: what happens to ties.

    Returns:
        float32 integers, same shape.
    """
    x = np.asarray(x, np.float32)
    if mode == RoundMode.HALF_TO_EVEN:
        return np.rint(x)
    if mode == RoundMode.HALF_UP:
        return np.floor(x + _HALF)
    with np.errstate(invalid="ignore"):
        tie = x - np.floor(x) == _HALF
    return np.where(tie, np.where(x > 0, np.ceil(x), np.floor(x)), np.rint(x))


def position_scale(pos: npt.ArrayLike) -> Array:
    """2**pos exactly; the factor that multiplies x.

    Args:
        pos: integers as float32, within the exponents of float32.

    Returns:
        float32, same shape.
    """
    return np.ldexp(np.float32(1), np.asarray(pos).astype(np.int32))


def multiplier(spec: QuantizerSpec, f_min: Array, f_max: Array, pos: Array | None) -> Array:
    """The factor s that multiplies x; infinite where a float-scale range has no width.

    Args:
        spec: the quantizer.
        f_min: lower end of the range.
        f_max: upper end.
        pos: position, for pow-2 scales.

    Returns:
        float32, shape of the range.
    """
    if pos is not None:
        return position_scale(pos)
    with np.errstate(all="ignore"):
        return np.float32(grid.levels(spec)) / (f_max - f_min)


def zero_point(spec: QuantizerSpec, f_min: Array, s: Array) -> Array:
    """The code of 0: 0 on a symmetric grid, else the nudged place of `f_min`, kept inside the grid.

    Args:
        spec: the quantizer.
        f_min: lower end of the range.
        s: `multiplier` of that range.

    Returns:
        float32 integers, shape of s.
    """
    if grid.framework_kernel(spec):
        zero = _framework_zero(f_min, np.float32(1) / s, spec) + _framework_offset(spec)
        return np.where(np.isfinite(s), zero, np.float32(0))
    if spec.symmetry:
        return np.zeros_like(s)
    low, high = np.float32(spec.q_min), np.float32(spec.q_max)
    with np.errstate(all="ignore"):
        nudged = np.clip(round_(low - f_min * s, RoundMode.HALF_AWAY), low, high)
    return np.where(np.isfinite(s), nudged, np.float32(0))


def own_kernel(
    x: Array,
    f_min: Array,
    f_max: Array,
    pos: Array | None,
    spec: QuantizerSpec,
    *,
    vitis_compat: bool = False,
) -> Array:
    """Fake-quantized values by the formulas at the head of this module.

    Args:
        x: float32, any shape the range broadcasts against.
        f_min: lower end of the range.
        f_max: upper end.
        pos: position; None for a float scale.
        spec: the quantizer.
        vitis_compat: a range without width gives NaN, not zeros.

    Returns:
        float32, shape of x.
    """
    low, high = np.float32(spec.q_min), np.float32(spec.q_max)
    s = multiplier(spec, f_min, f_max, pos)
    has_width = np.isfinite(s) | vitis_compat
    s = np.where(has_width, s, np.float32(1))
    with np.errstate(all="ignore"):
        if spec.symmetry:
            out = np.clip(round_(x * s, spec.round_mode), low, high) / s
        else:
            shift = (low - zero_point(spec, f_min, s)) / s
            out = (np.clip(low + round_((x - shift) * s, spec.round_mode), low, high) - low) / s + shift
    return np.where(has_width, out, np.float32(0))


def framework_kernel(x: Array, f_min: Array, f_max: Array, spec: QuantizerSpec) -> Array:
    """What TensorFlow 2.8's fake-quant ops compute, in their order of operations.

    Per tensor the op divides by the step; per channel it multiplies by 1 / step. TensorFlow 2.21 keeps the
    first and multiplies by (levels / width) in the second, which decides some ties the other way.

    Args:
        x: float32, any shape the range broadcasts against.
        f_min: lower end of the range.
        f_max: upper end.
        spec: a float-scale quantizer.

    Returns:
        float32, shape of x; zeros where both ends are 0.
    """
    with np.errstate(all="ignore"):
        nudged_min, nudged_max, step, code_of_zero = framework_numbers(f_min, f_max, spec)
        above = np.maximum(np.minimum(x, nudged_max), nudged_min) - nudged_min
        codes = above * (np.float32(1) / step) if spec.per_channel else above / step
        out = np.floor(codes - code_of_zero + _HALF) * step
    return np.where((f_min == 0) & (f_max == 0), np.float32(0), out)


def framework_numbers(f_min: Array, f_max: Array, spec: QuantizerSpec) -> tuple[Array, Array, Array, Array]:
    """Ends, step and code of zero as the op computes them from a range."""
    low, high = grid.framework_ends(spec)
    step, s = (f_max - f_min) / (high - low), (high - low) / (f_max - f_min)
    zero = _framework_zero(f_min, step, spec)
    nudged_min, nudged_max = (low - zero) * step, (high - zero) * step
    return nudged_min, nudged_max, step, np.floor(-nudged_min * s + _HALF)


def _framework_offset(spec: QuantizerSpec) -> np.float32:
    """Our code less the op's, whose codes are never negative."""
    return np.float32(0 if spec.unsigned else -(2 ** (spec.bit_width - 1)))


def _framework_zero(f_min: Array, step: Array, spec: QuantizerSpec) -> Array:
    low, high = grid.framework_ends(spec)
    with np.errstate(all="ignore"):
        return np.clip(np.floor(low - f_min / step + _HALF), low, high)
