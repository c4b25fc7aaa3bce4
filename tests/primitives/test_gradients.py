"""Gradients, against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.cases import FS, POF2S, TQT
from vqkit.primitives import ops, reference
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, RoundMode

X = np.float32([-9, -3, -1, -0.3, 0, 0.2, 0.7, 1.4, 2, 11])
DY = np.float32([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def gradients(run: Any, *values: Any) -> list[np.ndarray]:
    variables = [tf.Variable(np.float32(v)) for v in values]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(run(*variables) * DY)
    return [np.asarray(g) for g in tape.gradient(total, variables)]


@pytest.mark.parametrize("mode", RoundMode)
@pytest.mark.parametrize("symmetry", [True, False])
def test_pow2_is_straight_through(mode: RoundMode, symmetry: bool) -> None:
    spec = QuantizerSpec(POF2S, 4, round_mode=mode, symmetry=symmetry)
    (dx,) = gradients(lambda x: ops.fake_quantize(x, spec, -2.0, 1.75, 2.0), X)
    np.testing.assert_array_equal(dx, DY)


@pytest.mark.parametrize("framework", [False, True])
def test_float_scale_masks_and_gives_the_ends_what_lies_beyond(framework: bool) -> None:
    spec = QuantizerSpec(FS, 4, use_framework_quant=framework)
    f_min, f_max = np.float32(-2), np.float32(1.75)
    dx, d_min, d_max = gradients(lambda x, low, high: ops.fake_quantize(x, spec, low, high), X, f_min, f_max)
    below, above = f_min > X, f_max < X
    np.testing.assert_array_equal(dx, np.where(below | above, 0, DY))
    assert d_min == DY[below].sum()
    assert d_max == DY[above].sum()


def test_asymmetric_float_scale_masks_at_the_nudged_ends() -> None:
    spec = QuantizerSpec(FS, 2, symmetry=False)
    f_min, f_max = np.float32(-1.0), np.float32(1.9)
    step = float(f_max - f_min) / 3
    nudged = -step, 2 * step
    x = np.float32([nudged[0] - 0.01, nudged[0] + 0.01, 0, nudged[1] - 0.01, nudged[1] + 0.01, 5, 6, 7, 8, 9])
    dx, d_min, d_max = gradients(lambda x, low, high: ops.fake_quantize(x, spec, low, high), x, f_min, f_max)
    np.testing.assert_array_equal(dx, DY * [0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert (d_min, d_max) == (DY[0], DY[4:].sum())


@pytest.mark.parametrize("framework", [False, True])
def test_per_channel_ends_collect_their_own_channel(framework: bool) -> None:
    spec = QuantizerSpec(FS, 4, per_channel=True, use_framework_quant=framework)
    x = np.stack([X, X / 2], axis=-1)
    low, high = np.float32([[-2, -2]]), np.float32([[1.75, 1.75]])

    def run(x: Any, low: Any, high: Any) -> Any:
        return tf.reduce_sum(ops.fake_quantize(x, spec, low, high), axis=-1)

    dx, d_min, d_max = gradients(run, x, low, high)
    dy = np.stack([DY, DY], axis=-1)
    np.testing.assert_array_equal(dx, np.where((x < low) | (x > high), 0, dy))
    np.testing.assert_array_equal(d_min, np.where(x < low, dy, 0).sum(axis=0, keepdims=True))
    np.testing.assert_array_equal(d_max, np.where(x > high, dy, 0).sum(axis=0, keepdims=True))


@pytest.mark.parametrize("log_th", [0.3, 1.0, 1.7])
def test_trained_threshold(log_th: float) -> None:
    spec = QuantizerSpec(TQT, 4)
    f_min, f_max = np.float32(-3), np.float32(2)

    def run(x: Any, th: Any) -> Any:
        return ops.trained_threshold(x, spec, f_min, f_max, th)

    dx, d_log = gradients(run, X, log_th)
    pos = np.float32(3 - np.ceil(log_th))
    out = reference.fake_quantize(X, QParams(spec, f_min, f_max, pos))
    inside = (f_min <= X) & (f_max >= X)
    np.testing.assert_array_equal(run(X, np.float32(log_th)), out)
    np.testing.assert_array_equal(dx, np.where(inside, DY, 0))
    slope = np.log(2) * np.where(inside, out - X, out)
    np.testing.assert_allclose(d_log, np.sum(DY * slope), rtol=1e-6)


def test_trained_threshold_per_channel() -> None:
    spec = QuantizerSpec(TQT, 4, per_channel=True)
    x = np.stack([X, X], axis=-1)
    low, high = np.float32([[-3, -3]]), np.float32([[2, 2]])

    def run(th: Any) -> Any:
        return tf.reduce_sum(ops.trained_threshold(x, spec, low, high, th), axis=-1)

    (both,) = gradients(run, [[1.0, 2.0]])
    one = [
        gradients(lambda th: ops.trained_threshold(X, spec.with_(per_channel=False), low[0, 0], high[0, 0], th), t)[0]
        for t in (1.0, 2.0)
    ]
    np.testing.assert_allclose(both, [one], rtol=1e-6)


def test_a_trained_threshold_belongs_to_tqt() -> None:
    with pytest.raises(ValueError, match="belongs to TQTQuantizer, not FSQuantizer"):
        ops.trained_threshold(X, QuantizerSpec(FS), -1.0, 1.0, 0.0)
