"""What a warm kernel keeps from one variant for the next: things that cost time to make and never change.

Nothing is kept in an ordinary process. What is kept is compared after each variant with what it was, because
a notebook may change a model or an array; then it is not kept any longer, and neither is the kernel.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from vqkit import digest


@dataclass
class _Kept:
    key: Hashable
    value: Any
    print: str


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
        _kept[kind] = found = _Kept(key, value, fingerprint(value))
    return found.value


def changed() -> list[str]:
    """Kinds of what is kept and is not what it was."""
    return [kind for kind, thing in _kept.items() if fingerprint(thing.value) != thing.print]


def fingerprint(value: Any) -> str:
    """Digest of what a variant could change in a Keras model; "" for things that guard themselves.

    A model counts with its configuration, its weights, and the functions set on its layers; the arrays of
    `Data` are read-only.
    """
    if not hasattr(value, "get_weights"):
        return ""
    layers = [value, *value._flatten_layers(include_self=False)]
    functions = [sorted((k, id(v)) for k, v in vars(layer).items() if _function(v)) for layer in layers]
    config = repr(value.get_config())
    return digest.of_json([config, functions, *map(digest.of_array, value.get_weights())])


def _function(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, types.MethodType))
