"""Name rules that quantize one kind of tensor of a layer and leave everything else exactly float."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import StrategyError
from vqkit.evaluation import predict
from vqkit.quantization import make_plan, quantize
from vqkit.strategy import Strategy

NAMED = "/quantize_registry_config/layer_config"


def with_rules(rules, base="fsx", **kwargs):
    strategy = Strategy.builtin(base).with_kwargs(**kwargs)
    return strategy.with_overrides({"quantize_registry_config": {"layer_config": rules}})


def quantized(plan):
    return {r.name for r in plan.quantized}


@pytest.mark.parametrize("name", ["residual", "shared_layer", "two_outputs", "activations", "nested"])
def test_nothing_is_the_float_model(tiny, name):
    model = tiny(name)
    x = zoo.batch(model)
    strategy = with_rules({"*": {"quantize": "nothing"}}, weight_bit=4)
    made = quantize(model, strategy, x)
    assert made.plan.quantized == ()
    both = predict(made.model, x), predict(made.float_model, x)
    for a, b in zip(*[v if isinstance(v, list) else [v] for v in both], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("base", ["fsx", "fs", "pof2s", "pof2s_tqt"])
@pytest.mark.parametrize("name", zoo.NAMES)
def test_nothing_quantizes_nothing(tiny, name, base):
    plan = make_plan(with_rules({"*": {"quantize": "nothing"}}, base, weight_bit=4, input_bit=6), tiny(name))
    assert plan.quantized == ()


def test_only_one_kind_of_one_layer(tiny):
    model = tiny("residual")
    for word, expected in (
        ("weights", {"conv1/kernel", "conv1/bias"}),
        ("activations", set()),
    ):
        rules = {"*": {"quantize": "nothing"}, "conv1": {"quantize": word}}
        assert quantized(make_plan(with_rules(rules), model)) == expected
    rules = {"*": {"quantize": "nothing"}, "conv1_relu": {"quantize": "activations", "activation_bit": 4}}
    plan = make_plan(with_rules(rules), model)
    assert quantized(plan) == {"conv1_relu/output"}
    assert plan["conv1_relu/output"].spec.bit_width == 4
    rules = {"*": {"quantize": "nothing"}, "image": {"quantize": "activations"}}
    assert quantized(make_plan(with_rules(rules), model)) == {"quant_image/input"}


def test_all_but_one_kind_of_one_layer(tiny):
    model = tiny("residual")
    everything = quantized(make_plan("fsx", model))
    without = quantized(make_plan(with_rules({"conv1": {"quantize": "activations"}}), model))
    assert everything - without == {"conv1/kernel", "conv1/bias"}
    for name in ("conv1_relu", "image"):
        left = quantized(make_plan(with_rules({name: {"quantize": "weights"}}), model))
        assert len(everything - left) == 1
        assert left < everything
    # false has the device's meaning: what a quantized layer reads is quantized in front of it.
    device = quantized(make_plan(with_rules({"conv1_relu": {"quantize": False}}), model))
    assert "quant_conv1_relu/input" in device - everything


def test_what_a_rule_silences_itself_is_an_error(tiny):
    rules = {"conv1": {"quantize": "weights", "activation_bit": 4}}
    with pytest.raises(StrategyError, match="activation_bit"):
        make_plan(with_rules(rules, "pof2s"), tiny("residual"))


def test_other_words_are_refused():
    with pytest.raises(StrategyError, match="weights"):
        with_rules({"conv1": {"quantize": "weight"}})


def test_a_file_keeps_the_word(tmp_path):
    strategy = with_rules({"conv1": {"quantize": "weights"}})
    strategy.dump(tmp_path / "s.json")
    assert Strategy.load(tmp_path / "s.json") == strategy
    assert strategy != with_rules({"conv1": {"quantize": "activations"}})
