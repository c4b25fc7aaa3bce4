"""One control, three reaches: each edit lands where the format puts it, and can be undone by another."""

from __future__ import annotations

import pytest

from vqkit.errors import StrategyError
from vqkit.strategy import Strategy
from vqkit.strategy.scope import PARAMS, Scope, Target, change, leave_float

ENTRY = "/quantize_registry_config/layer_quantize_config/0/weight_quantizers/0"
BASE = Strategy.builtin("pof2s")
CONV = Target("conv", "weight", ENTRY)
VALUES = {
    "bit_width": 5,
    "method": "PERCENTILE",
    "round_mode": "HALF_AWAY",
    "per_channel": True,
    "symmetry": False,
}


def layer_type() -> str:
    return str(BASE.dump()["quantize_registry_config"]["layer_quantize_config"][0]["layer_type"]).rpartition(".")[2]


def weight_spec(strategy: Strategy, name: str, kind: str | None = None) -> object:
    rule = strategy.layer_rule(kind or layer_type(), name)
    assert rule is not None
    return rule.weights[0][1].spec  # type: ignore[union-attr]


@pytest.mark.parametrize("param", PARAMS)
@pytest.mark.parametrize("scope", list(Scope))
def test_a_change_reaches_what_its_scope_says(param: str, scope: Scope) -> None:
    after = change(BASE, CONV, scope, param, VALUES[param])
    here = getattr(weight_spec(after, "conv"), param)
    assert getattr(here, "name", here) == VALUES[param]
    was = getattr(weight_spec(BASE, "other"), param)
    elsewhere = getattr(weight_spec(after, "other"), param)
    assert (elsewhere == was) == (scope is Scope.TENSOR)
    dense = getattr(weight_spec(after, "head", "Dense"), param)
    assert (dense == getattr(weight_spec(BASE, "head", "Dense"), param)) == (scope is not Scope.MODEL)
    section = {
        Scope.TENSOR: "layer_config",
        Scope.TYPE: "layer_quantize_config",
        Scope.MODEL: "user_quantize_config",
    }
    registry, before = after.dump()["quantize_registry_config"], BASE.dump()["quantize_registry_config"]
    assert [k for k in registry if registry[k] != before.get(k)] == [section[scope]]


@pytest.mark.parametrize("scope", list(Scope))
def test_leaving_float_and_back(scope: Scope) -> None:
    left = leave_float(BASE, CONV, scope, True, layer_type())
    rule = left.layer_rule(layer_type(), "conv")
    assert rule is not None
    assert rule.left_float is not None or all(q is None for _, q in rule.weights)
    back = leave_float(left, CONV, scope, False, layer_type())
    assert weight_spec(back, "conv") == weight_spec(BASE, "conv")


def test_what_has_no_place_is_an_error() -> None:
    with pytest.raises(StrategyError, match="bit_width"):
        change(BASE, CONV, Scope.TENSOR, "bit_witdh", 4)
    with pytest.raises(StrategyError, match="no entry"):
        change(BASE, Target("conv", "weight", ""), Scope.TYPE, "bit_width", 4)
    with pytest.raises(StrategyError, match="no layer type"):
        leave_float(BASE, Target("image", "input", ""), Scope.TYPE, True, "FakeQuantize")
    with pytest.raises(StrategyError, match="Conv2D"):
        leave_float(BASE, CONV, Scope.TYPE, True, "Conv2DD")
