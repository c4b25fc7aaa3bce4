"""Properties: nothing is lost, and nothing but a StrategyError comes out of any value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqkit.errors import StrategyError
from vqkit.strategy import Strategy, document
from vqkit.strategy.vocabulary import NAMES, USER_KEYS

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = {name: Strategy.builtin(name).dump() for name in NAMES}
POINTERS = sorted(
    {p for doc in DOCUMENTS.values() for leaf, _ in document.leaves(doc) for p in document.ancestors(leaf)}
)
KNOWN_WORDS = st.sampled_from(["int8", "MIN_MSE", "HALF_UP", "conv1", "Conv2D", *USER_KEYS])
USER = st.fixed_dictionaries(
    {},
    optional={
        "weight_bit": st.integers(1, 32),
        "input_bit": st.none() | st.integers(1, 32),
        "weight_method": st.sampled_from([0, 1, 2, 3, "MIN_MSE", "MIN_KL"]),
        "activation_round_mode": st.sampled_from([0, 1, 2, "HALF_AWAY"]),
        "activation_method_percentile": st.floats(1, 100),
        "bias_symmetry": st.booleans(),
        "ignore_layers": st.lists(st.text(min_size=1, max_size=5), max_size=3),
    },
)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(["pof2s", "fs", "fsx"]), user=USER, data=st.data())
def test_what_is_read_is_what_is_dumped(name: str, user: dict[str, Any], data: st.DataObject) -> None:
    doc = json.loads(json.dumps(DOCUMENTS[name]))
    doc["quantize_registry_config"]["user_quantize_config"] = user
    doc = {k: doc[k] for k in data.draw(st.permutations(list(doc)))}
    strategy = Strategy.from_dict(doc)
    assert json.dumps(strategy.dump()) == json.dumps(doc)
    again = Strategy.from_dict(strategy.dump())
    assert again == strategy
    assert [again.layer_rule(t) for t in again.layer_types] == [strategy.layer_rule(t) for t in again.layer_types]


@settings(deadline=None, max_examples=200)
@given(value=JSON)
def test_any_value_gives_a_strategy_error(value: Any) -> None:
    with pytest.raises(StrategyError):
        Strategy.from_dict(value)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(NAMES), where=st.sampled_from(POINTERS), value=JSON | KNOWN_WORDS)
def test_any_value_anywhere_is_taken_or_refused(name: str, where: str, value: Any) -> None:
    *parents, last = document.split(where) or [""]
    doc = json.loads(json.dumps(DOCUMENTS[name]))
    if not document.has(doc, [*parents, last]):
        return
    container = document.get(doc, parents)
    container[int(last) if isinstance(container, list) else last] = value
    try:
        strategy = Strategy.from_dict(doc)
    except StrategyError:
        return
    assert strategy.dump() == doc


@settings(deadline=None, max_examples=200)
@given(where=st.sampled_from(POINTERS) | st.text(max_size=12), value=JSON | KNOWN_WORDS)
def test_any_override_is_taken_or_refused(where: str, value: Any) -> None:
    strategy = Strategy.builtin("fsx")
    for change in (strategy.with_overrides, strategy.update):
        try:
            changed = change({where: value})
        except StrategyError:
            continue
        assert Strategy.from_dict(changed.dump()) == changed


@settings(deadline=None, max_examples=200)
@given(
    section=st.sampled_from(sorted(DOCUMENTS["pof2s"])),
    key=st.sampled_from([*DOCUMENTS["pof2s"]["quantize_registry_config"], "layer_config", "weight_bit", "x"]),
    value=JSON
    | st.lists(st.fixed_dictionaries({"layer_type": st.text(max_size=5)}, optional={"x": SCALARS}), max_size=2),
)
def test_any_update_is_taken_or_refused(section: str, key: str, value: Any) -> None:
    for new in ({section: value}, {section: {key: value}}, {key: value}):
        try:
            Strategy.builtin("pof2s").update(new)
        except StrategyError:
            continue


@settings(deadline=None, max_examples=100)
@given(parts=st.lists(st.text(max_size=6), max_size=5))
def test_pointers_round_trip(parts: list[str]) -> None:
    assert document.split(document.join(parts)) == parts


def test_huge_numbers() -> None:
    for where in ("/optimize_pipeline_config/cle_weight_threshold", "/optimize_pipeline_config/cle_steps"):
        with pytest.raises(StrategyError):
            Strategy.builtin("pof2s").with_value(where, 10**400)
