"""What the original crashes on or silently damages on whole models works by default; one test each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.quantization import quantize
from vqkit.strategy import Strategy

layers = keras.layers
BUILT_INS = ("pof2s", "pof2s_tqt", "fs", "fsx")


def made(outputs: Any, inputs: Any, name: str = "net") -> keras.Model:
    model = keras.Model(inputs, outputs, name=name)
    zoo.randomize(model, seed=7)
    return model


def error(quantized: Any, model: keras.Model, x: Any) -> float:
    """Mean output error relative to the output's range."""
    want = np.asarray(model(x))
    return float(np.abs(np.asarray(quantized.model(x)) - want).mean() / np.ptp(want))


def chain(*blocks: Callable[[Any], Any], shape: tuple[int, ...] = (8, 8, 3)) -> keras.Model:
    x = y = keras.Input(shape, name="in")
    for block in blocks:
        y = block(y)
    return made(y, x)


def pof2s(**kwargs: Any) -> Strategy:
    return Strategy.builtin("pof2s").with_kwargs(**kwargs)


def documented_net() -> keras.Model:
    return chain(
        layers.Conv2D(6, 3, activation="relu", name="conv1"),
        layers.MaxPooling2D(name="pool1"),
        layers.Conv2D(8, 3, activation="relu", name="conv2"),
        layers.Flatten(name="flat"),
        layers.Dense(5, name="fc"),
    )


@pytest.mark.parametrize("first", ["conv2", "pool1"])
def test_the_documented_partial_quantization_starts_at_the_named_layer(first: str) -> None:
    """The original never returns from this example of its own guide."""
    model = documented_net()
    x = zoo.batch(model, 16)
    strategy = pof2s(input_layers=[first], bias_bit=32, activation_bit=32, weight_per_channel=True)
    quantized = quantize(model, strategy, x)
    assert quantized.plan["conv1/kernel"].spec is None
    assert quantized.plan["conv2/kernel"].spec.per_channel
    assert error(quantized, model, x) < 0.01


@pytest.mark.parametrize("weight_bit", [4, 8])
def test_wide_activations_do_not_saturate_the_weights(weight_bit: int) -> None:
    model = documented_net()
    x = zoo.batch(model, 16)
    wide = quantize(model, pof2s(activation_bit=32, bias_bit=32, weight_bit=weight_bit), x)
    narrow = quantize(model, pof2s(weight_bit=weight_bit), x)
    compat = quantize(model, pof2s(activation_bit=32, weight_bit=weight_bit), x, vitis_compat=True)
    assert error(wide, model, x) <= 1.1 * error(narrow, model, x)
    assert error(compat, model, x) > 2 * error(wide, model, x)


@pytest.mark.parametrize("bits", [4, 6, 8, 16])
def test_trained_thresholds_convert_at_every_width(bits: int) -> None:
    model = documented_net()
    x = zoo.batch(model, 16)
    strategy = Strategy.builtin("pof2s_tqt").with_kwargs(weight_bit=bits, activation_bit=bits, bias_bit=bits)
    kernel = quantize(model, strategy, x).encodings["conv2/kernel"]
    assert kernel.scale * kernel.spec.q_max >= 0.5 * max(-kernel.f_min, kernel.f_max)
    broken = quantize(model, strategy, x, vitis_compat=True).encodings["conv2/kernel"]
    assert float(broken.pos) == float(kernel.pos) + 8 - bits


@pytest.mark.parametrize("strategy", BUILT_INS)
def test_sums_of_a_float_and_a_quantized_branch(strategy: str) -> None:
    x = keras.Input((6, 6, 3), name="in")
    a = layers.Conv2D(4, 1, name="a")(x)
    b = layers.Softmax(name="left_float")(layers.Conv2D(4, 1, name="b")(x))
    model = made(layers.Dense(3, name="d")(layers.Flatten()(layers.Add(name="sum")([a, b]))), x)
    quantized = quantize(model, strategy, batch := zoo.batch(model, 16))
    if strategy.startswith("pof2s"):
        assert quantized.plan["quant_left_float/input"].reason == "sum reads a float tensor"
    assert error(quantized, model, batch) < 0.1


@pytest.mark.parametrize("strategy", BUILT_INS)
def test_shared_layers_are_quantized_once_and_behind_every_call(strategy: str) -> None:
    x = keras.Input((6, 6, 3), name="in")
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    model = made(shared(shared(x)), x)
    quantized = quantize(model, strategy, batch := zoo.batch(model, 16))
    names = [r.name for r in quantized.plan.quantized]
    assert names.count("shared/kernel") == 1
    if strategy in ("pof2s", "pof2s_tqt", "fsx"):
        assert {"shared/output", "shared@2/output"} <= set(names)
    if strategy != "fsx" and strategy != "fs":
        assert error(quantized, model, batch) < 0.05
    compat = quantize(model, strategy, batch, vitis_compat=True)
    assert compat.plan["shared/kernel"].spec is None


@pytest.mark.parametrize("activation", [layers.ReLU(name="act"), layers.LeakyReLU(name="act")])
def test_standalone_activations_are_quantized(activation: Any) -> None:
    x = keras.Input((6, 6, 3), name="in")
    both = layers.Concatenate(name="both")([layers.Conv2D(2, 1)(x), layers.Conv2D(2, 1)(x)])
    model = made(activation(both), x)
    data = zoo.batch(model, 8)
    assert quantize(model, "pof2s", data).plan["act/output"].spec is not None
    assert quantize(model, "pof2s", data, vitis_compat=True).plan["act/output"].spec is None


@pytest.mark.parametrize("function", ["tanh", "elu", "softplus"])
def test_what_a_float_activation_gives_is_quantized_before_the_next_layer(function: str) -> None:
    model = chain(layers.Conv2D(4, 1, activation=function, name="a"), layers.Conv2D(3, 1, name="b"))
    data = zoo.batch(model, 8)
    quantized = quantize(model, "pof2s", data)
    assert quantized.plan[f"quant_a_{function}/input"].spec is not None
    compat = {r.name for r in quantize(model, "pof2s", data, vitis_compat=True).plan.rows}
    assert f"quant_a_{function}/input" not in compat


def test_activations_that_the_original_refuses_are_quantized() -> None:
    model = chain(layers.Conv2D(4, 1, activation="mish", name="a"))
    assert quantize(model, "pof2s", zoo.batch(model, 8)).plan["a_mish/output"].spec is not None


@pytest.mark.parametrize("strategy", BUILT_INS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_one_output_channel(strategy: str, per_channel: bool) -> None:
    model = chain(layers.Conv2D(1, 3, name="one"), layers.Flatten(), layers.Dense(1, name="d"))
    chosen = Strategy.builtin(strategy).with_kwargs(weight_per_channel=per_channel)
    data = zoo.batch(model, 16)
    assert np.isfinite(np.asarray(quantize(model, chosen, data).model(data))).all()


@pytest.mark.parametrize("strategy", BUILT_INS)
@pytest.mark.parametrize("framework", [None, False])
def test_all_zero_weights_and_inputs(strategy: str, framework: bool | None) -> None:
    model = chain(layers.Conv2D(2, 3, name="zero"), layers.ReLU(name="relu"))
    model.get_layer("zero").set_weights([np.zeros((3, 3, 3, 2)), np.zeros(2)])
    chosen = Strategy.builtin(strategy)
    if framework is not None and strategy.startswith("fs"):
        chosen = chosen.with_kwargs(use_framework_quant=framework)
    data = np.zeros((4, 8, 8, 3), "float32")
    np.testing.assert_array_equal(quantize(model, chosen, data).model(data), np.zeros((4, 6, 6, 2)))


@pytest.mark.parametrize("strategy", ["fs", "fsx"])
def test_sequential_models_under_float_scales(strategy: str) -> None:
    model = zoo.build("sequential")
    quantized = quantize(model, strategy, zoo.batch(model, 16))
    assert len(quantized.plan.quantized) > 3


@pytest.mark.parametrize("strategy", BUILT_INS)
def test_nested_models_are_quantized_inside(strategy: str) -> None:
    model = zoo.build("nested")
    quantized = quantize(model, strategy, zoo.batch(model, 16))
    assert any(r.layer.startswith("inner.") and r.is_weight for r in quantized.plan.quantized)


@pytest.mark.parametrize("method", ["MIN_KL", "PERCENTILE"])
def test_float_scale_weights_by_histogram_do_not_become_zero(method: str) -> None:
    model = documented_net()
    x = zoo.batch(model, 16)
    strategy = Strategy.builtin("fsx").with_kwargs(weight_method=method, activation_method=0, input_method=0)
    kernel = quantize(model, strategy, x).model.get_layer("conv2").kernel
    assert np.abs(kernel.numpy()).max() > 0
    zeroed = quantize(model, strategy, x, vitis_compat=True).model.get_layer("conv2").kernel
    np.testing.assert_array_equal(zeroed.numpy(), np.zeros(kernel.shape))


def test_refinement_goes_on_past_a_layer_it_cannot_adjust() -> None:
    model = chain(
        layers.Conv2D(3, 1, name="first"),
        layers.Conv2D(3, 1, use_bias=False, name="no_bias"),
        layers.Conv2D(3, 1, name="last"),
    )
    model.get_layer("last").bias.assign(np.full(3, 1e-4, "float32"))
    data = zoo.batch(model, 8)
    chosen = pof2s(bias_bit=32)
    quantized, compat = (quantize(model, chosen, data, vitis_compat=c) for c in (False, True))
    assert quantized.encodings["last/bias"].pos < quantized.calibrated["last/bias"].pos
    assert compat.encodings["last/bias"].pos == compat.calibrated["last/bias"].pos


def test_a_model_can_be_quantized_again_and_in_part() -> None:
    model = documented_net()
    x = zoo.batch(model, 16)
    first = quantize(model, "pof2s", x)
    quantize(model, pof2s(output_layers=["conv2"]), x)
    quantize(model, pof2s(ignore_layers=["conv1"]), x)
    assert quantize(model, "pof2s", x).encodings == first.encodings


def test_ignored_first_layers_leave_their_input_float() -> None:
    model = documented_net()
    x = zoo.batch(model, 16)
    quantized = quantize(model, pof2s(ignore_layers=["conv1", "pool1"]), x)
    assert quantized.plan["in/input"].reason == "no reader is quantized"
    assert quantized.plan["quant_pool1/input"].spec is not None


def test_bias_correction_corrects() -> None:
    """The original offers it and does nothing; here the mean error of every output channel shrinks."""
    model = zoo.build("residual")
    x = zoo.batch(model, 64)
    want = np.asarray(model(x))
    means = {}
    for wanted in (False, True):
        strategy = Strategy.builtin("fsx").with_kwargs(
            weight_bit=4,
            weight_per_channel=False,
            bias_bit=16,
            activation_method=0,
            input_method=0,
            include_bias_corr=wanted,
        )
        got = np.asarray(quantize(model, strategy, x, batch_size=64).model(x))
        means[wanted] = np.abs((got - want).mean(0))
    assert means[True].sum() < 0.5 * means[False].sum()
