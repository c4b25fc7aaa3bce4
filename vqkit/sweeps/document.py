"""Text of a sweep or search file to a checked value; duplicate and unknown keys and wrong types are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vqkit.errors import SweepError, VqkitError, not_allowed
from vqkit.strategy.document import MAX_DEPTH, MAX_NODES, plain, text_of
from vqkit.tables import elide

Model = TypeVar("Model", bound=BaseModel)
SHOWN = 3
# The stream and the document are two more; what is a little deeper is told by `plain`.
_DEPTH = MAX_DEPTH + 4
_DIGITS = 4300
LONGEST = 200


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A JSON or YAML file that holds one mapping.

    Args:
        path: `.json`, `.yaml` or `.yml`.

    Returns:
        The mapping.

    Raises:
        SweepError: missing, malformed, a key twice, or not a mapping.
    """
    path = Path(path)
    text = text_of(path, SweepError)
    try:
        value = json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else _yaml(text)
    except RecursionError:
        raise SweepError(f"{path}: nested too deeply") from None
    except ValueError as e:
        raise SweepError(f"{path}: {e}") from e
    return plain_mapping(value, str(path))


def plain_mapping(value: Any, source: str) -> dict[str, Any]:
    """A private copy of a mapping of plain JSON values.

    Args:
        value: anything.
        source: where it is from, for messages.

    Raises:
        SweepError: no mapping, holds what JSON cannot hold, too deep, or too much.
    """
    if not isinstance(value, Mapping):
        raise SweepError(f"{source}: expected a mapping of keys to values, found {type(value).__name__}")
    copied: dict[str, Any] = plain(dict(value), source, SweepError)
    return copied


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    for key, _ in pairs:
        if not isinstance(key, str):
            raise ValueError(f"key {key!r} is not a word")
    counts = Counter(k for k, _ in pairs)
    if len(counts) < len(pairs):
        raise ValueError(f"key {counts.most_common(1)[0][0]!r} stands twice")
    return dict(pairs)


def _yaml(text: str) -> Any:
    import yaml

    # What libyaml reads is read in C, twenty times as fast.
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc, valid-type]
        def construct_mapping(self, node: Any, deep: bool = True) -> dict[Any, Any]:
            _unique([(self.construct_object(key, True), None) for key, _ in node.value])
            return dict(super().construct_mapping(node, deep))

        def construct_yaml_int(self, node: Any) -> int:
            # YAML knows numbers to the base of 60, which have no bound of Python's.
            if len(node.value) > _DIGITS:
                raise ValueError(f"a number of {len(node.value)} digits")
            return int(super().construct_yaml_int(node))

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    try:
        _bounded(yaml.parse(text, Loader))
        return yaml.load(text, Loader)
    # PyYAML's constructors fail in all these ways on ill-formed scalars with a tag of their own.
    except (yaml.YAMLError, AttributeError, LookupError, TypeError) as e:
        raise ValueError(elide(" ".join(str(e).split()), 2 * LONGEST)) from e


def _bounded(events: Iterable[Any]) -> None:
    """Raise for YAML that is deeper or more than any sweep, before it is made into values."""
    depth = 0
    for n, event in enumerate(events):
        name = type(event).__name__
        depth += name.endswith("StartEvent") - name.endswith("EndEvent")
        if depth > _DEPTH:
            raise RecursionError
        # A key and a value each.
        if n > 3 * MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} values")


def parse(model: type[Model], value: Any, source: str, error: type[VqkitError]) -> Model:
    """A checked instance of a pydantic model.

    Args:
        model: what the value must be.
        value: plain JSON.
        source: file name, or another word for where the value came from.
        error: the exception to raise.

    Returns:
        The instance.

    Raises:
        VqkitError: of type `error`, with at most three problems, each with its JSON pointer.
    """
    try:
        return model.model_validate(value)
    except ValidationError as e:
        problems = [_problem(p, model, source) for p in e.errors()]
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise error("\n".join(problems[:SHOWN] + more)) from None


def _problem(problem: Any, model: type[BaseModel], source: str) -> str:
    place = problem["loc"]
    pointer = "/" + "/".join(str(p).replace("~", "~0").replace("/", "~1") for p in place)
    inner = _inner(model, place[:-1])
    if problem["type"] == "extra_forbidden" and inner is not None:
        where = source if len(place) == 1 else f"{source} {pointer.rpartition('/')[0]}"
        return not_allowed(where, place[-1], inner.model_fields, what="key")
    if problem["type"] == "missing":
        return f"{source}: {pointer[1:]!r} is missing"
    if problem["type"] == "literal_error":
        return not_allowed(f"{source} {pointer}", problem["input"], _choices(problem))
    message = problem["msg"].removeprefix("Value error, ")
    at = f"{source} {pointer}" if place else source
    return f"{at}: {message}" + (f", given {_shown(problem['input'])}" if place else "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _inner(model: type[BaseModel], place: tuple[Any, ...]) -> type[BaseModel] | None:
    """The form that stands at a place, where it is a form."""
    from typing import get_args

    for name in place:
        field = model.model_fields.get(name)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        found = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not found:
            return None
        model = found[0]
    return model


def _choices(problem: Any) -> list[str]:
    return [c.strip(" '") for c in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
