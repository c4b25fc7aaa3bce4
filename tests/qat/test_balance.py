"""Channels sized for one scale per tensor, and training from where another strategy's calibration ends."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import DataError, ModelError, StrategyError
from vqkit.evaluation import predict
from vqkit.qat import balance_channels, crops_and_flips, deploy_model, qat_model
from vqkit.quantization import quantize
from vqkit.strategy import Strategy

BUILT_IN = Strategy.builtin("pof2s").with_kwargs(cle_to_relu6=True, bias_bit=16)


@pytest.fixture(scope="module")
def uneven():
    """A classifier whose first layer gives one channel a thousand times the size of another."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(6, 3, name="first")(image)
    y = keras.layers.ReLU(6.0, name="clip")(y)
    y = keras.layers.DepthwiseConv2D(3, name="middle")(y)
    y = keras.layers.ReLU(name="open")(y)
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 1, name="last")(y))
    net = keras.Model(image, keras.layers.Dense(4, activation="softmax", name="head")(y))
    sizes = np.geomspace(0.03, 3, 6).astype("float32")
    kernel, bias = net.get_layer("first").get_weights()
    net.get_layer("first").set_weights([kernel * sizes, bias])
    kernel, bias = net.get_layer("middle").get_weights()
    net.get_layer("middle").set_weights([kernel / sizes[:, None], bias])
    return net, np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype("float32")


def noise(model, net, x):
    return float(np.mean(np.square(predict(model, x) - predict(net, x))))


def test_the_function_stays_and_its_quantization_loses_less(uneven):
    net, x = uneven
    even = balance_channels(net, BUILT_IN, x, n_images=16, steps=300)
    np.testing.assert_allclose(predict(even, x), predict(net, x), rtol=1e-4, atol=1e-6)
    assert not np.allclose(even.get_layer("first").get_weights()[0], net.get_layer("first").get_weights()[0])
    bare = BUILT_IN.with_kwargs(include_cle=False)
    before, after = (noise(quantize(m, bare, x).model, net, x) for m in (net, even))
    assert after < before / 4
    again = balance_channels(net, BUILT_IN, x, n_images=16, steps=300)
    np.testing.assert_array_equal(predict(again, x), predict(even, x))


def test_what_cannot_be_balanced_says_why(uneven):
    net, x = uneven
    with pytest.raises(DataError, match="weight_share 0 or more; got 0, 2"):
        balance_channels(net, BUILT_IN, x, n_images=0)
    with pytest.raises(DataError, match="hold no batch"):
        balance_channels(net, BUILT_IN, x[:0])
    image = keras.Input((8, 8, 3))
    lone = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    with pytest.raises(ModelError, match="no two convolutions"):
        balance_channels(lone, BUILT_IN, x)
    with pytest.raises(ModelError, match=r"expected one output of shape \(n, classes\)"):
        balance_channels(zoo.build("two_outputs"), BUILT_IN, x)


def test_training_starts_where_another_strategy_ends(uneven):
    net, x = uneven
    start = BUILT_IN.with_kwargs(include_bias_corr=True)
    trained = Strategy.builtin("pof2s_tqt").with_kwargs(cle_to_relu6=True, bias_bit=16)
    model, found = qat_model(net, trained, x, start=start), quantize(net, start, x)
    for name, quantizer in model.quantizers.items():
        np.testing.assert_array_equal(quantizer.position, found.calibrated[name].pos)
        assert quantizer.log_threshold is not None
    own = qat_model(net, trained, x)
    assert any(np.any(q.position != model.quantizers[k].position) for k, q in own.quantizers.items())
    deployed = deploy_model(model)
    np.testing.assert_array_equal(predict(deployed.model, x), predict(model, x))
    assert deployed.strategy.name == "pof2s_tqt"


def test_a_start_that_does_not_fit_is_refused(uneven):
    net, x = uneven
    trained = Strategy.builtin("pof2s_tqt").with_kwargs(cle_to_relu6=True)
    with pytest.raises(StrategyError, match="include_cle=False"):
        qat_model(net, trained, x, start=BUILT_IN.with_kwargs(include_cle=False))
    with pytest.raises(StrategyError, match="bit_width 16, to be trained with 8"):
        qat_model(net, trained, x, start=BUILT_IN)
    with pytest.raises(StrategyError, match="init_quant"):
        qat_model(net, trained, init_quant=False, start=BUILT_IN)


def test_parts_of_images_in_full_size():
    x = np.broadcast_to(np.linspace(0, 1, 9, dtype="float32")[None, None, :, None], (64, 7, 9, 1)).copy()
    made = crops_and_flips(0.5)(x, np.random.default_rng(0))
    steps = np.diff(made[:, 3, :, 0], axis=1)
    assert made.shape == x.shape
    assert made.min() >= 0
    assert made.max() <= 1
    # Each part is a straight ramp as its image, flatter by the side of the part, half of them mirrored.
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-5)
    assert 16 < np.sum(steps[:, 0] < 0) < 48
    side = np.abs(steps[:, 0]) * 8
    assert side.min() > np.sqrt(0.5) * np.exp(-0.2) - 1e-3
    assert side.max() <= 1 + 1e-5
    whole = crops_and_flips(0.99, flip=False)(x, np.random.default_rng(0))
    assert np.all(np.diff(whole[:, 3, :, 0], axis=1) > 0)
    with pytest.raises(DataError, match="at most 1, got 0"):
        crops_and_flips(0)
    with pytest.raises(DataError, match=r"got \(3, 4\)"):
        crops_and_flips()(np.zeros((3, 4)), np.random.default_rng(0))
