"""AdaRound and threshold search: never worse by their own measure, on their grids, useful on a real net."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.bench import Bench
from vqkit.errors import DataError
from vqkit.evaluation import predict
from vqkit.primitives import ops
from vqkit.primitives.spec import QuantizerSpec, QuantizerType
from vqkit.quantization import Data, quantize
from vqkit.quantization.refine.finetune import Cells
from vqkit.strategy import Strategy


def four_bits(name: str = "pof2s", **kwargs: Any) -> Strategy:
    return Strategy.builtin(name).with_kwargs(weight_bit=4, **kwargs)


def output_error(quantized: Any, net: Any, x: Any) -> float:
    return float(np.mean((predict(quantized.model, x) - predict(net, x)) ** 2))


@pytest.mark.parametrize("kind", QuantizerType)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetry", [False, True])
def test_cells_are_the_two_grid_points_around_each_weight(kind, per_channel, symmetry):
    weight = np.random.default_rng(0).normal(size=(3, 3, 2, 5)).astype(np.float32)
    params = ops.choose(weight, QuantizerSpec(kind, 3, per_channel=per_channel, symmetry=symmetry))
    cells = Cells(weight, params)
    high = cells.low + cells.width
    for ends in (cells.low, high):
        np.testing.assert_array_equal(ops.fake_quantize_numpy(ends, params), ends)
    inside = cells.width > 0
    step = np.broadcast_to(params.scale, weight.shape)
    np.testing.assert_allclose(cells.width[inside], step[inside], rtol=1e-5)
    assert np.all((weight >= cells.low - 1e-6)[inside] & (weight <= high + 1e-6)[inside])
    np.testing.assert_array_equal(cells.weights(cells.nearest()), weight)
    np.testing.assert_array_equal(
        ops.fake_quantize_numpy(cells.weights(-cells.nearest()), params),
        np.where(cells.nearest() > 0, cells.low, high),
    )
    share = np.clip(1.2 / (1 + np.exp(-cells.start().astype(np.float64))) - 0.1, 0, 1)
    np.testing.assert_allclose((cells.low + share * cells.width)[inside], weight[inside], atol=1e-5)


@pytest.mark.parametrize(("name", "strategy"), [("residual", "pof2s"), ("depthwise", "fsx")])
def test_no_layer_gets_worse_by_rounding_and_decisions_stay(name, strategy):
    net = zoo.build(name)
    x = zoo.batch(net, 24)
    plain = quantize(net, four_bits(strategy), x, batch_size=8)
    rounded = quantize(net, four_bits(strategy, include_adaround=True, adaround_steps=150), x, batch_size=8)
    assert rounded.encodings == plain.encodings
    assert output_error(rounded, net, x) < output_error(plain, net, x)
    lines = [line for line in rounded.report if line.startswith("include_adaround")]
    errors = [[float(v) for v in line.partition("error ")[2].split(" -> ")] for line in lines]
    assert all(after <= before for before, after in errors)
    assert any(after < before for before, after in errors)
    for row in plain.plan.quantized:
        if row.is_weight and row.tensor == "kernel":
            near, far = (
                ops.fake_quantize_numpy(q.corrected.layers[row.layer].weights["kernel"], q.encodings[row.name])
                for q in (plain, rounded)
            )
            steps = np.abs(far - near) / plain.encodings[row.name].scale
            assert np.all(steps < 1.001), "a weight may only round to the other side"


@pytest.mark.parametrize(("strategy", "loss"), [("pof2s", "mse"), ("fsx", "mse"), ("pof2s", "kl")])
def test_search_lowers_the_loss_it_searches_by(strategy, loss):
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 24)
    chosen = four_bits(strategy, activation_bit=4)
    plain = quantize(net, chosen, x)
    found = quantize(net, chosen.with_kwargs(include_threshold_search=True, threshold_search_loss=loss), x)
    assert found.audit()["ok"].all()
    last = next(line for line in found.report if line.startswith("include_threshold_search: loss"))
    first, best = (float(v) for v in last.rpartition("loss ")[2].split(" -> "))
    assert best <= first
    changed = [k for k in plain.encodings if found.encodings[k] != plain.encodings[k]]
    named = {line.split()[1] for line in found.report if line.startswith("include_threshold_search: ")} - {"loss"}
    assert set(changed) <= named
    if loss == "mse":
        np.testing.assert_allclose(output_error(plain, net, x), first, rtol=1e-3)
        np.testing.assert_allclose(output_error(found, net, x), best, rtol=1e-3)


def test_search_by_labels_wants_labels_and_lowers_their_loss():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 24)
    labels = np.argmax(predict(net, x), -1)
    chosen = four_bits(activation_bit=3, include_threshold_search=True, threshold_search_loss="labels")
    for given, problem in ((None, "needs labels"), (labels[:5], "5 labels for 24")):
        with pytest.raises(DataError, match=problem):
            quantize(net, chosen, x, calib_labels=given)
    found = quantize(net, chosen, x, calib_labels=labels)
    bench = Bench(net, Data("labelled", x, x, labels, y_calib=labels))
    assert bench.quantize(chosen, batch_size=32).encodings == found.encodings
    with pytest.raises(DataError, match="24 labels for 16"):
        quantize(net, chosen, x, batch_size=8, steps=2, calib_labels=labels)
    assert bench.quantize(chosen, batch_size=8, steps=2).report
    last = next(line for line in found.report if line.startswith("include_threshold_search: loss"))
    first, best = (float(v) for v in last.rpartition("loss ")[2].split(" -> "))
    assert best <= first
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(float(loss(labels, predict(found.model, x))), best, rtol=1e-3)


def test_all_entries_work_together():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 16)
    chosen = four_bits(
        include_threshold_search=True,
        include_fast_ft=True,
        include_adaround=True,
        include_bias_corr=True,
        fast_ft_epochs=2,
        adaround_steps=30,
    )
    made = quantize(net, chosen, x)
    assert made.audit()["ok"].all()
    assert output_error(made, net, x) < output_error(quantize(net, four_bits(), x), net, x)
