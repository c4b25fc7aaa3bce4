"""Units and the strategies that ask about one of them."""

from __future__ import annotations

import pytest

from tests.support import zoo
from vqkit.quantization import make_plan
from vqkit.quantization.prepare import prepare
from vqkit.search.questions import Unit, questions, strategy_for, units, with_rules
from vqkit.strategy import Strategy


def found(tiny, name, base="fsx"):
    return units(prepare(tiny(name), Strategy.builtin(base)))


def test_units_are_layers_as_people_think_of_them(tiny):
    assert found(tiny, "residual") == [
        Unit("image", "", "image", is_input=True),
        Unit("stem", "stem", "stem_relu", parameters=108),
        Unit("conv1", "conv1", "conv1_relu", parameters=144),
        Unit("conv2", "conv2", "conv2", parameters=144),
        Unit("add_relu", "", "add_relu"),
        Unit("pool", "", "pool"),
        Unit("head", "head", "head", parameters=12),
    ]


@pytest.mark.parametrize("base", ["fsx", "pof2s"])
@pytest.mark.parametrize("name", ["residual", "depthwise", "fused_activations", "two_inputs", "activations"])
def test_every_question_is_a_strategy_that_quantizes_just_that(tiny, name, base):
    model, strategy = tiny(name), Strategy.builtin(base)
    everything = {r.name for r in make_plan(strategy, model).quantized}
    weights = {r.name: r for r in make_plan(strategy, model).quantized if r.role == "weight"}
    for q in questions(found(tiny, name, base), (5,), ("weights", "activations", "both"), ("only", "all_but")):
        plan = make_plan(strategy_for(strategy, q), model)
        rows = {r.name: r for r in plan.quantized}
        assert set(rows) < everything
        asked = rows if q.mode == "only" else everything - set(rows)
        assert asked
        mine = {n for n, r in weights.items() if r.layer == q.unit.weights}
        assert {n for n in asked if n in weights} == (set() if q.kind == "activations" else mine)
        assert all(r.spec.bit_width == 5 for r in rows.values() if r.role != "bias")


def test_rules_of_the_base_stay_where_the_new_ones_say_nothing():
    named = {"conv*": {"weight_per_channel": True}, "head": "float32"}
    base = Strategy.builtin("pof2s").with_overrides({"quantize_registry_config": {"layer_config": named}})
    made = with_rules(base, {"conv1": {"weight_bit": 4}})
    assert made.dump()["quantize_registry_config"]["layer_config"] == {
        **named,
        "conv1": {"weight_per_channel": True, "weight_bit": 4},
    }


def test_zoo_models_have_units(tiny):
    for name in zoo.NAMES:
        for base in ("fsx", "pof2s"):
            assert found(tiny, name, base)
