"""Ordered messages between page and kernel, handled one at a time.

Widgets with a script of their own: what ipywidgets lacks; the only importer of anywidget.

ipykernel hands a widget's messages to whichever of its threads last wrote to that widget, so two messages of
one page may be handled at the same time or in the wrong order. Here all parts of a widget send through one
queue: messages are numbered in the page, name what they are about, and are acted on one after another, in
that order; each is answered.

One thing at a time: what a widget does when a person acts, whichever thread of the kernel is told.

JupyterLab 4.5 and later hand widget messages to a thread of their own (a subshell of the kernel) while cells
run in the main one, and a job may end in a third. All of them take turns here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

from vqkit.comparison.page import css
from vqkit.errors import VqkitError


class SerialHandler:
    """Serializes the handlers of one widget: each waits for the one before it, and errors become messages.

    Args:
        say: shows a person what was not possible, in words.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def taken(self, handler: Callable[..., Any]) -> Callable[..., None]:
        """A handler that waits for its turn.

        Args:
            handler: its `VqkitError`s are shown; any other error is shown too, and raised, so that
                JupyterLab's log has the traceback.
        """

        @wraps(handler)
        def turn(*args: Any) -> None:
            with self:
                try:
                    handler(*args)
                except VqkitError as e:
                    self._say(str(e))
                except Exception as e:
                    self._say(f"{type(e).__name__}: {e}; its traceback is in JupyterLab's log console")
                    raise

        return turn


Ear = Callable[[dict[str, Any]], None]
_HERE = Path(__file__).resolve().parent / "static"
_NOTHING = "export default { render() {} };"


def script(name: str) -> str:
    """A script of this folder, with the outbox before it.

    Args:
        name: file name, e.g. "picker.js".
    """
    return "\n".join((_HERE / part).read_text("utf-8") for part in ("outbox.js", name))


def queue(serial: SerialHandler) -> Any:
    """The queue of one widget; its parts are made with it.

    Args:
        serial: what else acts on the same state waits in.
    """
    return _classes()[0](serial)


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

        def __init__(self, serial: SerialHandler) -> None:
            super().__init__()
            self.serial = serial
            self._ears: dict[str, Ear] = {}
            self._waiting: dict[str, dict[int, dict[str, Any]]] = {}
            self._done: dict[str, int] = {}
            self.on_msg(self._arrived)

        def hear(self, name: str, ear: Ear) -> None:
            """Call `ear` with the messages that are for `name`."""
            self._ears[name] = ear

        def _arrived(self, _: Any, content: dict[str, Any], __: Any) -> None:
            view = str(content["view"])
            with self.serial:
                waiting = self._waiting.setdefault(view, {})
                waiting[int(content["seq"])] = content
                while (number := self._done.get(view, 0) + 1) in waiting:
                    self._done[view] = number
                    self._act(waiting.pop(number))

        def _act(self, content: dict[str, Any]) -> None:
            try:
                self.serial.taken(self._ears[str(content["to"])])(content)
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


def mimebundle(live: Any, static: str, text: str) -> dict[str, Any]:
    """What a notebook stores of a widget: the live view, and the same as plain HTML and text.

    Args:
        live: the outermost ipywidget.
        static: HTML for where no kernel is.
        text: for terminals.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": live.model_id}
    return {"application/vnd.jupyter.widget-view+json": view, "text/html": static, "text/plain": text}
