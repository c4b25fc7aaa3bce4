"""What a person sees of a widget, and what the page sends when a person acts on a part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

_SAID: Counter[str] = Counter()


def say(part: Any, **content: Any) -> None:
    """One message, as the page numbers it.

    Args:
        part: made with a queue.
        content: of the message.
    """
    line = part.line
    _SAID[line.model_id] += 1
    hear(line, {**content, "to": part.name, "seq": _SAID[line.model_id], "view": "hand"})


def hear(line: Any, content: dict[str, Any]) -> None:
    """Hand a message to a queue, where ipywidgets does: it has no public name for that."""
    line._handle_custom_msg(content, [])


def press(part: Any, key: str, value: str = "") -> None:
    """A button of a row of actions."""
    assert key not in part.disabled, f"{key} cannot be pressed"
    say(part, kind="press", key=key, value=value)


def parts(widget: Any) -> Iterator[tuple[str, Any]]:
    """What a widget is made of, each part with the words that name it on the page."""
    children = getattr(widget, "children", ())
    titles = getattr(widget, "titles", ())
    for i, child in enumerate(children):
        buttons = [b["words"] for b in getattr(child, "buttons", ())]
        own = getattr(child, "description", "") or getattr(child, "label", "") or "|".join(buttons)
        yield (titles[i] if i < len(titles) and not own else own), child
        yield from parts(child)


def part(widget: Any, words: str) -> Any:
    """The one part that is named by some words: a control, a picker, a tab, or the row of a button."""
    (found,) = [p for name, p in parts(widget) if words in name.split("|")]
    return found


def having(widget: Any, trait: str) -> Any:
    """The one part that has a trait, where no words name it."""
    (found,) = [p for _, p in parts(widget) if p.has_trait(trait)]
    return found


def told(widget: Any) -> str:
    """All text of a page, as HTML."""
    plain = [p.value for _, p in parts(widget) if type(p).__name__ == "HTML"]
    return "".join([*plain, *([widget.value] if type(widget).__name__ == "HTML" else [])])
