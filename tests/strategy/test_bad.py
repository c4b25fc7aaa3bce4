"""What is malformed is refused with place, given, allowed and nearest match."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.strategy import bad_cases
from vqkit.errors import StrategyError
from vqkit.strategy import Strategy, resolve_name_or_path


@pytest.mark.parametrize("path", bad_cases.FILES, ids=lambda p: p.stem)
def test_message_is_the_one_in_the_file(path: Path) -> None:
    case = bad_cases.read(path)
    with pytest.raises(StrategyError) as caught:
        Strategy.from_dict(bad_cases.apply(case), source="my.json")
    assert str(caught.value).split("\n") == case["message"]


def test_there_are_cases() -> None:
    assert len(bad_cases.FILES) > 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value at line 1, column 1"),
        ("{", "not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        ('{"a": NaN}', "not a strategy: NaN is no JSON number"),
        ('{"a": 1, "a": 2}', "not a strategy: the key 'a' stands twice in one object"),
        ("[" * 100_000, "not a strategy: nested too deeply"),
        ("[" * 30 + "]" * 30, "nested deeper than 16 or more than 100000 values"),
        ("[" + "0," * 100_001 + "0]", "nested deeper than 16 or more than 100000 values"),
        ("9" * 5000, "not a strategy: Exceeds the limit"),
        ('"' + "x" * 5_000_000 + '"', "larger than 4194304 bytes, this is no strategy"),
        ('{"\\ud800": 1}', "'\\ud800' holds half a character (a lone surrogate)"),
        ("[]", "a strategy is a JSON object, got []"),
        ("null", "a strategy is a JSON object, got null"),
        ("{}", "/optimize_pipeline_config: this key is missing"),
    ],
)
def test_text_that_is_no_strategy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.json"
    path.write_text(text)
    with pytest.raises(StrategyError) as caught:
        Strategy.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match=r"none\.json: no such file"):
        Strategy.load(tmp_path / "none.json")
    with pytest.raises(StrategyError, match="cannot be read: is a folder"):
        Strategy.load(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(StrategyError, match="not UTF-8"):
        Strategy.load(tmp_path / "latin.json")


@pytest.mark.parametrize("value", [{1: 2}, {"a": {3}}, {"a": float("inf")}, {"a": object()}, {"a": b"x"}])
def test_values_that_json_does_not_know(value: dict[object, object]) -> None:
    with pytest.raises(StrategyError, match=r"^mine: "):
        Strategy.from_dict(value, source="mine")  # type: ignore[arg-type]


def test_a_value_that_contains_itself() -> None:
    value: dict[str, object] = {}
    value["a"] = value
    with pytest.raises(StrategyError, match="deeper than 16"):
        Strategy.from_dict(value)


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_part_of_a_strategy_needs_a_base(verbose: int) -> None:
    part = Strategy.builtin("fs").dump(verbose=verbose)
    with pytest.raises(StrategyError, match=r"put it on a base: Strategy\.builtin\(name\)\.update\(path\)"):
        Strategy.from_dict(part)


def test_names_and_paths(tmp_path: Path) -> None:
    assert resolve_name_or_path("8bit").name == "pof2s"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(Strategy.builtin("fsx").dump()))
    assert resolve_name_or_path(path).name == "mine"
    with pytest.raises(StrategyError, match=r"name 'pof2' is not allowed \(did you mean 'pof2s'\?\)"):
        resolve_name_or_path("pof2")
    with pytest.raises(StrategyError, match=r"'tqt' is not allowed"):
        Strategy.builtin("tqt")
