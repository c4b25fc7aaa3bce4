"""Names in a strategy that a model does not have: of layers, of layer classes, of a layer's variables."""

from __future__ import annotations

from collections.abc import Sequence, Set
from fnmatch import fnmatchcase

from vqkit.errors import not_allowed
from vqkit.strategy import builtins, keys, pointer
from vqkit.strategy.keys import Role
from vqkit.strategy.rules import Book


def unknown_names(book: Book, layer_names: list[str]) -> list[str]:
    """One message for each name or glob in the strategy that no layer has.

    Args:
        book: the strategy.
        layer_names: the model's layers.
    """
    registry = book.doc[keys.REGISTRY]
    said = [
        (pointer.join([keys.REGISTRY, section, key, i]), name)
        for section, key in [*((keys.USER, k) for k in keys.LISTS), (keys.INPUT, "input_layers")]
        for i, name in enumerate(registry[section].get(key, []))
    ]
    patterns = [(pointer.join([keys.REGISTRY, keys.NAMED, p]), p) for p in registry.get(keys.NAMED, {})]
    missing = [(where, name) for where, name in said if name not in layer_names]
    missing += [(where, p) for where, p in patterns if p not in layer_names and not _matches(p, layer_names)]
    return [
        not_allowed(f"{book.origin(w).source} {w}", n, layer_names, what="layer name") for w, n in missing
    ]


def _matches(pattern: str, names: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def unknown_types(book: Book, present: Sequence[str], offered: Set[str]) -> list[str]:
    """One message for each custom layer type, or entry of an unheard-of type, that the model does not have.

    Args:
        book: the strategy.
        present: class names of the model's layers.
        offered: class names that an entry may have although the model lacks them, such as Keras' own.
    """
    registry = book.doc[keys.REGISTRY]
    expected = {*present, *offered, *builtins.layer_types()}
    custom = [
        (pointer.join([keys.REGISTRY, keys.CUSTOM, i]), t)
        for i, t in enumerate(registry.get(keys.CUSTOM, []))
    ]
    entries = [
        (pointer.join([keys.REGISTRY, keys.LAYERS, i, "layer_type"]), entry["layer_type"])
        for i, entry in enumerate(registry[keys.LAYERS])
    ]
    missing = [(where, t) for where, t in custom if keys.short_type(t) not in present]
    missing += [(where, t) for where, t in entries if keys.short_type(t) not in expected]
    return [
        not_allowed(f"{book.origin(w).source} {w}", keys.short_type(t), present, what="layer type")
        for w, t in missing
    ]


def unknown_tensors(
    book: Book, layer_type: str, variables: Sequence[str], inputs: int, outputs: int
) -> list[str]:
    """One message for each variable, input or output that a user's own entry names and no such layer has.

    A variable may be missing (a layer without bias) as long as the entry names all that are there: a
    misspelt name leaves one over.

    Args:
        book: the strategy.
        layer_type: class name.
        variables: names of the variables of all layers of the type.
        inputs: the most inputs that a layer of the type has.
        outputs: the most outputs that a layer of the type has.
    """
    index = None if layer_type in builtins.layer_types() else book.entry_index(layer_type)
    if index is None:
        return []
    entry = book.doc[keys.REGISTRY][keys.LAYERS][index]
    named = [(r, i, n) for r in (Role.WEIGHT, Role.BIAS) for i, n in enumerate(entry.get(r.names_key, []))]
    left_over = set(variables) - {name for _, _, name in named}
    wrong = [(r, i, n, variables) for r, i, n in named if left_over and n not in variables]
    for role, count in ((Role.INPUT, inputs), (Role.OUTPUT, outputs)):
        listed = enumerate(entry.get(role.names_key, []))
        wrong += [(role, i, n, [*range(count)]) for i, n in listed if n >= count]
    at = [keys.REGISTRY, keys.LAYERS, index]
    places = [(pointer.join([*at, r.names_key, i]), r, n, allowed) for r, i, n, allowed in wrong]
    return [
        not_allowed(f"{book.origin(w).source} {w}", n, allowed, what=f"{r.value} of {layer_type}")
        for w, r, n, allowed in places
    ]
