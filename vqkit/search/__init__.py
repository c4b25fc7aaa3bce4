"""Finding the strategy: sensitivity of layers, mixed precision, search under a budget, recommendation.

Public names are imported on first use, because most of them need TensorFlow.
"""

from __future__ import annotations

from vqkit._lazy import names_of

_WHERE = {
    "Attribution": "attribution",
    "Bounds": "advice",
    "Engine": "engine",
    "Found": "loop",
    "Front": "precision",
    "Measured": "engine",
    "Search": "space",
    "Sensitivity": "sensitive",
    "accumulated": "accumulate",
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
__getattr__, __dir__ = names_of(__name__, _WHERE)
