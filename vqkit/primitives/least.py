"""The least error among the candidate positions of a tensor, in few passes over memory.

The error of a candidate is a sum of squares. Its order of magnitude decides almost always, so sums are taken
in float32, piece by piece while a piece is in the cache; the finest candidates are left out where they cannot
win; and where two candidates are too close for float32 to tell, the exact sums decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from vqkit.primitives import grid, kernels
from vqkit.primitives.spec import QuantizerSpec

Tensor = Any

PIECE = 1 << 18
"""Values in a piece: three arrays of them fit into a core's cache."""

MARGIN = 0.05
"""Candidates this close are told apart by exact sums. Bound of the float32 error: PIECE * 2**-24 = 1.6 %."""

SMALLEST = 1e-28
"""Below this sum, squares may have vanished from float32."""

_FIRST, _REST = (0, 1, 2), (3, 4)


def best_offset(x: Tensor, spec: QuantizerSpec, start: Tensor, exact: Callable[[], Tensor]) -> Tensor:
    """Which of the positions start, start + 1, … loses least; the first of equals.

    Args:
        x: float32 tensor, any shape.
        spec: a quantizer that `kernels.pow2_values` computes with the framework's op.
        start: the non-overflow position, shape ().
        exact: the answer by exact sums, int64, shape ().

    Returns:
        int64, shape ().
    """
    flat = tf.reshape(x, [-1])
    first = _sums(flat, spec, start, _FIRST)
    rest = tf.cond(
        _hopeless(first, tf.size(flat), start),
        lambda: tf.fill([len(_REST)], tf.constant(float("inf"), tf.float64)),
        lambda: _sums(flat, spec, start, _REST),
    )
    sums = tf.concat([first, rest], axis=0)
    least = tf.reduce_min(sums)
    rivals = tf.math.count_nonzero(sums <= least * (1 + MARGIN))
    clear = tf.logical_and(tf.equal(rivals, 1), least >= SMALLEST)
    return tf.cond(clear, lambda: tf.argmin(sums), exact)


def _hopeless(sums: Tensor, n: Tensor, start: Tensor) -> Tensor:
    """Whether what the last candidate clips alone costs more than the best: finer ones clip at least that.

    An unclipped value is at most half a step away from the grid.
    """
    step = tf.cast(kernels.position_scale(-(start + float(_FIRST[-1]))), tf.float64)
    rounding = tf.cast(n, tf.float64) * tf.square(step / 2)
    return sums[-1] * (1 - MARGIN) - rounding * (1 + MARGIN) > tf.reduce_min(sums) * (1 + MARGIN)


def _sums(flat: Tensor, spec: QuantizerSpec, start: Tensor, offsets: Sequence[int]) -> Tensor:
    """Sum of squared errors of each candidate, float64, to within `MARGIN`; shape (offsets,)."""
    positions = [tf.clip_by_value(start + float(i), grid.POS_MIN, grid.POS_MAX) for i in offsets]

    def add(at: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        piece = flat[at : at + PIECE]
        lost = [tf.nn.l2_loss(piece - kernels.pow2_values(piece, spec, start, pos)) for pos in positions]
        return at + PIECE, total + 2 * tf.cast(tf.stack(lost), tf.float64)

    begin = (tf.constant(0), tf.zeros([len(offsets)], tf.float64))
    return tf.while_loop(lambda at, _: at < tf.size(flat), add, begin, parallel_iterations=2)[1]
