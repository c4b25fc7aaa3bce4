"""Batch normalization into the weights before it, or into a 1x1 depthwise convolution of its own."""

from __future__ import annotations

import numpy as np

from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.match import Chains, activation_name
from vqkit.graph.simplify import WEIGHTED

KERNEL = "kernel"


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold each batch normalization into the convolution or dense layer that alone feeds it.

    With m = gamma / sqrt(variance + epsilon), per output channel and in float32:
    kernel <- kernel * m, bias <- beta + (bias - mean) * m.
    Source: Jacob et al. 2018 (arXiv:1712.05877) §3.2.
    """
    graph = graph.copy()
    for name in [n.name for n in graph.nodes if graph.kind(n) == "BatchNormalization"]:
        node = graph.node(name)
        if _channels_last(graph, node):
            found = Chains(graph).upstream(node, _foldable)
            if found is not None:
                _fold(graph, found[0], node)
    return graph


def _foldable(layer: Layer) -> bool:
    return (
        layer.kind in WEIGHTED
        and activation_name(layer) == "linear"
        and layer.config.get("data_format", "channels_last") == "channels_last"
    )


def _channels_last(graph: Graph, node: Node) -> bool:
    axis = graph.layer_of(node).config["axis"]
    axis = axis[0] if isinstance(axis, (list, tuple)) else axis
    return axis in (-1, len(graph.values[node.inputs[0]].shape) - 1)


def _fold(graph: Graph, conv_node: Node, bn_node: Node) -> None:
    conv, bn = graph.layer_of(conv_node), graph.layer_of(bn_node)
    factor, beta, mean = scale_and_shift(bn)
    kernel = conv.weights[KERNEL]
    bias = conv.weights.get("bias", np.zeros_like(factor))
    scaled = kernel * _along_output(conv.kind, factor, kernel.shape)
    weights = {KERNEL: scaled, "bias": beta + (bias - mean) * factor}
    graph.layers[conv.name] = conv.with_(config={"use_bias": True}, weights=weights)
    graph.bypass(bn_node)
    at = graph.node(conv_node.name)
    graph.update(at, origin=conv_node.origin + bn_node.origin)


def scale_and_shift(bn: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a batch normalization does at inference, as (factor, beta, mean), each of shape (channels,).

    The layer computes (x - mean) * factor + beta; without scale gamma is 1, without centre beta is 0.
    """
    mean, variance = bn.weights["moving_mean"], bn.weights["moving_variance"]
    root = np.sqrt(variance + np.float32(bn.config["epsilon"]))
    gamma = bn.weights.get("gamma", np.ones_like(mean))
    return gamma / root, bn.weights.get("beta", np.zeros_like(mean)), mean


def _along_output(kind: str, factor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "DepthwiseConv2D":
        return factor.reshape(shape[2], shape[3])
    return factor[:, None] if kind == "Conv2DTranspose" else factor


def batch_norm_to_depthwise(graph: Graph) -> Graph:
    """Turn each remaining batch normalization on images into a 1x1 depthwise convolution of the same name."""
    graph = graph.copy()
    for node in list(graph.nodes):
        value = graph.values[node.inputs[0]] if node.inputs else None
        if graph.kind(node) != "BatchNormalization" or value is None or len(value.shape) != 4:
            continue
        if _channels_last(graph, node) and Chains(graph).free(node):
            graph.layers[node.layer] = _depthwise(graph.layer_of(node), value.shape)
            graph.update(node, kwargs={})
    return graph


def _depthwise(bn: Layer, shape: tuple[int | None, ...]) -> Layer:
    import keras

    factor, beta, mean = scale_and_shift(bn)
    config = {"kernel_size": (1, 1), "use_bias": True}
    weights = {KERNEL: factor.reshape(1, 1, -1, 1), "bias": beta - mean * factor}
    return Layer(bn.name, keras.layers.DepthwiseConv2D, config, weights, {"input_shape": shape})
