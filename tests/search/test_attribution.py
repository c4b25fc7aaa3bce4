"""Which changes make a difference: shares that add up, by real intermediate strategies."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.search.test_sensitivity import SETTINGS, data_for
from vqkit.errors import StrategyError
from vqkit.search.attribution import attribute
from vqkit.search.engine import Engine
from vqkit.strategy import Strategy
from vqkit.strategy.document import apply_patch, json_patch

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab/~", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON, JSON)
def test_a_patch_turns_one_into_the_other(a, b):
    before = json.dumps(a)
    patch = json_patch(a, b)
    result = apply_patch(a, patch)
    assert json.dumps(result, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert json.dumps(a) == before
    assert (patch == []) == (json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))


def test_patches_that_lead_nowhere():
    for operation in ({"op": "remove", "path": "/a"}, {"op": "move", "path": "/b", "value": 1}):
        with pytest.raises(StrategyError):
            apply_patch({"b": 1}, [operation])


def test_additive_changes_get_what_they_bring():
    a = Strategy.builtin("fsx")
    b = a.with_kwargs(weight_bit=4, activation_bit=6, include_cle=False)

    def value(document):
        user = document["quantize_registry_config"]["user_quantize_config"]
        cle = document["optimize_pipeline_config"]["include_cle"]
        return 0.9 - 0.2 * (user.get("weight_bit") == 4) - 0.1 * (user.get("activation_bit") == 6) + 0.05 * (not cle)

    found = attribute(a.dump(), b.dump(), value)
    assert {s.what: round(s.points, 9) for s in found.shares} == {
        "weight_bit": -0.2,
        "activation_bit": -0.1,
        "include_cle": 0.05,
    }
    assert found.exact
    assert found.evaluated == 8
    assert Strategy.from_dict(apply_patch(a.dump(), found.patch)) == b


def _changed():
    """Six changes, so that two orders are tried; all of weights, so that compiled functions are shared."""
    return Strategy.builtin("fsx").with_kwargs(
        weight_bit=3,
        weight_method=1,
        weight_per_channel=False,
        weight_round_mode=0,
        bias_bit=6,
        bias_method=1,
    )


def test_real_intermediate_strategies_add_up(tiny):
    model = tiny("conv_bn_relu")
    engine = Engine(model, data_for(model, 60), settings=SETTINGS)
    a, b = Strategy.builtin("fsx"), _changed()

    def value(document):
        return engine.measure(Strategy.from_dict(document)).value

    found = attribute(a.dump(), b.dump(), value)
    assert sum(s.points for s in found.shares) == pytest.approx(found.value_b - found.value_a)
    assert found.value_b == engine.measure(b).value
    assert not found.exact
    assert "points" in str(found)


def test_changes_that_are_invalid_alone_share_what_they_bring():
    a, b = Strategy.builtin("fsx"), Strategy.builtin("fsx").with_kwargs(weight_bit=4, bias_bit=9)

    def value(document):
        user = document["quantize_registry_config"]["user_quantize_config"]
        one, two = user.get("weight_bit") == 4, user.get("bias_bit") == 9
        if one != two:
            raise StrategyError("only together")
        return 0.5 if one else 0.9

    found = attribute(a.dump(), b.dump(), value)
    assert [s.points for s in found.shares] == pytest.approx([-0.2, -0.2])
