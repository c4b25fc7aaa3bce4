"""kwargs, updates and single values: what 2.5 does, without its side effects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqkit.errors import StrategyError
from vqkit.primitives.spec import Method
from vqkit.strategy import Strategy

REGISTRY = "quantize_registry_config"
DENSE_BITS = f"/{REGISTRY}/layer_quantize_config/Dense/weight_quantizers/0/quantizer_params/bit_width"


def test_kwargs_go_to_the_section_that_owns_them() -> None:
    new = Strategy.builtin("pof2s").with_kwargs(weight_bit=4, include_cle=False, fast_ft_epochs=2, output_format="h5")
    assert new.user == {"weight_bit": 4}
    assert new.optimize.include_cle is False
    assert new.refine.fast_ft_epochs == 2
    assert new.finalize.output_format == "h5"


def test_nothing_changes_in_place() -> None:
    before = Strategy.builtin("pof2s")
    dumped = before.dump()
    before.with_kwargs(weight_bit=4, input_layers=["a"]).with_value(DENSE_BITS, 3).dump()[
        "optimize_pipeline_config"
    ].clear()
    assert before.dump() == dumped
    assert Strategy.builtin("pof2s").dump() == dumped


def test_name_rules_as_a_whole() -> None:
    base = Strategy.builtin("pof2s").with_kwargs(weight_bit=6)
    rules: dict[str, Any] = {"conv*": {"weight_bit": 4}, "head": "float16"}
    new = base.with_name_rules(rules, source="mine")
    document = base.dump()
    document[REGISTRY]["layer_config"] = rules
    assert new == Strategy.from_dict(document)
    assert (new.base, new.name) == ("pof2s", "pof2s")
    rule = new.layer_rule("Dense", "conv_1")
    assert rule is not None
    (_, weight), *_ = rule.weights
    assert weight is not None
    assert weight.origins["bit_width"] == ("mine", f"/{REGISTRY}/layer_config/conv*/weight_bit")
    rules["conv*"]["weight_bit"] = new.name_rules["conv*"]["weight_bit"] = 2
    assert new.name_rules == {"conv*": {"weight_bit": 4}, "head": "float16"}
    assert new.with_name_rules({}).name_rules == {}
    with pytest.raises(StrategyError, match=r"mine /.*/layer_config/a.*weight_bits"):
        base.with_name_rules({"a": {"weight_bits": 4}}, source="mine")


def test_the_argument_of_update_is_left_as_it_is() -> None:
    new = {"optimize_pipeline_config": {"cle_steps": 2}, "weight_bit": 5}
    kept = json.loads(json.dumps(new))
    updated = Strategy.builtin("pof2s").update(new)
    assert new == kept
    assert (updated.optimize.cle_steps, updated.user["weight_bit"]) == (2, 5)


@pytest.mark.parametrize(
    ("old", "section", "new"),
    [
        ("fold_bn", "optimize", "convert_bn_to_dwconv"),
        ("replace_relu6", "optimize", "convert_relu6_to_relu"),
        ("convert_tf_op", "optimize", "convert_tf_op_to_keras"),
        ("forced_cle", "optimize", "cle_to_relu6"),
        ("replace_sigmoid", "quantize", "convert_sigmoid_to_hard_sigmoid"),
        ("replace_hard_sigmoid", "quantize", "convert_hard_sigmoid_to_dpu_version"),
        ("replace_average_pooling2d", "quantize", "convert_average_pooling2d_to_dpu_version"),
        ("replace_leaky_relu", "quantize", "convert_leaky_relu_to_dpu_version"),
    ],
)
def test_old_flag_names(old: str, section: str, new: str) -> None:
    strategy = Strategy.builtin("pof2s")
    flipped = not getattr(getattr(strategy, section), new)
    assert getattr(getattr(strategy.with_kwargs(**{old: flipped}), section), new) is flipped


def test_old_value_names() -> None:
    new = Strategy.builtin("fs").with_kwargs(balance_method="avg", weight_threshold=0.2)
    assert (new.optimize.cle_balance_method, new.optimize.cle_weight_threshold) == ("avg", 0.2)


def test_unknown_kwargs_are_refused_together() -> None:
    with pytest.raises(StrategyError) as caught:
        Strategy.builtin("pof2s").with_kwargs(weigth_bit=4, include_clee=False)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("kwargs: key 'weigth_bit' is not allowed (did you mean 'weight_bit'?). Allowed: ")
    assert lines[1].startswith("kwargs: key 'include_clee' is not allowed (did you mean 'include_cle'?). Allowed: ")


def test_a_key_of_another_builtin_is_refused_and_says_whose_it_is() -> None:
    with pytest.raises(StrategyError, match=r"\(pof2s_tqt would take it\)$"):
        Strategy.builtin("pof2s").with_kwargs(convert_to_pof2s_quantize_strategy=True)


@pytest.mark.parametrize("name", ["pof2s", "pof2s_tqt", "fs", "fsx"])
def test_extensions_are_off_and_unseen_until_set(name: str) -> None:
    strategy = Strategy.builtin(name)
    assert strategy.refine.align_concat is False
    assert "align_concat" not in json.dumps(strategy.dump())
    changed = strategy.with_kwargs(align_concat=True, activation_unsigned=True)
    assert changed.refine.align_concat is True
    assert list(changed.dump()["refine_pipeline_config"])[-1] == "align_concat"
    assert list(changed.dump()[REGISTRY]["user_quantize_config"])[-1] == "activation_unsigned"


def test_python_values_become_json_values() -> None:
    values: dict[str, Any] = {
        "weight_bit": np.int64(4),
        "input_layers": ("a", "b"),
        "weight_method": Method.NON_OVERFLOW,
        "cle_weight_threshold": np.float64(0.5),
        "weight_per_channel": np.bool_(True),
    }
    new = Strategy.builtin("pof2s").with_kwargs(**values)
    assert new.input_layers == ("a", "b")
    assert json.loads(json.dumps(new.user)) == {
        "weight_bit": 4,
        "weight_method": 0,
        "weight_per_channel": True,
    }


def test_words_stay_words() -> None:
    words = Strategy.builtin("pof2s").with_kwargs(weight_method="NON_OVERFLOW", weight_round_mode="HALF_UP")
    numbers = Strategy.builtin("pof2s").with_kwargs(weight_method=0, weight_round_mode=1)
    assert words.dump(verbose=0)[REGISTRY]["user_quantize_config"]["weight_method"] == "NON_OVERFLOW"
    assert words == numbers
    assert words.digest == numbers.digest
    assert hash(words) == hash(numbers)
    assert words != Strategy.builtin("pof2s")


def test_update_replaces_the_users_keys_whole() -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(weight_bit=4, bias_bit=16)
    updated = strategy.update({REGISTRY: {"user_quantize_config": {"activation_bit": 6}}})
    assert updated.user == {"activation_bit": 6}
    assert updated.dump()[REGISTRY]["user_quantize_config"] == {"activation_bit": 6}
    assert updated.with_kwargs(weight_bit=3).user == {"activation_bit": 6, "weight_bit": 3}


def test_whole_sections_are_taken_anywhere_as_the_original_does() -> None:
    strategy = Strategy.builtin("fsx")
    part: dict[str, Any] = {"user_quantize_config": {"activation_bit": 6}, "custom_layer_type": ["Gate"]}
    nested = strategy.update({REGISTRY: part})
    assert strategy.update(part) == strategy.with_kwargs(**part) == nested
    assert nested.custom_layer_types == ("Gate",)
    pipeline = strategy.with_kwargs(optimize_pipeline_config={"cle_steps": 4}, weight_bit=5)
    assert (pipeline.optimize.cle_steps, pipeline.user) == (4, {"weight_bit": 5})


def test_a_strategy_shows_what_was_changed() -> None:
    assert repr(Strategy.builtin("8bit").with_kwargs(weight_bit=4)) == "Strategy('pof2s', weight_bit=4)"


def test_update_replaces_or_appends_layer_entries() -> None:
    strategy = Strategy.builtin("fsx")
    own = {"layer_type": "my.layers.Gate"}
    bare = {"layer_type": "keras.layers.ReLU"}
    updated = strategy.update({REGISTRY: {"layer_quantize_config": [own, bare]}})
    entries = updated.dump()[REGISTRY]["layer_quantize_config"]
    before = strategy.dump()[REGISTRY]["layer_quantize_config"]
    assert entries[:4] == before[:4]
    assert entries[4] == bare
    assert entries[5:-1] == before[5:]
    assert entries[-1] == own
    gate, relu = updated.layer_rule("Gate"), updated.layer_rule("ReLU")
    assert gate is not None
    assert relu is not None
    assert gate.transparent
    assert relu.transparent


def test_update_by_file_speaks_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    entry = Strategy.builtin("fsx").dump()[REGISTRY]["layer_quantize_config"][3]
    entry["weight_quantizers"][0]["quantizer_params"]["bit_width"] = 99
    path.write_text(json.dumps({REGISTRY: {"layer_quantize_config": [entry]}}))
    with pytest.raises(StrategyError, match=r"mine\.json.* /quantize_registry_config/layer_quantize_config/0/weight_q"):
        Strategy.builtin("fsx").update(path)
    entry["weight_quantizers"][0]["quantizer_params"]["bit_width"] = 5
    path.write_text(json.dumps({REGISTRY: {"layer_quantize_config": [entry]}}))
    rule = Strategy.builtin("fsx").update(str(path)).layer_rule("Dense")
    assert rule is not None
    assert rule.weights[0][1] is not None
    assert rule.weights[0][1].origins["bit_width"].source == "mine.json"


@pytest.mark.parametrize(
    "new",
    [
        [],
        {"optimize_pipeline_config": []},
        {"optimize_pipeline_config": {"align_pool": True}},
        {REGISTRY: 3},
        {REGISTRY: {"user_quantize_config": 5, "weight_bit": 3}},
        {REGISTRY: {"user_quantise_config": {}}},
        {REGISTRY: {"layer_quantize_config": {}}},
        {REGISTRY: {"layer_quantize_config": [None]}},
        {REGISTRY: {"layer_config": {"a": 3}}},
        {"weight": 4},
        {"/refine_pipeline_config/align_pool": True},
    ],
)
def test_malformed_updates(new: Any) -> None:
    with pytest.raises(StrategyError):
        Strategy.builtin("fsx").update(new)


def test_single_values_by_pointer() -> None:
    strategy = Strategy.builtin("fsx").with_value(DENSE_BITS, 3).with_value("/refine_pipeline_config/align_pool", True)
    indexed = Strategy.builtin("fsx").with_value(DENSE_BITS.replace("Dense", "3"), 3)
    assert strategy.dump()[REGISTRY] == indexed.dump()[REGISTRY]
    assert strategy.refine.align_pool is True


def test_name_rules_by_pointer() -> None:
    base = f"/{REGISTRY}/layer_config"
    strategy = Strategy.builtin("fsx").with_value(f"{base}/conv1", "int4").with_value(f"{base}/conv1/bias_bit", 16)
    assert strategy.dump()[REGISTRY]["layer_config"] == {"conv1": {"data_type": "int4", "bias_bit": 16}}
    slashed = Strategy.builtin("fsx").with_value(f"{base}/block~11~1conv/weight_bit", 4)
    assert slashed.dump(verbose=0)[REGISTRY]["layer_config"] == {"block/1/conv": {"weight_bit": 4}}


@pytest.mark.parametrize(
    "pointer",
    [
        "weight_bit",
        "",
        "/",
        "/optimise_pipeline_config",
        "/optimize_pipeline_config/x",
        f"/{REGISTRY}/layer_quantize_config/99",
        f"/{REGISTRY}/layer_quantize_config/-",
        f"/{REGISTRY}/layer_quantize_config/Densee/layer_type",
        f"/{REGISTRY}/layer_config",
        f"/{REGISTRY}/layer_config/a/weight_bit/b",
        f"/{REGISTRY}/user_quantize_config/weight_bit/x",
        f"/{REGISTRY}/custom_layer_type/0",
    ],
)
def test_pointers_that_lead_nowhere(pointer: str) -> None:
    with pytest.raises(StrategyError):
        Strategy.builtin("fsx").with_value(pointer, 4)


def test_overrides_rebuild_the_strategy() -> None:
    strategy = Strategy.builtin("pof2s").with_kwargs(
        weight_bit=4, include_cle=False, ignore_layers=["fc"], align_pool=True
    )
    strategy = strategy.with_value(DENSE_BITS, 6).with_value(f"/{REGISTRY}/layer_config/c*", {"bias_bit": 16})
    said = strategy.overrides()
    assert said["weight_bit"] == 4
    assert said["include_cle"] is False
    assert said["ignore_layers"] == ["fc"]
    assert said["align_pool"] is True
    assert len(said) == 6
    assert Strategy.builtin("pof2s").with_overrides(said) == strategy


@pytest.mark.parametrize("name", ["pof2s", "pof2s_tqt", "fs", "fsx"])
def test_the_base_is_found_again(name: str) -> None:
    strategy = Strategy.builtin(name)
    assert strategy.base == name
    assert strategy.overrides() == {}
    assert Strategy.from_dict(strategy.with_kwargs(input_bit=4).dump()).base == name


def test_dump_writes_what_load_reads(tmp_path: Path) -> None:
    strategy = Strategy.builtin("fsx").with_kwargs(weight_bit=4)
    path = tmp_path / "new" / "mine.json"
    assert strategy.dump(path) == json.loads(path.read_text())
    assert Strategy.load(path) == strategy
    assert Strategy.load(path).name == "mine"
    assert [p.name for p in path.parent.iterdir()] == ["mine.json"]
    with pytest.raises(StrategyError, match="dump verbose: value 3 is not allowed"):
        strategy.dump(verbose=3)


def test_the_same_said_by_the_same_is_checked_once():
    def made(source: str = "kwargs") -> Strategy:
        return Strategy.builtin("pof2s").with_overrides({"weight_bit": 4}, source)

    assert made() is made()
    other = made("sweep.yaml")
    assert other is not made()
    assert other == made()
    assert {o.source for o in other.layer_rule("Dense").weights[0][1].origins.values()} >= {"sweep.yaml"}
    for _ in range(2):
        with pytest.raises(StrategyError, match="weight_bit"):
            Strategy.builtin("pof2s").with_kwargs(weight_bit=99)
