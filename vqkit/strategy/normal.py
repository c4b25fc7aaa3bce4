"""One spelling for each meaning, so that digests and differences ignore how a value was written."""

from __future__ import annotations

from typing import Any

from vqkit.primitives.spec import Method, RoundMode
from vqkit.strategy import keys, pointer


def value(key: str, given: Any) -> Any:
    """A value with words of enumerations as their integers, whole numbers as int, a layer type by its class.

    Args:
        key: the key it stands under, such as "weight_method".
        given: the value.
    """
    if isinstance(given, str):
        kind = Method if key.endswith("method") else RoundMode if key.endswith("round_mode") else None
        if kind is not None and given in kind.__members__:
            return int(kind[given])
        return keys.short_type(given) if key == "layer_type" else given
    return int(given) if isinstance(given, float) and given.is_integer() else given


def document(doc: Any) -> Any:
    """A copy in normal spelling: words as integers, user keys that say nothing left out."""
    copy = _tree("", doc)
    user = copy[keys.REGISTRY][keys.USER]
    copy[keys.REGISTRY][keys.USER] = {k: v for k, v in user.items() if v is not None and v != []}
    return copy


def keyed(doc: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Values addressed so that the order of layer entries does not matter.

    Args:
        doc: a whole strategy.

    Returns:
        (class name of the layer entry, pointer inside it), or ("", pointer in the document), to the value.
    """
    return {
        (layer, inside): value(outside.rpartition("/")[2], v)
        for outside, (layer, inside), v in addressed(doc)
    }


def addressed(doc: dict[str, Any]) -> list[tuple[str, tuple[str, str], Any]]:
    """(pointer in the document, address as in `keyed`, value) of every leaf."""
    registry = doc[keys.REGISTRY]
    rest = {**doc, keys.REGISTRY: {k: v for k, v in registry.items() if k != keys.LAYERS}}
    found = [(p, ("", p), v) for p, v in pointer.leaves(rest)]
    for i, entry in enumerate(registry[keys.LAYERS]):
        base = pointer.join([keys.REGISTRY, keys.LAYERS, i])
        name = keys.short_type(entry["layer_type"])
        found += [(base + p, (name, p), v) for p, v in pointer.leaves(entry)]
    return found


def _tree(key: str, given: Any) -> Any:
    if isinstance(given, dict):
        return {k: _tree(k, v) for k, v in given.items()}
    if isinstance(given, list):
        return [_tree(key, v) for v in given]
    return value(key, given)
