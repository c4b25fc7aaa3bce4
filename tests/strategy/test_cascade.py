"""Who decides each parameter of a quantizer."""

from __future__ import annotations

from typing import Any

import pytest

from vqkit.errors import StrategyError
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, RoundMode
from vqkit.strategy import LayerRule, Origin, ResolvedQuantizer, Strategy

REGISTRY = "/quantize_registry_config"
USER = f"{REGISTRY}/user_quantize_config"
LAYERS = f"{REGISTRY}/layer_quantize_config"
NAMED = f"{REGISTRY}/layer_config"
DENSE_BITS = f"{LAYERS}/Dense/weight_quantizers/0/quantizer_params/bit_width"


def rule(strategy: Strategy, layer_type: str, name: str | None = None, **how: Any) -> LayerRule:
    found = strategy.layer_rule(layer_type, name, **how)
    assert found is not None
    return found


def kernel(strategy: Strategy, layer_type: str = "Dense", name: str | None = None, **how: Any) -> ResolvedQuantizer:
    resolved = rule(strategy, layer_type, name, **how).weights[0][1]
    assert resolved is not None
    return resolved


def test_builtin_values() -> None:
    strategy = Strategy.builtin("pof2s")
    conv = rule(strategy, "Conv2D")
    assert [n for n, _ in conv.weights] == ["kernel"]
    assert [n for n, _ in conv.biases] == ["bias"]
    assert [n for n, _ in conv.activations] == ["activation"]
    assert (conv.outputs, conv.inputs, conv.transparent) == ((), (), False)
    assert kernel(strategy, "Conv2D").spec == QuantizerSpec(
        QuantizerType.POF2S, 8, Method.MIN_MSE, RoundMode.HALF_TO_EVEN
    )
    assert kernel(strategy, "DepthwiseConv2D").spec.channel_axis == 2
    origin = kernel(strategy, "Conv2D").origins["bit_width"]
    assert origin == ("builtin pof2s", f"{LAYERS}/0/weight_quantizers/0/quantizer_params/bit_width")
    assert kernel(strategy).origins["unsigned"].source == "default"


def test_input_rule() -> None:
    fsx = Strategy.builtin("fsx")
    assert fsx.input_rule().spec == QuantizerSpec(
        QuantizerType.FS, 8, Method.MIN_KL, RoundMode.HALF_UP, use_framework_quant=True
    )
    changed = fsx.with_kwargs(input_bit=6, input_method="PERCENTILE", input_method_percentile=99.0).input_rule()
    assert (changed.spec.bit_width, changed.spec.method, changed.spec.method_percentile) == (6, 3, 99.0)
    assert changed.origins["method_percentile"] == ("kwargs", f"{USER}/input_method_percentile")


@pytest.mark.parametrize(
    "path",
    ["Conv2D", "keras.layers.Conv2D", "tensorflow.keras.layers.Conv2D"],
)
def test_layer_types_count_by_their_last_part(path: str) -> None:
    strategy = Strategy.builtin("fsx")
    doc = strategy.dump()
    doc["quantize_registry_config"]["layer_quantize_config"][0]["layer_type"] = path
    same = Strategy.from_dict(doc)
    assert kernel(same, "Conv2D").spec == kernel(strategy, path).spec
    assert kernel(same, "Conv2D").origins["bit_width"].source == "builtin fsx"


def test_types_of_the_original_and_types_without_entry() -> None:
    strategy = Strategy.builtin("pof2s")
    assert rule(strategy, "VitisSigmoid").outputs[0][0] == "0"
    assert rule(strategy, "Flatten").transparent
    assert strategy.layer_rule("Softmax") is None
    assert Strategy.builtin("fs").layer_rule("Add") is None
    assert len(rule(strategy, "BatchNormalization").weights) == 2


@pytest.mark.parametrize(
    ("key", "value", "part", "param"),
    [
        ("weight_bit", 4, "weights", "bit_width"),
        ("weight_method", 0, "weights", "method"),
        ("weight_symmetry", False, "weights", "symmetry"),
        ("weight_per_channel", True, "weights", "per_channel"),
        ("weight_round_mode", "HALF_AWAY", "weights", "round_mode"),
        ("weight_narrow_range", True, "weights", "narrow_range"),
        ("weight_unsigned", True, "weights", "unsigned"),
        ("bias_bit", 32, "biases", "bit_width"),
        ("bias_method", 0, "biases", "method"),
        ("activation_bit", 16, "activations", "bit_width"),
        ("activation_symmetry", False, "activations", "symmetry"),
    ],
)
def test_global_keys_reach_their_role_only(key: str, value: Any, part: str, param: str) -> None:
    before, after = (
        rule(s, "Conv2D") for s in (Strategy.builtin("pof2s"), Strategy.builtin("pof2s").with_kwargs(**{key: value}))
    )
    for name in ("weights", "biases", "activations"):
        (old,), (new,) = ([q for _, q in getattr(r, name)] for r in (before, after))
        assert old is not None
        assert new is not None
        if name == part:
            wanted = RoundMode[value] if isinstance(value, str) else value
            assert new.spec == old.spec.with_(**{param: wanted})
            assert new.origins[param] == Origin("kwargs", f"{USER}/{key}")
        else:
            assert new.spec == old.spec


def test_activation_keys_reach_outputs_and_framework_reaches_all() -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(activation_bit=6, use_framework_quant=False)
    pool = rule(strategy, "MaxPooling2D").outputs[0][1]
    assert pool is not None
    assert pool.spec.bit_width == 6
    conv = rule(strategy, "Conv2D")
    for _, q in (*conv.weights, *conv.biases, *conv.activations, ("input", strategy.input_rule())):
        assert q is not None
        assert q.spec.use_framework_quant is False
    pof2s = kernel(Strategy.builtin("pof2s").with_kwargs(use_framework_quant=True))
    assert pof2s.spec.use_framework_quant is False


def test_an_edited_entry_beats_a_global_key_except_in_compat() -> None:
    strategy = Strategy.builtin("pof2s").with_kwargs(weight_bit=4).with_value(DENSE_BITS, 6)
    assert kernel(strategy).spec.bit_width == 6
    assert kernel(strategy).origins["bit_width"].source == "with_value"
    assert kernel(strategy, "Conv2D").spec.bit_width == 4
    assert kernel(strategy, vitis_compat=True).spec.bit_width == 4
    steps = kernel(strategy).steps["bit_width"]
    assert [s.value for s in steps] == [8, 6, 4]
    assert [bool(s.note) for s in steps] == [False, False, True]


def test_the_edited_input_beats_a_global_key_except_in_compat() -> None:
    where = f"{REGISTRY}/input_quantize_config/input_quantizer/quantizer_params/bit_width"
    strategy = Strategy.builtin("fsx").with_kwargs(input_bit=4).with_value(where, 6)
    assert strategy.input_rule().spec.bit_width == 6
    assert strategy.input_rule(vitis_compat=True).spec.bit_width == 4


def test_meaning_survives_dump_and_load() -> None:
    strategy = Strategy.builtin("pof2s").with_kwargs(weight_bit=4).with_value(DENSE_BITS, 6)
    again = Strategy.from_dict(strategy.dump(), source="mine.json")
    for kind in strategy.layer_types:
        for name in ("weights", "biases", "activations", "outputs"):
            pairs = zip(getattr(rule(strategy, kind), name), getattr(rule(again, kind), name), strict=True)
            assert all(a[1].spec == b[1].spec for a, b in pairs)
    assert kernel(again).origins["bit_width"].source == "mine.json"
    assert kernel(again, "Conv2D").origins["bit_width"] == ("mine.json", f"{USER}/weight_bit")
    assert kernel(again, "Conv2D").origins["method"].source == "builtin pof2s"


def test_layer_names_beat_all() -> None:
    strategy = Strategy.builtin("pof2s").with_kwargs(weight_bit=4).with_value(DENSE_BITS, 6)
    strategy = strategy.with_value(f"{NAMED}/fc*", {"weight_bit": 5, "activation_bit": 7})
    strategy = strategy.with_value(f"{NAMED}/fc1", {"weight_bit": 3})
    assert kernel(strategy, name="fc1").spec.bit_width == 3
    assert kernel(strategy, name="fc2").spec.bit_width == 5
    assert kernel(strategy, name="head").spec.bit_width == 6
    fc1 = rule(strategy, "Dense", "fc1").activations[0][1]
    assert fc1 is not None
    assert fc1.origins["bit_width"] == ("with_value", f"{NAMED}/fc*/activation_bit")
    assert kernel(strategy, name="fc1", vitis_compat=True).spec.bit_width == 3


def test_exact_names_beat_globs_and_later_globs_earlier_ones() -> None:
    doc = Strategy.builtin("fsx").dump()
    doc["quantize_registry_config"]["layer_config"] = {
        "a1": {"weight_bit": 2},
        "a*": {"weight_bit": 3},
        "?[12]": {"weight_bit": 4},
    }
    strategy = Strategy.from_dict(doc)
    assert [kernel(strategy, name=n).spec.bit_width for n in ("a1", "a2", "a3", "A2", "b")] == [2, 4, 3, 4, 8]


def test_integer_data_types_keep_wider_biases() -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(bias_bit=32)
    strategy = strategy.with_value(f"{NAMED}/c", "int16").with_value(f"{NAMED}/d", "int4")
    for name, bits in (("c", (16, 32, 16)), ("d", (4, 32, 4))):
        conv = rule(strategy, "Conv2D", name)
        parts = (conv.weights, conv.biases, conv.activations)
        assert tuple(q.spec.bit_width for ((_, q),) in parts if q is not None) == bits
        assert (conv.left_float, conv.data_type) == (None, None)


@pytest.mark.parametrize("said", ["float32", "bfloat16", {"quantize": False}])
def test_a_layer_left_float_by_name(said: Any) -> None:
    strategy = Strategy.builtin("fsx").with_value(f"{NAMED}/c*", said)
    conv = rule(strategy, "Conv2D", "c1")
    assert [q for _, q in (*conv.weights, *conv.biases, *conv.activations)] == [None] * 3
    assert conv.left_float is not None
    assert conv.left_float.pointer.startswith(f"{NAMED}/c*")
    assert conv.data_type == (said if isinstance(said, str) else None)
    assert not conv.transparent
    assert strategy.input_left_float("c_in") is not None
    back = strategy.with_value(f"{NAMED}/c1", {"quantize": True, "weight_bit": 4})
    assert kernel(back, "Conv2D", "c1").spec.bit_width == 4


def test_unsigned_passes_over_symmetric_layers_that_may_be_negative() -> None:
    strategy = Strategy.builtin("pof2s").with_kwargs(activation_unsigned=True)

    def unsigned(**how: Any) -> bool:
        q = rule(strategy, "Conv2D", **how).activations[0][1]
        assert q is not None
        return q.spec.unsigned

    assert unsigned()
    assert unsigned(relu_like=True)
    assert not unsigned(relu_like=False)
    assert not unsigned(vitis_compat=True)


def test_percentile_counts_where_the_method_asks_for_it() -> None:
    plain = Strategy.builtin("pof2s").with_kwargs(activation_method_percentile=99.0)
    asked = plain.with_kwargs(activation_method="PERCENTILE")

    def percentile(strategy: Strategy, **how: Any) -> float:
        q = rule(strategy, "ReLU", **how).outputs[0][1]
        assert q is not None
        return q.spec.method_percentile

    assert percentile(plain) == 99.9999
    assert percentile(asked) == 99.0
    assert percentile(asked, vitis_compat=True) == 99.9999


def test_tqt_takes_per_channel_but_no_other_method() -> None:
    assert kernel(Strategy.builtin("pof2s_tqt").with_kwargs(weight_per_channel=True)).spec.per_channel
    with pytest.raises(StrategyError, match=r"kwargs .*/activation_method: value 'MIN_KL' is not allowed"):
        Strategy.builtin("pof2s_tqt").with_kwargs(activation_method=2)
    named = Strategy.builtin("pof2s_tqt").with_value(f"{NAMED}/a", {"weight_method": 1})
    with pytest.raises(StrategyError, match="layer_config/a/weight_method"):
        named.layer_rule("Dense", "a")


def test_missing_params_and_quantizers_have_defaults_with_a_name() -> None:
    entry = {
        "layer_type": "my.Gate",
        "quantizable_weights": ["gate", "free"],
        "weight_quantizers": [{"quantizer_type": "FSQuantizer", "quantizer_params": {"bit_width": 5}}, None],
        "quantizable_inputs": [0],
        "input_quantizers": [{"quantizer_type": "FSQuantizer", "quantizer_params": {"bit_width": 5}}],
    }
    strategy = Strategy.builtin("fsx").update({"quantize_registry_config": {"layer_quantize_config": [entry]}})
    gate = rule(strategy, "Gate")
    assert gate.weights[1] == ("free", None)
    assert gate.weights[0][1] is not None
    assert gate.weights[0][1].spec == QuantizerSpec(QuantizerType.FS, 5)
    assert gate.weights[0][1].origins["method"].source == "default"
    assert gate.inputs[0][0] == "0"


def test_input_layers_of_the_input_quantizer_count_when_the_user_names_none() -> None:
    own = Strategy.builtin("fs").with_value(f"{REGISTRY}/input_quantize_config/input_layers", ["a"])
    assert own.input_layers == ("a",)
    assert own.with_kwargs(input_layers=["b"]).input_layers == ("b",)
    assert own.output_layers == own.ignore_layers == own.custom_layer_types == ()
