"""Strategies as plain JSON: parse, JSON pointers, JSON patches."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vqkit.errors import StrategyError, VqkitError, no_such_file
from vqkit.files import open_file
from vqkit.tables import elide

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 16
MAX_NODES = 100_000
_SHOWN = 400


def text_of(path: str | Path, error: type[VqkitError] = StrategyError) -> str:
    """Text of a file that a person wrote: UTF-8, with or without a mark of it at its beginning.

    Args:
        path: the file.
        error: the exception to raise.

    Raises:
        VqkitError: of type `error`: it cannot be read, is no file, larger than `MAX_BYTES`, or not UTF-8.
    """
    try:
        with open_file(path) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise error(no_such_file(Path(path))) from None
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror or e}") from None
    except ValueError as e:
        raise error(f"{str(path)!r} is no path: {e}") from None
    if len(content) > MAX_BYTES:
        kind = "strategy" if error is StrategyError else "sweep"
        raise error(f"{path}: larger than {MAX_BYTES} bytes, this is no {kind}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise error(f"{path}: not UTF-8 text: {e.reason} at byte {e.start}") from None


def parse(text: str, source: str) -> Any:
    """JSON text to plain values; what JSON leaves open (NaN, a key twice) is an error.

    Args:
        text: JSON.
        source: where it is from, for messages.

    Raises:
        StrategyError: not JSON, too large or too deep.
    """
    if len(text) > MAX_BYTES:
        raise StrategyError(f"{source}: larger than {MAX_BYTES} bytes, this is no strategy")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as e:
        raise StrategyError(f"{source}: not JSON: {e.msg} at line {e.lineno}, column {e.colno}") from None
    except (ValueError, RecursionError) as e:
        reason = "nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise StrategyError(f"{source}: not a strategy: {reason}") from None
    return plain(value, source)


def plain(value: Any, source: str, error: type[VqkitError] = StrategyError) -> Any:
    """A private copy made of dict, list, str, int, float, bool and None only.

    Tuples become lists and array scalars Python numbers, because people pass both to kwargs.

    Args:
        value: anything.
        source: for messages.
        error: the exception to raise.

    Raises:
        VqkitError: of type `error`: something is no JSON value, too deep, or too much.
    """
    return _Copier(source, error).copy(value, 0)


def to_text(value: Any) -> str:
    """JSON text as the 2.5 dump writes it: two spaces, key order kept."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(k for k, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


class _Copier:
    """Copies while counting; a class only to carry the count."""

    def __init__(self, source: str, error: type[VqkitError]) -> None:
        self.source, self.error, self.nodes = source, error, 0

    def copy(self, value: Any, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise self.error(f"{self.source}: nested deeper than {MAX_DEPTH} or more than {MAX_NODES} values")
        if isinstance(value, dict):
            return {self.key(k): self.copy(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(v, depth + 1) for v in value]
        return self.scalar(value)

    def key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise self.error(f"{self.source}: the key {key!r} is not a string")
        return self.scalar(key)

    def scalar(self, value: Any) -> Any:
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            value = value.item()
        if isinstance(value, str):
            return self.string(str(value))
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        raise self.error(f"{self.source}: {elide(repr(value), _SHOWN)} is no JSON value")

    def string(self, value: str) -> str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error(f"{self.source}: {value!r} holds half a character (a lone surrogate)") from None
        return value


def join(parts: Iterable[object], base: str = "") -> str:
    """Append reference tokens to a pointer, escaped."""
    return base + "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in parts)


def split(pointer: str) -> list[str]:
    """Reference tokens of a pointer, unescaped.

    Raises:
        ValueError: the pointer does not start with a slash.
    """
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise ValueError(f"a JSON pointer starts with '/', got {pointer!r}")
    return [p.replace("~1", "/").replace("~0", "~") for p in pointer[1:].split("/")]


def get(value: Any, parts: Iterable[object]) -> Any:
    """The value below `value`.

    Raises:
        KeyError: nothing is there.
    """
    for part in parts:
        value = value[_key(value, str(part))]
    return value


def has(value: Any, parts: Iterable[object]) -> bool:
    """Whether something stands there."""
    try:
        get(value, parts)
    except KeyError:
        return False
    return True


def ancestors(pointer: str) -> Iterator[str]:
    """The pointer itself, then everything that contains it, up to the root."""
    while pointer:
        yield pointer
        pointer = pointer.rpartition("/")[0]
    yield ""


def leaves(value: Any, base: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar, list of scalars or empty container below, with its pointer."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, join([key], base))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, item in enumerate(value):
            yield from leaves(item, join([i], base))
    else:
        yield base, value


def _key(container: Any, part: str) -> str | int:
    if isinstance(container, dict) and part in container:
        return part
    if isinstance(container, list) and part.isascii() and part.isdigit() and int(part) < len(container):
        return int(part)
    raise KeyError(part)


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
        yield from ({"op": "remove", "path": join([k], where)} for k in a if k not in b)
        for key, value in b.items():
            at = join([key], where)
            if key in a:
                yield from _changes(a[key], value, at)
            else:
                yield {"op": "add", "path": at, "value": copy.deepcopy(value)}
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _changes(x, y, join([i], where))
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
    kind, path = operation.get("op"), split(operation["path"])
    if kind not in ("add", "remove", "replace"):
        raise StrategyError(f"JSON patch: operation {kind!r} is not allowed. Allowed: add, remove, replace")
    if not path:
        return copy.deepcopy(operation["value"])
    try:
        parent = get(value, path[:-1])
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
