"""Layers that a name rule puts into another data type: integers of that width, 16-bit floats, float32."""

from __future__ import annotations

import dataclasses

import keras
import ml_dtypes
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import AuditError, StrategyError
from vqkit.evaluation import predict
from vqkit.evaluation.noise import sqnr
from vqkit.quantization import make_plan, quantize
from vqkit.strategy import Strategy

TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
HALF = sorted(TYPES)


def named(strategy="pof2s", **rules):
    config = {"quantize_registry_config": {"layer_config": rules}}
    return Strategy.builtin(strategy).update(config)


def in_type(array, data_type):
    return np.asarray(array, np.float32).astype(TYPES[data_type]).astype(np.float32)


def kernel(quantized, layer):
    return np.asarray(quantized.model.get_layer(layer).kernel)


def between(quantized, name):
    return keras.Model(quantized.model.inputs, quantized.model.get_layer(name).output)


@pytest.mark.parametrize("data_type", HALF)
@pytest.mark.parametrize("strategy", ["pof2s", "pof2s_tqt", "fs", "fsx"])
def test_weights_are_rounded_and_outputs_pass_a_rounding_layer(strategy, data_type):
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    quantized = quantize(model, named(strategy, conv1=data_type), x)
    before = quantized.graph.layers["conv1"].weights["kernel"]
    np.testing.assert_array_equal(kernel(quantized, "conv1"), in_type(before, data_type))
    raw = predict(between(quantized, "conv1"), x)
    rounded = predict(between(quantized, f"conv1_{data_type}"), x)
    np.testing.assert_array_equal(rounded, in_type(raw, data_type))
    assert np.any(rounded != raw)


@pytest.mark.parametrize("data_type", HALF)
def test_the_plan_says_the_type_and_the_rule(data_type):
    plan = make_plan(named(conv1=data_type), zoo.build("residual"))
    rows = {r.name: r for r in plan.rows if r.layer == "conv1"}
    assert set(rows) == {"conv1/kernel", "conv1/bias", "conv1/output"}
    for row in rows.values():
        assert (row.spec, row.data_type, row.to_json()["data_type"]) == (None, data_type, data_type)
        assert row.origins == {"data_type": ("dict", "/quantize_registry_config/layer_config/conv1")}
        assert row.reason == f"{data_type} by dict /quantize_registry_config/layer_config/conv1"
    frame = plan.to_frame().set_index(["layer", "tensor"])
    assert frame.loc[("conv1", "kernel"), "quantizer"] == data_type
    assert plan.typed == tuple(rows.values())
    assert "3 of them in 16 bits" in plan.summary()
    assert "16 bits" not in make_plan("pof2s", zoo.build("residual")).summary()


def test_what_a_16_bit_layer_gives_is_quantized_before_the_next_layer():
    plan = make_plan(named(dense="bfloat16"), two_dense())
    row = next(r for r in plan.rows if r.layer == "quant_dense")
    assert row.spec is not None
    quantized = quantize(two_dense(), named(dense="bfloat16"), np.ones((4, 5), "float32"))
    order = [layer.name for layer in quantized.model.layers]
    assert order.index("dense") < order.index("dense_bfloat16") < order.index("quant_dense") < order.index("head")


def two_dense(activation=None):
    keras.utils.set_random_seed(3)
    i = keras.Input((5,), name="x")
    y = keras.layers.Dense(6, activation=activation, name="dense")(i)
    return keras.Model(i, keras.layers.Dense(2, name="head")(y))


def test_values_by_hand():
    """x -> dense (bfloat16) -> round -> fq -> head (int8): every step in numpy."""
    model = two_dense()
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    quantized = quantize(model, named(dense="bfloat16"), x)
    fake = {r.name: quantized.encodings[r.name] for r in quantized.plan.quantized}

    def on_grid(values, name):
        pos = float(fake[name].pos)
        return np.clip(np.floor(values * 2**pos + 0.5), -128, 127) / 2**pos

    w, b = (np.asarray(v) for v in model.get_layer("dense").weights)
    y = x @ in_type(w, "bfloat16") + in_type(b, "bfloat16")
    y = on_grid(in_type(y, "bfloat16"), "quant_dense/input")
    head, bias = (np.asarray(v) for v in quantized.model.get_layer("head").weights)
    got = predict(quantized.model, x)
    np.testing.assert_allclose(got, on_grid(y @ head + bias, "head/output"), atol=1e-6)


def test_the_activation_split_off_a_layer_has_its_type_too():
    plan = make_plan(named(dense="float16"), two_dense("relu"))
    assert plan["dense_relu/output"].data_type == plan["dense/output"].data_type == "float16"


@pytest.mark.parametrize("data_type", HALF)
def test_inputs_and_layers_without_an_entry_take_a_type(data_type):
    model = zoo.build("activations")
    x = zoo.batch(model, 4)
    quantized = quantize(model, named(image=data_type, softmax=data_type), x)
    rounded = between(quantized, f"image_{data_type}")
    np.testing.assert_array_equal(predict(rounded, x), in_type(x, data_type))
    y = predict(quantized.model, x)
    np.testing.assert_array_equal(y, in_type(y, data_type))
    assert quantized.plan["softmax/output"].data_type == data_type


def test_every_type_in_one_model():
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    rules = {"stem": "int16", "conv1": "bfloat16", "conv2": "float16", "head": "float32"}
    quantized = quantize(model, named(**rules), x)
    plan = quantized.plan
    assert plan["stem/kernel"].spec.bit_width == 16
    assert [plan[f"{k}/kernel"].data_type for k in ("conv1", "conv2", "head")] == ["bfloat16", "float16", ""]
    assert plan["head/kernel"].spec is None
    np.testing.assert_array_equal(kernel(quantized, "head"), np.asarray(model.get_layer("head").kernel))
    table = quantized.audit().set_index("tensor")
    assert table["ok"].all()
    assert table.loc["conv1/kernel", "applied"] == table.loc["conv1/output", "requested"] == "bfloat16"
    assert table.loc["conv2/output", "applied"] == "float16"
    assert table.loc["head/kernel", "applied"] == "float"


def test_sixteen_bits_count_two_bytes():
    model = two_dense()
    x = np.ones((4, 5), "float32")
    all_half = quantize(model, named(dense="float16", head="bfloat16"), x)
    assert all_half.size_bytes == model.count_params() * 2
    mixed = quantize(model, named(dense="float16", head="int16"), x)
    assert mixed.size_bytes == model.count_params() * 2
    one = quantize(model, named(head="float32"), x)
    assert one.size_bytes == 36 * 1 + 14 * 4


@pytest.mark.parametrize("data_type", HALF)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:.*HDF5.*")
def test_saved_models_round_alike(tmp_path, suffix, data_type):
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    quantized = quantize(model, named(conv1=data_type, image=data_type), x).model
    quantized.save(tmp_path / f"model{suffix}")
    loaded = keras.saving.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_array_equal(predict(loaded, x), predict(quantized, x))
    assert loaded.get_layer(f"conv1_{data_type}").data_type == data_type


def test_the_audit_notices_unrounded_weights_another_type_and_a_stray_layer():
    model = zoo.build("residual")
    quantized = quantize(model, named(conv1="bfloat16"), zoo.batch(model, 4))
    live = quantized.model.get_layer("conv1")
    kept = live.kernel.numpy()
    live.kernel.assign(kept * 1.001)
    with pytest.raises(AuditError, match=r"conv1/kernel: weights are not those of the float model in bfloat16"):
        quantized.audit()
    live.kernel.assign(kept)
    quantized.audit()
    rounding = quantized.model.get_layer("conv1_bfloat16")
    rounding.data_type = "float16"
    with pytest.raises(AuditError, match=r"conv1/output: requested bfloat16, applied float16"):
        quantized.audit()
    rounding.data_type = "bfloat16"
    rows = tuple(dataclasses.replace(r, data_type="") if r.data_type else r for r in quantized.plan.rows)
    stray = dataclasses.replace(quantized, plan=dataclasses.replace(quantized.plan, rows=rows))
    with pytest.raises(AuditError, match=r"conv1_bfloat16: a quantizer that the plan does not have"):
        stray.audit()


def test_a_weight_beyond_float16_is_an_error_that_says_so():
    model = two_dense()
    model.get_layer("dense").kernel.assign(np.full((5, 6), 1e6))
    with pytest.raises(StrategyError, match=r"dense/kernel: float16 cannot hold 1e\+06, it ends at 65504"):
        quantize(model, named(dense="float16"), np.ones((4, 5), "float32"))


def test_a_type_that_reaches_nothing_is_an_error():
    i = keras.Input((3,), dtype="int32", name="words")
    y = keras.layers.Embedding(9, 4, name="embed")(i)
    model = keras.Model(i, keras.layers.Dense(2, name="head")(y))
    with pytest.raises(StrategyError, match=r"'float16' reached no quantizer: .*'words'.* a float32 tensor"):
        make_plan(named(words="float16"), model)
    plan = make_plan(named(embed="bfloat16"), model)
    assert plan["embed/embeddings"].data_type == plan["embed/output"].data_type == "bfloat16"


def test_a_pool_in_16_bits_leaves_the_grid_of_a_float_scale():
    i = keras.Input((8, 8, 2), name="x")
    y = keras.layers.Conv2D(2, 3, activation="relu", name="conv")(i)
    y = keras.layers.MaxPooling2D(name="pool")(y)
    model = keras.Model(i, keras.layers.Conv2D(2, 1, name="last")(y))
    assert any(r.layer == "quant_pool" for r in make_plan(named("fsx", pool="bfloat16"), model).rows)
    assert not any(r.layer == "quant_pool" for r in make_plan(named("fsx", pool="float32"), model).rows)


def test_float_calibration_and_the_comparison_with_float_leave_rounding_out():
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    plain = quantize(model, "pof2s", x, calibration="float")
    typed = quantize(model, named(stem="bfloat16"), x, calibration="float")
    assert typed.encodings["conv2/kernel"] == plain.encodings["conv2/kernel"]
    assert typed.calibrated["head/output"] == plain.calibrated["head/output"]
    assert np.isfinite(sqnr(typed, x)["sqnr_db"].iloc[-1])


@pytest.mark.parametrize("more", [{"include_bias_corr": True}, {"include_fast_ft": True, "fast_ft_epochs": 1}])
def test_corrections_work_around_16_bit_layers(more):
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    quantized = quantize(model, named(conv1="bfloat16").with_kwargs(weight_bit=4, **more), x)
    assert quantized.audit()["ok"].all()


@pytest.mark.parametrize("data_type", HALF)
def test_variables_in_16_bits_take_only_grids_that_they_hold(data_type):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=data_type, name="dense")])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    quantized = quantize(model, "pof2s", x)
    assert quantized.audit().ok.all()
    wide = Strategy.builtin("pof2s").with_kwargs(weight_bit=16)
    for strategy, words in (("fsx", "8 bits with float scale"), (wide, "16 bits with power-of-two scale")):
        with pytest.raises(StrategyError, match=rf"dense/kernel: .*{data_type}.*{words}.*mixed_{data_type}"):
            make_plan(strategy, model)


def test_a_mixed_policy_keeps_variables_that_hold_any_grid():
    layer = keras.layers.Dense(3, dtype="mixed_bfloat16", name="dense")
    model = keras.Sequential([keras.Input((4,)), layer])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    assert quantize(model, "fsx", x).audit().ok.all()
