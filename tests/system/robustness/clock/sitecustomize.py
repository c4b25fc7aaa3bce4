"""A clock that can be set: the wall clock is off by the seconds that a file says, in every process.

`time.time` is what libraries read, `store.datetime` where vqkit reads the date.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

_file = os.environ.get("VQKIT_TEST_CLOCK")
_time, _time_ns = time.time, time.time_ns


def _offset() -> float:
    try:
        with open(str(_file)) as f:
            return float(f.read() or 0)
    except (OSError, ValueError):
        return 0.0


class _Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.fromtimestamp(_time() + _offset(), tz or UTC)


if _file:
    from vqkit.runs import store

    time.time = lambda: _time() + _offset()
    time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
    store.datetime = _Clock  # type: ignore[misc]
