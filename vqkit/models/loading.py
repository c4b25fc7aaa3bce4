"""How Keras reads a file: weights counted before memory is taken, and why it refused.

The weights of a model from a file are counted while it is made, before memory is taken for each.

Why Keras refused: the point of its message, without the configurations that it prints before it.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vqkit.limits import MemoryBudget

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def weights_within(room: MemoryBudget, *, zeros: bool = False) -> Iterator[None]:
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


_MOST = 2000
_POINT = re.compile(r"Exception encountered:\s*|Original error message:\s*")
_CONFIG = re.compile(r"\bconfig=\{")


def reason(error: BaseException) -> str:
    """What an error says, whole, on one line.

    Args:
        error: of Keras or TensorFlow.

    Returns:
        Its class and message; where Keras wraps another error, that one's words; a configuration that it
        prints is left out. Only a message of more than 2000 characters is cut, and then in its middle.
    """
    text = str(error)
    parts = _POINT.split(text)
    if len(parts) > 1 and parts[-1].strip():
        text = parts[-1]
    text = " ".join(_without_configuration(text).split())
    if len(text) > _MOST:
        text = f"{text[: _MOST // 2]} … {text[-_MOST // 2 :]}"
    return f"{type(error).__name__}: {text}"


def subclassed(name: object) -> str:
    """One message for a file whose model's `call` is Python code.

    Args:
        name: of its class.
    """
    return (
        f"holds a subclassed model ({name}): how its layers are connected is said by its Python code, which "
        "is not in the file. Build it in code as a functional model (x = keras.Input(shape); "
        "keras.Model(x, model.call(x)) does where call() uses only Keras layers and keras.ops), load its "
        "weights, and pass or save that"
    )


def _without_configuration(text: str) -> str:
    """Braces after `config=` are emptied; nested ones with them."""
    while (found := _CONFIG.search(text)) is not None:
        depth, at = 0, found.end() - 1
        for at in range(found.end() - 1, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                break
        text = f"{text[: found.start()]}config {{…}}{text[at + 1 :]}"
    return text
