"""One long action in the background: a button, its progress, a way to stop it, one message at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import ipywidgets as w

from vqkit.errors import VqkitError

Tell = Callable[[float, str], None]


class Job:
    """*Evaluate* and *Cancel* with their progress.

    Args:
        work: does the work in a thread of its own; is given `tell(share, words)` and the event that asks it
            to stop, and returns a sentence.
        ended: called in that thread with the sentence, or the error's, and "done" or "error".
    """

    def __init__(
        self, work: Callable[[Tell, threading.Event], str], ended: Callable[[str, str], None]
    ) -> None:
        self._work, self._ended = work, ended
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = 0.0
        self.start = w.Button(description="Evaluate", icon="play", button_style="primary",
                              tooltip="quantize and measure with the strategy shown")  # fmt: skip
        self.cancel = w.Button(description="Cancel", icon="stop", disabled=True, tooltip="stop evaluating")
        self.progress = w.FloatProgress(min=0, max=1, description="", layout=w.Layout(width="150px"),
                                        tooltip="progress of the evaluation")  # fmt: skip
        self.words = w.Label("", layout=w.Layout(width="210px"))
        self.start.on_click(lambda _: self.begin())
        self.cancel.on_click(lambda _: self.stop())
        self.box = w.HBox([self.start, self.cancel, self.progress, self.words])

    def begin(self) -> None:
        """Start, unless it is running."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._cancelled.clear()
        self._show(running=True)
        self._thread = threading.Thread(target=self._run, name="vqkit-evaluate", daemon=True)
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

    def _run(self) -> None:
        try:
            text, kind = self._work(self._tell, self._cancelled), "done"
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
        self.start.disabled, self.cancel.disabled = running, not running
        self.progress.value = 0.0 if running else self.progress.value
        self.words.value = "starting …" if running else ""
