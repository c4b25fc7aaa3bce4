"""JSON pointers (RFC 6901) into plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


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
