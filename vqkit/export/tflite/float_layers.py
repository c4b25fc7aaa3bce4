"""Layers that are not quantized, in TFLite: as TensorFlow's own converter writes them.

The converter gets one call of a layer and gives a small file; its graph becomes a part of ours. It changes no
weight, and nothing that is quantized passes through it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from vqkit.errors import ModelError
from vqkit.export.program import Step
from vqkit.export.tflite.writer import Writer

_LACKING = re.compile(r"'tf\.(\w+)' op")


def float_layer(w: Writer, step: Step) -> list[int]:
    """Write a traced call.

    Args:
        w: the writer.
        step: the call.

    Returns:
        A tensor for each output.

    Raises:
        ModelError: TFLite has no operator for something that the layer does.
    """
    names = [f"given_{i}" for i in range(len(step.values))]
    given = {name: w.float(v) for name, v in zip(names, step.values, strict=True)}
    program = w.program
    content = converted(
        step, {n: (program.shapes[v], program.dtypes[v]) for n, v in zip(names, step.values, strict=True)}
    )
    return list(w.b.graft(content, given, step.name))


def converted(step: Step, inputs: dict[str, tuple[Any, str]]) -> bytes:
    """The call as a TFLite file of TensorFlow's converter.

    Args:
        step: the call.
        inputs: name -> shape and dtype of each input.

    Raises:
        ModelError: TFLite has no operator for something that the layer does.
    """
    if step not in _CONVERTED:
        _CONVERTED[step] = _converted(step, inputs)
    return _CONVERTED[step]


_CONVERTED: WeakKeyDictionary[Step, bytes] = WeakKeyDictionary()
"""A file is written twice where its tensors are looked at."""


def _converted(step: Step, inputs: dict[str, tuple[Any, str]]) -> bytes:
    import tensorflow as tf

    traced, live = step.attrs["traced"], step.attrs["live"]
    signature = [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()]
    with _unrolled(live, signature):
        function = tf.function(traced.again, input_signature=signature, autograph=False)
        concrete = function.get_concrete_function()
    holder = tf.Module()
    holder.variables_of_it = list(concrete.graph.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder)
    try:
        with _quiet():
            content: bytes = converter.convert()
    except Exception as error:  # of a class of its own for each stage
        raise ModelError(_why(step, str(error))) from error
    return content


def _why(step: Step, message: str) -> str:
    kinds = ", ".join(dict.fromkeys(_LACKING.findall(message)))
    why = f"TFLite has no operator for its {kinds}" if kinds else " ".join(message.split())[:200]
    return f"layer {step.layer!r} cannot be exported to TFLite: {why}. Export onnx, or keras, h5, saved_model"


@contextlib.contextmanager
def _unrolled(live: Any, signature: list[Any]) -> Iterator[None]:
    """Recurrent layers of a known number of steps turn by turn: TFLite has no lists of tensors."""
    known = all(len(s.shape) < 3 or s.shape[1] is not None for s in signature)
    layers = live._flatten_layers() if known and hasattr(live, "_flatten_layers") else ()
    before = [(layer, layer.unroll) for layer in layers if hasattr(layer, "unroll")]
    try:
        for layer, _ in before:
            layer.unroll = True
        yield
    finally:
        for layer, unroll in before:
            layer.unroll = unroll


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter logs its stages, and writes what it cannot do to stderr before it raises it."""
    from absl import logging

    from vqkit.environment import silent

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with silent(2):
            yield
    finally:
        logging.set_verbosity(level)
