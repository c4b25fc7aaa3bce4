"""Lowering and raising: the same function, and the user's model untouched (contract of Keras privates)."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import DataError, ModelError
from vqkit.graph.ir import refs
from vqkit.graph.keras_io import lower, raise_model
from vqkit.graph.keras_layers import named_inputs


def leaves(outputs):
    return [np.asarray(t) for t in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_raised_model_is_bit_identical(name):
    model = zoo.build(name)
    x = zoo.batch(model)
    raised = raise_model(lower(model))
    for got, want in zip(leaves(raised(x)), leaves(model(x)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_user_model_gains_no_nodes_and_keeps_its_weights(name):
    model = zoo.build(name)
    nodes = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    before = [w.numpy().copy() for w in model.weights]
    raise_model(lower(model))
    assert {layer.name: len(layer._inbound_nodes) for layer in model.layers} == nodes
    for got, want in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(got.numpy(), want)


def test_operators_nested_models_and_keyword_tensors_are_read():
    x = keras.Input((4, 4, 3), name="image")
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 1, name="mix")], name="inner")
    y = inner(inner(x)) * 0.5 + 1.0
    y = keras.ops.reshape(y, (-1, 16, 3))
    y = keras.layers.MultiHeadAttention(1, 2, name="mha")(query=y, value=y)
    y = keras.layers.Lambda(lambda t: t * 2, name="twice")(y)
    model = keras.Model(x, {"a": y, "b": x}, name="mixed")
    graph = lower(model)
    assert [n.name for n in graph.nodes if n.layer == "inner.mix"] == ["inner.mix", "inner.mix@2"]
    batch = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    want, got = model(batch), raise_model(graph)(batch)
    assert set(got) == {"a", "b"}
    for key in want:
        np.testing.assert_array_equal(got[key], want[key])


def test_inputs_are_matched_by_name_and_by_position():
    model = zoo.build("two_inputs")
    graph = lower(model)
    a, b = zoo.batch(model)
    by_position = named_inputs(graph, [a, b])
    names = list(graph.inputs)
    assert list(by_position) == names
    assert named_inputs(graph, {names[1]: b, names[0]: a})[names[1]] is b
    with pytest.raises(DataError, match="has inputs"):
        named_inputs(graph, [a])


def test_subclassed_and_unbuilt_models_say_what_to_do():
    class Mine(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ModelError, match=r"subclassed \(Mine\).*Make it functional"):
        lower(Mine(name="mine"))
    with pytest.raises(ModelError, match=r"keras\.Input"):
        lower(keras.Sequential([keras.layers.Dense(2)], name="later"))
    with pytest.raises(ModelError, match=r"expected a keras\.Model"):
        lower("model.keras")


def test_a_layer_that_cannot_be_copied_is_named():
    class NoConfig(keras.layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self.size = size

        def call(self, x):
            return x * 2

        def get_config(self):
            return {"name": self.name}

    x = keras.Input((3,))
    model = keras.Model(x, NoConfig(3, name="odd")(x))
    with pytest.raises(ModelError, match=r"'odd' \(NoConfig\) cannot be copied"):
        raise_model(lower(model))


def test_values_are_read_before_they_are_made_never():
    for name in zoo.NAMES:
        graph = lower(zoo.build(name))
        known = set(graph.inputs.values())
        for node in graph.nodes:
            assert set(node.inputs) <= known
            known |= set(node.outputs)
        assert {r.id for r in refs(graph.output_struct)} <= known
