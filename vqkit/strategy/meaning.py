"""Meaning second: what is well-formed but cannot be, before any model is at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from vqkit.errors import StrategyError, not_allowed
from vqkit.strategy import builtins, form_errors, keys, pointer
from vqkit.strategy.keys import Role
from vqkit.strategy.rules import Book


def check(book: Book, source: str) -> None:
    """Refuse a strategy whose parts contradict each other.

    Args:
        book: a document that is valid in form.
        source: for messages.

    Raises:
        StrategyError: at most three problems.
    """
    found = list(_entries(book, source)) or list(dict.fromkeys(_quantizers(book)))
    if found:
        raise StrategyError(form_errors.problems(found))


def _entries(book: Book, source: str) -> Iterator[str]:
    counts = Counter(book.layer_types())
    for i, entry in enumerate(book.doc[keys.REGISTRY][keys.LAYERS]):
        where = f"{source} {pointer.join([keys.REGISTRY, keys.LAYERS, i])}"
        name = keys.short_type(entry["layer_type"])
        yield from _lengths(entry, where)
        if counts[name] > 1:
            yield f"{where}/layer_type: {name} has {counts[name]} entries; one is allowed"
        if name not in _known_types() and name.lower() in {k.lower() for k in _known_types()}:
            yield not_allowed(f"{where}/layer_type", name, _known_types(), what="layer type")


def _lengths(entry: Mapping[str, Any], where: str) -> Iterator[str]:
    for role in Role:
        names, quantizers = entry.get(role.names_key, []), entry.get(role.quantizers_key, [])
        if len(names) != len(quantizers):
            yield (
                f"{where}/{role.quantizers_key}: {len(quantizers)} quantizers for {len(names)} names "
                f"in {role.names_key}; one each is needed"
            )


@cache
def _known_types() -> tuple[str, ...]:
    """Class names that a built-in has an entry for; a custom layer may have any other name."""
    entries = [e for name in builtins.NAMES for e in builtins.document(name)[keys.REGISTRY][keys.LAYERS]]
    return tuple(dict.fromkeys(keys.short_type(e["layer_type"]) for e in entries))


def _quantizers(book: Book) -> Iterator[str]:
    for layer_type in (None, *book.layer_types()):
        try:
            if layer_type is None:
                book.input_rule(None, False)
            else:
                book.layer_rule(layer_type, None, False)
        except StrategyError as e:
            yield str(e)
