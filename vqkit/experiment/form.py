"""Text of a file to a checked value; duplicate and unknown keys and wrong types are told with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vqkit.errors import SweepError, VqkitError, not_allowed

Model = TypeVar("Model", bound=BaseModel)
SHOWN = 3


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
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise SweepError(f"{path}: cannot be read: {e.strerror or e}") from e
    try:
        value = json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else _yaml(text)
    except ValueError as e:
        raise SweepError(f"{path}: {e}") from e
    if not isinstance(value, dict):
        raise SweepError(f"{path}: expected a mapping of keys to values, found {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    keys = [k for k, _ in pairs]
    twice = sorted({str(k) for k in keys if keys.count(k) > 1})
    if twice:
        raise ValueError(f"key {twice[0]!r} stands twice")
    return dict(pairs)


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = True) -> dict[Any, Any]:
            _unique([(self.construct_object(key, True), None) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as e:
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
    if problem["type"] == "extra_forbidden" and len(place) == 1:
        return not_allowed(source, place[0], model.model_fields, what="key")
    if problem["type"] == "missing":
        return f"{source}: {pointer[1:]!r} is missing"
    if problem["type"] == "literal_error":
        return not_allowed(f"{source} {pointer}", problem["input"], _choices(problem))
    message = problem["msg"].removeprefix("Value error, ")
    at = f"{source} {pointer}" if place else source
    return f"{at}: {message}" + (f", given {problem['input']!r}" if place else "")


def _choices(problem: Any) -> list[str]:
    return [c.strip(" '") for c in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
