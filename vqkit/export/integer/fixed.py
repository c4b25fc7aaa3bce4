"""Fixed-point arrays: integers with a position, and the arithmetic of a power-of-two device on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vqkit.primitives.spec import RoundMode

Ints = npt.NDArray[np.int64]

EXACT_FLOAT64 = 2.0**53
SHORT = 12
"""Bits of a factor whose product with a quantized value is exact in float32 as well."""
_LONGEST_SHIFT = 62
_SAFE_SHIFT = 16
"""Sums of 8-bit products have far fewer bits than the rest of the 62."""


class TooWideError(ArithmeticError):
    """Two grids are so far apart that 64 bits hold no number on both."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """Integers `codes` that stand for `codes * 2**-pos`.

    Attributes:
        codes: int64, any shape.
        pos: an integer, or int64 of a shape that broadcasts against `codes` (a position for each channel).
    """

    codes: Ints
    pos: Any

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """As float32; exact where the codes have at most 24 bits."""
        return np.ldexp(self.codes.astype(np.float64), -np.asarray(self.pos, np.int32)).astype(np.float32)

    def at(self, pos: Any) -> Ints:
        """The codes at a finer position, exact.

        Args:
            pos: not smaller than the own position.

        Raises:
            TooWideError: 63 bits do not hold them there.
        """
        shift = np.asarray(pos, np.int64) - self.pos
        if np.max(shift, initial=0) > _SAFE_SHIFT:
            largest = np.abs(self.codes).astype(np.float64) * 2.0 ** np.asarray(shift, np.float64)
            if np.max(largest, initial=0) >= 2.0**_LONGEST_SHIFT:
                raise TooWideError(f"codes at position {np.max(self.pos)} have no place at {np.max(pos)}")
        # Of codes that are 0 any shift is 0.
        return np.left_shift(self.codes, np.minimum(shift, _LONGEST_SHIFT))

    def with_codes(self, codes: Ints) -> Fixed:
        """Other codes at the same position."""
        return Fixed(codes, self.pos)


def aligned(*values: Fixed) -> tuple[list[Ints], Any]:
    """The codes of all at the finest position among them, and that position."""
    pos: Any = values[0].pos
    for value in values[1:]:
        pos = np.maximum(pos, value.pos)
    return [v.at(pos) for v in values], pos


def shifted(codes: Ints, shift: Any, mode: RoundMode) -> Ints:
    """`codes / 2**shift`, rounded; negative shifts multiply.

    Args:
        codes: int64.
        shift: bits to drop; broadcasts against `codes`.
        mode: what happens to ties.

    Returns:
        int64.
    """
    shift = np.asarray(shift, np.int64)
    codes = np.left_shift(codes, np.maximum(-shift, 0))
    down = np.clip(shift, 0, _LONGEST_SHIFT)
    half = np.where(down > 0, np.left_shift(np.int64(1), np.maximum(down - 1, 0)), 0)
    if mode == RoundMode.HALF_UP:
        return np.right_shift(codes + half, down)
    floor = np.right_shift(codes, down)
    rest = codes - np.left_shift(floor, down)
    tie_up = codes > 0 if mode == RoundMode.HALF_AWAY else floor % 2 == 1
    up = (rest > half) | ((rest == half) & (down > 0) & tie_up)
    return floor + up


def dyadic(value: npt.ArrayLike, *, bits: int = 24) -> Fixed | None:
    """Numbers as fixed point, exactly.

    Args:
        value: float32 numbers.
        bits: most bits of a code.

    Returns:
        The codes at the coarsest position that holds them all; None where they need more bits.
    """
    value = np.asarray(value, np.float64)
    for pos in range(-bits, 64):
        codes = np.ldexp(value, pos)
        if np.any(np.abs(codes) >= 2.0**bits):
            break
        if np.array_equal(codes, np.rint(codes)) and np.all(np.abs(codes) < 2.0**bits):
            return Fixed(codes.astype(np.int64), pos)
    return None


def binary_share(factor: float | None, area: int) -> tuple[int, int] | None:
    """What a pool multiplies its sum by, as k / 2**n.

    Args:
        factor: what the exact average is multiplied by; 1 when None.
        area: elements of a window.

    Returns:
        (k, n), or None where the share is no such number with a short k.
    """
    share = (1.0 if factor is None else factor) / area
    for n in range(40):
        k = share * 2**n
        if abs(k - round(k)) < 1e-9 * k:
            return round(k), n
        if k > 2**SHORT:
            return None
    return None


# --- sums of products ---


def matmul(x: Ints, w: Ints) -> Ints:
    """Integer matrix product; in float64, whose sums below 2**53 are exact, where it fits.

    Args:
        x: shape (…, k).
        w: shape (k, n).

    Returns:
        int64, shape (…, n).
    """
    if bound(x, w, axis=0) < EXACT_FLOAT64:
        return (x.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)
    return x @ w


def bound(x: Ints, w: Ints, axis: int | tuple[int, ...]) -> float:
    """The largest sum of products that any order of adding can meet."""
    top = float(np.abs(x).max(initial=0))
    return top * float(np.abs(w).astype(np.float64).sum(axis=axis).max(initial=0))


def padded(x: Ints, pads: Sequence[tuple[int, int]], value: int = 0) -> Ints:
    """Spatial axes (all but the first and last) with a border."""
    return np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)


def windows(x: Ints, window: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """For each offset inside the window: the offset, and what the windows see there.

    Args:
        x: shape (n, *spatial, channels), padded.
        window: its sides.
        strides: from one window to the next.
        dilations: between two elements of a window.

    Yields:
        (offset, view of shape (n, *windows, channels)).
    """
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    counts = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    for offset in itertools.product(*map(range, window)):
        at = [
            slice(o * d, o * d + (c - 1) * s + 1, s)
            for o, d, c, s in zip(offset, dilations, counts, strides, strict=True)
        ]
        yield offset, x[(slice(None), *at, slice(None))]


def convolve(
    x: Ints, w: Ints, strides: Sequence[int], dilations: Sequence[int], groups: int, *, depthwise: bool
) -> Ints:
    """Integer convolution of a padded input.

    Args:
        x: shape (n, *spatial, channels), padded.
        w: shape (*window, channels / groups, outputs), or (*window, channels, multiplier) for depthwise.
        strides: of the windows.
        dilations: inside them.
        groups: of channels.
        depthwise: each channel is its own group.

    Returns:
        int64, shape (n, *windows, outputs).
    """
    rank = x.ndim - 2
    axes = tuple(range(rank)) if depthwise else tuple(range(rank + 1))
    small = bound(x, w, axis=axes) < EXACT_FLOAT64
    taps_: Any = w.astype(np.float64) if small else w
    seen_: Any = x.astype(np.float64) if small else x
    product: Callable[[Any, Any], Any]
    if depthwise:

        def product(seen: Any, taps: Any) -> Any:
            y = seen[..., None] * taps
            return y.reshape(*y.shape[:-2], -1)

    elif groups == 1:
        product = np.matmul
    else:

        def product(seen: Any, taps: Any) -> Any:
            parts = zip(np.split(seen, groups, -1), np.split(taps, groups, -1), strict=True)
            return np.concatenate([a @ b for a, b in parts], axis=-1)

    total: Any = None
    for offset, seen in windows(seen_, w.shape[:rank], strides, dilations):
        part = product(seen, taps_[offset])
        total = part if total is None else np.add(total, part, out=total)
    return np.asarray(total).astype(np.int64)


def convolve_transposed(x: Ints, w: Ints, strides: Sequence[int]) -> Ints:
    """Each input element adds its kernel to the output.

    Args:
        x: shape (n, *spatial, channels).
        w: shape (*window, outputs, channels).
        strides: between the kernels.

    Returns:
        int64, shape (n, *((spatial - 1) * stride + window), outputs).
    """
    sides = [(n - 1) * s + k for n, s, k in zip(x.shape[1:-1], strides, w.shape[:-2], strict=True)]
    total = np.zeros((x.shape[0], *sides, w.shape[-2]), np.int64)
    for offset in itertools.product(*map(range, w.shape[:-2])):
        at = [slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(offset, x.shape[1:-1], strides, strict=True)]
        total[(slice(None), *at, slice(None))] += matmul(x, w[offset].T)
    return total
