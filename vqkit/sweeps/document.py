"""Text of a sweep or search file to a checked value; duplicate and unknown keys and wrong types are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vqkit.errors import SweepError, VqkitError, no_such_file, not_allowed
from vqkit.strategy.document import MAX_BYTES, plain

Model = TypeVar("Model", bound=BaseModel)
SHOWN = 3
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
    text = _text(path)
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


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as e:
        raise SweepError(no_such_file(path)) from e
    except OSError as e:
        raise SweepError(f"{path}: cannot be read: {e.strerror or e}") from e
    except ValueError as e:
        raise SweepError(f"{str(path)!r} is no path: {e}") from None
    if len(content) > MAX_BYTES:
        raise SweepError(f"{path}: larger than {MAX_BYTES} bytes, this is no sweep")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as e:
        raise SweepError(f"{path}: is not UTF-8 text: {e.reason} at byte {e.start}") from None


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

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = True) -> dict[Any, Any]:
            _unique([(self.construct_object(key, True), None) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    # PyYAML's constructors fail in all these ways on ill-formed scalars with a tag of their own.
    except (yaml.YAMLError, AttributeError, LookupError, TypeError) as e:
        raise ValueError(" ".join(str(e).split())) from e


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
