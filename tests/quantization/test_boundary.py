"""Only a decision that was nearly a tie is excused as a flip."""

from __future__ import annotations

import keras
import numpy as np

from benchmarks.golden_parts.boundary import explain
from vqkit.quantization import quantize
from vqkit.strategy import Strategy


def quantized_input(largest, **kwargs):
    x = keras.Input((4,), name="in")
    model = keras.Model(x, keras.layers.Dense(2, name="d")(x), name="m")
    data = np.linspace(-0.3, 0.3, 32, dtype="float32").reshape(8, 4)
    data[0, 0] = largest
    strategy = Strategy.builtin("pof2s").with_kwargs(**kwargs)
    return quantize(model, strategy, data, vitis_compat=True), data


def test_a_range_at_a_power_of_two_is_a_coin_toss():
    quantized, data = quantized_input(np.float32(127 / 128))
    row = quantized.plan["quant_in/input"]
    pos = float(quantized.encodings[row.name].pos)
    other = 13 - pos  # 6 or 7, whichever was not chosen
    assert "misses position" in explain(quantized, row, other, data, 32)


def test_a_range_away_from_a_boundary_is_not():
    quantized, data = quantized_input(0.9)
    row = quantized.plan["quant_in/input"]
    pos = float(quantized.encodings[row.name].pos)
    assert explain(quantized, row, pos - 1, data, 32) is None
    assert explain(quantized, row, pos + 1, data, 32) is None


def test_squared_errors_that_differ_are_no_excuse():
    quantized, data = quantized_input(0.9, input_method="MIN_MSE")
    row = quantized.plan["quant_in/input"]
    pos = float(quantized.encodings[row.name].pos)
    assert explain(quantized, row, pos + 1, data, 32) is None
