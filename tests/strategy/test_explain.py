"""The story of each parameter, with those who were not heard."""

from __future__ import annotations

import pytest

from vqkit.errors import StrategyError
from vqkit.strategy import Strategy
from vqkit.strategy.explain import explain

REGISTRY = "/quantize_registry_config"
BITS = f"{REGISTRY}/layer_quantize_config/Conv2D/weight_quantizers/0/quantizer_params/bit_width"


def test_one_parameter_and_all_who_spoke() -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(weight_bit=4).with_value(BITS, 5)
    strategy = strategy.with_value(f"{REGISTRY}/layer_config/conv*", {"weight_bit": 6})
    told = explain(strategy, "Conv2D", "conv1")
    line = next(x for x in told.lines if (x.tensor, x.param) == ("weight kernel", "bit_width"))
    assert line.value == 6
    assert str(line).split(maxsplit=4)[-1] == (
        "8 (builtin fsx: bit_width)  →  5 (with_value: bit_width)  →  "
        "4 (kwargs: weight_bit), not heard: the type entry was edited, which is narrower  →  "
        "6 (with_value: weight_bit)"
    )
    assert str(told).startswith("Conv2D conv1: /quantize_registry_config/layer_quantize_config/0\n")
    assert any("MIN_KL (builtin fsx: method)" in str(x) for x in told.lines)


def test_inputs_transparent_and_float_layers() -> None:
    strategy = Strategy.builtin("pof2s").with_value(f"{REGISTRY}/layer_config/a", "float32")
    assert explain(strategy, "InputLayer").lines[0].tensor == "input"
    assert str(explain(strategy, "Flatten")) == "Flatten: nothing to quantize"
    assert str(explain(strategy, "Add", "a")) == f"Add a: left float by with_value {REGISTRY}/layer_config/a"
    with pytest.raises(StrategyError, match=r"pof2s: layer type 'Softmax' is not allowed"):
        explain(strategy, "Softmax")
