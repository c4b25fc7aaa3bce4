"""Bias correction: take the systematic part of the quantization error out of each layer's output.

Source: Nagel et al. 2019 (arXiv:1906.04721) §4.2, the empirical variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_io import compiled, replay
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.quantization.prepare import passing_through


def bias_shifts(
    graph: Graph,
    floats: Mapping[str, Any],
    fakes: Mapping[str, Any],
    batches: Iterable[Any],
    layers: Iterable[str],
) -> dict[str, np.ndarray]:
    """Mean error of each layer's output per channel, each layer fed by already corrected ones.

    Within a batch the error of a layer is subtracted before the next layer reads it, so one pass gives
    what correcting layer after layer would give.

    Args:
        graph: with fake-quantize layers inserted.
        floats: live objects of the float graph; fake-quantize layers pass values through.
        fakes: live objects of the quantized graph.
        batches: model inputs.
        layers: names of the layers to correct; channels last.

    Returns:
        Layer name -> E[quantized] - E[float], shape (channels,).
    """
    import tensorflow as tf

    wanted = set(layers)

    def step(inputs: Mapping[str, Any]) -> dict[str, Any]:
        targets: dict[int, Any] = {}
        shifts: dict[str, list[Any]] = {}

        def remember(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
            targets.update(zip(node.outputs, outputs, strict=True))
            return outputs

        def correct(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if node.layer not in wanted:
                return outputs
            error = outputs[0] - targets[node.output]
            shift = tf.reduce_mean(error, axis=list(range(error.shape.rank - 1)))
            shifts.setdefault(node.layer, []).append(shift)
            return (outputs[0] - shift,)

        replay(graph, floats, inputs, remember)
        replay(graph, fakes, inputs, correct)
        return {k: tf.add_n(v) / len(v) for k, v in shifts.items()}

    return _mean_over_batches(compiled(graph, step), batches)


def _mean_over_batches(step: Any, batches: Iterable[Any]) -> dict[str, np.ndarray]:
    from keras import tree

    total: dict[str, np.ndarray] = {}
    samples = 0
    for batch in batches:
        n = len(tree.flatten(batch)[0])
        samples += n
        for name, shift in step(batch).items():
            total[name] = total.get(name, np.zeros(shift.shape)) + n * np.asarray(shift, np.float64)
    return {k: (v / samples).astype(np.float32) for k, v in total.items()}


def correct_biases(
    graph: Graph,
    inserted: Iterable[str],
    live: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    weights: Graph | None = None,
) -> Graph:
    """Measure and remove the mean error of every layer that has a bias.

    Args:
        graph: float weights, with fake-quantize layers inserted.
        inserted: names of the layers that the float model has not.
        live: live objects of the quantized model, decisions assigned.
        batches: calibration inputs.
        weights: the graph with the weights that `live` was quantized from, where they are no longer the
            float model's.

    Returns:
        The graph (that of `weights`) with corrected float biases.
    """
    floats = passing_through(make_all_live(graph), inserted)
    shifts = bias_shifts(graph, floats, live, batches, correctable(graph))
    return with_shifted_biases(weights or graph, shifts)


def correctable(graph: Graph) -> list[str]:
    """Names of the layers whose bias can take a correction: weighted, with a bias, candidates."""
    return [
        n.layer
        for n in graph.nodes
        if graph.kind(n) in WEIGHTED and "bias" in graph.layers[n.layer].weights and graph.is_candidate(n)
    ]


def with_shifted_biases(graph: Graph, shifts: Mapping[str, np.ndarray]) -> Graph:
    """The graph with each layer's mean error taken off its bias.

    Args:
        graph: float weights.
        shifts: layer name -> E[quantized] - E[float], shape (channels,).

    Returns:
        A new graph.
    """
    graph = graph.copy()
    for name, shift in shifts.items():
        layer = graph.layers[name]
        graph.layers[name] = layer.with_(weights={**layer.weights, "bias": layer.weights["bias"] - shift})
    return graph
