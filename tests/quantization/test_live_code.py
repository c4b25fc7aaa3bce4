"""Functions of the user's run as they are; names that TensorFlow does not take are changed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import vqkit
from vqkit.graph.keras_io import lower
from vqkit.graph.keras_layers import has_custom

L = keras.layers
X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
FACTOR = 3.0


def times(factor: float) -> Callable[[Any], Any]:
    def inner(t: Any) -> Any:
        return t * factor + FACTOR

    return inner


class Scale:
    factor = 2.0

    def __call__(self, t: Any) -> Any:
        return t * self.factor

    def method(self, t: Any, plus: float = 0.0) -> Any:
        return t * self.factor + plus


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "modules": lambda: L.Lambda(lambda t: tf.nn.relu(t) * np.float32(2) + keras.ops.tanh(t)),
    "a global": lambda: L.Lambda(lambda t: t * FACTOR),
    "a closure": lambda: L.Lambda(times(5.0)),
    "a nameless closure": lambda: L.Lambda((lambda k: lambda t: t * k)(4.0)),
    "partial": lambda: L.Lambda(functools.partial(keras.activations.leaky_relu, negative_slope=0.3)),
    "an object": lambda: L.Lambda(Scale(), output_shape=(6,)),
    "a method": lambda: L.Lambda(Scale().method, arguments={"plus": 2.0}),
    "TensorFlow's own": lambda: L.Lambda(tf.nn.relu),
    "shape, mask and training": lambda: L.Lambda(
        lambda t, mask=None, training=None: (t if training else t - FACTOR, mask)[0],
        output_shape=lambda s: s,
        mask=lambda _, m: m,
    ),
    "an activation": lambda: L.Dense(4, activation=lambda t: tf.nn.relu(t) * FACTOR),
    "an activation layer": lambda: L.Activation(lambda t: tf.nn.relu(t) * FACTOR),
    "TimeDistributed": lambda: keras.Sequential(
        [
            keras.Input((6,)),
            L.Reshape((3, 2)),
            L.TimeDistributed(L.Lambda(lambda t: t * FACTOR, output_shape=(2,))),
        ]
    ),
}


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_functions_run_as_they_are() -> None:
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), name="i")
    layers = {name: make() for name, make in FUNCTIONS.items()}
    made = [L.Dense(3, name=f"head_{n}")(L.Flatten()(layer(i))) for n, layer in enumerate(layers.values())]
    model = keras.Model(i, made, name="m")
    quantized = vqkit.quantize(model, "pof2s", X)
    names = FUNCTIONS, model(X), quantized.float_model(X), quantized.model.predict(X, verbose=0)
    for name, want, floats, got in zip(*names, strict=True):
        np.testing.assert_allclose(floats, want, rtol=1e-6, atol=1e-5, err_msg=name)
        assert np.abs(got - want).max() < 0.1 * np.ptp(want), name
    table = vqkit.sqnr(quantized, X)
    assert (table.sqnr_db[table.role == "output"] > 15).all()
    result = vqkit.evaluate(quantized.model, X, np.zeros(8, int))
    np.testing.assert_array_equal(result.predictions[0], quantized.model.predict(X, verbose=0)[0])


@pytest.mark.parametrize("name", ["a global", "partial", "an activation"])
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_no_cache_on_disk_relies_on_a_digest_of_code(name: str) -> None:
    i = keras.Input((6,))
    assert has_custom(lower(keras.Model(i, FUNCTIONS[name]()(i))))


TAKEN = ("_x", "-x", "x>y", ".x", "quant_i", "quant_my_layer")
RENAMED = ("my layer", "größe", "日本", "a:b", "a\\b", "", "x@2")


def test_names_that_tensorflow_does_not_take() -> None:
    keras.utils.set_random_seed(0)
    y = i = keras.Input((6,), name="my input")
    for name in (*TAKEN, *RENAMED):
        y = L.Dense(6, activation="relu", name=name)(y)
    y = L.Dense(2, name="my_layer")(keras.layers.Concatenate()([y, i]))
    model = keras.Model(i, y, name="my model")
    quantized = vqkit.quantize(model, "pof2s", X)
    np.testing.assert_allclose(quantized.float_model(X), model(X), rtol=1e-5, atol=1e-5)
    got = quantized.model.predict(X, verbose=0)
    assert np.abs(got - model(X)).max() < 0.2 * np.ptp(np.asarray(model(X)))
    assert len(vqkit.sqnr(quantized, X)) == len(quantized.plan.quantized) + 1
    assert [r.split(" is called")[0] for r in quantized.report if "is called" in r] == [
        f"layer {name!r}" for name in RENAMED
    ]
    assert {"my_layer", "my_layer_1"} <= {layer.name for layer in quantized.model.layers}
    data = vqkit.Data("d", X, X, np.zeros(8, int))
    bench = vqkit.Bench(model, data)
    np.testing.assert_array_equal(bench.evaluate(bench.quantize("pof2s")).predictions, got)


def test_a_layer_that_is_called_as_one_inside_another_model() -> None:
    keras.utils.set_random_seed(0)
    i = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, name="fc")], name="inner")
    model = keras.Model(i, L.Dense(4, name="inner.fc")(inner(i)))
    assert len(lower(model).layers) == 2
    x = X[:, :4]
    quantized = vqkit.quantize(model, "pof2s", x)
    np.testing.assert_allclose(quantized.float_model(x), model(x), rtol=1e-5, atol=1e-5)
