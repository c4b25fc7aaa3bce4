"""A strategy's form and meaning, checked without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from vqkit.errors import StrategyError, not_allowed
from vqkit.strategy import vocabulary
from vqkit.strategy.document import get, join
from vqkit.strategy.rules import RuleSet
from vqkit.strategy.schema import LayerEntries, StrategyDocument

MAX_PROBLEMS = 3


_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most"}


def layer_entries(value: Any, source: str) -> None:
    """Check layer entries before they are put among others, so that pointers are those of their own file.

    Raises:
        StrategyError: at most `MAX_PROBLEMS` problems.
    """
    place = (vocabulary.REGISTRY, vocabulary.LAYERS)
    try:
        TypeAdapter(LayerEntries).validate_python(value)
    except ValidationError as e:
        found = [ErrorDetails(**{**x, "loc": (*place, *x["loc"])}) for x in e.errors()]
        raise StrategyError(_message(found, {place[0]: {place[1]: value}}, source)) from None


def document(value: Any, source: str) -> StrategyDocument:
    """Check the form of a whole strategy.

    Args:
        value: plain JSON value.
        source: file name or the like, for messages.

    Returns:
        The typed document.

    Raises:
        StrategyError: at most `MAX_PROBLEMS` problems, each with pointer, given, allowed, nearest match.
    """
    _refuse_partial(value, source)
    try:
        return StrategyDocument.model_validate(value)
    except ValidationError as e:
        raise StrategyError(_message(e.errors(), value, source)) from None


def problems(found: list[str]) -> str:
    """Several problems as one message, the first few of them."""
    more = len(found) - MAX_PROBLEMS
    return "\n".join([*found[:MAX_PROBLEMS], *([f"… and {more} more"] if more > 0 else [])])


def _refuse_partial(value: Any, source: str) -> None:
    if not isinstance(value, dict):
        raise StrategyError(f"{source}: a strategy is a JSON object, got {_short(value)}")
    registry = value.get(vocabulary.REGISTRY)
    present = isinstance(registry, dict) and vocabulary.LAYERS in registry and vocabulary.INPUT in registry
    if value and not (set(value) - {*vocabulary.PIPELINES, vocabulary.REGISTRY}) and not present:
        raise StrategyError(
            f"{source}: has no {vocabulary.REGISTRY}/{vocabulary.LAYERS} and {vocabulary.INPUT}, so it is "
            f"a part of a strategy "
            "(a dump of verbosity 0 or 1 is); put it on a base: Strategy.builtin(name).update(path)"
        )


def _message(errors: list[ErrorDetails], value: Any, source: str) -> str:
    missing_last = sorted(errors, key=lambda e: e["type"] == "missing")
    return problems([_one(e, value, source) for e in missing_last])


def _one(error: ErrorDetails, value: Any, source: str) -> str:
    loc = list(error["loc"])
    is_word = loc[-1:] == ["data_type"] and isinstance(get(value, loc[:-1]), str)
    where = _where(source, loc[:-1] if is_word else loc)
    given, context = error["input"], error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return not_allowed(_where(source, loc[:-1]), loc[-1], fields_at(loc[:-1]), what="key")
    if error["type"] == "missing":
        return f"{where}: this key is missing"
    if error["type"] == "choice":
        return not_allowed(where, given, context["allowed"])
    if error["type"] == "literal_error":
        return not_allowed(where, given, [v or '""' for v in get_args(_type_at(loc))])
    if error["type"] == "uneven":
        return f"{where}/{context['key']}: {error['msg']}"
    return f"{where}: expected {_expected(error['type'], loc, str(error['msg']))}, got {_short(given)}"


def _where(source: str, loc: list[Any]) -> str:
    return f"{source} {join(loc)}".rstrip()


def _expected(kind: str, loc: list[Any], message: str) -> str:
    bounds = _bounds_at(loc)
    if bounds:
        return ("an integer, " if _type_at(loc) is int else "a number, ") + bounds
    if kind == "string_pattern_mismatch":
        return "a class name or a dotted path to one, such as tensorflow.keras.layers.Conv2D"
    if kind == "string_too_short":
        return "a name of at least one character"
    return _EXPECTED.get(kind, message[:1].lower() + message[1:])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def fields_at(loc: list[Any]) -> list[str]:
    """Keys that the form allows at a location; empty where none are fixed."""
    kind = _type_at(loc)
    return list(kind.model_fields) if _is_form(kind) else []


def _is_form(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _bounds_at(loc: list[Any]) -> str:
    """The range that the form gives a number, in words; empty where it gives none."""
    parent = _type_at(loc[:-1])
    field = parent.model_fields.get(str(loc[-1])) if _is_form(parent) else None
    kind = _step(parent, loc[-1]) if field is None else field.annotation
    limits = [*(field.metadata if field is not None else ()), *_metadata(kind)]
    found = {key: getattr(limit, key) for limit in limits for key in _BOUNDS if hasattr(limit, key)}
    return " and ".join(f"{words} {found[key]}" for key, words in _BOUNDS.items() if key in found)


def _metadata(kind: Any) -> list[Any]:
    """Constraints in an annotation, also below `| None`."""
    own = [m for field in getattr(kind, "__metadata__", ()) for m in getattr(field, "metadata", ())]
    return own + [m for a in get_args(kind) if get_origin(kind) in (Union, UnionType) for m in _metadata(a)]


def _type_at(loc: list[Any]) -> Any:
    kind: Any = StrategyDocument
    for part in loc:
        kind = _step(_bare(kind), part)
    return _bare(kind)


def _bare(kind: Any) -> Any:
    """Without Annotated[...] and `| None`."""
    if hasattr(kind, "__metadata__"):
        return _bare(kind.__origin__)
    if get_origin(kind) in (Union, UnionType):
        return _bare(next(a for a in get_args(kind) if a is not type(None)))
    return kind


def _step(kind: Any, part: Any) -> Any:
    if _is_form(kind):
        field = kind.model_fields.get(str(part))
        return None if field is None else field.annotation
    args = get_args(kind)
    return args[-1] if get_origin(kind) is dict else args[0] if args else None


def check(book: RuleSet, source: str) -> None:
    """Refuse a strategy whose parts contradict each other.

    Args:
        book: a document that is valid in form.
        source: for messages.

    Raises:
        StrategyError: at most three problems.
    """
    found = list(_entries(book, source)) or list(dict.fromkeys(_quantizers(book)))
    if found:
        raise StrategyError(problems(found))


def _entries(book: RuleSet, source: str) -> Iterator[str]:
    # A custom layer may have any other name.
    known_types = vocabulary.layer_types()
    known = {name.lower() for name in known_types}
    for i, name in enumerate(book.layer_types()):
        where = f"{source} {join([vocabulary.REGISTRY, vocabulary.LAYERS, i, 'layer_type'])}"
        first = book.entry_index(name)
        if first != i:
            yield f"{where}: {name} has an entry already, at index {first}; one is allowed"
        if name not in known_types and name.lower() in known:
            yield not_allowed(where, name, known_types, what="layer type")


def _quantizers(book: RuleSet) -> Iterator[str]:
    for layer_type in (None, *book.layer_types()):
        try:
            if layer_type is None:
                book.input_rule()
            else:
                book.layer_rule(layer_type)
        except StrategyError as e:
            yield str(e)
