"""The ends of all grids are computed by one operation for all, and say what each layer says alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import zoo
from vqkit.quantization import quantize
from vqkit.quantization.layers import FakeQuantize


def traced(model, x):
    return tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(x)


def operations(function):
    return [operation.type for operation in function.graph.get_operations()]


def one_by_one(model):
    """The same layers under a model that computes nothing together."""
    return keras.Model(model.inputs, model.outputs)


@pytest.fixture
def quantized():
    model = zoo.residual()
    return quantize(model, "pof2s", zoo.batch(model, 8), batch_size=4).model


def test_all_ends_come_from_one_operation(quantized) -> None:
    x = tf.constant(zoo.batch(quantized, 4))
    together, alone = traced(quantized, x), traced(one_by_one(quantized), x)
    quantizers = operations(together).count("QuantizeAndDequantizeV4")
    assert quantizers > 3
    assert operations(together).count("Bitcast") == 1
    assert operations(alone).count("Bitcast") == quantizers
    np.testing.assert_array_equal(together(x), alone(x))
    np.testing.assert_array_equal(together(x), quantized(x))


def test_a_compiled_function_follows_the_positions(quantized) -> None:
    x = tf.constant(zoo.batch(quantized, 4))
    function = traced(quantized, x)
    before = function(x)
    for layer in quantized.layers:
        if isinstance(layer, FakeQuantize):
            layer.quantize_pos.assign(layer.quantize_pos - 2)
    assert not np.array_equal(before, function(x))
    np.testing.assert_array_equal(function(x), quantized(x))


def test_layers_outside_of_the_model_do_not_see_them(quantized) -> None:
    x = tf.constant(zoo.batch(quantized, 4))
    traced(quantized, x)
    layer = next(layer for layer in quantized.layers if isinstance(layer, FakeQuantize))
    layer.quantize_pos.assign(0.0)
    np.testing.assert_array_equal(layer(tf.constant([0.3, 1.2])), [0.0, 1.0])


def test_other_kinds_of_grids_stay_with_their_layers() -> None:
    model = zoo.residual()
    per_tensor = quantize(model, "fsx", zoo.batch(model, 8), batch_size=4).model
    x = tf.constant(zoo.batch(model, 4))
    function = traced(per_tensor, x)
    assert "Bitcast" not in operations(function)
    np.testing.assert_array_equal(function(x), per_tensor(x))
