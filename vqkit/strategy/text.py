"""JSON text to plain values and back: strict and bounded."""

from __future__ import annotations

import json
import math
from typing import Any

from vqkit.errors import StrategyError, VqkitError

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 16
MAX_NODES = 100_000


def parse(text: str, source: str) -> Any:
    """JSON text to plain values; what JSON leaves open (NaN, a key twice) is an error.

    Args:
        text: JSON.
        source: where it is from, for messages.

    Raises:
        StrategyError: not JSON, too large or too deep.
    """
    if len(text) > MAX_BYTES:
        raise StrategyError(f"{source}: larger than {MAX_BYTES} bytes, this is no strategy")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as e:
        raise StrategyError(f"{source}: not JSON: {e.msg} at line {e.lineno}, column {e.colno}") from None
    except (ValueError, RecursionError) as e:
        reason = "nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise StrategyError(f"{source}: not a strategy: {reason}") from None
    return plain(value, source)


def plain(value: Any, source: str, error: type[VqkitError] = StrategyError) -> Any:
    """A private copy made of dict, list, str, int, float, bool and None only.

    Tuples become lists and array scalars Python numbers, because people pass both to kwargs.

    Args:
        value: anything.
        source: for messages.
        error: the exception to raise.

    Raises:
        VqkitError: of type `error`: something is no JSON value, too deep, or too much.
    """
    return _Copier(source, error).copy(value, 0)


def to_text(value: Any) -> str:
    """JSON text as the 2.5 dump writes it: two spaces, key order kept."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [k for k, _ in pairs]
        twice = next(k for k in keys if keys.count(k) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


class _Copier:
    """Copies while counting; a class only to carry the count."""

    def __init__(self, source: str, error: type[VqkitError]) -> None:
        self.source, self.error, self.nodes = source, error, 0

    def copy(self, value: Any, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise self.error(f"{self.source}: nested deeper than {MAX_DEPTH} or more than {MAX_NODES} values")
        if isinstance(value, dict):
            return {self.key(k): self.copy(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(v, depth + 1) for v in value]
        return self.scalar(value)

    def key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise self.error(f"{self.source}: the key {key!r} is not a string")
        return self.scalar(key)

    def scalar(self, value: Any) -> Any:
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            value = value.item()
        if isinstance(value, str):
            return self.string(str(value))
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        raise self.error(f"{self.source}: {value!r} is no JSON value")

    def string(self, value: str) -> str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error(f"{self.source}: {value!r} holds half a character (a lone surrogate)") from None
        return value
