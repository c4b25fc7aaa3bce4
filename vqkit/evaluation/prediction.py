"""What a model gives, through one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.primitives.native import traced_here
from vqkit.quantization.data import EVAL_BATCH, batches, leaves
from vqkit.quantization.float_model import arranged, in_size, size_of
from vqkit.quantization.quantized import Quantized

if TYPE_CHECKING:
    import keras


def predict(model: keras.Model | Quantized, x: Any, *, batch_size: int = EVAL_BATCH) -> Any:
    """Outputs of a Keras model through one compiled function, without `predict`'s per-call overhead.

    Args:
        model: any Keras model, or a `Quantized`.
        x: inputs, array(s) of shape (n, …) or a data set.
        batch_size: samples at once, for arrays; a model with a fixed batch size is run in that.

    Returns:
        float32 outputs of shape (n, …), nested as the model's.
    """
    return asking(model, batch_size)(x)


def asking(model: keras.Model | Quantized, batch_size: int = EVAL_BATCH) -> Callable[[Any], Any]:
    """`predict` of one model, which is compiled once, for inputs that all have the first ones' structure."""
    net, known = model.model if isinstance(model, Quantized) else model, list[Callable[[Any], Any]]()

    def ask(x: Any) -> Any:
        def run(first: Any) -> Callable[[Any], Any]:
            known[:] = known or [in_one_function(net, first)]
            return known[0]

        return _all_outputs(net, x, batch_size, run)

    return ask


def _all_outputs(model: keras.Model, x: Any, batch_size: int, compiled: Callable[[Any], Callable[[Any], Any]]) -> Any:
    from keras import tree

    n = 0

    def counted() -> Iterator[Any]:
        nonlocal n
        for batch in batches(x, batch_size=batch_size):
            n += len(leaves(batch)[0])
            yield batch

    source = in_size(counted(), model, pad=True)
    first = next(source)
    run = compiled(first)
    parts = [run(b) for b in chain([first], source)]
    return tree.map_structure(lambda *p: np.concatenate([np.asarray(q) for q in p])[:n], *parts)


def in_one_function(model: keras.Model, like: Any) -> Callable[[Any], Any]:
    """A model's inference, compiled for batches of any size.

    Args:
        model: any Keras model.
        like: a batch, for its structure, shapes and dtypes.

    Returns:
        A function of a batch that gives the model's outputs.
    """
    import tensorflow as tf
    from keras import tree

    size = size_of(model)
    free = tree.map_structure(lambda a: tf.TensorSpec((size, *a.shape[1:]), a.dtype), like)
    run = traced_here(lambda batch: model(arranged(model, batch), training=False), [free])
    return lambda batch: run(tree.map_structure(tf.convert_to_tensor, batch))


def in_parts(model: keras.Model, like: Any) -> Callable[[Any], Any]:
    """`in_one_function` for batches of any size, also of a model that is made for one.

    Args:
        model: any Keras model.
        like: a batch, for its structure, shapes and dtypes.

    Returns:
        A function from a batch to outputs as arrays.
    """
    from keras import tree

    run = in_one_function(model, like)

    def outputs(batch: Any) -> Any:
        parts = [run(b) for b in in_size([batch], model, pad=True)]
        n = len(leaves(batch)[0])
        return tree.map_structure(lambda *p: np.concatenate([np.asarray(q) for q in p])[:n], *parts)

    return outputs
