"""Accuracy and signal-to-noise ratios against numbers computed by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import DataError
from vqkit.evaluation import accuracy, evaluate, predict
from vqkit.evaluation.noise import decibel, sqnr, tensor_values
from vqkit.quantization import quantize
from vqkit.strategy import Strategy


def test_accuracy_of_scores_thresholds_and_one_hot_labels():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert accuracy(scores, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert accuracy(scores, np.eye(2)[[1, 0, 1]]) == 1.0
    assert accuracy(np.array([[0.9], [0.2]]), np.array([1, 1])) == 0.5


def test_predict_equals_the_model_whatever_the_batch_size():
    model = zoo.build("two_inputs")
    x = zoo.batch(model, 7)
    np.testing.assert_allclose(predict(model, x, batch_size=3), model(x), rtol=1e-5, atol=1e-6)


def test_keras_metrics_and_unequal_lengths():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 6)
    scores = predict(model, x)
    y = scores.reshape(6, -1).argmax(-1)
    assert evaluate(model, x, y).metrics == {"accuracy": 1.0}
    with pytest.raises(DataError, match="6 inputs, 5 labels"):
        evaluate(model, x, y[:5])
    found = evaluate(model, x, scores, metrics=["mse", keras.metrics.MeanAbsoluteError()]).metrics
    assert list(found.values()) == [0.0, 0.0]


def test_sqnr_in_decibel():
    assert decibel(100, 1) == 20
    assert decibel(1, 0) == float("inf")
    assert decibel(0, 1) == float("-inf")


def test_sqnr_rises_with_bits_and_equals_a_direct_computation():
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    tables = {}
    for bits in (4, 8):
        strategy = Strategy.builtin("fsx").with_kwargs(
            weight_bit=bits,
            activation_bit=bits,
            input_bit=bits,
            bias_bit=bits,
            activation_method=0,
            input_method=0,
        )
        quantized = quantize(model, strategy, x)
        tables[bits] = sqnr(quantized, x).set_index(["layer", "tensor"])["sqnr_db"]
    assert (tables[8] > tables[4]).all()
    names = [r.name for r in quantized.plan.quantized]
    for name, (f, q) in tensor_values(quantized, x, names).items():
        layer, tensor = name.rsplit("/", 1)
        direct = 10 * np.log10(np.sum(f.astype("float64") ** 2) / np.sum((q - f).astype("float64") ** 2))
        assert tables[8][layer, tensor] == pytest.approx(direct, abs=0.01)
    with pytest.raises(KeyError):
        tensor_values(quantized, x, ["nope/output"])


def test_model_outputs_are_compared_too():
    model = zoo.build("two_outputs")
    x = zoo.batch(model, 4)
    frame = sqnr(quantize(model, "pof2s", x), x)
    assert list(frame[frame["role"] == "output"]["layer"]) == ["model output 0", "model output 1"]
    assert list(frame["order"]) == list(range(len(frame)))
