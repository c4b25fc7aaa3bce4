"""Two processes that write the same thing to a tracking store at once: the loser asks again."""

from __future__ import annotations

import time
from collections.abc import Callable

# What databases say when a row that was not there a moment ago is there now.
_BEATEN = ("IntegrityError", "UNIQUE constraint", "duplicate key", "Duplicate entry", "UniqueViolation")


def unless_beaten(write: Callable[[], object], *, tries: int = 6) -> None:
    """Call a write that looks whether a row is there and then makes it, which mlflow does without a lock.

    Args:
        write: may be called again; it finds what another process has made meanwhile.
        tries: at most so many; waits from 0.05 s, doubling.

    Raises:
        Exception: what `write` raises at last, or at once where it is not about a race.
    """
    for left in reversed(range(tries)):
        try:
            write()
            return
        except Exception as error:
            if not left or not any(word in str(error) for word in _BEATEN):
                raise
            time.sleep(0.05 * 2 ** (tries - 1 - left))
