"""The plan: every tensor is there, with who decided it; overrides that reach nothing are errors."""

from __future__ import annotations

import json
from dataclasses import replace

import keras
import pytest

from tests.support import zoo
from vqkit.errors import StrategyError
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization import make_plan
from vqkit.quantization.plan import Role
from vqkit.strategy import Strategy

BUILT_INS = ("pof2s", "pof2s_tqt", "fs", "fsx")


@pytest.mark.parametrize("strategy", BUILT_INS)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_tensor_is_planned_once_with_a_reason_or_a_quantizer(name, strategy):
    plan = make_plan(strategy, zoo.build(name))
    names = [r.name for r in plan.rows]
    assert len(names) == len(set(names))
    for row in plan.rows:
        assert (row.spec is None) == (not row.origins)
        assert row.spec is not None or row.reason
    assert len(plan.quantized) + len(plan.float_rows) == len(plan.rows)


def test_rows_say_which_line_of_which_source_decided():
    strategy = Strategy.builtin("pof2s").with_kwargs(weight_bit=4)
    row = make_plan(strategy, zoo.build("conv_bn_relu")).quantized[1]
    assert row.role is Role.WEIGHT
    assert row.spec.bit_width == 4
    assert row.origins["bit_width"] == ("kwargs", "/quantize_registry_config/user_quantize_config/weight_bit")
    source, pointer = row.origins["method"]
    assert source == "builtin pof2s"
    assert pointer.endswith("/weight_quantizers/0/quantizer_params/method")


def test_an_override_that_reaches_nothing_is_an_error():
    strategy = Strategy.builtin("fs").with_kwargs(activation_bit=4)
    with pytest.raises(StrategyError, match=r"activation_bit.*reached no quantizer"):
        make_plan(strategy, zoo.build("conv_bn_relu"))
    make_plan(strategy, zoo.build("conv_bn_relu"), vitis_compat=True)


def test_layer_names_are_checked_before_anything_runs():
    model = zoo.build("sequential")
    layer = model.layers[0].name
    with pytest.raises(StrategyError, match=rf"did you mean '{layer}'"):
        make_plan(Strategy.builtin("pof2s").with_kwargs(ignore_layers=[layer + "s"]), model)
    named = Strategy.builtin("pof2s").with_value("/quantize_registry_config/layer_config", {"nope": {"weight_bit": 4}})
    with pytest.raises(StrategyError, match="nope"):
        make_plan(named, model)


def named_plan(rules, model):
    return make_plan(Strategy.builtin("pof2s").with_value("/quantize_registry_config/layer_config", rules), model)


def two_convs():
    x = keras.Input((8, 8, 3), name="in")
    y = keras.layers.Conv2D(4, 3, activation="relu", name="first")(x)
    y = keras.layers.Conv2D(4, 3, name="second")(y)
    model = keras.Model(x, keras.layers.ReLU(name="second_relu")(y), name="two")
    zoo.randomize(model, seed=1)
    return model


def test_names_and_globs_narrow_the_type_rule():
    plan = named_plan({"first": {"weight_bit": 4}, "sec*": {"weight_bit": 6, "bias_bit": 16}}, two_convs())
    assert plan["first/kernel"].spec.bit_width == 4
    assert plan["second/kernel"].spec.bit_width == 6
    assert plan["second/bias"].spec.bit_width == 16
    assert plan["first/bias"].spec.bit_width == 8


def test_a_name_rule_follows_the_activation_that_was_split_off():
    plan = named_plan({"first": {"activation_bit": 4}}, two_convs())
    assert plan["first_relu/output"].spec.bit_width == 4
    assert plan["second_relu/output"].spec.bit_width == 8


def test_a_layer_left_float_by_name_says_so_and_its_reader_quantizes_its_output():
    plan = named_plan({"first": {"quantize": False}}, two_convs())
    assert plan["first/kernel"].spec is None
    assert "left float by" in plan["first/kernel"].reason
    assert plan["quant_first_relu/input"].spec is not None


def test_outputs_merged_into_the_next_activation_say_where_they_are_quantized():
    plan = make_plan("pof2s", two_convs())
    assert plan["second/output"].reason == "quantized after second_relu"
    assert plan["second_relu/output"].spec is not None


def test_partial_models_start_and_stop_where_told():
    strategy = Strategy.builtin("pof2s").with_kwargs(input_layers=["second"], output_layers=["second"])
    plan = make_plan(strategy, two_convs())
    assert [r.name for r in plan.quantized] == [
        "quant_first/input",
        "second/kernel",
        "second/bias",
        "second/output",
    ]
    assert plan["first/kernel"].reason == "not in the selected part of the model"


def test_unsigned_activations_pass_over_layers_that_may_be_negative():
    x = keras.Input((4, 4, 2), name="in")
    y = keras.layers.Conv2D(2, 1, name="linear")(x)
    z = keras.layers.ReLU(name="positive")(keras.layers.Conv2D(2, 1, name="conv")(y))
    model = keras.Model(x, z, name="signs")
    plan = make_plan(Strategy.builtin("pof2s").with_kwargs(activation_unsigned=True), model)
    assert plan["positive/output"].spec.unsigned
    assert not plan["linear/output"].spec.unsigned


def test_plan_prints_and_survives_json():
    plan = make_plan("fsx", zoo.build("residual"))
    text = str(plan)
    assert "tensors quantized" in text
    data = json.loads(json.dumps(plan.to_json()))
    assert [r["layer"] for r in data["rows"]] == [r.layer for r in plan.rows]
    for row, stored in zip(plan.rows, data["rows"], strict=True):
        assert (row.spec and row.spec.to_json()) == stored["spec"]
        assert row.spec is None or QuantizerSpec.from_json(stored["spec"]) == row.spec
    frame = plan.to_frame()
    assert len(frame) == len(plan.rows)
    assert set(frame["quantizer"]) <= {"FS", "float"}


def test_html_escapes_layer_names():
    x = keras.Input((4,), name="in")
    model = keras.Model(x, keras.layers.Dense(2, name="<b>&")(x), name="m")
    plan = make_plan("pof2s", model)
    named = replace(plan, rows=tuple(replace(r, layer="<b>&") for r in plan.rows))
    for html in (plan._repr_html_(), named._repr_html_()):
        assert "<b>&" not in html
    assert "&lt;b&gt;" in html
