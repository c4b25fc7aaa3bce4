"""Fake-quantization in TensorFlow equals the numpy reference, without tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.cases import FS, POF2S, TQT, every_code, grids, name, range_for
from vqkit.primitives import kernels, ops, reference
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, QuantizerType, RoundMode

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


def assert_same(x: np.ndarray, qp: QParams) -> np.ndarray:
    with np.errstate(over="ignore"):
        expected = reference.fake_quantize(x, qp)
    np.testing.assert_array_equal(ops.fake_quantize_numpy(x, qp), expected)
    return expected


@pytest.mark.parametrize("spec", grids(bits=range(2, 9)), ids=name)
@pytest.mark.parametrize("pos", [-3, 0, 7])
def test_pow2_every_code(spec: QuantizerSpec, pos: int) -> None:
    step = 2.0**-pos
    out = assert_same(every_code(spec, step), QParams(spec, *range_for(spec, step), np.float32(pos)))
    if spec.symmetry:
        codes = np.unique(out / np.float32(step))
        np.testing.assert_array_equal(codes, np.arange(spec.q_min, spec.q_max + 1))


@pytest.mark.parametrize("bits", [2, 3, 8, 16, 23])
@pytest.mark.parametrize("mode", [RoundMode.HALF_TO_EVEN, RoundMode.HALF_UP])
@pytest.mark.parametrize(("unsigned", "narrow"), [(False, False), (False, True), (True, False)])
def test_pow2_at_every_position(bits: int, mode: RoundMode, unsigned: bool, narrow: bool) -> None:
    """Everywhere from the largest grid that float32 holds to the finest position."""
    spec = QuantizerSpec(POF2S, bits, round_mode=mode, unsigned=unsigned, narrow_range=narrow)
    codes = np.float32([0, 0.25, 0.5, 1, 1.5, 2.5, spec.q_max - 0.5, spec.q_max, spec.q_max + 0.5])
    codes = np.unique(np.concatenate([codes, np.nextafter(codes[1:], np.float32(0)), -codes]))
    positions = np.arange(bits - 126, 127, dtype=np.float32)
    x = codes * np.exp2(-positions)[:, None]
    x[np.abs(x) < np.finfo(np.float32).tiny] = 0
    one = lambda given: kernels.pow2_values(given[0], spec, 0.0, given[1])  # noqa: E731
    found = tf.function(lambda *given: tf.map_fn(one, given, tf.float32), autograph=False)(x, positions)
    for row, pos, values in zip(x, positions, found.numpy(), strict=True):
        expected = reference.fake_quantize(row, QParams(spec, *range_for(spec, 2.0**-pos), pos))
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("spec", grids(kind=FS, bits=(2, 3, 8)), ids=name)
@pytest.mark.parametrize("step", [0.0313, 1 / 127, 2.0**-5, 3e4])
@pytest.mark.parametrize("framework", [False, True])
def test_float_scale_every_code(spec: QuantizerSpec, step: float, framework: bool) -> None:
    spec = spec.with_(use_framework_quant=framework)
    assert_same(every_code(spec, step), QParams(spec, *range_for(spec, step)))


@pytest.mark.parametrize("bits", range(1, 33))
@pytest.mark.parametrize("mode", RoundMode)
def test_every_bit_width(bits: int, mode: RoundMode) -> None:
    near_ends = np.float32([-1, 1]) * np.float32(2.0 ** (bits - 1))
    x = np.concatenate([np.linspace(-40, 40, 641, dtype=np.float32), near_ends, np.nextafter(near_ends, np.float32(0))])
    for kind in (POF2S, FS):
        spec = QuantizerSpec(kind, bit_width=bits, round_mode=mode)
        for scaled in (x, x / np.float32(16)):
            assert_same(scaled, reference_params(scaled, spec))


def reference_params(x: np.ndarray, spec: QuantizerSpec) -> QParams:
    f_min, f_max = reference.value_range(x, spec)
    return QParams(spec, f_min, f_max, reference.position(x, f_min, f_max, spec) if spec.pow2 else None)


@pytest.mark.parametrize("kind", [POF2S, TQT, FS])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("symmetry", [True, False])
@pytest.mark.parametrize("framework", [False, True])
def test_per_channel_along_any_axis(kind: QuantizerType, axis: int, symmetry: bool, framework: bool) -> None:
    x = np.random.default_rng(axis + 5).normal(size=(5, 4, 3)).astype(np.float32) * np.float32([0.1, 1, 30])
    spec = QuantizerSpec(
        kind,
        symmetry=symmetry,
        per_channel=True,
        channel_axis=axis,
        use_framework_quant=framework,
        bit_width=4,
    )
    out = assert_same(x, reference_params(x, spec))
    for i in range(x.shape[axis]):
        one = np.take(x, i, axis)
        if not (framework and kind == FS):
            alone = reference.fake_quantize(one, reference_params(one, spec.with_(per_channel=False)))
            np.testing.assert_array_equal(np.take(out, i, axis), alone)


@settings(max_examples=150)
@given(
    x=hnp.arrays(np.float32, (3, 4), elements=FLOATS),
    bits=st.integers(1, 32),
    kind=st.sampled_from([POF2S, TQT, FS]),
    mode=st.sampled_from(RoundMode),
    symmetry=st.booleans(),
    per_channel=st.booleans(),
    framework=st.booleans(),
)
def test_drawn_tensors(
    x: np.ndarray,
    bits: int,
    kind: QuantizerType,
    mode: RoundMode,
    symmetry: bool,
    per_channel: bool,
    framework: bool,
) -> None:
    spec = QuantizerSpec(
        kind, bits, round_mode=mode, symmetry=symmetry, per_channel=per_channel, use_framework_quant=framework
    )
    with np.errstate(over="ignore"):
        qp = reference_params(x, spec)
    assert_same(x, qp)


SIGNED = [s for k in (POF2S, FS) for s in grids(kind=k, bits=(4,)) if not s.narrow_range and not s.unsigned]


@pytest.mark.parametrize("spec", SIGNED, ids=name)
@pytest.mark.parametrize("framework", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_eager_graph_constants_and_variables_agree(spec: QuantizerSpec, framework: bool, per_channel: bool) -> None:
    """The graph optimizer may not rewrite the arithmetic, not even where the range is a constant."""
    spec = spec.with_(use_framework_quant=framework, per_channel=per_channel)
    shape = (1, 1) if per_channel else ()
    step = 0.0313 if spec.quantizer_type == FS else 2.0**-5
    x = every_code(spec, step)[:, None]
    pos = np.full(shape, 5.0) if spec.pow2 else None
    qp = QParams(spec, *(np.reshape(f, shape) for f in range_for(spec, step)), pos)
    baked = tf.function(lambda t: ops.fake_quantize(t, spec, qp.f_min, qp.f_max, qp.pos), autograph=False)
    variables = [tf.Variable(v) for v in (qp.f_min, qp.f_max, qp.pos) if v is not None]
    held = tf.function(lambda t: ops.fake_quantize(t, spec, *variables), autograph=False)
    expected = assert_same(x, qp)
    np.testing.assert_array_equal(baked(tf.constant(x)), expected)
    np.testing.assert_array_equal(held(tf.constant(x)), expected)


def test_assigning_a_position_does_not_retrace() -> None:
    spec, traces = QuantizerSpec(POF2S), []
    f_min, f_max, pos = (tf.Variable(0.0) for _ in range(3))

    @tf.function(autograph=False)
    def run(x: tf.Tensor) -> tf.Tensor:
        traces.append(1)
        return ops.fake_quantize(x, spec, f_min, f_max, pos)

    x = tf.constant([0.3])
    for value, expected in ((0, 0.0), (2, 0.25), (4, 0.3125)):
        pos.assign(value)
        np.testing.assert_array_equal(run(x), np.float32([expected]))
    assert len(traces) == 1


def test_not_a_number_stays() -> None:
    x = np.float32([np.nan, 1.0])
    for kind in (POF2S, FS):
        spec = QuantizerSpec(kind)
        out = ops.fake_quantize_numpy(x, reference_params(np.float32([1.0]), spec))
        np.testing.assert_array_equal(np.isnan(out), [True, False])


def test_a_pow2_scale_needs_a_position() -> None:
    with pytest.raises(ValueError, match="Pof2SQuantizer needs a position"):
        ops.fake_quantize(tf.constant([1.0]), QuantizerSpec(POF2S), 0.0, 1.0)
