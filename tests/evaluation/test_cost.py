"""Multiply-accumulates and bit-operations, against counts made by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests.support import zoo
from vqkit.errors import ModelError
from vqkit.evaluation import cost as counting
from vqkit.graph.keras_io import lower
from vqkit.quantization import quantize
from vqkit.strategy import Strategy


def counted(*stack, shape=(8, 8, 3)):
    x = i = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    return list(counting.macs(lower(keras.Model(i, x))).values())


@pytest.mark.parametrize(
    ("layer", "by_hand"),
    [
        (layers.Conv2D(4, 3, strides=2, padding="same"), 3 * 3 * 3 * 4 * 16),
        (layers.Conv2D(4, 3), 3 * 3 * 3 * 4 * 36),
        (layers.Conv2D(6, 3, groups=3, padding="same"), 3 * 3 * 1 * 6 * 64),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), 3 * 3 * 3 * 2 * 64),
        (layers.SeparableConv2D(5, 3, padding="same"), (3 * 3 * 3 + 3 * 5) * 64),
        (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), 3 * 3 * 3 * 4 * 64),
        (layers.Dense(7), 3 * 7 * 64),
        (layers.EinsumDense("...c,cd->...d", output_shape=5), 3 * 5 * 64),
    ],
)
def test_each_kind_of_layer(layer, by_hand):
    assert counted(layer) == [by_hand]


def test_one_dimension_and_other_layers():
    found = counted(layers.Conv1D(4, 3, padding="same"), layers.ReLU(), layers.Flatten(), shape=(10, 2))
    assert found == [3 * 2 * 4 * 10]


def test_a_shared_layer_counts_each_call(tiny):
    assert counting.macs(lower(tiny("shared_layer"))) == {"encode": 2 * 6 * 4, "head": 4}


def test_a_free_size_is_an_error():
    with pytest.raises(ModelError, match="free size"):
        counted(layers.Conv2D(2, 3), shape=(None, None, 3))


def test_bit_operations_follow_the_bits_of_weights_and_of_what_is_read(tiny):
    model = tiny("fused_activations")
    rules = {"conv": {"weight_bit": 4, "activation_bit": 6}, "pool": {"activation_bit": 6}, "head": "float32"}
    strategy = Strategy.builtin("pof2s").with_overrides({"quantize_registry_config": {"layer_config": rules}})
    made = quantize(model, strategy, zoo.batch(model, 8))
    count = counting.macs(made.graph)
    found = counting.bit_operations(made.graph, made.rows, made.plan)
    # conv reads the 8-bit image; fc reads conv's 6 bits through pooling and flattening; head is float.
    # What head reads was quantized to 8 bits by fc.
    assert found == {"conv": count["conv"] * 4 * 8, "fc": count["fc"] * 8 * 6, "head": count["head"] * 32 * 8}
    assert counting.totals(made)["bit_operations"] == sum(found.values())
    assert counting.totals(made)["macs"] == sum(count.values())
    assert np.isfinite(made.size_bytes)
