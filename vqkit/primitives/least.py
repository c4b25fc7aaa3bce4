"""The least error among the candidate positions of a tensor, in few passes over memory.

The error of a candidate is a sum of squares. Its order of magnitude decides almost always, so sums are taken
in float32, of large tensors piece by piece while a piece is in the cache; the finest candidates are left out
where they cannot win; and where two candidates are too close for float32 to tell, the exact sums decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vqkit.primitives import grid, kernels, native
from vqkit.primitives.spec import QuantizerSpec
from vqkit.primitives.sums import FIRST, MARGIN, REST, SMALLEST
from vqkit.primitives.sums import best_offset as in_numpy

Tensor = Any

PIECE = 1 << 18
"""Values in a piece: three arrays of them fit into a core's cache."""

WHOLE = 1 << 20
"""Most values that are added in one go: the op adds at least four side by side, so that each of its partial
sums has as many terms as a piece, on which `MARGIN` rests."""


def best_offset(x: Tensor, spec: QuantizerSpec, start: Tensor, exact: Callable[[], Tensor] | None = None,
                *, large: bool = True) -> Tensor:  # fmt: skip
    """Which of the positions start, start + 1, … loses least; the first of equals.

    Args:
        x: float32 tensor, any shape.
        spec: a quantizer that `kernels.pow2_values` computes with the framework's op.
        start: the non-overflow position, shape ().
        exact: the answer by exact sums, int64, shape (); by sums in float64 by default.
        large: whether x has more than `WHOLE` values; if it has and this is false, the answer takes longer.

    Returns:
        int64, shape ().
    """
    flat = tf.reshape(x, [-1])
    if native.wanted(spec):
        sums = native.squared_errors(flat, spec, _positions(start, FIRST + REST))
        known, good = sums[: len(FIRST)], tf.constant(True)
        other = exact or (lambda: _outside(flat, spec, start, known, good))
        return tf.cond(_clear(sums), lambda: tf.argmin(sums), other)
    if large:
        first, good = _sums_of_pieces(flat, spec, start, FIRST), tf.constant(True)
    else:
        first, good = _of(flat, spec, _ends(spec, start, FIRST)), tf.size(flat) <= WHOLE
    settled = good & _clear(first) & _hopeless(first, tf.size(flat), start)
    if exact is not None:
        return tf.cond(settled, lambda: tf.argmin(first), lambda: _all(flat, spec, start, first, good, exact))
    return tf.cond(settled, lambda: tf.argmin(first), lambda: _outside(flat, spec, start, first, good))


def _all(flat: Tensor, spec: QuantizerSpec, start: Tensor, first: Tensor, good: Tensor,
         exact: Callable[[], Tensor]) -> Tensor:  # fmt: skip
    sums = tf.concat([first, _sums_of_pieces(flat, spec, start, REST)], axis=0)
    return tf.cond(good & _clear(sums), lambda: tf.argmin(sums), exact)


def _outside(flat: Tensor, spec: QuantizerSpec, start: Tensor, first: Tensor, good: Tensor) -> Tensor:
    """The answer in numpy: seldom needed, so that code for it is not worth compiling."""

    def answer(x: np.ndarray, begin: np.ndarray, sums: np.ndarray, good: np.ndarray) -> np.int64:
        return np.int64(in_numpy(x, spec, begin, sums if good else None))

    found = tf.numpy_function(answer, [flat, start, first, good], tf.int64, stateful=False)
    found.set_shape([])
    return found


def _clear(sums: Tensor) -> Tensor:
    """Whether float32 sums tell the best candidate."""
    least = tf.reduce_min(sums)
    rivals = tf.math.count_nonzero(sums <= least * (1 + MARGIN))
    return tf.logical_and(tf.equal(rivals, 1), least >= SMALLEST)


def _hopeless(sums: Tensor, n: Tensor, start: Tensor) -> Tensor:
    """Whether what the last candidate clips alone costs more than the best: finer ones clip at least that.

    An unclipped value is at most half a step away from the grid.
    """
    step = tf.cast(kernels.position_scale(-_positions(start, FIRST[-1:])[0]), tf.float64)
    rounding = tf.cast(n, tf.float64) * tf.square(step / 2)
    return sums[-1] * (1 - MARGIN) - rounding * (1 + MARGIN) > tf.reduce_min(sums) * (1 + MARGIN)


def _positions(start: Tensor, offsets: Sequence[int]) -> Tensor:
    return tf.clip_by_value(start + np.array(offsets, np.float32), grid.POS_MIN, grid.POS_MAX)


def _ends(spec: QuantizerSpec, start: Tensor, offsets: Sequence[int]) -> list[Tensor]:
    return tf.unstack(kernels.far_end(kernels.far_code(spec), _positions(start, offsets)))


def _of(flat: Tensor, spec: QuantizerSpec, ends: Sequence[Tensor]) -> Tensor:
    """Sum of squared errors of each candidate, float64, to within `MARGIN`; shape (ends,)."""
    lost = [tf.nn.l2_loss(flat - kernels.values_up_to(flat, spec, end)) for end in ends]
    return 2 * tf.cast(tf.stack(lost), tf.float64)


def _sums_of_pieces(flat: Tensor, spec: QuantizerSpec, start: Tensor, offsets: Sequence[int]) -> Tensor:
    ends = _ends(spec, start, offsets)

    def add(at: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return at + PIECE, total + _of(flat[at : at + PIECE], spec, ends)

    begin = (tf.constant(0), tf.zeros([len(offsets)], tf.float64))
    return tf.while_loop(lambda at, _: at < tf.size(flat), add, begin, parallel_iterations=2)[1]
