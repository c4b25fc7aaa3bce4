"""What is fed arbitrary input: each target accepts it or refuses it with an error of vqkit's own, never else.

Used by the property tests here and, for much longer, by `benchmarks/faults.py`.
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqkit.errors import VqkitError
from vqkit.strategy import Strategy
from vqkit.sweeps.spec import Sweep
from vqkit.sweeps.variant import build_strategy

SWEEP = {
    "name": "grid",
    "model": "net.keras",
    "data": {"npz": "digits.npz"},
    "strategy": "pof2s",
    "mode": "grid",
    "axes": {"strategy": ["pof2s", "fsx"], "weight_bit": [8, 6, 4], "input_layers": [None, ["conv"]]},
    "exclude": [{"strategy": "fsx", "weight_bit": [4]}],
    "seed": 0,
    "batch_size": 32,
}
BASES = tuple(Strategy.builtin(n).dump() for n in ("pof2s", "pof2s_tqt", "fs", "fsx"))


def accepted(call: Callable[[], Any]) -> bool:
    """Whether a call accepts its input; anything that is not vqkit's own error passes through."""
    try:
        call()
    except VqkitError as error:
        message = str(error)
    else:
        return True
    assert 0 < len(message) < 20_000
    return False


def strategy_file(content: bytes) -> bool:
    """Load a strategy file; one that is accepted must dump and load to the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "strategy.json")
        path.write_bytes(content)
        return accepted(lambda: _round_trip(Strategy.load(path)))


def _round_trip(strategy: Strategy) -> None:
    again = Strategy.from_dict(json.loads(json.dumps(strategy.dump())))
    assert again == strategy
    assert again.dump() == strategy.dump()


def strategy_value(value: Any) -> bool:
    """A plain value as a strategy, and on top of one."""
    whole = accepted(lambda: _round_trip(Strategy.from_dict(value)))
    return accepted(lambda: _round_trip(Strategy.builtin("fsx").update(value))) or whole


def overrides(values: dict[str, Any]) -> bool:
    """Keywords and JSON pointers of a variant."""
    return accepted(lambda: _round_trip(build_strategy("pof2s", values)))


def sweep_file(content: bytes, suffix: str = ".yaml") -> bool:
    """Load a sweep file and list its variants."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"sweep{suffix}")
        path.write_bytes(content)
        return accepted(lambda: Sweep.load(path).points())


def sweep_value(value: Any) -> bool:
    """A plain value as a sweep."""
    return accepted(lambda: Sweep.from_dict(value, source="fuzz").points())


def mutated(base: Any, rng: random.Random, junk: Callable[[], Any]) -> Any:
    """A copy of a valid document with one to three places replaced, removed, renamed or doubled."""
    document = copy.deepcopy(base)
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(_places(document)))
        action = rng.choice(("replace", "replace", "remove", "rename", "repeat"))
        if action == "remove":
            del holder[key]
        elif action == "rename" and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif action == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = junk()
        if not document:
            return document
    return document


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)
