"""The learned quantizer: its values, its gradients against formulas and finite differences, its positions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from vqkit.errors import ModelError
from vqkit.primitives import ops, reference
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, RoundMode
from vqkit.qat import LearnedQuantize

TQT, POF2S, FS = QuantizerType.TQT, QuantizerType.POF2S, QuantizerType.FS
LN2 = np.log(2.0)


def draw(n: int = 400, *, seed: int = 0, size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(seed).normal(size=(n, 4))).astype(np.float32)


def learned(x: np.ndarray, spec: QuantizerSpec, **kwargs: Any) -> LearnedQuantize:
    layer = LearnedQuantize(spec, (1, 4) if spec.per_channel else (), "t", **kwargs)
    layer.assign(ops.choose(x, spec))
    return layer


def gradients(layer: LearnedQuantize, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = tf.reduce_sum(layer(given) * dy)
    dx, *rest = tape.gradient(total, [given, *(v.value for v in layer.trainable_variables)])
    return np.asarray(dx), [np.asarray(g) for g in rest]


@pytest.mark.parametrize("kind", [TQT, POF2S, FS])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetry", [False, True])
def test_before_training_it_computes_what_was_decided(kind, per_channel, symmetry):
    x = draw()
    spec = QuantizerSpec(kind, 5, per_channel=per_channel, symmetry=symmetry)
    chosen = ops.choose(x, spec)
    layer = learned(x, spec)
    np.testing.assert_array_equal(layer(x), ops.fake_quantize_numpy(x, chosen))
    assert layer.params == chosen


@pytest.mark.parametrize("bits", range(1, 33))
@pytest.mark.parametrize("log_th", [-3.7, -1.0, 0.0, 0.4, 2.0, 5.1])
def test_a_trained_threshold_is_a_position_at_every_width(bits, log_th):
    """The position's grid gives the same values as the trained threshold's, and holds values up to it."""
    spec = QuantizerSpec(TQT, bits)
    layer = learned(draw(), spec)
    layer.log_threshold.assign(log_th)
    params = layer.params
    assert float(params.pos) == bits - 1 - np.ceil(np.float32(log_th))
    x = draw(size=2.0**log_th)
    fixed = QParams(spec.with_(quantizer_type=POF2S), params.f_min, params.f_max, params.pos)
    np.testing.assert_array_equal(layer(x), ops.fake_quantize_numpy(x, fixed))
    np.testing.assert_array_equal(layer(x), reference.fake_quantize(x, fixed))
    step = float(params.scale)
    assert 2.0**log_th <= -spec.q_min * step < 2.0 ** (log_th + 1) * (1 + 1e-6)


def surrogate(x: np.ndarray, log_th: float, at: float, spec: QuantizerSpec) -> np.ndarray:
    """TQT with rounding and ceiling replaced by their straight-through surrogates around `at`, in float64.

    The rounding error of each value and the fraction that the ceiling adds are held at what they are for
    `at`; the rest is differentiable in x and log_th. This is what the gradient is the gradient of.
    """
    top = spec.bit_width - (not spec.unsigned)
    lift = np.ceil(at) - at
    here, there = (2.0 ** (t + lift - top) for t in (at, log_th))
    error = np.asarray(reference.round_(np.float32(x / here), spec.round_mode), np.float64) - x / here
    return there * np.clip(x / there + error, spec.q_min, spec.q_max)


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("mode", [RoundMode.HALF_TO_EVEN, RoundMode.HALF_UP])
def test_gradients_are_those_of_the_straight_through_surrogate(bits, unsigned, mode):
    spec = QuantizerSpec(TQT, bits, unsigned=unsigned, round_mode=mode)
    x = np.abs(draw(seed=1)) if unsigned else draw(seed=1)
    dy = draw(seed=2)
    layer = learned(x, spec)
    at = 0.3
    layer.log_threshold.assign(at)
    at = float(layer.log_threshold.numpy())
    # A value that rounds just onto the outermost code stands on the surrogate's kink: no derivative there.
    step = float(layer.params.scale)
    codes = x.astype(np.float64) / step
    kinks = (np.abs(codes - spec.q_max) <= 0.51) | (np.abs(codes - spec.q_min) <= 0.51)
    dy = np.where(kinks, 0, dy)
    dx, (d_log,) = gradients(layer, x, dy)
    h = 1e-5
    wide = x.astype(np.float64)
    rise = (surrogate(wide, at + h, at, spec) - surrogate(wide, at - h, at, spec)) / (2 * h)
    np.testing.assert_allclose(d_log, np.sum(dy * rise), rtol=1e-4, atol=1e-3)
    inside = (codes > spec.q_min) & (codes < spec.q_max)
    np.testing.assert_array_equal(dx, np.where(inside, dy, 0))


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_of_a_threshold_are_the_formula(per_channel):
    """Inside: ln 2 (x' - x); outside: ln 2 q / s, where inside means: rounds to a code without clipping."""
    x, dy = draw(seed=3), draw(seed=4)
    spec = QuantizerSpec(TQT, 4, per_channel=per_channel)
    layer = learned(x, spec)
    layer.log_threshold.assign(layer.log_threshold.numpy() - 2.2)
    dx, (d_log,) = gradients(layer, x, dy)
    s = 2.0 ** np.asarray(layer.position)
    rounded = np.floor(x * s + 0.5)
    inside = (rounded >= spec.q_min) & (rounded <= spec.q_max)
    assert 0.05 < 1 - inside.mean() < 0.95
    values = np.asarray(layer(x))
    slope = LN2 * dy * np.where(inside, values - x, values)
    wanted = slope.sum(axis=0, keepdims=True) if per_channel else slope.sum()
    np.testing.assert_allclose(d_log, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(dx, np.where(inside, dy, 0))


def test_a_threshold_that_clips_too_much_grows_and_one_that_wastes_codes_shrinks():
    """Against the squared error, whose minimum lies between: the property that TQT is for."""
    x = draw(seed=5)
    layer = learned(x, QuantizerSpec(TQT, 4))
    signs = []
    for start in (-3.0, 5.0):
        layer.log_threshold.assign(start)
        _, (d_log,) = gradients(layer, x, np.asarray(layer(x)) - x)
        signs.append(np.sign(d_log))
    assert signs == [-1, 1]


def test_pof2s_is_straight_through_and_learns_no_range():
    x, dy = draw(seed=6, size=3.0), draw(seed=7)
    spec = QuantizerSpec(POF2S, 3, method=Method.MIN_MSE)
    layer = learned(x, spec)
    assert layer.trainable_variables == []
    dx, _ = gradients(layer, x, dy)
    np.testing.assert_array_equal(dx, dy)


@pytest.mark.parametrize("framework", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetry", [False, True])
def test_a_float_range_collects_what_lies_beyond_its_ends(framework, per_channel, symmetry):
    x, dy = draw(seed=8), draw(seed=9)
    spec = QuantizerSpec(FS, 4, per_channel=per_channel, symmetry=symmetry, use_framework_quant=framework)
    layer = learned(x, spec)
    layer.range_factor.assign(0.4 * layer.range_factor.numpy())
    low, high = layer.params.f_min, layer.params.f_max
    if not symmetry:
        # The gradient is masked at the ends nudged onto the grid.
        step = (high - low) / (spec.q_max - spec.q_min)
        zero = np.round(low / step)
        low, high = zero * step, (zero + spec.q_max - spec.q_min) * step
    below, above = x < low, x > high
    assert below.any()
    assert above.any()
    dx, (d_factor,) = gradients(layer, x, dy)
    axis = 0 if per_channel else None
    ends = [np.where(mask, dy, 0).sum(axis=axis, keepdims=per_channel) for mask in (below, above)]
    scaled = [e * np.asarray(v.numpy()) for e, v in zip(ends, (layer.f_min, layer.f_max), strict=True)]
    np.testing.assert_allclose(d_factor, sum(scaled) if symmetry else np.stack(scaled), rtol=2e-4, atol=1e-4)
    np.testing.assert_array_equal(dx, np.where(below | above, 0, dy))


def test_a_range_factor_never_goes_below_zero():
    layer = learned(draw(), QuantizerSpec(FS, 4))
    layer.range_factor.assign(-0.5)
    assert float(layer.range_factor.constraint(layer.range_factor)) == 0


def test_a_searched_position_starts_in_the_middle_of_its_octave():
    x = draw()
    spec = QuantizerSpec(TQT, 4, method=Method.MIN_MSE)
    layer = learned(x, spec)
    assert float(layer.log_threshold.numpy()) == 3 - float(ops.choose(x, spec).pos) - 0.5


@pytest.mark.parametrize("kind", [TQT, POF2S, FS])
def test_without_a_range_values_pass_until_the_first_training_batch(kind):
    x, wide = draw(), draw(size=8.0)
    spec = QuantizerSpec(kind, 4)
    always = kind is POF2S
    layer = LearnedQuantize(spec, (), "t", "always" if always else "first")
    np.testing.assert_array_equal(layer(x), x)
    with pytest.raises(ModelError, match="t has no range yet"):
        _ = layer.params
    layer(x, training=True)
    np.testing.assert_array_equal(layer(x), ops.fake_quantize_numpy(x, ops.choose(x, spec)))
    layer(wide, training=True)
    assert layer.params == ops.choose(wide if always else x, spec)


def test_an_unknown_way_to_estimate_is_refused():
    with pytest.raises(ModelError, match=r"'firts' is not allowed.*did you mean 'first'"):
        LearnedQuantize(QuantizerSpec(TQT), (), "t", "firts")


def test_it_survives_its_config():
    layer = learned(draw(), QuantizerSpec(TQT, 4, per_channel=True))
    again = LearnedQuantize.from_config(keras.saving.deserialize_keras_object(layer.get_config()))
    assert again.get_config() == layer.get_config()
