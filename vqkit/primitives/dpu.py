"""Arithmetic of the DPU that a float model imitates: average pooling by a shift, and a piecewise sigmoid."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

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
