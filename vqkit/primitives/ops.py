"""TensorFlow: ranges, positions, errors of candidates, fake-quantization of tensors.

The definitions are in `reference`, which computes the same numbers in numpy. Ranges and positions may be
constants, tensors or variables: a new strategy assigns, it does not retrace.

The error of a candidate is a sum of squares. Its order of magnitude decides almost always, so sums are taken
in float32, of large tensors piece by piece while a piece is in the cache; the finest candidates are left out
where they cannot win; and where two candidates are too close for float32 to tell, the exact sums decide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from vqkit.primitives import kernels, mse, native, reference
from vqkit.primitives import spec as grid
from vqkit.primitives.choose import checked, choose_by_search, needs_search
from vqkit.primitives.kernels import far_code, far_end, position_scale, values_up_to
from vqkit.primitives.mse import FIRST, MARGIN, REST, SMALLEST
from vqkit.primitives.mse import best_offset as in_numpy
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import reduction_axes
from vqkit.primitives.spec import POS_MAX, POS_MIN, Method, QuantizerSpec, QuantizerType

PIECE = 1 << 18
"""Values in a piece: three arrays of them fit into a core's cache."""

WHOLE = 1 << 20
"""Most values that are added in one go: the op adds at least four side by side, so that each of its partial
sums has as many terms as a piece, on which `MARGIN` rests."""


def best_offset(
    x: Tensor,
    spec: QuantizerSpec,
    start: Tensor,
    exact: Callable[[], Tensor] | None = None,
    *,
    large: bool = True,
) -> Tensor:
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


def _all(
    flat: Tensor, spec: QuantizerSpec, start: Tensor, first: Tensor, good: Tensor, exact: Callable[[], Tensor]
) -> Tensor:
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
    step = tf.cast(position_scale(-_positions(start, FIRST[-1:])[0]), tf.float64)
    rounding = tf.cast(n, tf.float64) * tf.square(step / 2)
    return sums[-1] * (1 - MARGIN) - rounding * (1 + MARGIN) > tf.reduce_min(sums) * (1 + MARGIN)


def _positions(start: Tensor, offsets: Sequence[int]) -> Tensor:
    return tf.clip_by_value(start + np.array(offsets, np.float32), POS_MIN, POS_MAX)


def _ends(spec: QuantizerSpec, start: Tensor, offsets: Sequence[int]) -> list[Tensor]:
    return tf.unstack(far_end(far_code(spec), _positions(start, offsets)))


def _of(flat: Tensor, spec: QuantizerSpec, ends: Sequence[Tensor]) -> Tensor:
    """Sum of squared errors of each candidate, float64, to within `MARGIN`; shape (ends,)."""
    lost = [tf.nn.l2_loss(flat - values_up_to(flat, spec, end)) for end in ends]
    return 2 * tf.cast(tf.stack(lost), tf.float64)


def _sums_of_pieces(flat: Tensor, spec: QuantizerSpec, start: Tensor, offsets: Sequence[int]) -> Tensor:
    ends = _ends(spec, start, offsets)

    def add(at: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return at + PIECE, total + _of(flat[at : at + PIECE], spec, ends)

    begin = (tf.constant(0), tf.zeros([len(offsets)], tf.float64))
    return tf.while_loop(lambda at, _: at < tf.size(flat), add, begin, parallel_iterations=2)[1]


Tensor = Any

_LOG2_RECIPROCAL = grid.reciprocal(np.log(2.0))


def value_range(x: Tensor, spec: QuantizerSpec, *, nonnegative: bool = False) -> tuple[Tensor, Tensor]:
    """The range of a tensor, widened so that its grid suits the spec; see `reference.range_from_extremes`.

    Args:
        x: float32 tensor of known rank.
        spec: symmetric, unsigned, narrow, per channel or not; bits.
        nonnegative: whether x is known to be; then no range depends on its smallest value.

    Returns:
        (f_min, f_max), float32; shape () per tensor, else 1 everywhere but on the channel axis.

    Raises:
        tf.errors.InvalidArgumentError: negative values under a symmetric unsigned spec.
    """
    axes = reduction_axes(x.shape.rank, spec)
    high = tf.reduce_max(x, axis=axes, keepdims=spec.per_channel)
    low = tf.zeros_like(high) if nonnegative else tf.reduce_min(x, axis=axes, keepdims=spec.per_channel)
    return range_from_extremes(low, high, spec)


def range_from_extremes(low: Tensor, high: Tensor, spec: QuantizerSpec) -> tuple[Tensor, Tensor]:
    """The range for observed extremes; see `reference.range_from_extremes`.

    Args:
        low: smallest value seen, float32, any shape.
        high: largest value seen, same shape.
        spec: symmetric, unsigned, narrow or not; bits.

    Returns:
        (f_min, f_max), float32, finite, same shape.

    Raises:
        tf.errors.InvalidArgumentError: negative values under a symmetric unsigned spec.
    """
    low, high = (tf.clip_by_value(v, -grid.REACH, grid.REACH) for v in (low, high))
    if not spec.symmetry:
        return tf.minimum(low, 0.0), tf.maximum(high, 0.0)
    if spec.unsigned:
        message = "a symmetric unsigned quantizer needs values >= 0; set symmetry or unsigned to false"
        with tf.control_dependencies([tf.debugging.assert_non_negative(low, message)]):
            return tf.zeros_like(low), tf.maximum(high, 0.0)
    f_min = tf.minimum(low, high * grid.symmetric_ratio(spec))
    if spec.bit_width == 1:
        return f_min, tf.zeros_like(f_min)
    return f_min, tf.maximum(high, low * grid.inverse_ratio(spec))


def running_range(
    before: Tensor, found: Tensor, spec: QuantizerSpec, started: Tensor, *, vitis_compat: bool = False
) -> tuple[Tensor, Tensor]:
    """The range over all batches so far; see `reference.running_range`.

    Args:
        before: (f_min, f_max) that was kept of the batches before, float32, shape (2, …); zeros at first.
        found: the batch's own range, same shape.
        spec: a quantizer with a float scale.
        started: whether there was a batch before, bool, shape ().
        vitis_compat: the first batch of a moving average is quantized with an average that starts at 0.

    Returns:
        (used, kept): the range that the batch is quantized with, and the one to go on with.
    """
    if spec.quantizer_type == QuantizerType.MAFS:
        mean = before * np.float32(grid.EMA_DECAY) + found * np.float32(1 - grid.EMA_DECAY)
        kept = tf.where(started, mean, found)
        return mean if vitis_compat else kept, kept
    used = tf.stack([tf.minimum(before[0], found[0]), tf.maximum(before[1], found[1])])
    return used, used


def position(
    x: Tensor,
    f_min: Tensor,
    f_max: Tensor,
    spec: QuantizerSpec,
    *,
    vitis_compat: bool = False,
    large: bool = True,
) -> Tensor:
    """Position of a pow-2 scale; see `reference.position`.

    Args:
        x: float32 tensor; read by MIN_MSE only.
        f_min: lower end of the range, as `value_range` gives it.
        f_max: upper end.
        spec: a Pof2S or TQT quantizer.
        vitis_compat: compute as the reference does, its defects included.
        large: whether x has more than `least.WHOLE` values; changes the time it takes only.

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
    rounding = spec if vitis_compat else grid.for_errors(spec)

    def exact() -> Tensor:
        return _least_error(x, f_min, start, rounding, vitis_compat=vitis_compat)

    if kernels.v4_is_exact(rounding):
        # The reference's float32 sums depend on the order of addition, which is the framework's.
        best = best_offset(x, rounding, start, exact if vitis_compat else None, large=large)
    else:
        best = exact()
    return _clip_position(start + tf.cast(best, tf.float32))


def _least_error(x: Tensor, f_min: Tensor, start: Tensor, spec: QuantizerSpec, *, vitis_compat: bool) -> Tensor:
    """Index of the first candidate with the least squared error: float64 sums, float32 as the reference."""
    axes = None if vitis_compat else reduction_axes(x.shape.rank, spec)
    candidates = [_clip_position(start + float(i)) for i in range(grid.MSE_OFFSETS)]
    sums = []
    for candidate in candidates:
        lost = x - kernels.pow2_values(x, spec, f_min, candidate)
        lost = tf.square(lost if vitis_compat else tf.cast(lost, tf.float64))
        sums.append(tf.reduce_sum(lost, axis=axes, keepdims=spec.per_channel and not vitis_compat))
    return tf.argmin(tf.stack(sums), axis=0)


def _clip_position(pos: Tensor) -> Tensor:
    return tf.clip_by_value(pos, float(grid.POS_MIN), float(grid.POS_MAX))


def log_threshold(f_min: Tensor, f_max: Tensor, spec: QuantizerSpec) -> Tensor:
    """TQT's trainable threshold where training starts; see `reference.log_threshold`.

    Args:
        f_min: lower end of the range.
        f_max: upper end.
        spec: gives the grid.

    Returns:
        float32, shape of the range.
    """
    return tf.math.log(_threshold(f_min, f_max, spec)) * _LOG2_RECIPROCAL


def _threshold(f_min: Tensor, f_max: Tensor, spec: QuantizerSpec) -> Tensor:
    return tf.maximum(tf.maximum(tf.abs(f_min), f_max * grid.threshold_ratio(spec)), 1e-9)


def _non_overflow(f_min: Tensor, f_max: Tensor, spec: QuantizerSpec, *, vitis_compat: bool) -> Tensor:
    if spec.quantizer_type == QuantizerType.TQT:
        top = float(spec.bit_width - (not spec.unsigned))
        if vitis_compat:
            return top - tf.math.ceil(log_threshold(f_min, f_max, spec))
        return _clip_position(top + _floor_minus_log2(_threshold(f_min, f_max, spec)))
    step = tf.maximum(_smallest_step(f_min, f_max, spec), grid.TINY_STEP)
    if vitis_compat:
        return tf.floor(-tf.math.log(step) * _LOG2_RECIPROCAL)
    return _clip_position(_floor_minus_log2(step))


def _smallest_step(f_min: Tensor, f_max: Tensor, spec: QuantizerSpec) -> Tensor:
    if not spec.symmetry:
        return (f_max - f_min) * grid.reciprocal(grid.levels(spec))
    sides = [f * grid.reciprocal(q) for f, q in ((f_min, spec.q_min), (f_max, spec.q_max)) if q]
    return tf.maximum(sides[0], sides[-1])


def _floor_minus_log2(value: Tensor) -> Tensor:
    bits = tf.bitcast(value, tf.int32) - (grid.SLACK_ULPS + 1)
    return tf.cast(126 - tf.bitwise.right_shift(bits, 23), tf.float32)


def fake_quantize(
    x: Tensor,
    spec: QuantizerSpec,
    f_min: Tensor,
    f_max: Tensor,
    pos: Tensor | None = None,
    *,
    vitis_compat: bool = False,
) -> Tensor:
    """Round a tensor to its grid and come back to floats, by the cheapest kernel that is exact.

    Gradients: straight through for Pof2S and TQT (see `trained_threshold` for TQT's own); for a float scale
    dx is masked to the range and the ends collect what lies beyond them.

    Args:
        x: float32 tensor of known rank.
        spec: the quantizer.
        f_min: lower end of the range: constant, tensor or variable; shape () or keepdims-channel.
        f_max: upper end, same shape.
        pos: position, same shape; pow-2 scales only.
        vitis_compat: a range without width gives NaN in the own kernel, and specs that the framework kernel
            cannot do are refused.

    Returns:
        float32, shape of x.

    Raises:
        ValueError: a pow-2 scale without position, or (compat) the reference refuses the spec.
    """
    if vitis_compat:
        grid.require_compat(spec)
    f_min, f_max = tf.convert_to_tensor(f_min, tf.float32), tf.convert_to_tensor(f_max, tf.float32)
    if spec.pow2:
        if pos is None:
            raise ValueError(f"{spec.quantizer_type} needs a position")
        pos = tf.convert_to_tensor(pos, tf.float32)
        return kernels.straight_through(lambda x: kernels.pow2_values(x, spec, f_min, pos), x)
    if grid.framework_kernel(spec):
        return kernels.framework_values(x, spec, f_min, f_max)
    return kernels.float_values(x, spec, f_min, f_max, vitis_compat=vitis_compat)


def fake_quantize_up_to(x: Tensor, spec: QuantizerSpec, end: Tensor) -> Tensor:
    """`fake_quantize` for a pow-2 scale whose grid's end is computed already; gradient straight through.

    Args:
        x: float32 tensor.
        spec: a quantizer that `kernels.v4_is_exact` accepts.
        end: `kernels.far_end`, shape ().

    Returns:
        float32, shape of x.
    """
    return kernels.straight_through(lambda x: kernels.values_up_to(x, spec, end), x)


def trained_threshold(x: Tensor, spec: QuantizerSpec, f_min: Tensor, f_max: Tensor, log_th: Tensor) -> Tensor:
    """Fake-quantize with a trainable log2 threshold and its gradient; see `kernels.threshold_gradient`.

    Args:
        x: float32 tensor of known rank.
        spec: a TQT quantizer.
        f_min: lower end of the observed range, shape () or keepdims-channel.
        f_max: upper end, same shape.
        log_th: log2 of the threshold, same shape; usually a variable.

    Returns:
        float32, shape of x.

    Raises:
        ValueError: the quantizer is not TQT.
    """
    if spec.quantizer_type != QuantizerType.TQT:
        raise ValueError(f"a trained threshold belongs to TQTQuantizer, not {spec.quantizer_type}")
    f_min, f_max, log_th = (tf.convert_to_tensor(t, tf.float32) for t in (f_min, f_max, log_th))
    return kernels.threshold_gradient(x, spec, f_min, f_max, log_th)


def choose(x: Any, spec: QuantizerSpec, *, vitis_compat: bool = False) -> QParams:
    """Range and position of one tensor at once, e.g. of a weight; every method.

    Args:
        x: float32 array or tensor, finite.
        spec: the quantizer.
        vitis_compat: compute as the reference does, its defects included.

    Returns:
        The decided numbers as numpy arrays.

    Raises:
        ValueError: x is not finite, is negative under a symmetric unsigned spec, or (compat) the reference
            refuses the spec.
    """
    array = checked(x, spec, vitis_compat=vitis_compat)
    if needs_search(spec, vitis_compat=vitis_compat):
        return choose_by_search(array, spec, vitis_compat=vitis_compat)
    if not vitis_compat and _cheap_in_numpy(spec):
        return _choose_in_numpy(array, spec)
    found = [t.numpy() for t in _chooser(spec, vitis_compat, array.ndim)(tf.constant(array))]
    return QParams(spec, *found)


def _cheap_in_numpy(spec: QuantizerSpec) -> bool:
    """Whether numpy is as fast as a compiled function, which then is not worth tracing."""
    return not spec.pow2 or spec.method != Method.MIN_MSE or kernels.v4_is_exact(grid.for_errors(spec))


def _choose_in_numpy(array: npt.NDArray[np.float32], spec: QuantizerSpec) -> QParams:
    f_min, f_max = reference.value_range(array, spec)
    if not spec.pow2:
        return QParams(spec, f_min, f_max)
    start = reference.position(array, f_min, f_max, spec.with_(method=Method.NON_OVERFLOW))
    if spec.method != Method.MIN_MSE:
        return QParams(spec, f_min, f_max, start)
    best = mse.best_offset(array.ravel(), grid.for_errors(spec), start)
    return QParams(spec, f_min, f_max, reference.clip_position(start + np.float32(best)))


def fake_quantize_numpy(x: Any, qp: QParams, *, vitis_compat: bool = False) -> npt.NDArray[np.float32]:
    """`fake_quantize` of an array at decided numbers, e.g. of a weight.

    Args:
        x: float32 array, any shape the range broadcasts against.
        qp: spec, range, position.
        vitis_compat: as in `fake_quantize`.

    Returns:
        float32 array, shape of x.

    Raises:
        ValueError: (compat) the reference refuses the spec.
    """
    x = tf.constant(np.asarray(x, np.float32))
    return fake_quantize(x, qp.spec, qp.f_min, qp.f_max, qp.pos, vitis_compat=vitis_compat).numpy()


@functools.lru_cache(maxsize=256)
def _chooser(spec: QuantizerSpec, vitis_compat: bool, rank: int) -> Any:
    """One traced function for each spec and rank: the reference's numbers are those of graph mode."""

    def run(x: Tensor) -> tuple[Tensor, ...]:
        f_min, f_max = value_range(x, spec)
        if not spec.pow2:
            return f_min, f_max
        return f_min, f_max, position(x, f_min, f_max, spec, vitis_compat=vitis_compat)

    any_shape = tf.TensorSpec([None] * rank, tf.float32)
    return tf.function(run, input_signature=[any_shape], autograph=False).get_concrete_function()
