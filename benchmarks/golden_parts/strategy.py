"""Golden part: strategy dumps at three verbosities, plain, after kwargs, and after setting an edited dump."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.golden_parts import PartResult
from vqkit.errors import StrategyError
from vqkit.strategy import Strategy

FILE = re.compile(r"(?P<name>.+)_v(?P<verbose>[012])_(?P<variant>default|kwargs|after_set_v0)\.json")
EDIT = {"weight_bit": 6}


def check(directory: Path) -> PartResult:
    """Compare every dump in `directory`/strategy, key order included.

    Args:
        directory: laid out like the golden data.
    """
    folder = directory / "strategy"
    index = folder / "index.json"
    kwargs = json.loads(index.read_text()).get("kwargs", {}) if index.exists() else {}
    files = sorted(p for p in folder.glob("*.json") if p != index)
    mismatches = [f"{p.name}: {why}" for p in files if (why := _compare(p, kwargs)) is not None]
    return PartResult("strategy", len(files), len(files) - len(mismatches), (), tuple(mismatches))


def _compare(path: Path, kwargs: dict[str, Any]) -> str | None:
    found = FILE.fullmatch(path.name)
    if found is None:
        return "the name says neither strategy, verbosity nor variant"
    expected = json.loads(path.read_text())
    try:
        actual = _variant(found["name"], found["variant"], kwargs).dump(verbose=int(found["verbose"]))
        again = Strategy.from_dict(expected).dump() if found["verbose"] == "2" else expected
    except StrategyError as e:
        return str(e)
    wanted = json.dumps(expected)
    if json.dumps(actual) != wanted:
        return "the dump differs"
    return None if json.dumps(again) == wanted else "read and dumped again it differs"


def _variant(name: str, variant: str, kwargs: dict[str, Any]) -> Strategy:
    strategy = Strategy.builtin(name)
    if variant == "kwargs":
        return strategy.with_kwargs(**kwargs)
    if variant == "after_set_v0":
        dumped = strategy.dump(verbose=0)
        dumped["quantize_registry_config"]["user_quantize_config"] |= EDIT
        return strategy.update(dumped)
    return strategy
