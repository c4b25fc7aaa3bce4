"""Quantizing: requested equals applied, the result is an ordinary Keras model, the float model stays."""

from __future__ import annotations

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import zoo
from vqkit.errors import AuditError, DataError
from vqkit.evaluation import predict
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType
from vqkit.quantization import quantize
from vqkit.quantization.calibrate import Statistic, how
from vqkit.quantization.solve import most_frequent
from vqkit.strategy import Strategy

BUILT_INS = ("pof2s", "pof2s_tqt", "fs", "fsx")


def outputs(model, x):
    return [np.asarray(t) for t in keras.tree.flatten(model(x))]


def min_max(name):
    """A built-in with plain ranges: MIN_KL needs more than 16 samples to find a good one."""
    kwargs = {"fs": {"input_method": 0}, "fsx": {"input_method": 0, "activation_method": 0}}
    return Strategy.builtin(name).with_kwargs(**kwargs.get(name, {}))


@pytest.mark.parametrize("strategy", BUILT_INS)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_eight_bits_stay_close_and_the_float_model_is_untouched(name, strategy):
    model = zoo.build(name)
    x = zoo.batch(model, 16)
    before = [w.numpy().copy() for w in model.weights]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    quantized = quantize(model, min_max(strategy), x, batch_size=8)
    assert quantized.audit()["ok"].all()
    for got, want in zip(outputs(quantized.model, x), outputs(model, x), strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want).mean() <= 0.08 * max(np.ptp(want), 1e-3)
    for got, want in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(got.numpy(), want)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("strategy", BUILT_INS)
def test_saved_models_compute_the_same(tmp_path, strategy, suffix):
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    quantized = quantize(model, strategy, x).model
    path = tmp_path / f"quantized{suffix}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HDF5.*")
        quantized.save(path)
    loaded = keras.saving.load_model(path)
    for got, want in zip(outputs(loaded, x), outputs(quantized, x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_result_is_a_keras_model_that_compiles_and_evaluates():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 8)
    quantized = quantize(model, "pof2s", x).model
    quantized.compile(loss="mse")
    y = np.asarray(model(x))
    assert quantized.evaluate(x, y, verbose=0) < np.var(y)
    assert quantized.predict(x, verbose=0).shape == y.shape


def test_every_kind_of_calibration_data_gives_the_same_decisions():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 12)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return x[4 * i : 4 * i + 4], np.zeros(4)

    sources = [
        x,
        tf.data.Dataset.from_tensor_slices(x).batch(4),
        Batches(),
        (x[i : i + 4] for i in (0, 4, 8)),
    ]
    found = [quantize(model, "pof2s", s, batch_size=4).encodings for s in sources]
    for other in found[1:]:
        assert other == found[0]


def test_steps_limit_the_batches():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 12)
    assert quantize(model, "fsx", x, batch_size=4, steps=1).encodings == quantize(model, "fsx", x[:4]).encodings


def test_no_batch_and_unknown_mode_are_errors():
    model = zoo.build("conv_bn_relu")
    with pytest.raises(DataError):
        quantize(model, "pof2s", zoo.batch(model, 4)[:0])
    with pytest.raises(DataError, match=r"'quantised'.*did you mean 'quantized'"):
        quantize(model, "pof2s", zoo.batch(model, 4), calibration="quantised")


def test_float_calibration_observes_the_float_graph():
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    strategy = Strategy.builtin("pof2s").with_kwargs(weight_bit=2, activation_method="NON_OVERFLOW")
    by_float = quantize(model, strategy, x, calibration="float")
    other = quantize(model, strategy.with_kwargs(weight_bit=8), x, calibration="float")
    values = [r.name for r in by_float.plan.quantized if not r.is_weight]
    assert all(by_float.calibrated[n] == other.calibrated[n] for n in values)
    sequential = quantize(model, strategy, x)
    assert any(sequential.calibrated[n] != by_float.calibrated[n] for n in values)


def test_the_audit_notices_a_weight_and_a_range_that_were_changed_behind_its_back():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 4)
    quantized = quantize(model, "pof2s", x)
    fq = next(iter(quantized.rows))
    quantized.model.get_layer(fq).quantize_pos.assign_add(1.0)
    with pytest.raises(AuditError, match=rf"{quantized.rows[fq].name}: decided"):
        quantized.audit()
    quantized = quantize(model, "pof2s", x)
    row = next(r for r in quantized.plan.quantized if r.is_weight)
    kernel = quantized.model.get_layer(row.layer).kernel
    kernel.assign(kernel + 1e-3)
    with pytest.raises(AuditError, match=r"do not lie on the decided grid"):
        quantized.audit()


def test_the_audit_notices_a_plan_that_was_not_followed():
    quantized = quantize(model := zoo.build("conv_bn_relu"), "pof2s", zoo.batch(model, 4))
    rows = tuple(
        dataclasses.replace(r, spec=r.spec.with_(bit_width=5)) if r.role == "input" else r for r in quantized.plan.rows
    )
    changed = dataclasses.replace(quantized, plan=dataclasses.replace(quantized.plan, rows=rows))
    with pytest.raises(AuditError, match=r"requested .*bit_width=5.*applied .*bit_width=8"):
        changed.audit()


def test_a_layer_called_twice_runs_in_a_compiled_function():
    """Its second call's quantizer has a name of its own, which TensorFlow takes for a scope."""
    model = zoo.build("nested")
    quantized = quantize(model, "pof2s", x := zoo.batch(model, 4))
    np.testing.assert_allclose(predict(quantized.model, x), quantized.model(x), atol=1e-6)


def test_sizes_count_bits():
    model = zoo.build("conv_bn_relu")
    x = zoo.batch(model, 4)
    eight = quantize(model, "pof2s", x)
    four = quantize(model, Strategy.builtin("pof2s").with_kwargs(weight_bit=4, bias_bit=4), x)
    assert eight.float_size_bytes == 4 * eight.size_bytes == 8 * four.size_bytes


def test_most_frequent_position_first_seen_wins():
    np.testing.assert_array_equal(most_frequent(np.array([3.0, 5.0, 5.0, 3.0], "float32")), 3.0)
    np.testing.assert_array_equal(most_frequent(np.array([3.0, 5.0, 5.0], "float32")), 5.0)
    per_channel = np.array([[[1, 2]], [[3, 2]], [[3, 4]]], "float32")
    np.testing.assert_array_equal(most_frequent(per_channel), [[3, 2]])


def test_what_is_observed_follows_the_quantizer():
    spec = QuantizerSpec(QuantizerType.FS, method=Method.MIN_MSE)
    assert how(spec, vitis_compat=False) is Statistic.HISTOGRAM
    assert how(spec, vitis_compat=True) is Statistic.RUNNING
    assert how(QuantizerSpec(QuantizerType.POF2S, method=Method.MIN_MSE), vitis_compat=False) is Statistic.POSITION
    assert how(QuantizerSpec(QuantizerType.POF2S, method=Method.MIN_KL), vitis_compat=False) is Statistic.HISTOGRAM
