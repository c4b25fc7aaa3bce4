"""Two strategies that decide the same of every layer have one digest; others have two."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqkit.errors import StrategyError
from vqkit.strategy import Strategy, vocabulary

VALUES: dict[str, list[Any]] = {
    **{f"{role}_bit": [8, 4] for role in ("weight", "bias", "activation", "input")},
    **{f"{role}_symmetry": [True, False] for role in ("weight", "bias", "activation", "input")},
    **{f"{role}_method": [0, 1] for role in ("weight", "bias", "activation", "input")},
    **{f"{role}_per_channel": [True, False] for role in ("weight", "bias")},
    "weight_method_percentile": [99.9],
    "activation_method_percentile": [99.99],
    "activation_unsigned": [True, False],
    "input_unsigned": [True, False],
    "use_framework_quant": [True, False],
}
CHOICES = {k: v for k, v in VALUES.items() if k in vocabulary.USER_KEYS}


def decided(strategy: Strategy) -> list[Any]:
    """Every quantizer of every layer type, however it is asked for, found without `RuleSet.effective`."""
    found: list[Any] = []
    for compat, relu_like in product((False, True), (None, False, True)):
        for name in strategy.layer_types:
            rule = strategy.layer_rule(name, vitis_compat=compat, relu_like=relu_like)
            parts = (rule.weights, rule.biases, rule.activations, rule.outputs, rule.inputs) if rule else ()
            found += [(n, q and q.spec) for part in parts for n, q in part]
        found.append(strategy.input_rule(vitis_compat=compat).spec)
    return found


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_one_digest_exactly_where_every_quantizer_is_the_same(data: st.DataObject) -> None:
    base = Strategy.builtin(data.draw(st.sampled_from(vocabulary.NAMES)))
    drawn = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.none(), max_size=3)
    said = {k: data.draw(st.sampled_from(CHOICES[k])) for k in data.draw(drawn)}
    try:
        made = base.with_overrides(said)
        wanted = decided(made)
    except StrategyError:
        return
    assert (made.digest == base.digest) == (wanted == decided(base)), said


@pytest.mark.parametrize("base", vocabulary.ORIGINALS)
def test_a_value_that_the_built_in_has_anyway_changes_nothing(base: str) -> None:
    plain = Strategy.builtin(base)
    for values in ({"weight_bit": 8}, {"weight_bit": None}, {"ignore_layers": []}, {"align_concat": False}):
        assert plain.with_overrides(values).digest == plain.digest
    assert plain.with_overrides({"weight_bit": 4}).digest != plain.digest
    assert plain.with_overrides({"align_concat": True}).digest != plain.digest


def test_null_and_false_are_one_where_the_base_says_false() -> None:
    digests = {
        v: Strategy.builtin("pof2s").with_overrides({"weight_per_channel": v}).digest for v in (None, False, True)
    }
    assert digests[None] == digests[False] != digests[True]


def test_what_a_rule_for_a_layer_may_wake_is_kept() -> None:
    """A percentile means nothing until a layer's rule chooses that method."""
    plain = Strategy.builtin("pof2s")
    assert plain.with_kwargs(weight_method_percentile=99.0).digest == plain.digest
    ruled = plain.with_name_rules({"conv": {"weight_method": "PERCENTILE"}})
    assert ruled.with_kwargs(weight_method_percentile=99.0).digest != ruled.digest
