"""The shipped schema is the form's, and accepts and refuses as the form does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.strategy import bad_cases
from vqkit.files import resource_dir
from vqkit.strategy import Strategy, json_schema

# What a JSON Schema cannot say: these are refused for their meaning.
MEANING = {"layer_type_case", "layer_type_twice", "uneven_quantizers", "tqt_method", "narrow_one_bit"}


def test_the_shipped_schema_is_current() -> None:
    shipped = json.loads((resource_dir("strategies") / json_schema.NAME).read_text())
    assert shipped == json_schema.generate(), "run python -m vqkit.strategy.json_schema"


@pytest.mark.parametrize("name", ["pof2s", "pof2s_tqt", "fs", "fsx"])
def test_builtins_and_extensions_fit(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    strategy = Strategy.builtin(name).with_kwargs(weight_bit=4, align_pool=True, weight_round_mode="HALF_UP")
    for rule in ("int4", "float32", {"weight_bit": 4, "quantize": True}):
        named = strategy.with_value("/quantize_registry_config/layer_config/conv*", rule)
        jsonschema.validate(named.dump(), json_schema.generate())


@pytest.mark.parametrize("path", bad_cases.FILES, ids=lambda p: p.stem)
def test_bad_files_do_not_fit(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    broken = bad_cases.apply(bad_cases.read(path))
    validator = jsonschema.Draft202012Validator(json_schema.generate())
    assert validator.is_valid(broken) is (path.stem in MEANING)
