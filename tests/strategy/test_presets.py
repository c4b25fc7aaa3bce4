"""Presets: what each differs in from the original that it was made from, and that it says what its name says."""

from __future__ import annotations

from typing import Any

import pytest

from vqkit.strategy import Strategy, resolve_name_or_path, vocabulary
from vqkit.strategy.schema import RefinePipelineConfig

CORRECTED = {"extra_layers": True, "include_bias_corr": True}
TRAINED = CORRECTED | {"include_block_reconstruction": True}
LONG = TRAINED | {"block_iterations": 800}
ONE_SIDED: dict[str, Any] = {"method": 0, "symmetry": False}
FOUR_BITS: dict[str, Any] = {"bit_width": 4, "method": 1}
WIDE: dict[str, Any] = {"bit_width": 16}
PRESETS: dict[str, tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = {
    "int8": ("fsx", CORRECTED, {"input": ONE_SIDED, "activation": ONE_SIDED, "bias": WIDE}),
    "int8_per_tensor": (
        "fsx",
        TRAINED | {"cle_to_relu6": True},
        {"input": ONE_SIDED, "activation": ONE_SIDED, "bias": WIDE, "weight": {"per_channel": False}},
    ),
    "int8_pow2": ("pof2s", TRAINED | {"cle_to_relu6": True}, {"bias": WIDE}),
    "int16x8": (
        "fsx",
        CORRECTED,
        {
            "input": {"method": 0, "bit_width": 16},
            "activation": {"method": 0, "bit_width": 16},
            "bias": {"bit_width": 32},
        },
    ),
    "w4a8": ("fsx", LONG, {"input": ONE_SIDED, "activation": ONE_SIDED, "bias": WIDE, "weight": FOUR_BITS}),
    "w4a4": (
        "fsx",
        LONG,
        {"input": ONE_SIDED, "activation": FOUR_BITS | {"symmetry": False}, "bias": WIDE, "weight": FOUR_BITS},
    ),
}


def test_the_presets_are_the_names_beside_the_originals() -> None:
    assert tuple(PRESETS) == vocabulary.PRESETS
    assert ("pof2s", "pof2s_tqt", "fs", "fsx", *PRESETS) == vocabulary.NAMES


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_original_with_these_changes(name: str) -> None:
    base, flat, roles = PRESETS[name]
    changed = {c.label: c.after for c in vocabulary.diff(Strategy.builtin(base), Strategy.builtin(name))}
    for label, after in changed.items():
        words = label.split(" ")
        if len(words) == 1:
            assert flat[label] == after
        else:
            role = words[0] if words[0] == "input" else words[1]
            assert roles["activation" if role == "output" else role][words[-1]] == after, label
    assert set(flat) <= set(changed)
    for role, params in roles.items():
        assert {p for label in changed for p in params if label.endswith(p) and role in label} == set(params)


@pytest.mark.parametrize("name", vocabulary.NAMES)
def test_a_built_in_is_found_by_name_and_is_its_own_base(name: str) -> None:
    chosen = resolve_name_or_path(name)
    assert chosen == Strategy.builtin(name)
    assert chosen.base == name
    assert Strategy.from_dict(chosen.with_kwargs(weight_bit=5, cle_steps=3).dump()).base == name
    assert chosen.with_kwargs(weight_bit=5).layer_rule("Conv2D").weights[0][1].spec.bit_width == 5


def test_the_keys_of_block_reconstruction_are_listed() -> None:
    names = [key for key in RefinePipelineConfig.model_fields if "block_" in key]
    assert names == list(vocabulary.BLOCK_KEYS)
