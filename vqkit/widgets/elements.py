"""Parts of widgets with a script of their own: ordered messages, buttons, long actions, pickers.

ipykernel hands a widget's messages to whichever of its threads last wrote to that widget, and JupyterLab 4.5
and later to a thread of their own (a subshell of the kernel) while cells run in the main one; a job may end in
a third. So two messages of one page may be handled at the same time or in the wrong order. Here all parts of a
widget send through one queue: messages are numbered in the page, name what they are about, and are acted on one
after another, in that order; each is answered.

ipywidgets has no table with a cursor and no picture with clickable parts. Here any HTML or SVG becomes one: an
element with `data-key` can be chosen by click or arrow keys and activated by click, Enter or space; an element
with `data-sort` asks for another order. State is JSON; what is shown is made in Python, so that the static twin
is the same text.

The only importer of anywidget.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import ipywidgets as w

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


Pressed = Callable[[str], None]


@dataclass(frozen=True)
class Action:
    """One button.

    Attributes:
        words: on it.
        tip: what it does, shown on hover.
        pressed: called with the field's text, in its turn.
        icon: name of a Font Awesome icon; "" for none.
    """

    words: str
    tip: str
    pressed: Pressed
    icon: str = ""

    @property
    def key(self) -> str:
        """What the page calls it."""
        return self.words.lower().replace(" ", "-")


def actions(
    queue: Any,
    *buttons: Action,
    field: str = "",
    field_tip: str = "",
    value: str = "",
    disabled: Sequence[str] = (),
) -> Any:
    """A row of buttons.

    Args:
        queue: of the widget they are part of.
        buttons: from left to right.
        field: label of a text field before them; "" for none.
        field_tip: what its text is for.
        value: its text at first.
        disabled: keys of buttons that cannot be pressed.

    Returns:
        An ipywidget; set its `disabled` to a list of keys.
    """
    return _class()(queue, buttons, field=field, field_tip=field_tip, value=value, disabled=[*disabled])


@cache
def _class() -> type:
    import traitlets

    class Actions(base()):  # type: ignore[misc]
        """See `actions`."""

        _esm = script("actions.js")
        buttons = traitlets.List().tag(sync=True)
        disabled = traitlets.List().tag(sync=True)
        field = traitlets.Unicode().tag(sync=True)
        field_tip = traitlets.Unicode().tag(sync=True)
        value = traitlets.Unicode().tag(sync=True)

        def __init__(self, queue: Any, buttons: Sequence[Action], **kwargs: Any) -> None:
            self._pressed = {b.key: b.pressed for b in buttons}
            shown = [{"key": b.key, "words": b.words, "icon": b.icon, "tip": b.tip} for b in buttons]
            super().__init__(queue, buttons=shown, **kwargs)

        def heard(self, content: dict[str, Any]) -> None:
            self._pressed[str(content["key"])](str(content["value"]))

    return Actions


Tell = Callable[[float, str], None]
Work = Callable[[Tell, threading.Event], str]


class EvaluationJob:
    """*Evaluate* and *Cancel* with their progress.

    Args:
        queue: of the widget it is part of.
        work: called when the button is pressed; returns what is to be done in a thread of its own, a
            function that is given `tell(share, words)` and the event that asks it to stop, and returns a
            sentence.
        ended: called in that thread with the sentence, or the error's, and "done" or "error".
    """

    def __init__(self, queue: Any, work: Callable[[], Work], ended: Callable[[str, str], None]) -> None:
        self._work, self._ended = work, ended
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = 0.0
        self.buttons = actions(
            queue,
            Action("Evaluate", "quantize and measure with the strategy shown", lambda _: self.begin(), "play"),
            Action("Cancel", "stop evaluating", lambda _: self.stop(), "stop"),
            disabled=["cancel"],
        )
        self.progress = w.FloatProgress(
            min=0, max=1, description="", layout=w.Layout(width="150px"), tooltip="progress of the evaluation"
        )
        self.words = w.Label("", layout=w.Layout(width="210px"))
        self.box = w.HBox([self.buttons, self.progress, self.words])

    def begin(self) -> None:
        """Start, unless it is running."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._cancelled.clear()
        self._show(running=True)
        work = self._work()
        self._thread = threading.Thread(target=self._run, args=[work], name="vqkit-evaluate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop; it does at its next step."""
        self._cancelled.set()
        self.words.value = "stopping …"

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended; False when it still runs after that time."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, work: Work) -> None:
        try:
            text, kind = work(self._tell, self._cancelled), "done"
        except VqkitError as e:
            text, kind = str(e), "error"
        except Exception as e:
            # A thread has nobody to raise to; the notebook's page is where the person looks.
            text, kind = f"{type(e).__name__}: {e}", "error"
        self._show(running=False)
        self._ended(text, kind)

    def _tell(self, share: float, words: str) -> None:
        # The page need not repaint faster than a person can read.
        if share >= 1 or words != self.words.value or time.monotonic() - self._told > 0.2:
            self.progress.value, self.words.value = share, words
            self._told = time.monotonic()

    def _show(self, *, running: bool) -> None:
        self.buttons.disabled = ["evaluate" if running else "cancel"]
        self.progress.value = 0.0 if running else self.progress.value
        self.words.value = "starting …" if running else ""


Heard = Callable[[str], None]


def picker(queue: Any, html: str = "", *, label: str, chosen: str = "") -> Any:
    """Show HTML and let its parts be chosen.

    Args:
        queue: of the widget it is part of.
        html: with `data-key` on what can be chosen and `data-sort` on what sorts; already escaped.
        label: what it is, for screen readers.
        chosen: key of the part that is chosen at first.

    Returns:
        An ipywidget with the traits `html`, `chosen` and `label` to read and set, `dark` (whether the page
        is dark) and `mode` (what the page said an activation means, see `part`) to read, and the methods
        `on_activate` and `on_sort`.
    """
    return _picker_class()(queue, html=html, label=label, chosen=chosen)


@cache
def _picker_class() -> type:
    import traitlets

    class Picker(base()):  # type: ignore[misc]
        """See `picker`."""

        _esm = script("picker.js")
        html = traitlets.Unicode().tag(sync=True)
        chosen = traitlets.Unicode().tag(sync=True)
        label = traitlets.Unicode().tag(sync=True)
        dark = traitlets.Bool(False).tag(sync=True)
        mode = traitlets.Int(0).tag(sync=True)

        def __init__(self, queue: Any, **kwargs: Any) -> None:
            self._heard: dict[str, list[Heard]] = {"activate": [], "sort": []}
            super().__init__(queue, **kwargs)

        def on_activate(self, heard: Heard) -> None:
            """Call `heard(key)` when a part is clicked, or Enter or space is pressed on it."""
            self._heard["activate"].append(heard)

        def on_sort(self, heard: Heard) -> None:
            """Call `heard(column)` when an element with `data-sort` is pressed."""
            self._heard["sort"].append(heard)

        def heard(self, content: dict[str, Any]) -> None:
            # Set without an echo: the page may be further.
            if content.get("kind") == "choose":
                self.set_state({"chosen": str(content["key"])})
            if "mode" in content:
                self.set_state({"mode": int(content["mode"])})
            for heard in self._heard.get(content.get("kind", ""), []):
                heard(str(content["key"]))

    return Picker
