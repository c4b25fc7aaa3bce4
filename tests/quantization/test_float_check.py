"""The float graph is compared with the user's own model; faults planted in the copies are found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vqkit
from tests.support import custom_layers
from vqkit.errors import ModelError
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import lower
from vqkit.quantization.float_model import check_float

L = keras.layers
X = np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype("float32")


def net() -> keras.Model:
    keras.utils.set_random_seed(2)
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization(name="bn")(L.Conv2D(6, 3, name="conv")(x))
    y = L.LeakyReLU(0.2, name="leaky")(y)
    inner = keras.Sequential([keras.Input((6, 6, 6)), L.Rescaling(0.5, name="scale"), L.Activation("tanh")], name="in")
    y = L.Dropout(0.5, name="drop")(L.GlobalAveragePooling2D(name="pool")(inner(y)))
    model = keras.Model(x, [L.Dense(3, name="head")(y), keras.ops.argmax(y, axis=-1)])
    rng = np.random.default_rng(2)
    for w in model.weights:
        w.assign(np.array(w) + rng.uniform(0, 0.2, w.shape))
    return model


def _weight(name: str) -> Callable[[Layer], Layer]:
    return lambda layer: layer.with_(weights={**layer.weights, name: layer.weights[name] * 1.01})


FAULTS: dict[str, tuple[str, Callable[[Layer], Layer]]] = {
    "kernel": ("conv", _weight("kernel")),
    "moving mean": ("bn", _weight("moving_mean")),
    "setting": ("leaky", lambda layer: layer.with_(config={"negative_slope": 0.21})),
    "inside another model": ("in.scale", lambda layer: layer.with_(config={"scale": 0.51})),
    "last": ("head", _weight("bias")),
}


def planted(graph: Graph, name: str, fault: Callable[[Layer], Layer]) -> Graph:
    found = graph.copy()
    found.layers[name] = fault(found.layers[name])
    return found


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_a_convolution_of_integers_is_one_sentence(dtype: str) -> None:
    x = keras.Input((8, 8, 3), dtype=dtype)
    model, given = keras.Model(x, L.Conv2D(4, 3, name="first")(x)), (np.abs(X) > 1).astype(dtype)
    for call in (
        lambda: vqkit.quantize(model, "pof2s", given),
        lambda: vqkit.Bench(model, vqkit.Data("d", given, given, np.zeros(12, int))).quantize("pof2s"),
    ):
        with pytest.raises(ModelError, match=rf"Conv2D 'first' is given {dtype}, and its kernel is a float.*Rescaling"):
            call()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_the_first_layer_named(fault: str) -> None:
    model = net()
    name, change = FAULTS[fault]
    graph = lower(model)
    assert check_float(model, graph, X) == []
    kind = graph.layers[name].kind
    with pytest.raises(ModelError, match=rf"They part first at layer '{name}' \({kind}\)"):
        check_float(model, planted(graph, name, change), X)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["conv/kernel", "bn/gamma", "bn/beta", "head/kernel"]),
    st.integers(0, 10**6),
    st.floats(0.05, 2),
)
def test_one_changed_number_is_found(where: str, index: int, by: float) -> None:
    model = net()
    name, _, key = where.partition("/")

    def change(layer: Layer) -> Layer:
        weight = np.array(layer.weights[key])
        weight.reshape(-1)[index % weight.size] += by
        return layer.with_(weights={**layer.weights, key: weight})

    with pytest.raises(ModelError, match=f"layer '{name}'"):
        check_float(model, planted(lower(model), name, change), X)


def test_a_graph_that_was_read_wrongly() -> None:
    model = net()
    graph = lower(model)
    node = next(n for n in graph.nodes if n.name == "leaky")
    graph.bypass(node)
    with pytest.raises(ModelError, match="though each layer computes the same"):
        check_float(model, graph, X)


def test_weights_changed_after_the_bench_read_them() -> None:
    model = net()
    bench = vqkit.Bench(model, vqkit.Data("d", X, X, np.zeros(12, int)))
    model.get_layer("head").bias.assign_add([1.0, 0.0, 0.0])
    with pytest.raises(ModelError, match="They part first at layer 'head'"):
        bench.quantize("pof2s")


class _Forgets(L.Layer):
    """Its state lives in a closure, out of reach."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        held = {"gain": 1.0}
        self.get_gain, self.set_gain = lambda: held["gain"], lambda v: held.update(gain=v)

    def call(self, x: Any) -> Any:
        return x * self.get_gain()


def test_a_function_with_a_closure_is_the_users_own() -> None:
    x = keras.Input((8, 8, 3))
    layer = _Forgets(name="odd")
    model = keras.Model(x, L.Dense(2)(layer(x)))
    layer.set_gain(3.0)
    quantized = vqkit.quantize(model, "pof2s", X)
    np.testing.assert_allclose(quantized.float_model(X), model(X), rtol=1e-6, atol=1e-5)


class _Counts(L.Layer):
    """What it gives depends on how many of its kind were made."""

    made = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _Counts.made += 1
        self._identity = _Counts.made

    def call(self, x: Any) -> Any:
        return x * (1 + self.number)

    @property
    def number(self) -> int:
        return id(self) % 977


def test_a_layer_that_no_copy_can_equal_is_an_error_of_every_way_to_quantize() -> None:
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, L.Dense(2)(_Counts(name="odd")(x)))
    bench = vqkit.Bench(model, vqkit.Data("d", X, X, np.zeros(12, int)))
    for run in (
        lambda: vqkit.quantize(model, "pof2s", X),
        lambda: vqkit.quantize(model, "fsx", X, calibration="float"),
        lambda: bench.quantize("pof2s"),
        lambda: vqkit.qat_model(model, "pof2s_tqt", X),
    ):
        with pytest.raises(ModelError, match=r"They part first at layer 'odd' \(_Counts\)"):
            run()


class _Draws(L.Layer):
    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return x + tf.random.normal(tf.shape(x))


def test_a_model_that_is_random_at_inference_is_told_so() -> None:
    x = keras.Input((8, 8, 3))
    quantized = vqkit.quantize(keras.Model(x, L.Dense(2)(_Draws()(x))), "pof2s", X)
    assert any("gives other values each time it is called" in line for line in quantized.report)


def test_values_that_are_not_finite_agree_with_themselves() -> None:
    x = keras.Input((3,))
    y = L.Dense(2, name="d")(x)
    model = keras.Model(x, [keras.ops.log(y), y / (y - y), y])
    model.get_layer("d").kernel.assign(-np.ones((3, 2), "float32"))
    few = np.abs(X[:, 0, 0]) + 1
    assert check_float(model, lower(model), few) == []
    shift = lambda layer: replace(layer, weights={**layer.weights, "bias": layer.weights["bias"] + 100})  # noqa: E731
    with pytest.raises(ModelError, match="layer 'd'"):
        check_float(model, planted(lower(model), "d", shift), few)


def test_augmentation_and_dropout_are_off() -> None:
    x = keras.Input((8, 8, 3))
    y = L.GaussianNoise(0.5)(L.RandomRotation(0.5)(L.RandomFlip()(x)))
    model = keras.Model(x, L.Dropout(0.9)(L.Dense(2)(custom_layers.Square()(y))))
    assert check_float(model, lower(model), X) == []
