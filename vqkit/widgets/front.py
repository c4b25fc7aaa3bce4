"""Widgets with a script of their own: what ipywidgets lacks; the only importer of anywidget.

ipykernel hands a widget's messages to whichever of its threads last wrote to that widget, so two messages of
one page may be handled at the same time or in the wrong order. Here all parts of a widget send through one
queue: messages are numbered in the page, name what they are about, and are acted on one after another, in
that order; each is answered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from vqkit.widgets.style import css
from vqkit.widgets.turns import Turns

Ear = Callable[[dict[str, Any]], None]
_HERE = Path(__file__).resolve().parent
_NOTHING = "export default { render() {} };"


def script(name: str) -> str:
    """A script of this folder, with the outbox before it.

    Args:
        name: file name, e.g. "picker.js".
    """
    return "\n".join((_HERE / part).read_text("utf-8") for part in ("outbox.js", name))


def queue(turns: Turns) -> Any:
    """The queue of one widget; its parts are made with it.

    Args:
        turns: what else acts on the same state waits in.
    """
    return _classes()[0](turns)


def base() -> Any:
    """The base class of our parts; its `heard(content)` is called for each message, in its turn."""
    return _classes()[1]


@cache
def _classes() -> tuple[type, type]:
    """Made on first use: static pages need no anywidget."""
    import anywidget
    import traitlets

    class Queue(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore]
        """See `queue`."""

        _esm = _NOTHING

        def __init__(self, turns: Turns) -> None:
            super().__init__()
            self.turns = turns
            self._ears: dict[str, Ear] = {}
            self._waiting: dict[str, dict[int, dict[str, Any]]] = {}
            self._done: dict[str, int] = {}
            self.on_msg(self._arrived)

        def hear(self, name: str, ear: Ear) -> None:
            """Call `ear` with the messages that are for `name`."""
            self._ears[name] = ear

        def _arrived(self, _: Any, content: dict[str, Any], __: Any) -> None:
            view = str(content["view"])
            with self.turns:
                waiting = self._waiting.setdefault(view, {})
                waiting[int(content["seq"])] = content
                while (number := self._done.get(view, 0) + 1) in waiting:
                    self._done[view] = number
                    self._act(waiting.pop(number))

        def _act(self, content: dict[str, Any]) -> None:
            try:
                self.turns.taken(self._ears[str(content["to"])])(content)
            except Exception:
                # Told to the person already; the next message is as good as this one was bad.
                logging.getLogger(__name__).exception("a widget's message failed: %s", content)
            finally:
                self.send({"answer": content["seq"], "view": content["view"]})

    class Front(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore]
        """See `base`."""

        _css = css()
        queue = traitlets.Unicode().tag(sync=True)
        name = traitlets.Unicode().tag(sync=True)

        def __init__(self, queue: Queue, **kwargs: Any) -> None:
            super().__init__(queue=queue.model_id, **kwargs)
            self.name, self.line = self.model_id, queue
            queue.hear(self.name, self.heard)

        def heard(self, content: dict[str, Any]) -> None:
            """What a person did; for the class below to say."""
            raise NotImplementedError

    return Queue, Front
