"""Fast finetuning: no layer gets worse, the net gets better, decisions stay, the float model stays."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.evaluation import evaluate, predict
from vqkit.quantization import quantize
from vqkit.quantization.prepare import instrument, prepare
from vqkit.quantization.refine.finetune import finetune
from vqkit.quantization.refine.layerwise import adam, find_blocks
from vqkit.strategy import Strategy
from vqkit.sweeps.quickstart import quickstart_data


def four_bits(name="pof2s", **kwargs):
    return Strategy.builtin(name).with_kwargs(weight_bit=4, **kwargs)


def blocks_of(model, strategy, *, vitis_compat=False):
    prepared = prepare(model, strategy, vitis_compat=vitis_compat)
    graph, rows = instrument(prepared.graph, prepared.plan)
    return find_blocks(graph, rows, prepared.plan)


def parts(block):
    return [block.graph.kind(n) for n in block.nodes]


def test_a_block_is_a_layer_with_its_activation_and_its_quantizer():
    blocks, left = blocks_of(zoo.build("residual"), Strategy.builtin("pof2s"))
    assert left == []
    shapes = {b.layer: parts(b) for b in blocks}
    assert set(map(tuple, shapes.values())) <= {
        ("Conv2D", "FakeQuantize"),
        ("Conv2D", "ReLU", "FakeQuantize"),
        ("Conv2D", "Activation", "FakeQuantize"),
        ("Dense", "FakeQuantize"),
    }
    assert shapes["head"] == ["Dense", "FakeQuantize"]
    assert any(len(s) == 3 for s in shapes.values())


def test_without_activation_quantizers_a_block_ends_behind_its_rectifier():
    blocks, _ = blocks_of(zoo.build("depthwise"), Strategy.builtin("fs"))
    assert {b.layer: parts(b) for b in blocks}["head"] == ["Dense"]
    assert all("FakeQuantize" not in parts(b) for b in blocks)


def test_a_shared_layer_is_left_as_it_is_and_said_so():
    blocks, left = blocks_of(zoo.build("shared_layer"), four_bits())
    assert [b.layer for b in blocks] == ["head"]
    assert left == ["encode: called 2 times, left as it is"]
    model = zoo.build("shared_layer")
    quantized = quantize(model, four_bits(include_fast_ft=True), zoo.batch(model, 8))
    assert "include_fast_ft: encode: called 2 times, left as it is" in quantized.report


@pytest.mark.parametrize("strategy", ["pof2s", "fs", "fsx", "pof2s_tqt"])
@pytest.mark.parametrize("name", ["residual", "depthwise", "transposed", "activations", "lone_batch_norm"])
def test_no_layer_gets_worse(name, strategy):
    model = zoo.build(name)
    x = zoo.batch(model, 24)
    plain = quantize(model, four_bits(strategy), x, batch_size=8)
    tuned = finetune(
        plain.graph,
        plain.rows,
        plain.plan,
        plain.encodings,
        dict(plain.live),
        [x[:8], x[8:16], x[16:]],
        epochs=3,
    )
    assert [t.layer for t in tuned.layers] == [b.layer for b in blocks_of(model, four_bits(strategy))[0]]
    assert all(t.after <= t.before for t in tuned.layers)
    assert any(t.after < t.before and t.epochs for t in tuned.layers)
    assert all((t.after == t.before) == (t.epochs == 0) for t in tuned.layers)


def test_the_errors_in_the_report_are_those_of_the_finished_model():
    """The last layer's error: the quantized model's output against the float model's, over all samples."""
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 20)
    plain = quantize(model, four_bits(), x, batch_size=8)
    before = np.mean((predict(plain.model, x) - predict(plain.float_model, x)) ** 2)
    batches = [x[:8], x[8:16], x[16:]]
    tuned = finetune(plain.graph, plain.rows, plain.plan, plain.encodings, dict(plain.live), batches, epochs=2)
    after = np.mean((predict(plain.model, x) - predict(plain.float_model, x)) ** 2)
    last = tuned.layers[-1]
    np.testing.assert_allclose(last.after, after, rtol=1e-4)
    if len(tuned.layers) == 1:
        np.testing.assert_allclose(last.before, before, rtol=1e-4)


@pytest.mark.parametrize("vitis_compat", [False, True])
def test_decisions_stay_and_weights_are_on_their_grid(vitis_compat):
    model = zoo.build("residual")
    x = zoo.batch(model, 16)
    float_weights = [w.numpy() for w in model.weights]
    plain = quantize(model, four_bits(), x, batch_size=8, vitis_compat=vitis_compat)
    tuned = quantize(
        model, four_bits(include_fast_ft=True, fast_ft_epochs=2), x, batch_size=8, vitis_compat=vitis_compat
    )
    assert tuned.encodings == plain.encodings
    assert tuned.audit()["ok"].all()
    assert any("include_fast_ft: head output error" in line for line in tuned.report)
    before, after = (q.corrected.layers["conv1"].weights for q in (plain, tuned))
    assert np.any(after["kernel"] != before["kernel"])
    for now, before in zip(model.weights, float_weights, strict=True):
        np.testing.assert_array_equal(now.numpy(), before)


def test_by_default_layers_are_fed_quantized_inputs_in_compat_float_ones():
    model = zoo.build("residual")
    x = zoo.batch(model, 16)
    plain = quantize(model, four_bits(activation_bit=3), x)
    given = {}
    for compat in (False, True):
        fresh = quantize(model, four_bits(activation_bit=3), x)
        tuned = finetune(
            fresh.graph,
            fresh.rows,
            fresh.plan,
            fresh.encodings,
            dict(fresh.live),
            [x],
            epochs=1,
            vitis_compat=compat,
        )
        given[compat] = tuned.layers
    assert plain.encodings == fresh.encodings
    # Errors of the layers in front do not reach a layer that is fed float values.
    assert given[True][-1].before < given[False][-1].before


def test_layers_of_one_kind_and_shape_share_one_compiled_step():
    i = keras.Input((8, 8, 4))
    y = i
    for k in range(4):
        y = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{k}")(y)
    y = keras.layers.Conv2D(4, 1, activation="relu", name="other")(y)
    model = keras.Model(i, y)
    x = zoo.batch(model, 8)
    plain = quantize(model, four_bits(), x)
    tuned = finetune(plain.graph, plain.rows, plain.plan, plain.encodings, dict(plain.live), [x], epochs=1)
    assert len(tuned.layers) == 5
    assert tuned.traces == 2
    # Sharing the code must not mix the layers' weights and ranges up.
    alone = quantize(model, four_bits(include_fast_ft=True, fast_ft_epochs=1), x)
    for name, layer in alone.corrected.layers.items():
        for key, value in layer.weights.items():
            np.testing.assert_array_equal(value, tuned.graph.layers[name].weights[key])


def test_a_layer_with_an_equalized_ceiling_trains():
    model = zoo.build("depthwise")
    x = zoo.batch(model, 16)
    tuned = quantize(model, four_bits(include_fast_ft=True, cle_to_relu6=True, fast_ft_epochs=2), x)
    assert tuned.audit()["ok"].all()


def test_two_inputs_and_two_outputs():
    for name in ("two_inputs", "two_outputs", "nested", "one_channel"):
        model = zoo.build(name)
        x = zoo.batch(model, 8)
        tuned = quantize(model, four_bits(include_fast_ft=True, fast_ft_epochs=1), x, batch_size=4)
        assert tuned.audit()["ok"].all()


def test_a_generator_is_enough():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 8)
    strategy = four_bits(include_fast_ft=True, fast_ft_epochs=1)
    once = quantize(model, strategy, (x[i : i + 4] for i in (0, 4)))
    array = quantize(model, strategy, x, batch_size=4)
    np.testing.assert_array_equal(predict(once.model, x), predict(array.model, x))


def output_error(quantized, x):
    wanted = predict(quantized.float_model, x)
    got = predict(quantized.model, x)
    return sum(np.mean((g - w) ** 2) for g, w in zip(keras.tree.flatten(got), keras.tree.flatten(wanted), strict=True))


@pytest.mark.parametrize("name", ["residual", "depthwise", "concat", "sequential", "one_channel"])
def test_the_models_output_comes_closer_to_the_float_models(name):
    model = zoo.build(name)
    x = zoo.batch(model, 64)
    plain = output_error(quantize(model, four_bits("fsx"), x), x)
    assert output_error(quantize(model, four_bits("fsx", include_fast_ft=True), x), x) < plain


@pytest.mark.slow
def test_a_trained_net_at_four_bits_gets_most_of_its_accuracy_back(quickstart_model_path):
    """200 calibration images; errors and accuracy on images that were in no training."""
    data, model = quickstart_data(), keras.saving.load_model(quickstart_model_path)
    wanted = evaluate(model, data.x_eval, data.y_eval)

    def loss_and_error(**kwargs):
        quantized = quantize(model, four_bits(**kwargs), data.x_calib)
        got = evaluate(quantized.model, data.x_eval, data.y_eval)
        return wanted.metrics["accuracy"] - got.metrics["accuracy"], np.mean(
            (got.predictions - wanted.predictions) ** 2
        )

    lost, error = loss_and_error()
    lost_tuned, error_tuned = loss_and_error(include_fast_ft=True)
    assert lost > 0.1
    assert lost_tuned < lost / 2
    assert error_tuned < error / 2


def test_bias_correction_after_finetuning_keeps_the_kernels_and_centres_the_error():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 32)
    one = quantize(model, four_bits(include_fast_ft=True, fast_ft_epochs=2), x)
    both = quantize(model, four_bits(include_fast_ft=True, fast_ft_epochs=2, include_bias_corr=True), x)
    for name, layer in both.corrected.layers.items():
        if "kernel" in layer.weights:
            np.testing.assert_array_equal(layer.weights["kernel"], one.corrected.layers[name].weights["kernel"])
            assert both.encodings[f"{name}/kernel"] == one.encodings[f"{name}/kernel"]
    assert both.audit()["ok"].all()


def test_adam_moves_by_the_rate_at_first_and_equals_keras():
    rng = np.random.default_rng(0)
    w, rates = rng.normal(size=(3, 2)).astype("float32"), {"w": 0.01}
    variable = keras.Variable(w)
    optimizer = keras.optimizers.Adam(0.01)
    state = ({"w": keras.ops.convert_to_tensor(w)}, {"w": np.zeros_like(w)}, {"w": np.zeros_like(w)}, 0.0)
    for k in range(4):
        g = rng.normal(size=w.shape).astype("float32")
        weights, *moments = adam(state[0], {"w": g}, state[1:], rates)
        if k == 0:
            np.testing.assert_allclose(np.abs(weights["w"] - w), 0.01, rtol=1e-3)
        state = (weights, *moments)
        optimizer.apply([keras.ops.convert_to_tensor(g)], [variable])
        np.testing.assert_allclose(weights["w"], variable.numpy(), rtol=1e-5, atol=1e-7)
