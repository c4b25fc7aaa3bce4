"""One long action in the background: a button, its progress, a way to stop it, one message at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as w

from vqkit.errors import VqkitError
from vqkit.widgets.actions import Action, actions

Tell = Callable[[float, str], None]
Work = Callable[[Tell, threading.Event], str]


class Job:
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
            Action(
                "Evaluate", "quantize and measure with the strategy shown", lambda _: self.begin(), "play"
            ),
            Action("Cancel", "stop evaluating", lambda _: self.stop(), "stop"),
            disabled=["cancel"],
        )
        self.progress = w.FloatProgress(min=0, max=1, description="", layout=w.Layout(width="150px"),
                                        tooltip="progress of the evaluation")  # fmt: skip
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
