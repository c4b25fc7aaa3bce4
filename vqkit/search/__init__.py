"""Finding the strategy: sensitivity of layers, mixed precision, search under a budget, recommendation.

Public names are imported on first use, because most of them need TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Attribution": "attribution",
    "Bounds": "advice",
    "Engine": "engine",
    "Found": "loop",
    "Front": "precision",
    "Measured": "engine",
    "Search": "space",
    "Sensitivity": "sensitive",
    "recovery": "restore",
    "advise": "advice",
    "deliver": "advice",
    "explain": "attribution",
    "mixed": "precision",
    "search": "loop",
    "search_file": "loop",
    "sensitivity": "sensitive",
    "spread_over_subsets": "advice",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(f"vqkit.search.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'vqkit.search' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
