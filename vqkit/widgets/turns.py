"""One thing at a time: what a widget does when a person acts, whichever thread of the kernel is told.

JupyterLab 4.5 and later hand widget messages to a thread of their own (a subshell of the kernel) while cells
run in the main one, and a job may end in a third. All of them take turns here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from vqkit.errors import VqkitError


class Turns:
    """A lock with manners: handlers of one widget wait for each other, and errors become messages.

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
