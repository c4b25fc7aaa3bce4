"""Numpy: the least squared error over candidate positions or ranges.

What `ops` does in TensorFlow, for arrays that are decided once (weights) and for the few tensors on which
float32 cannot tell the candidates apart: tracing a function would cost more than the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vqkit.primitives.affine import Array, position_scale
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import fake_quantize, range_from_extremes, reduction_axes
from vqkit.primitives.spec import POS_MAX, POS_MIN, QuantizerSpec, RoundMode

PIECE = 1 << 15
"""Values in a piece: two arrays of them fit into a core's own cache."""

MARGIN = 0.05
"""Candidates this close are told apart by exact sums. The float32 error of 2**18 terms is at most 1.6 %."""

SMALLEST = 1e-28
"""Below this sum, squares may have vanished from float32."""

FIRST, REST = (0, 1, 2), (3, 4)
"""Candidates summed always, and those left out where they cannot win."""

Sums = npt.NDArray[np.float64]


def best_offset(flat: Array, spec: QuantizerSpec, start: npt.ArrayLike, first: Sums | None = None) -> np.int64:
    """Which of the positions start, start + 1, … loses least; the first of equals.

    Args:
        flat: float32, shape (n,).
        spec: a symmetric pow-2 quantizer that rounds half up or half to even.
        start: the non-overflow position.
        first: sums of the first candidates to within `MARGIN`, where they are known.

    Returns:
        0 … 4.
    """
    start = float(np.asarray(start))
    sums = error_sums(flat, spec, start, FIRST) if first is None else first
    if not hopeless(sums, flat.size, start):
        sums = np.concatenate([sums, error_sums(flat, spec, start, REST)])
    if not clear(sums):
        sums = error_sums(flat, spec, start, FIRST + REST, exact=True)
    return np.argmin(sums)


def best_of(flat: Array, spec: QuantizerSpec, start: npt.ArrayLike, offsets: Sequence[int]) -> int:
    """Which of some positions loses least; the first of equals.

    Args:
        flat: float32, shape (n,).
        spec: as in `best_offset`.
        start: the non-overflow position.
        offsets: of the candidates, rising.

    Returns:
        One of the offsets.
    """
    if len(offsets) == 1:
        return offsets[0]
    return offsets[int(np.argmin(error_sums(flat, spec, float(np.asarray(start)), offsets, exact=True)))]


def hopeless(sums: Sums, n: int, start: float) -> bool:
    """Whether what the last candidate clips alone costs more than the best: finer ones clip at least that.

    An unclipped value is at most half a step away from the grid.
    """
    rounding = n * (float(_step(start + FIRST[-1])) / 2) ** 2
    return bool(sums[-1] * (1 - MARGIN) - rounding * (1 + MARGIN) > sums.min() * (1 + MARGIN))


def clear(sums: Sums) -> bool:
    """Whether float32 sums tell the best candidate."""
    least = sums.min()
    return bool(np.count_nonzero(sums <= least * (1 + MARGIN)) == 1 and least >= SMALLEST)


def error_sums(flat: Array, spec: QuantizerSpec, start: float, offsets: Sequence[int], *, exact: bool = False) -> Sums:
    """Sum of squared errors of each candidate.

    Args:
        flat: float32, shape (n,).
        spec: as in `best_offset`.
        start: the non-overflow position.
        offsets: of the candidates.
        exact: square and add in float64; else in float32, good to within `MARGIN`.

    Returns:
        Shape (offsets,).
    """
    total = np.zeros(len(offsets))
    room = np.empty(min(PIECE, flat.size), np.float32)
    with np.errstate(over="ignore"):
        for at in range(0, flat.size, PIECE):
            piece = flat[at : at + PIECE]
            for i, offset in enumerate(offsets):
                lost = _lost(piece, spec, start + offset, room[: piece.size])
                wide = lost.astype(np.float64) if exact else lost
                total[i] += np.einsum("i,i->", wide, wide)
    return total


def _lost(piece: Array, spec: QuantizerSpec, pos: float, room: Array) -> Array:
    """x - x' at a position; a power of two multiplies exactly, so this is what the kernels compute."""
    step = _step(pos)
    np.multiply(piece, np.float32(1) / step, out=room)
    if spec.round_mode == RoundMode.HALF_UP:
        np.add(room, np.float32(0.5), out=room)
        np.floor(room, out=room)
    else:
        np.rint(room, out=room)
    np.clip(room, np.float32(spec.q_min), np.float32(spec.q_max), out=room)
    np.multiply(room, step, out=room)
    return np.subtract(piece, room, out=room)


def _step(pos: float) -> np.float32:
    return np.float32(position_scale(np.float32(-np.clip(pos, POS_MIN, POS_MAX))))


COARSE = np.linspace(1.0, 0.05, 20).astype(np.float32)
"""Shares of the full range tried first."""

FINE = np.linspace(0.045, -0.045, 19).astype(np.float32)
"""Offsets tried around the best of them."""

Range = tuple[Array, Array]
Errors = npt.NDArray[np.float64]
ErrorOf = Callable[[Array, Array], Errors]


def mse_range(x: npt.ArrayLike, spec: QuantizerSpec, counts: npt.ArrayLike | None = None) -> Range:
    """The range whose fake-quantization has the smallest sum of squared errors.

    A symmetric or unsigned range is searched over its one threshold; an asymmetric one over its upper end,
    then over its lower end. Shares of the full range are tried in steps of 5 %, then of 0.5 % around the
    best; the first of equals wins, so a range is clipped only where that helps.

    Args:
        x: float32, any shape, finite.
        spec: a float-scale quantizer.
        counts: how often each value occurs, same shape; once each by default.

    Returns:
        (f_min, f_max), float32; shape () per tensor, else 1 everywhere but on the channel axis.
    """
    x = np.asarray(x, np.float32)
    axes = reduction_axes(x.ndim, spec)
    low, high = (f(x, axis=axes, keepdims=spec.per_channel) for f in (np.min, np.max))

    def error(f_min: Array, f_max: Array) -> Errors:
        lost = np.square(x - fake_quantize(x, QParams(spec, f_min, f_max)), dtype=np.float64)
        return np.sum(lost if counts is None else lost * counts, axis=axes, keepdims=spec.per_channel)

    if spec.symmetry:
        return _one_threshold(low, high, spec, error)
    return _two_ends(low, high, spec, error)


def _one_threshold(low: Array, high: Array, spec: QuantizerSpec, error: ErrorOf) -> Range:
    reach = np.maximum(np.abs(low), np.abs(high))

    def at(share: Array) -> Range:
        return range_from_extremes(np.maximum(low, -share * reach), np.minimum(high, share * reach), spec)

    return at(_best_share(reach, lambda share: error(*at(share))))


def _two_ends(low: Array, high: Array, spec: QuantizerSpec, error: ErrorOf) -> Range:
    f_min, f_max = range_from_extremes(low, high, spec)
    f_max = f_max * _best_share(f_max, lambda share: error(f_min, share * f_max))
    return f_min * _best_share(f_min, lambda share: error(share * f_min, f_max)), f_max


def _best_share(like: Array, error: Callable[[Array], Errors]) -> Array:
    """The share in (0, 1] with the smallest error, for each entry of a range."""
    coarse = [np.full_like(like, share) for share in COARSE]
    best = _first_best(coarse, error)
    return _first_best([np.clip(best + offset, np.float32(0.005), np.float32(1)) for offset in FINE], error)


def _first_best(shares: list[Array], error: Callable[[Array], Errors]) -> Array:
    winner = np.argmin([error(share) for share in shares], axis=0)
    return np.choose(winner, shares)
