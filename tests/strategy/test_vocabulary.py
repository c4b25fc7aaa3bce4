"""Differences are differences in meaning."""

from __future__ import annotations

from vqkit.strategy import Strategy
from vqkit.strategy.vocabulary import Change, diff

LAYERS = "/quantize_registry_config/layer_quantize_config"


def test_equal_strategies() -> None:
    strategy = Strategy.builtin("pof2s")
    assert diff(strategy, Strategy.builtin("8bit")) == []
    assert diff(strategy, strategy.with_kwargs(weight_bit=None, ignore_layers=[])) == []


def test_order_and_spelling_are_no_difference() -> None:
    doc = Strategy.builtin("pof2s").dump()
    entries = doc["quantize_registry_config"]["layer_quantize_config"]
    entries.reverse()
    entries[0]["weight_quantizers"][0]["quantizer_params"]["method"] = "MIN_MSE"
    entries[-1]["layer_type"] = "keras.layers.Conv2D"
    assert diff(Strategy.builtin("pof2s"), Strategy.from_dict(doc)) == []


def test_values() -> None:
    a = Strategy.builtin("pof2s").with_kwargs(bias_bit=16)
    b = Strategy.builtin("pof2s").with_kwargs(weight_bit=4, include_cle=False)
    b = b.with_value(f"{LAYERS}/Dense/weight_quantizers/0/quantizer_params/bit_width", 6)
    user = "/quantize_registry_config/user_quantize_config"
    assert diff(a, b) == [
        Change("/optimize_pipeline_config/include_cle", True, False, "include_cle"),
        Change(f"{user}/weight_bit", None, 4, "weight_bit"),
        Change(f"{user}/bias_bit", 16, None, "bias_bit"),
        Change(f"{LAYERS}/3/weight_quantizers/0/quantizer_params/bit_width", 8, 6, "Dense weight 0 bit_width"),
    ]
    assert str(diff(a, b)[1]) == "weight_bit: None → 4"


def test_whole_numbers_are_equal_however_written() -> None:
    a = Strategy.builtin("fs").with_kwargs(cle_weight_threshold=1)
    b = Strategy.builtin("fs").with_kwargs(cle_weight_threshold=1.0)
    assert diff(a, b) == []
    assert a.digest == b.digest


def test_entries_and_name_rules() -> None:
    a = Strategy.builtin("fs")
    b = a.update({"quantize_registry_config": {"layer_quantize_config": [{"layer_type": "Gate"}]}})
    b = b.with_value("/quantize_registry_config/layer_config/fc~1*", {"weight_bit": 4})
    labels = {c.label: (c.before, c.after) for c in diff(a, b)}
    assert labels == {"Gate layer_type": (None, "Gate"), "fc/* weight_bit": (None, 4)}
    assert {c.label: (c.before, c.after) for c in diff(b, a)} == {k: v[::-1] for k, v in labels.items()}


def test_two_builtins() -> None:
    changes = {c.label: (c.before, c.after) for c in diff(Strategy.builtin("pof2s"), Strategy.builtin("fsx"))}
    assert changes["input method"] == (0, 2)
    assert changes["Conv2D weight 0 quantizer_type"] == ("Pof2SQuantizer", "FSQuantizer")
    assert changes["adjust_dpu_sigmoid"] == (True, None)
