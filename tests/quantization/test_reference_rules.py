"""Where `vitis_compat` puts quantizers and where the default does, on graphs of a few layers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import StrategyError
from vqkit.evaluation import predict
from vqkit.models.keras2.layers import keras_2_hard_sigmoid
from vqkit.quantization import make_plan, quantize
from vqkit.strategy import Strategy

layers = keras.layers


def chain(*made, shape=(6, 6, 3)):
    x = y = keras.Input(shape, name="in")
    for layer in made:
        y = layer(y)
    model = keras.Model(x, y, name="chain")
    zoo.randomize(model, seed=7)
    return model


def placed(model, strategy, *, compat, **kwargs):
    """The quantized values in graph order: `<layer>:<output | pre_activation | input>`."""
    plan = make_plan(Strategy.builtin(strategy).with_kwargs(**kwargs), model, vitis_compat=compat)
    values = [r for r in plan.quantized if not r.is_weight]
    return [f"{r.layer}:{r.slot.value.replace('post_activation', 'output')}" for r in values]


def conv(name, **kwargs):
    return layers.Conv2D(4, 1, name=name, **kwargs)


@pytest.mark.parametrize(
    ("pool", "act", "kwargs", "compat"),
    [
        (layers.MaxPooling2D, layers.ReLU, {}, ["p:output", "a:output"]),
        (layers.AveragePooling2D, layers.ReLU, {}, ["p:output", "a:output"]),
        (layers.GlobalAveragePooling2D, layers.ReLU, {}, ["p:output", "a:output"]),
        (
            layers.AveragePooling2D,
            layers.ReLU,
            {"convert_average_pooling2d_to_dpu_version": False},
            ["p:output", "quant_a:input"],
        ),
        (layers.MaxPooling2D, layers.LeakyReLU, {}, ["p:output", "quant_a:input"]),
    ],
)
def test_activations_behind_pools(pool, act, kwargs, compat):
    keep = {"keepdims": True} if pool is layers.GlobalAveragePooling2D else {"pool_size": 2}
    model = chain(conv("c"), pool(name="p", **keep), act(name="a"), conv("d"))
    head, tail = ["quant_in:input", "c:output"], ["d:output"]
    assert placed(model, "pof2s", compat=True, **kwargs) == [*head, *compat, *tail]
    both = ["p:output", "a:output"]
    assert placed(model, "pof2s", compat=False, **kwargs) == [*head, *both, *tail]


@pytest.mark.parametrize("strategy", ["pof2s", "fsx"])
def test_dropouts_that_the_reference_leaves_in_the_graph(strategy):
    for noise in (layers.SpatialDropout2D(0.2, name="n"), layers.GaussianNoise(0.1, name="n")):
        model = chain(conv("c", activation="relu"), noise, conv("d"))
        rows = ["quant_in:input", "c_relu:output", "quant_n:input", "d:output"]
        assert placed(model, strategy, compat=True) == rows
        assert placed(model, strategy, compat=False) == [r for r in rows if r != "quant_n:input"]


def test_batch_norms_that_are_not_folded():
    dense = [layers.Dense(4, name="d"), layers.BatchNormalization(name="b"), layers.ReLU(name="r")]
    model = chain(*dense, layers.Dense(2, name="e"), shape=(5,))
    off = {"fold_conv_bn": False, "convert_bn_to_dwconv": False}
    start, end = ["quant_in:input", "d:output"], ["e:output"]
    assert placed(model, "pof2s", compat=True, **off) == [*start, "b:output", "quant_r:input", *end]
    assert placed(model, "pof2s", compat=False, **off) == [*start, "r:output", *end]


@pytest.mark.parametrize("strategy", ["pof2s", "fsx"])
@pytest.mark.parametrize("function", ["softmax", "tanh", "sigmoid", "swish"])
def test_functions_inside_layers(strategy, function):
    """Device forms are split off; other functions are quantized in front in compat, behind by default."""
    model = chain(conv("c", activation=function), layers.ReLU(name="r"), conv("d"))
    split = strategy == "pof2s" and function in ("sigmoid", "swish")
    behind = ["c_sigmoid:output", "c_mul:output"][: 1 if function == "sigmoid" else 2]
    own = ["c:output", *behind] if split else ["c:pre_activation"]
    relu = "r:output" if split and function == "swish" else "quant_r:input"
    kwargs = {"separate_conv_act": False, "input_method": 0}
    if strategy == "fsx":
        kwargs["activation_method"] = 0
    if split and function == "swish":
        own = own[:-1]
    expected = ["quant_in:input", *own, relu, "d:output"]
    assert placed(model, strategy, compat=True, **kwargs) == expected
    default = placed(model, strategy, compat=False, **kwargs)
    assert default[1:] == [
        *(own if split else ["c:output"]),
        "r:output",
        "d:output",
    ]


@pytest.mark.parametrize("function", ["tanh", "swish"])
@pytest.mark.parametrize("strategy", ["pof2s", "pof2s_tqt", "fs", "fsx"])
@pytest.mark.parametrize("compat", [True, False])
def test_functions_inside_layers_compute_what_they_do_outside(function, strategy, compat):
    """With 14 bits or more the quantized model is the float model, wherever the function stands."""
    model = chain(conv("c", activation=function), conv("d", activation="relu"), layers.Dense(3, activation=function))
    wide = {"input_bit": 14, "weight_bit": 14, "input_method": 0}
    if strategy != "fs":
        wide |= {"activation_bit": 14, "bias_bit": 16, "activation_method": 0}
    if strategy.startswith("pof2s"):
        wide |= {"convert_sigmoid_to_hard_sigmoid": False}
    if strategy == "pof2s_tqt":
        wide["convert_to_pof2s_quantize_strategy"] = False
    x = zoo.batch(model, 8)
    made = quantize(
        model, Strategy.builtin(strategy).with_kwargs(separate_conv_act=False, **wide), x, vitis_compat=compat
    )
    made.audit()
    np.testing.assert_allclose(predict(made.model, x), predict(model, x), atol=4e-3)


def test_compat_refuses_functions_inside_layers_as_it_refuses_layers():
    for separate in (True, False):
        model = chain(conv("c", activation="relu6"), conv("d"))
        with pytest.raises(StrategyError, match=r"c.*activation 'relu6' cannot be quantized; allowed: linear"):
            placed(model, "pof2s", compat=True, separate_conv_act=separate)
        assert placed(model, "pof2s", compat=False, separate_conv_act=separate)


@pytest.mark.parametrize("separate", [True, False])
def test_the_hard_sigmoid_of_keras_2_is_known_in_compat(separate):
    """The reference ran on Keras 2, whose function this is; it is quantized in front."""
    act = layers.Activation(keras_2_hard_sigmoid, name="a")
    model = chain(layers.MaxPooling2D(2, name="p"), act, conv("c", activation=keras_2_hard_sigmoid), conv("d"))
    own = "c_hard_sigmoid:pre_activation" if separate else "c:pre_activation"
    rows = placed(model, "pof2s", compat=True, separate_conv_act=separate)
    assert rows == ["quant_in:input", "p:output", "a:pre_activation", own, "d:output"]


def test_what_feeds_the_other_call_of_a_shared_layer():
    x = keras.Input((6, 6, 3), name="in")
    first = layers.Conv2D(3, 1, name="first")(x)
    shared = layers.Conv2D(3, 1, name="shared")
    one, other = shared(x), shared(layers.MaxPooling2D(1, name="pool")(first))
    outs = [layers.GlobalMaxPooling2D(name=n)(v) for n, v in (("one", one), ("other", other))]
    model = keras.Model(x, outs, name="two_calls")
    zoo.randomize(model, seed=1)
    compat = placed(model, "pof2s", compat=True, output_layers=["one"])
    assert {"first:output", "pool:output"} <= set(compat)
    default = placed(model, "pof2s", compat=False, output_layers=["one"])
    assert not {"first:output", "pool:output"} & set(default)


@pytest.mark.parametrize("strategy", ["fs", "fsx"])
@pytest.mark.parametrize("method", ["MIN_KL", "PERCENTILE"])
def test_weights_by_histogram_are_float_while_compat_calibrates(strategy, method):
    model = chain(conv("c", activation="relu"), conv("d"), conv("e"))
    rest = {"input_method": 0} | ({"activation_method": 0} if strategy == "fsx" else {})
    x, asked = zoo.batch(model, 8), Strategy.builtin(strategy).with_kwargs(**rest)
    made = {
        (compat, name): quantize(model, asked.with_kwargs(**kwargs), x, vitis_compat=compat)
        for compat in (True, False)
        for name, kwargs in (("searched", {"weight_method": method}), ("fine", {"weight_bit": 16}))
    }
    for compat in (True, False):
        searched, fine = made[compat, "searched"], made[compat, "fine"]
        values = [r.name for r in searched.plan.quantized if not r.is_weight]
        assert len(values) > 2
        for name in values:
            ends = (searched.encodings[name].f_max, fine.encodings[name].f_max)
            np.testing.assert_allclose(*ends, rtol=1e-3 if compat else 0.1)
    zero = made[True, "searched"].live["d"].kernel
    assert not np.any(zero)
    assert np.any(made[False, "searched"].live["d"].kernel)


@pytest.mark.parametrize(
    ("strategy", "kwargs", "tensor"),
    [
        ("pof2s", {"weight_method": "MIN_KL"}, "c/kernel"),
        ("pof2s", {"activation_method": "PERCENTILE"}, "c/output"),
        ("pof2s", {"input_method": 2}, "quant_in/input"),
        ("pof2s_tqt", {"weight_per_channel": True}, "c/kernel"),
        ("fsx", {"weight_round_mode": 2}, "c/kernel"),
        ("fsx", {"activation_round_mode": 0}, "c/output"),
        ("fs", {"weight_bit": 24}, "c/kernel"),
    ],
)
def test_compat_refuses_before_anything_runs(strategy, kwargs, tensor):
    model, asked = chain(conv("c"), conv("d")), Strategy.builtin(strategy).with_kwargs(**kwargs)

    def never():
        raise AssertionError("calibration began")
        yield

    with pytest.raises(StrategyError, match=f"{tensor}: vitis_compat: "):
        quantize(model, asked, never(), vitis_compat=True)
    quantize(model, asked, zoo.batch(model)).audit()
