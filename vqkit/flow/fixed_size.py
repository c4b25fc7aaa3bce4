"""Models with a fixed batch size are run in that size, however their data are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from vqkit.errors import DataError
from vqkit.flow.data import leaves
from vqkit.graph.ir import Graph


def size_of(model: Any) -> int | None:
    """The batch size that a graph or a Keras model is made for; None where any will do.

    Args:
        model: a `Graph`, or a Keras model.

    Raises:
        DataError: its inputs have several, so that no data fit.
    """
    if isinstance(model, Graph):
        shapes = [model.values[v].shape for v in model.inputs.values()]
    else:
        shapes = [tuple(t.shape) for t in getattr(model, "inputs", None) or ()]
    sizes = sorted({shape[0] for shape in shapes if shape and shape[0] is not None})
    if len(sizes) > 1:
        raise DataError(
            f"model {model.name!r}: its inputs have the fixed batch sizes {sizes}, which no data fit"
        )
    return sizes[0] if sizes else None


def in_size(
    source: Iterable[Any], model: Any, *, pad: bool = False, tell: Callable[[str], None] | None = None
) -> Iterator[Any]:
    """Batches in the size that a model is made for.

    Args:
        source: batches of any size: arrays, or lists or dicts of them.
        model: a `Graph`, or a Keras model; where its size is free, the batches stay as they are.
        pad: fill the last batch with its last sample; otherwise what fills none is left out.
        tell: called with a line for the report where samples were left out.

    Raises:
        DataError: without `pad`, the data do not fill one batch.
    """
    size = size_of(model)
    return iter(source) if size is None else _cut(source, size, pad, model.name, tell)


def whole(labels: Any, model: Any) -> Any:
    """Labels of the samples that `in_size` gives; None stays None."""
    size = None if labels is None else size_of(model)
    return labels if size is None else labels[: len(labels) // size * size]


def _cut(source: Iterable[Any], size: int, pad: bool, name: str,
         tell: Callable[[str], None] | None) -> Iterator[Any]:  # fmt: skip
    from keras import tree

    held, count, made, n = None, 0, 0, 0
    for batch in source:
        n += len(leaves(batch)[0])
        held = batch if held is None else tree.map_structure(lambda *a: np.concatenate(a), held, batch)
        count = len(leaves(held)[0])
        for start in range(0, count - size + 1, size):
            made += 1
            yield tree.map_structure(lambda a, at=start: a[at : at + size], held)
        rest = count % size
        held = tree.map_structure(lambda a, k=rest: a[len(a) - k :], held) if rest else None
    if held is not None and pad:
        missing = size - len(leaves(held)[0])
        yield tree.map_structure(lambda a: np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]), held)
    elif not made:
        raise DataError(f"model {name!r} takes batches of exactly {size} samples, the data hold {n}")
    elif held is not None and tell is not None:
        tell(
            f"model {name!r} takes batches of {size}: the last {n % size} of {n} samples fill none, left out"
        )
