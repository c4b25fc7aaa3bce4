"""Ranges and positions: equal in TensorFlow and numpy, and what their definitions promise."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.cases import FS, POF2S, TQT, grids, name
from vqkit.primitives import choose as numpy_choice
from vqkit.primitives import ops, reference
from vqkit.primitives import spec as grid
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, RoundMode

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
POW2 = [POF2S, TQT]
EXPONENTS = np.arange(-50, 60)


def position_of(value: float, spec: QuantizerSpec) -> float:
    x = np.float32([value])
    return float(reference.position(x, *reference.value_range(x, spec), spec))


@pytest.mark.parametrize(
    ("spec", "low", "high", "expected"),
    [
        (QuantizerSpec(POF2S, symmetry=True), -1.0, 127.0, (-128.0, 127.0)),
        (QuantizerSpec(POF2S, symmetry=True), -256.0, 1.0, (-256.0, 254.0)),
        (QuantizerSpec(POF2S, narrow_range=True), -1.0, 3.0, (-3.0, 3.0)),
        (QuantizerSpec(POF2S, symmetry=False), 2.0, 3.0, (0.0, 3.0)),
        (QuantizerSpec(POF2S, symmetry=False), -3.0, -2.0, (-3.0, 0.0)),
        (QuantizerSpec(POF2S, unsigned=True), 1.0, 3.0, (0.0, 3.0)),
        (QuantizerSpec(POF2S, bit_width=1), -2.0, 3.0, (-3.0, 0.0)),
        (QuantizerSpec(POF2S, bit_width=1, unsigned=True), 0.0, 3.0, (0.0, 3.0)),
        (QuantizerSpec(POF2S, bit_width=2), -1.0, 3.0, (-6.0, 3.0)),
    ],
)
def test_range(spec: QuantizerSpec, low: float, high: float, expected: tuple[float, float]) -> None:
    assert reference.range_from_extremes(low, high, spec) == expected


@pytest.mark.parametrize(
    ("value", "bits", "expected"),
    [(127.0, 8, 0), (128.0, 8, -1), (1.0, 8, 6), (0.99, 8, 7), (7.0, 4, 0), (0.1, 4, 6)],
)
def test_non_overflow(value: float, bits: int, expected: int) -> None:
    assert position_of(value, QuantizerSpec(POF2S, bit_width=bits)) == expected


@pytest.mark.parametrize("bits", range(1, 33))
@pytest.mark.parametrize("kind", POW2)
@pytest.mark.parametrize("unsigned", [False, True])
def test_a_full_grid_gets_its_own_position(bits: int, kind: QuantizerType, unsigned: bool) -> None:
    """A range that fits 2**-p exactly gets p, for every p, at every width: no logarithm decides."""
    spec = QuantizerSpec(kind, bit_width=bits, unsigned=unsigned)
    end = spec.q_max or spec.q_min
    tops = np.ldexp(np.float32(end), -EXPONENTS).astype(np.float32)
    x = np.float32(np.abs(tops) if unsigned else -np.abs(tops))[:, None] if bits == 1 else tops[:, None]
    spec = spec.with_(per_channel=True, channel_axis=0)
    f_min, f_max = reference.value_range(x, spec)
    found = reference.position(x, f_min, f_max, spec)
    wanted = np.clip(EXPONENTS, grid.POS_MIN, 52 if kind == POF2S else grid.POS_MAX)
    th_limit = spec.bit_width - (not unsigned) + 29
    wanted = np.minimum(wanted, th_limit) if kind == TQT else wanted
    np.testing.assert_array_equal(found[:, 0], wanted)
    np.testing.assert_array_equal(ops.position(tf.constant(x), f_min, f_max, spec), found)


@given(value=st.floats(2.0**-25, 2.0**60, width=32), bits=st.integers(2, 23), kind=st.sampled_from(POW2))
def test_the_largest_position_that_holds_the_value(value: float, bits: int, kind: QuantizerType) -> None:
    spec = QuantizerSpec(kind, bit_width=bits)
    step = 2.0 ** -position_of(value, spec)
    assert value <= spec.q_max * step * (1 + 1e-6)
    assert value > spec.q_max * step / 2 * (1 - 1e-6)


def channels(*, unsigned: bool) -> np.ndarray:
    """Six channels of very different size, one of them zero; shape (40, 6)."""
    x = np.random.default_rng(8).standard_t(2, size=(40, 6)).astype(np.float32)
    x *= np.float32([1e-12, 0, 0.03, 1, 700, 1e20])
    return np.abs(x) if unsigned else x


@pytest.mark.parametrize("spec", [s for k in POW2 for s in grids(kind=k, bits=(2, 8, 32))], ids=name)
@pytest.mark.parametrize("method", [Method.NON_OVERFLOW, Method.MIN_MSE])
def test_tensorflow_positions_are_numpys(spec: QuantizerSpec, method: Method) -> None:
    x = channels(unsigned=spec.unsigned)
    for per_channel in (False, True):
        spec = spec.with_(method=method, per_channel=per_channel)
        expected = reference.value_range(x, spec)
        found = ops.value_range(tf.constant(x), spec)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        pos = ops.position(tf.constant(x), *found, spec)
        np.testing.assert_array_equal(pos, reference.position(x, *expected, spec))


@pytest.mark.parametrize("kind", [*POW2, FS])
@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("per_channel", [False, True])
def test_choose_in_a_graph_is_numpys_choose(kind: QuantizerType, method: Method, per_channel: bool) -> None:
    spec = QuantizerSpec(kind, 4, method, symmetry=method != Method.PERCENTILE, per_channel=per_channel)
    x = channels(unsigned=False)
    assert ops.choose(x, spec) == numpy_choice.choose(x, spec)


@settings(max_examples=150)
@given(
    x=hnp.arrays(np.float32, (3, 4), elements=FLOATS),
    bits=st.integers(1, 32),
    kind=st.sampled_from([*POW2, FS]),
    method=st.sampled_from([Method.NON_OVERFLOW, Method.MIN_MSE]),
    symmetry=st.booleans(),
    per_channel=st.booleans(),
)
def test_tensorflow_chooses_as_numpy_on_draws(
    x: np.ndarray, bits: int, kind: QuantizerType, method: Method, symmetry: bool, per_channel: bool
) -> None:
    spec = QuantizerSpec(kind, bits, method, symmetry=symmetry, per_channel=per_channel)
    f_min, f_max = ops.value_range(tf.constant(x), spec)
    expected = reference.value_range(x, spec)
    np.testing.assert_array_equal(f_min, expected[0])
    np.testing.assert_array_equal(f_max, expected[1])
    if spec.pow2:
        pos = ops.position(tf.constant(x), f_min, f_max, spec)
        np.testing.assert_array_equal(pos, reference.position(x, *expected, spec))


@pytest.mark.parametrize("mode", RoundMode)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_min_mse_takes_the_best_of_five(mode: RoundMode, bits: int) -> None:
    x = np.random.default_rng(7).standard_t(2, size=4000).astype(np.float32)
    spec = QuantizerSpec(POF2S, bits, Method.MIN_MSE, mode)
    found = numpy_choice.choose(x, spec)
    start = numpy_choice.choose(x, spec.with_(method=Method.NON_OVERFLOW))

    def error(pos: float) -> float:
        candidate = QParams(spec, found.f_min, found.f_max, np.float32(pos))
        return float(np.sum(np.square(x - reference.fake_quantize(x, candidate), dtype=np.float64)))

    errors = [error(start.pos + i) for i in range(5)]
    assert found.pos == start.pos + np.argmin(errors)
    assert min(errors) < errors[0] or bits == 8


def test_the_first_of_equal_errors_wins() -> None:
    x = np.float32([0.5, -0.5])
    assert numpy_choice.choose(x, QuantizerSpec(POF2S, 8, Method.MIN_MSE)).pos == 7


def test_tqt_starts_at_the_threshold_that_the_position_comes_from() -> None:
    x = np.random.default_rng(1).normal(size=300).astype(np.float32)
    spec = QuantizerSpec(TQT)
    f_min, f_max = reference.value_range(x, spec)
    log_th = reference.log_threshold(f_min, f_max, spec)
    np.testing.assert_allclose(2.0**log_th, max(abs(f_min), f_max * 128 / 127), rtol=1e-6)
    np.testing.assert_allclose(ops.log_threshold(f_min, f_max, spec), log_th, rtol=2e-7)
    assert reference.position(x, f_min, f_max, spec) == 7 - np.ceil(log_th)


def test_a_float_scale_has_no_position() -> None:
    with pytest.raises(ValueError, match="FSQuantizer has a float scale"):
        reference.position(np.float32([1]), np.float32(-1), np.float32(1), QuantizerSpec(FS))
    with pytest.raises(ValueError, match="FSQuantizer has a float scale"):
        ops.position(tf.constant([1.0]), -1.0, 1.0, QuantizerSpec(FS))


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf], []])
def test_no_range_for_values_that_are_not_finite(bad: list[float]) -> None:
    for choose in (ops.choose, numpy_choice.choose):
        with pytest.raises(ValueError, match="cannot choose a range"):
            choose(np.float32(bad), QuantizerSpec(POF2S))


def test_unsigned_symmetric_refuses_negative_values() -> None:
    spec, x = QuantizerSpec(POF2S, unsigned=True), np.float32([-1, 2])
    for choose in (ops.choose, numpy_choice.choose):
        with pytest.raises(ValueError, match=r"needs values >= 0, the tensor reaches -1\.0"):
            choose(x, spec)
    with pytest.raises(tf.errors.InvalidArgumentError, match="needs values >= 0"):
        tf.function(lambda t: ops.value_range(t, spec), autograph=False)(tf.constant(x))


def test_channel_axis_must_exist() -> None:
    with pytest.raises(ValueError, match="channel_axis 3 does not exist in a tensor of rank 2"):
        ops.choose(np.ones((2, 2)), QuantizerSpec(POF2S, per_channel=True, channel_axis=3))


def test_one_signed_bit_has_the_codes_minus_one_and_zero() -> None:
    x = np.float32([-3, -1.6, -1.4, 0, 2])
    qp = numpy_choice.choose(x, QuantizerSpec(FS, bit_width=1))
    np.testing.assert_array_equal(reference.quantize(x, qp), [-1, -1, 0, 0, 0])
    np.testing.assert_array_equal(reference.fake_quantize(x, qp), [-3, -3, 0, 0, 0])
    pow2 = numpy_choice.choose(x, QuantizerSpec(POF2S, bit_width=1))
    assert pow2.scale == 4
    with pytest.raises(ValueError, match="narrow_range needs at least 2 bits"):
        QuantizerSpec(FS, bit_width=1, narrow_range=True)
