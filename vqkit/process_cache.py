"""What a warm kernel keeps from one variant for the next: things that cost time to make and never change.

Nothing is kept in an ordinary process. The arrays of `Data` are read-only, and vqkit changes no user's model.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any


@dataclass
class _Kept:
    key: Hashable
    value: Any


_kept: dict[str, _Kept] = {}
_on = False


def enable() -> None:
    """Keep things from now on; called in warm kernels only."""
    global _on
    _on = True


def once(kind: str, key: Hashable, make: Callable[[], Any]) -> Any:
    """The thing that was made before for the same key, else a new one.

    Args:
        kind: one thing of each kind is kept, the last.
        key: everything that decides what `make` returns.
        make: called where nothing is kept for the key.

    Returns:
        What `make` returned, now or before.
    """
    if not _on:
        return make()
    found = _kept.get(kind)
    if found is None or found.key != key:
        # What was there is released first: two models at once are one too many.
        if _kept.pop(kind, None) is not None:
            gc.unfreeze()
            gc.collect()
        value = make()
        _kept[kind] = found = _Kept(key, value)
    return found.value
