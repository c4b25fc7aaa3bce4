"""Changes to a strategy's document: kwargs, other documents, single values. Nothing is changed in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vqkit.errors import StrategyError, not_allowed
from vqkit.strategy import document, validation, vocabulary

SECTIONS = (vocabulary.USER, vocabulary.CUSTOM, vocabulary.INPUT, vocabulary.NAMED)
SECTION_NAMES = (*vocabulary.PIPELINES, vocabulary.REGISTRY, *SECTIONS, vocabulary.LAYERS)


@dataclass(frozen=True)
class Edited:
    """A document and who said what in it: pointer to source, the nearest ancestor speaks."""

    doc: dict[str, Any]
    sources: dict[str, str]


def set_at(now: Edited, parts: list[str], value: Any, source: str) -> Edited:
    """Put a value at a place whose container exists.

    Args:
        now: before.
        parts: reference tokens of the place.
        value: plain JSON value.
        source: who says so.
    """
    where = document.join(parts)
    doc = _replaced(now.doc, parts, value)
    kept = {p: s for p, s in now.sources.items() if p != where and not p.startswith(where + "/")}
    return Edited(doc, {**kept, where: source})


def without(now: Edited, parts: list[str]) -> Edited:
    """Take a value out of the objects it stands in; an object that this leaves empty goes too.

    Args:
        now: before.
        parts: reference tokens of the place; below the registry's sections.
    """
    where = document.join(parts)
    above = document.get(now.doc, parts[:-1])
    left = {k: v for k, v in above.items() if k != parts[-1]}
    if not left and len(parts) > len((vocabulary.REGISTRY, vocabulary.NAMED)) + 1:
        return without(now, parts[:-1])
    sources = {p: s for p, s in now.sources.items() if p != where and not p.startswith(where + "/")}
    return Edited(_replaced(now.doc, parts[:-1], left), sources)


def _replaced(container: Any, parts: list[str], value: Any) -> Any:
    """A copy with one value replaced or, one past the end of a list, appended; the rest is shared."""
    if not parts:
        return value
    if not isinstance(container, dict | list):
        raise StrategyError(f"{container!r} stands where an object with the key {parts[0]!r} is expected")
    if isinstance(container, dict):
        return {**container, parts[0]: _replaced(container.get(parts[0]), parts[1:], value)}
    i = int(parts[0])
    below = _replaced(container[i], parts[1:], value) if i < len(container) else value
    return [*container[:i], below, *container[i + 1 :]]


def overrides(now: Edited, values: Mapping[str, Any], base: str, source: str) -> Edited:
    """Set flat names (2.5's kwargs) and JSON pointers, in the order given.

    Args:
        now: before.
        values: name or pointer to value.
        base: the built-in whose keys also count as known.
        source: who says so.

    Raises:
        StrategyError: a name or pointer leads nowhere.
    """
    found: list[str] = []
    for name, value in values.items():
        try:
            parts = address(now.doc, name, base, source)
        except StrategyError as e:
            found.append(str(e))
            continue
        now = set_at(_with_container(now, parts), parts, value, source)
    if found:
        raise StrategyError(validation.problems(found))
    return now


def address(doc: Mapping[str, Any], name: str, base: str, source: str) -> list[str]:
    """Where a flat name or JSON pointer points.

    Args:
        doc: a whole strategy.
        name: such as "weight_bit", an old name such as "fold_bn", or a JSON pointer; in a pointer a layer
            entry may be named by its class instead of its index.
        base: the built-in whose keys also count as known.
        source: for messages.

    Raises:
        StrategyError: it leads nowhere.
    """
    if name.startswith("/"):
        return _pointed(doc, name, source)
    wanted = vocabulary.OLD_NAMES.get(name, name)
    places = kwarg_places(doc, base)
    if wanted not in places:
        message = not_allowed(source, name, [*places, *vocabulary.OLD_NAMES], what="key")
        raise StrategyError(message + _taken_elsewhere(wanted))
    return [*places[wanted], wanted]


def _taken_elsewhere(name: str) -> str:
    owners = [
        n
        for n in vocabulary.NAMES
        for section in vocabulary.PIPELINES
        if name in vocabulary.builtin_document(n)[section]
    ]
    return f" ({', '.join(owners)} would take it)" if owners else ""


def kwarg_places(doc: Mapping[str, Any], base: str) -> dict[str, list[str]]:
    """Every flat name that this strategy takes, and the container it goes to; the first owner wins."""
    places = {key: [vocabulary.REGISTRY, vocabulary.USER] for key in vocabulary.USER_KEYS}
    places[vocabulary.EXTRA] = [vocabulary.REGISTRY]
    for section in vocabulary.PIPELINES:
        known = [
            *doc[section],
            *vocabulary.builtin_document(base)[section],
            *vocabulary.EXTENSIONS.get(section, ()),
        ]
        for key in known:
            places.setdefault(key, [section])
    return places


def update(now: Edited, new: Mapping[str, Any], base: str, source: str) -> Edited:
    """Put another, possibly partial, document on top, as 2.5 sets a strategy.

    Pipelines change key by key. In the registry the user's keys, custom types and input quantizer are
    replaced whole; a layer entry replaces the entry of its type or is appended. These sections may also stand
    at the top; other keys there are flat names.

    Raises:
        StrategyError: a key leads nowhere.
    """
    rest = {}
    for key, value in new.items():
        if key in vocabulary.PIPELINES:
            now = _pipeline(now, key, _object(value, key, source), base, source)
        elif key == vocabulary.REGISTRY:
            now = _registry(now, _object(value, key, source), base, source)
        elif key in SECTION_NAMES:
            now = _registry(now, {key: value}, base, source)
        elif key.startswith("/"):
            raise StrategyError(not_allowed(source, key, SECTION_NAMES, what="key"))
        else:
            rest[key] = value
    return overrides(now, rest, base, source)


def _pipeline(now: Edited, section: str, new: Mapping[str, Any], base: str, source: str) -> Edited:
    known = [k for k, place in kwarg_places(now.doc, base).items() if place == [section]]
    unknown = [key for key in new if key not in known]
    if unknown:
        lines = [not_allowed(f"{source} /{section}", key, known, what="key") for key in unknown]
        raise StrategyError(validation.problems(lines))
    for key, value in new.items():
        now = set_at(now, [section, key], value, source)
    return now


def _registry(now: Edited, new: Mapping[str, Any], base: str, source: str) -> Edited:
    flat = {}
    for key, value in new.items():
        if key in SECTIONS:
            now = set_at(now, [vocabulary.REGISTRY, key], value, source)
        elif key == vocabulary.LAYERS:
            now = _entries(now, value, source)
        elif key in (*vocabulary.USER_KEYS, vocabulary.EXTRA):
            flat[key] = value
        else:
            allowed = [*SECTIONS, vocabulary.LAYERS, vocabulary.EXTRA]
            raise StrategyError(not_allowed(f"{source} /{vocabulary.REGISTRY}", key, allowed, what="key"))
    return overrides(now, flat, base, source)


def _entries(now: Edited, entries: Any, source: str) -> Edited:
    where = [vocabulary.REGISTRY, vocabulary.LAYERS]
    validation.layer_entries(entries, source)
    for entry in entries:
        types = [_type_of(e) for e in now.doc[vocabulary.REGISTRY][vocabulary.LAYERS]]
        wanted = _type_of(entry)
        index = types.index(wanted) if wanted in types else len(types)
        now = set_at(now, [*where, str(index)], entry, source)
    return now


def _source_of(now: Edited, parts: Iterable[str]) -> str:
    return next(now.sources[p] for p in document.ancestors(document.join(parts)) if p in now.sources)


def _type_of(entry: Mapping[str, Any]) -> str:
    return vocabulary.short_type(entry["layer_type"])


def _object(value: Any, key: str, source: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise StrategyError(f"{source} /{key}: expected an object, got {value!r}")
    return value


def _pointed(doc: Mapping[str, Any], where: str, source: str) -> list[str]:
    parts: list[str] = []
    here: Any = doc
    tokens = document.split(where)
    for i, token in enumerate(tokens):
        token = _entry_token(here, token)
        if not document.has(here, [token]):
            if i == len(tokens) - 1 and token in _known(here, parts):
                return [*parts, token]
            if _in_name_rules([*parts, *tokens[i:]]):
                return [*parts, *tokens[i:]]
            raise StrategyError(not_allowed(f"{source} {where}", token, _known(here, parts), what="part"))
        parts.append(token)
        here = document.get(here, [token])
    return parts


def _in_name_rules(parts: list[str]) -> bool:
    return parts[:2] == [vocabulary.REGISTRY, vocabulary.NAMED] and len(parts) in (3, 4)


def _entry_token(here: Any, token: str) -> str:
    if isinstance(here, list):
        types = [_type_of(e) if isinstance(e, dict) and "layer_type" in e else None for e in here]
        return str(types.index(token)) if token in types else token
    return token


def _known(here: Any, parts: list[str]) -> list[str]:
    if isinstance(here, list):
        return [_type_of(e) if isinstance(e, dict) and "layer_type" in e else str(i) for i, e in enumerate(here)]
    if not isinstance(here, dict):
        return []
    loc: list[Any] = [int(p) if p.isdigit() else p for p in parts]
    return list(dict.fromkeys([*here, *validation.fields_at(loc)]))


def _with_container(now: Edited, parts: list[str]) -> Edited:
    """Make the objects above a name rule, from a word where one stands; everywhere else they exist."""
    for n in range(2, len(parts)):
        here = document.get(now.doc, parts[:n]) if document.has(now.doc, parts[:n]) else {}
        if not isinstance(here, list) and (not here or isinstance(here, str)):
            made = {"data_type": here} if isinstance(here, str) else here
            now = set_at(now, parts[:n], made, _source_of(now, parts[:n]))
    return now
