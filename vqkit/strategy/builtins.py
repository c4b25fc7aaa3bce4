"""The four built-in strategies, and which of them a document is nearest to."""

from __future__ import annotations

from functools import cache
from typing import Any

from vqkit.errors import StrategyError, not_allowed
from vqkit.resources import resource_dir
from vqkit.strategy import keys, normal, text

NAMES = ("pof2s", "pof2s_tqt", "fs", "fsx")
ALIASES = {"8bit": "pof2s", "8bit_tqt": "pof2s_tqt"}


def canonical(name: str) -> str:
    """The built-in's own name.

    Raises:
        StrategyError: no built-in has this name or alias.
    """
    found = ALIASES.get(name, name)
    if found not in NAMES:
        raise StrategyError(not_allowed("strategy", name, [*NAMES, *ALIASES], what="name"))
    return found


@cache
def document(name: str) -> dict[str, Any]:
    """The built-in's JSON; shared, so do not change it."""
    path = resource_dir("strategies") / f"{canonical(name)}.json"
    value: dict[str, Any] = text.parse(path.read_text(encoding="utf-8"), f"builtin {name}")
    return value


@cache
def values(name: str) -> dict[tuple[str, str], Any]:
    """The built-in's values, addressed as `normal.keyed` does."""
    return normal.keyed(document(name))


@cache
def layer_types() -> tuple[str, ...]:
    """Class names that some built-in has an entry for."""
    entries = [e for name in NAMES for e in document(name)[keys.REGISTRY][keys.LAYERS]]
    return tuple(dict.fromkeys(keys.short_type(e["layer_type"]) for e in entries))


def nearest_base(doc: dict[str, Any]) -> str:
    """The built-in that shares most values with a document.

    The base is a function of the document alone, so a dump read back means what it meant.
    """
    mine = normal.keyed(doc)
    return max(NAMES, key=lambda name: sum(mine.get(k, _ABSENT) == v for k, v in values(name).items()))


_ABSENT = object()
