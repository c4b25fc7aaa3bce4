"""The difference of two strategies as JSON Patch (RFC 6902), which any tool can apply."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from vqkit.errors import StrategyError
from vqkit.strategy import pointer

Operation = dict[str, Any]


def json_patch(before: Any, after: Any) -> list[Operation]:
    """Operations that turn one JSON value into another.

    Args:
        before: plain JSON.
        after: plain JSON.

    Returns:
        `add`, `remove` and `replace` operations, in an order in which they can be applied. Lists of the same
        length are compared item by item, others are replaced.
    """
    return list(_changes(before, after, ""))


def _changes(a: Any, b: Any, where: str) -> Iterator[Operation]:
    if isinstance(a, dict) and isinstance(b, dict):
        yield from ({"op": "remove", "path": pointer.join([k], where)} for k in a if k not in b)
        for key, value in b.items():
            at = pointer.join([key], where)
            if key in a:
                yield from _changes(a[key], value, at)
            else:
                yield {"op": "add", "path": at, "value": copy.deepcopy(value)}
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _changes(x, y, pointer.join([i], where))
    elif type(a) is not type(b) or a != b:
        yield {"op": "replace", "path": where, "value": copy.deepcopy(b)}


def apply_patch(value: Any, operations: Sequence[Operation]) -> Any:
    """A JSON value with operations of `json_patch` applied; the given one stays as it is.

    Args:
        value: plain JSON.
        operations: `add`, `remove`, `replace`.

    Raises:
        StrategyError: an operation is another one, or its path leads nowhere.
    """
    result = copy.deepcopy(value)
    for operation in operations:
        result = _applied(result, operation)
    return result


def _applied(value: Any, operation: Operation) -> Any:
    kind, path = operation.get("op"), pointer.split(operation["path"])
    if kind not in ("add", "remove", "replace"):
        raise StrategyError(f"JSON patch: operation {kind!r} is not allowed. Allowed: add, remove, replace")
    if not path:
        return copy.deepcopy(operation["value"])
    try:
        parent = pointer.get(value, path[:-1])
        last: Any = int(path[-1]) if isinstance(parent, list) else path[-1]
        if kind != "add":
            parent[last]
        if kind == "remove":
            del parent[last]
        else:
            parent[last] = copy.deepcopy(operation["value"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise StrategyError(f"JSON patch: {operation['path']} leads nowhere") from None
    return value
