"""Any bytes, any JSON: strategy and sweep files are accepted or refused in words, never a crash."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.system.robustness import targets
from tests.system.robustness.inputs import TARGETS
from vqkit.errors import SweepError, VqkitError
from vqkit.sweeps.spec import MAX_POINTS, Sweep

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4),
    max_leaves=12,
)
SEEDS = {"tracking_uri": 6, "notebook_parameters": 4, "cli_arguments": 15}
WORDS = ("weight_bit", "input_layers", "fold_conv_bn", "cle_steps", "pof2s", "strategy", "__class__")


@pytest.mark.parametrize(("entry", "inputs"), [(e, SEEDS.get(e, 25)) for e in TARGETS])
def test_every_entry_point_accepts_or_refuses_in_words(entry, inputs):
    """`benchmarks/faults.py` tries many more."""
    for seed in range(inputs):
        TARGETS[entry](random.Random(seed))


@MANY
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes(content: bytes) -> None:
    assert not targets.strategy_file(content)
    targets.sweep_file(content, ".yaml")
    assert not targets.sweep_file(content, ".json")


@MANY
@given(values)
def test_any_value(value: Any) -> None:
    assert not targets.sweep_value(value)
    targets.strategy_value(value)


@MANY
@given(st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=10).map("/{}".format), values, max_size=3))
def test_any_overrides(given: dict[str, Any]) -> None:
    targets.overrides(given)


@MANY
@given(st.integers(0, 2**32), st.data())
def test_damaged_strategies(seed: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    document = targets.mutated(rng.choice(targets.BASES), rng, lambda: data.draw(values))
    targets.strategy_value(document)


@MANY
@given(st.integers(0, 2**32), st.data())
def test_damaged_sweeps(seed: int, data: st.DataObject) -> None:
    document = targets.mutated(targets.SWEEP, random.Random(seed), lambda: data.draw(values))
    targets.sweep_value(document)
    try:
        text = json.dumps(document)
    except (TypeError, ValueError):
        return
    targets.sweep_file(text.encode("utf-8", "surrogatepass"), ".json")
    targets.sweep_file(text.encode("utf-8", "surrogatepass"), ".yaml")


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("[" * 100_000, ".json", "nested"),
        ("[" * 100_000, ".yaml", "nested|larger"),
        ("{a: " * 50_000, ".yaml", "nested|larger"),
        (BOMB, ".yaml", "more than 100000 values"),
        ("a: &a [*a]", ".yaml", "recursive"),
        ("x" * (5 * 2**20), ".yaml", "larger than"),
        ("? [1, 2]\n: 3", ".yaml", "key"),
        ("!!python/object/apply:os.system ['echo spoiled']", ".yaml", "tag"),
        ("{1: 2}", ".yaml", "key 1"),
        ("name: 2026-11-24", ".yaml", "name"),
    ],
)
def test_hostile_sweep_files(tmp_path, content, suffix, message):
    path = tmp_path / f"sweep{suffix}"
    path.write_text(content)
    with pytest.raises(SweepError, match=message):
        Sweep.load(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SweepError, match=r"sweep.yaml: not UTF-8 text"):
        Sweep.load(path)


def test_a_grid_too_large_to_list_is_an_error_at_once():
    huge = {**targets.SWEEP, "axes": {f"/a{i}": list(range(100)) for i in range(8)}, "exclude": []}
    with pytest.raises(SweepError, match=f"10000000000000000 combinations, at most {MAX_POINTS}"):
        Sweep.from_dict(huge, source="huge")


def test_errors_of_vqkit_are_one_family():
    assert issubclass(SweepError, VqkitError)
