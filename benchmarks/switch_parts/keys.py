"""Every key of a built-in strategy's pipelines and user section, and what turning it means."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from vqkit.strategy import vocabulary

SECTIONS = ("optimize_pipeline_config", "quantize_pipeline_config", "refine_pipeline_config")
# Keys without a meaning of their own: they name layers of a model or tell another key how long to work.
NAMED = ("input_layers", "output_layers", "ignore_layers")
TURNED: dict[str, Any] = {
    "cle_steps": 1,
    "cle_balance_method": "avg",
    "cle_weight_threshold": 0.5,
    "freeze_bn_delay": 5,
    "fast_ft_epochs": 1,
    "use_framework_quant": False,
}
SUFFIXES: tuple[tuple[str, Any], ...] = (
    ("_bit", 6),
    ("_method_percentile", 99.0),
    ("_method", 0),
    ("_symmetry", False),
    ("_per_channel", True),
    ("_round_mode", 0),
)


def switches(strategy: str) -> dict[str, Any]:
    """Each key of a built-in with the value it is turned to.

    Args:
        strategy: name of a built-in.

    Returns:
        Key -> value, in the document's order; a switch is turned over.

    Raises:
        KeyError: nobody said what turning a key means.
    """
    document = vocabulary.builtin_document(strategy)
    found = {
        key: (not value) if isinstance(value, bool) else TURNED[key]
        for section in SECTIONS
        for key, value in document[section].items()
    }
    user = document["quantize_registry_config"]["user_quantize_config"]
    return found | {key: _turned(key, strategy) for key in user if key not in NAMED}


def _turned(key: str, strategy: str) -> Any:
    if key in TURNED:
        return TURNED[key]
    value = next((v for suffix, v in SUFFIXES if key.endswith(suffix)), None)
    if value is None:
        raise KeyError(key)
    if key.endswith("_per_channel") and strategy.startswith("fs") and key.startswith("weight"):
        return False
    if key.endswith("_method") and strategy == "pof2s" and not key.startswith("input"):
        return 0
    if key.endswith("_method") and key.startswith("input") and strategy == "pof2s":
        return 1
    return value


def combinations(strategy: str) -> Iterator[dict[str, Any]]:
    """No key turned, each alone, then each pair."""
    turned = switches(strategy)
    for size in (0, 1, 2):
        for keys in itertools.combinations(turned, size):
            yield {k: turned[k] for k in keys}
