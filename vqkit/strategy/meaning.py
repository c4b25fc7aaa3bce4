"""Meaning second: what is well-formed but cannot be, before any model is at hand."""

from __future__ import annotations

from collections.abc import Iterator

from vqkit.errors import StrategyError, not_allowed
from vqkit.strategy import builtins, form_errors, keys, pointer
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
    # A custom layer may have any other name.
    known_types = builtins.layer_types()
    known = {name.lower() for name in known_types}
    for i, name in enumerate(book.layer_types()):
        where = f"{source} {pointer.join([keys.REGISTRY, keys.LAYERS, i, 'layer_type'])}"
        first = book.entry_index(name)
        if first != i:
            yield f"{where}: {name} has an entry already, at index {first}; one is allowed"
        if name not in known_types and name.lower() in known:
            yield not_allowed(where, name, known_types, what="layer type")


def _quantizers(book: Book) -> Iterator[str]:
    for layer_type in (None, *book.layer_types()):
        try:
            if layer_type is None:
                book.input_rule()
            else:
                book.layer_rule(layer_type)
        except StrategyError as e:
            yield str(e)
