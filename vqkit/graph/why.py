"""Why Keras refused: the point of its message, without the configurations that it prints before it."""

from __future__ import annotations

import re

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
