"""Overrides without effect and names without layer are found."""

from __future__ import annotations

from vqkit.strategy import Strategy

USER = "/quantize_registry_config/user_quantize_config"
LAYERS = "/quantize_registry_config/layer_quantize_config"
NAMED = "/quantize_registry_config/layer_config"


def used(strategy: Strategy, layers: dict[str, str]) -> set[tuple[str, str]]:
    """Origins of everything a model with these layers (name to type) would use."""
    found = set(strategy.input_rule().origins.values())
    for name, kind in layers.items():
        rule = strategy.layer_rule(kind, name)
        parts = () if rule is None else (rule.weights, rule.biases, rule.activations, rule.outputs)
        found |= {o for part in parts for _, q in part if q is not None for o in q.origins.values()}
    return {(o.source, o.pointer) for o in found}


def test_everything_used() -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(weight_bit=4, input_bit=8).with_value(f"{NAMED}/c*", "int8")
    assert strategy.unused_overrides(used(strategy, {"c1": "Conv2D", "d": "Dense"})) == []


def test_a_key_that_no_quantizer_has() -> None:
    strategy = Strategy.builtin("pof2s").with_kwargs(activation_method_percentile=99.0)
    (unused,) = strategy.unused_overrides(used(strategy, {"c": "Conv2D"}))
    assert (unused.source, unused.pointer) == ("kwargs", f"{USER}/activation_method_percentile")
    assert str(unused) == (
        f"kwargs {USER}/activation_method_percentile: 99.0 reached no quantizer: the quantizer has no "
        "method_percentile; it counts only with the method PERCENTILE"
    )


def test_a_role_that_the_strategy_does_not_quantize() -> None:
    strategy = Strategy.builtin("fs").with_kwargs(bias_bit=16)
    (unused,) = strategy.unused_overrides(used(strategy, {"c": "Conv2D"}))
    assert unused.why == "this strategy has quantizers only for input, weight (did you mean 'input_bit'?)"


def test_a_role_that_the_model_does_not_have() -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(weight_bit=4)
    (unused,) = strategy.unused_overrides(used(strategy, {"a": "Add"}))
    assert unused.why == "this model has no tensor it speaks for, or a narrower rule decides everywhere"


def test_a_key_that_edited_entries_outrank() -> None:
    strategy = Strategy.builtin("fs")
    for kind in strategy.layer_types:
        strategy = strategy.with_value(f"{LAYERS}/{kind}/weight_quantizers/0/quantizer_params/bit_width", 6)
    strategy = strategy.with_kwargs(weight_bit=4)
    (unused,) = strategy.unused_overrides(used(strategy, {"c": "Conv2D"}))
    assert unused.why.startswith("the type entry was edited, which is narrower")


def test_name_rules() -> None:
    strategy = Strategy.builtin("fsx").with_overrides(
        {
            f"{NAMED}/a": {"weight_bit": 4, "bias_bit": None},
            f"{NAMED}/b": "int8",
            f"{NAMED}/c": "float32",
            f"{NAMED}/d": {"quantize": False},
        }
    )
    layers = {"a": "Add", "b": "Softmax", "c": "Conv2D", "d": "Conv2D"}
    unused = strategy.unused_overrides(used(strategy, layers))
    assert [u.pointer for u in unused] == [f"{NAMED}/a/weight_bit", f"{NAMED}/b"]


def test_names_that_the_model_does_not_have() -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(input_layers=["conv1", "convv2"], ignore_layers=["fc"])
    strategy = strategy.with_value(f"{NAMED}/pool*", "int8").with_value(f"{NAMED}/conv*", "int8")
    messages = strategy.unknown_names(["conv1", "conv2", "fc"])
    assert len(messages) == 2
    assert messages[0] == (
        f"kwargs {USER}/input_layers/1: layer name 'convv2' is not allowed (did you mean 'conv2'?). "
        "Allowed: conv1, conv2, fc"
    )
    assert messages[1].startswith(f"with_value {NAMED}/pool*: layer name 'pool*' is not allowed")
    assert Strategy.builtin("fsx").unknown_names([]) == []
