"""Where the grids of a whole network end, computed at once: a few operations for all, not for each.

An operation on a single number costs a traced function as much as one on sixty-five, and for a small batch
the arithmetic of the positions would be two percent of an inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import numpy as np

from vqkit.primitives import kernels, native
from vqkit.primitives.spec import QuantizerSpec

_KNOWN: ContextVar[Mapping[int, Any]] = ContextVar("_KNOWN", default=MappingProxyType({}))


@contextmanager
def computed_together(layers: Iterable[Any]) -> Iterator[None]:
    """While a function is traced, these layers find the ends of their grids computed.

    Eagerly nothing happens: there the operations cost what they cost, and a function that is called inside
    could keep an end that is no longer true.

    Args:
        layers: fake-quantize layers that will be called; others of a kind that needs no end are passed over.
    """
    import tensorflow as tf

    layers = [layer for layer in layers if needs_end(layer.spec)]
    if tf.executing_eagerly() or len(layers) < 2:
        yield
        return
    codes = np.stack([kernels.far_code(layer.spec) for layer in layers])
    ends = kernels.far_end(codes, tf.stack([layer.quantize_pos.value for layer in layers]))
    known = zip(map(id, layers), tf.unstack(ends), strict=True)
    token = _KNOWN.set({**_KNOWN.get(), **dict(known)})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def needs_end(spec: QuantizerSpec) -> bool:
    """Whether the operation that will put a tensor on this grid takes the grid's end, not its position."""
    return spec.pow2 and kernels.v4_is_exact(spec) and not native.wanted(spec)


def known_end(layer: Any) -> Any:
    """The end of a layer's grid where it is computed already, else None.

    Args:
        layer: a fake-quantize layer.

    Returns:
        As `kernels.far_end`, shape ().
    """
    return _KNOWN.get().get(id(layer))
