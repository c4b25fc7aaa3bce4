"""The weights of a model from a file are counted while it is made, before memory is taken for each."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vqkit.limits import Room

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def weights_within(room: Room, *, zeros: bool = False) -> Iterator[None]:
    """While a model is made from a file, hold the sum of its weights against what the file may claim.

    A configuration of a few bytes can ask for any number of weights; Keras takes and fills the memory.

    Args:
        room: of the file.
        zeros: nothing is drawn: all weights are read from the file next.

    Raises:
        ModelError: from within, where the next weight would exceed the room.
    """
    from keras import Layer

    original, total = Layer.add_weight, 0

    def add_weight(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal total
        shape = kwargs.get("shape") or (args[0] if args else ())
        dtype = kwargs.get("dtype") or (args[2] if len(args) > 2 else None) or self.variable_dtype
        sizes = [int(n) for n in (shape if isinstance(shape, list | tuple) else (shape,)) if n is not None]
        total += math.prod(sizes) * _itemsize(dtype)
        room.hold(total, f"its configuration (at layer {self.name!r})")
        initializer = args[1] if len(args) > 1 else kwargs.get("initializer")
        # Drawing an orthogonal matrix takes some ten times its memory.
        if zeros or type(initializer).__name__.startswith("Orthogonal") or "orthogonal" in str(initializer):
            args, given = args[:1], args[2:]
            kwargs.update(initializer="zeros", **dict(zip(("dtype",), given, strict=False)))
        return original(self, *args, **kwargs)

    with _ONE_AT_A_TIME:
        Layer.add_weight = add_weight
        try:
            yield
        finally:
            Layer.add_weight = original


def _itemsize(dtype: Any) -> int:
    bits = re.search(r"\d+", str(getattr(dtype, "name", dtype)))
    return max(1, int(bits.group()) // 8) if bits else 4
