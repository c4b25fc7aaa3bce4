"""Unusual forms of functional models, under every strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tests.system.contract.check import STRATEGIES, assert_plan_covers, leaves, quantize_save_load
from tests.system.contract.recipes import batch
from vqkit.errors import ModelError
from vqkit.quantization import quantize

L = keras.layers
MODELS: dict[str, Callable[[], keras.Model]] = {}


def _model(function: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    MODELS[function.__name__] = function
    return function


@_model
def free_image_size() -> keras.Model:
    x = keras.Input((None, None, 3))
    y = L.AveragePooling2D(2)(L.Conv2D(4, 3, activation="relu", padding="same")(x))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))


@_model
def fixed_batch_size() -> keras.Model:
    x = keras.Input((6,), batch_size=4)
    return keras.Model(x, L.Dense(2)(x))


@_model
def dictionaries() -> keras.Model:
    x = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    y = L.Dense(3, activation="relu")(x["a"] + x["b"])
    return keras.Model(x, {"one": y, "two": [y, x["a"]]})


@_model
def names_that_quantizers_would_take() -> keras.Model:
    x = keras.Input((6,), name="in")
    y = L.Dense(3, activation="relu", name="quant_in")(x)
    y = L.Softmax(name="soft")(L.Dense(3, name="quant_in_relu")(y))
    return keras.Model(x, L.Activation("tanh", name="quant_soft")(L.Dense(3, name="quant_quant_in")(y)))


@_model
def output_given_twice() -> keras.Model:
    x = keras.Input((6,))
    y = L.Dense(3)(x)
    return keras.Model(x, [y, y])


@_model
def input_as_output() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, [x, L.Dense(2)(x)])


@_model
def nothing_but_dropout() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, L.Dropout(0.5)(x))


@_model
def unused_input() -> keras.Model:
    x, y = keras.Input((6,), name="used"), keras.Input((6,), name="unused")
    return keras.Model([x, y], L.Dense(2)(x))


@_model
def one_value_read_by_many() -> keras.Model:
    x = keras.Input((6, 6, 2))
    y = L.Conv2D(3, 1, name="stem")(x)
    heads = [L.ReLU()(y), L.Conv2D(3, 1)(y), L.Activation("tanh")(y), y * 2.0, y]
    return keras.Model(x, L.Concatenate()(heads))


@_model
def same_tensor_twice() -> keras.Model:
    x = keras.Input((6,))
    y = L.Dense(3)(x)
    return keras.Model(x, L.Dense(2)(L.Multiply()([L.Add()([y, y]), y])))


@_model
def channels_first() -> keras.Model:
    x = keras.Input((3, 8, 8))
    y = L.ZeroPadding2D(1, data_format="channels_first")(x)
    y = L.BatchNormalization(axis=1)(y)
    return keras.Model(x, L.Dense(2)(L.Flatten(data_format="channels_first")(y)))


@_model
def frozen_and_regularized() -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(4, 3, trainable=False, kernel_regularizer="l2", kernel_constraint="unit_norm")(x)
    y = L.BatchNormalization(trainable=False)(y)
    return keras.Model(x, L.Dense(2)(L.Flatten()(y)))


@_model
def deep_nesting() -> keras.Model:
    inner = keras.Sequential([keras.Input((6,)), L.Dense(6, activation="relu", name="fc")], name="inner")
    middle = keras.Sequential([keras.Input((6,)), inner, inner], name="middle")
    x = keras.Input((6,))
    return keras.Model(x, middle(inner(x)), name="outer")


@_model
def grouped_and_dilated() -> keras.Model:
    x = keras.Input((8, 8, 4))
    y = L.ReLU()(L.Conv2D(4, 3, groups=2, padding="same")(x))
    y = L.BatchNormalization()(L.Conv2D(4, 3, dilation_rate=2)(y))
    return keras.Model(x, L.DepthwiseConv2D(3, depth_multiplier=3)(y))


@_model
def half_precision() -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(4, 3, activation="relu", dtype="mixed_float16")(x)
    y = L.BatchNormalization(dtype="mixed_float16")(y)
    return keras.Model(x, L.Dense(2)(L.Flatten(dtype="mixed_float16")(y)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", MODELS)
def test_form_of_model(name: str, strategy: str, tmp_path) -> None:
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    x: Any = batch(model)
    if isinstance(model.input, dict):
        x = dict(zip(model.input, x, strict=True))
    assert_plan_covers(model, strategy)
    quantized = quantize_save_load(model, strategy, x, tmp_path)
    for got, want in zip(leaves(quantized.model(x)), leaves(model(x)), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=0.35 * np.ptp(want))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_that_is_quantized_already_is_refused(strategy: str) -> None:
    x = keras.Input((6,))
    model = keras.Model(x, L.Dense(2)(L.Dense(3, activation="relu")(x)))
    quantized = quantize(model, "fsx", batch(model)).model
    with pytest.raises(ModelError, match=r"layer 'quant_.*' is a quantizer of vqkit.*Quantize the float model"):
        quantize(quantized, strategy, batch(model))
