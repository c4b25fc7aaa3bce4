"""What the page sends when a person acts on a part of a widget."""

from __future__ import annotations

from typing import Any


def say(part: Any, **content: Any) -> None:
    """One message, as the page numbers it.

    Args:
        part: made with a queue.
        content: of the message.
    """
    line = part.line
    number = line._done.get("hand", 0) + 1
    line._handle_custom_msg({**content, "to": part.name, "seq": number, "view": "hand"}, [])


def press(part: Any, key: str, value: str = "") -> None:
    """A button of a row of actions."""
    assert key not in part.disabled, f"{key} cannot be pressed"
    say(part, kind="press", key=key, value=value)
