"""How much each element of a net's inner values tells about its answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vqkit.graph.execute import Partition
from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.keras_io import replay
from vqkit.graph.passes.match import activation_name
from vqkit.primitives.native import traced_here

INSERTED = ("FakeQuantize", "RoundToType")


def slices(n: int, size: int) -> Iterator[slice]:
    """The parts of so many samples, each of at most a size."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def free_batch(x: Any) -> Any:
    """A tensor's shape and type, the number of samples left open."""
    import tensorflow as tf

    return tf.TensorSpec((None, *x.shape[1:]), x.dtype)


def before_softmax(graph: Graph, value: int) -> bool:
    """Whether a value is read by a softmax, quantized or not, and by nothing else."""
    readers = graph.consumers()[value]
    if len(readers) != 1:
        return False
    layer = graph.layer_of(readers[0])
    return before_softmax(graph, readers[0].output) if layer.kind in INSERTED else _is_softmax(layer)


def _is_softmax(layer: Layer) -> bool:
    return layer.kind == "Softmax" or (layer.kind == "Activation" and activation_name(layer) == "softmax")


def fisher(
    graph: Graph, floats: Mapping[str, Any], data: Mapping[int, Any], units: Sequence[Partition], size: int, seed: int
) -> dict[int, Any]:
    """How much each element of the units' outputs tells about the net's answer.

    The diagonal of the Fisher information, which is the curvature of the divergence from the float net: the mean
    square of the gradient of an answer's log-probability, the answer drawn from the float net's probabilities,
    or, of outputs in front of no softmax, from a normal distribution around them.

    Args:
        graph: with fake-quantize layers inserted.
        floats: live objects of the float graph.
        data: value id of each input -> samples.
        units: whose outputs.
        size: samples at once.
        seed: of the draw.

    Returns:
        Value id -> mean over the samples, with mean 1, shape (1, …).
    """
    import tensorflow as tf

    wanted = {v for unit in units for v in unit.writes}
    ends = list(dict.fromkeys(graph.outputs))
    logits = {v: w for v in ends if (w := _logits(graph, v)) is not None}

    def squares(inputs: Mapping[str, Any], seeds: Any) -> dict[str, Any]:
        seen: dict[int, Any] = {}

        def look(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
            for v, x in zip(node.outputs, outputs, strict=True):
                if v in wanted:
                    tape.watch(x)
                seen[v] = x
            return outputs

        with tf.GradientTape() as tape:
            replay(graph, floats, inputs, look)
            answers = [
                _answer(seen[logits.get(v, v)], v in logits, seeds + np.array([0, i])) for i, v in enumerate(ends)
            ]
            score = tf.add_n(answers)
        watched = {v: seen[v] for v in wanted}
        found = tape.gradient(score, watched, unconnected_gradients="zero")
        return {str(v): tf.reduce_sum(tf.square(g), 0, keepdims=True) for v, g in found.items()}

    names = {v: name for name, v in graph.inputs.items()}
    signature = [{names[v]: free_batch(x) for v, x in data.items()}, tf.TensorSpec([2], tf.int32)]
    run, total = traced_here(squares, signature), dict[int, Any]()
    for part in slices(len(next(iter(data.values()))), size):
        for v, g in run({names[i]: x[part] for i, x in data.items()}, tf.constant([seed, part.start])).items():
            total[int(v)] = g + total.get(int(v), 0.0)
    return {v: tf.math.divide_no_nan(g, tf.reduce_mean(g)) for v, g in total.items()}


def _logits(graph: Graph, value: int) -> int | None:
    """The scores in front of the softmax that makes a value; None where none does."""
    node = graph.producers().get(value)
    if node is None:
        return None
    layer = graph.layer_of(node)
    if layer.kind in INSERTED:
        return _logits(graph, node.inputs[0])
    return node.inputs[0] if _is_softmax(layer) else None


def _answer(output: Any, scores: bool, seed: Any) -> Any:
    """The log-probability of an answer that is drawn from an output, up to a constant."""
    import tensorflow as tf

    flat = tf.reshape(output, (-1, output.shape[-1] or 1)) if scores else output
    if not scores:
        return tf.reduce_sum(flat * tf.random.stateless_normal(tf.shape(flat), seed))
    logs = tf.nn.log_softmax(flat)
    drawn = tf.random.stateless_categorical(tf.stop_gradient(logs), 1, seed)
    return tf.reduce_sum(tf.gather(logs, drawn, axis=1, batch_dims=1))
