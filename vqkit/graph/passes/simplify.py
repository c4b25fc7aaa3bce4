"""Passes that make later ones simpler: drop what inference does not need, split what is fused.

Batch normalization into the weights before it, or into a 1x1 depthwise convolution of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from vqkit.graph.ir import Graph, Layer, Node, Ref, refs
from vqkit.graph.passes.match import Chains, activation_name, reference_name

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "Conv2DTranspose")
WEIGHTED = (*CONVOLUTIONS, "Dense")
EXTRA_CONVOLUTIONS = ("Conv1D", "Conv3D", "DepthwiseConv1D", "Conv1DTranspose", "Conv3DTranspose")
EXTRA_WEIGHTED = (*WEIGHTED, *EXTRA_CONVOLUTIONS, "EinsumDense")
"""Weighted layers where a strategy speaks of more than those of version 2.5."""
DROPOUTS = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
)
_ACTIVATION_OPS = {
    "op:Sigmoid": "sigmoid",
    "op:Silu": "silu",
    "op:Tanh": "tanh",
    "op:Elu": "elu",
    "op:Gelu": "gelu",
    "op:Softplus": "softplus",
    "op:HardSigmoid": "hard_sigmoid",
}
_MERGE_OPS = {"op:Add": "Add", "op:Multiply": "Multiply"}


def remove_dropout(graph: Graph, *, vitis_compat: bool = False) -> Graph:
    """Remove layers that are the identity at inference; with `vitis_compat` Dropout only."""
    graph = graph.copy()
    kinds = ("Dropout",) if vitis_compat else DROPOUTS
    for name in [n.name for n in graph.nodes]:
        node = graph.node(name)
        if graph.kind(node) in kinds and graph.is_candidate(node) and len(set(node.inputs)) == 1:
            heir = _heir(graph, node)
            if heir is not None:
                graph.update(heir, origin=heir.origin + node.origin)
                graph.bypass(node)
    return graph


def _heir(graph: Graph, gone: Node) -> Node | None:
    """What a removed layer's name then means: its reader, or its producer at the end of the model."""
    return next(iter(graph.consumers()[gone.output]), graph.producers().get(gone.inputs[0]))


def separate_activations(graph: Graph, weighted: Collection[str] = WEIGHTED) -> Graph:
    """Split `activation=` off convolutions and dense layers, so that it can be quantized on its own.

    The new layer is named `<layer>_<activation>`, as the strategy format's tools name it.

    Args:
        graph: to rewrite.
        weighted: class names of the layers that count as such.
    """
    import keras

    graph = graph.copy()
    fixed = _fixed(graph)
    fused = {
        name: layer
        for name, layer in graph.layers.items()
        if layer.kind in weighted and activation_name(layer) != "linear" and name not in fixed
    }
    for node in list(graph.nodes):
        if node.layer in fused:
            layer = fused[node.layer]
            name = graph.unique(f"{node.name}_{reference_name(layer)}".replace("@", "_"))
            graph.layers[layer.name] = layer.with_(config={"activation": "linear"})
            config = {"activation": layer.config["activation"]}
            activation = Layer(name, keras.layers.Activation, config, source=layer.source)
            graph.insert_after(node.output, activation, origin=node.origin)
            if graph.candidates is not None:
                graph.candidates.add(name)
    return graph


def show_inline_activations(graph: Graph) -> Graph:
    """Put functions that weighted layers compute themselves into nodes of their own, as `InlineActivation`.

    A quantizer can then stand in front of the function. Linear and ReLU stay: the quantizer stands behind.
    """
    from vqkit.graph.passes.layers import InlineActivation

    graph = graph.copy()
    chains = Chains(graph)
    for node in list(graph.nodes):
        layer = graph.layer_of(node)
        if layer.kind in WEIGHTED and activation_name(layer) not in ("linear", "relu") and chains.free(node):
            graph.layers[layer.name] = layer.with_(config={"activation": "linear"})
            config = {"activation": layer.config["activation"]}
            name = graph.unique(f"{node.name}_{reference_name(layer)}")
            shown = Layer(name, InlineActivation, config, source=layer.source)
            added = graph.insert_after(node.output, shown, origin=node.origin)
            if graph.candidates is not None:
                graph.candidates.add(added.name)
    return graph


def _fixed(graph: Graph) -> set[str]:
    """Layers with a call that may not be changed: a shared layer changes at all its calls or at none."""
    return {n.layer for n in graph.nodes if not graph.is_candidate(n)}


def relu6_to_relu(graph: Graph) -> Graph:
    """Replace ReLU6 by ReLU (the strategy's `convert_relu6_to_relu`)."""
    graph = graph.copy()
    for name in graph.layers.keys() - _fixed(graph):
        layer = graph.layers[name]
        if layer.kind == "ReLU" and layer.config.get("max_value") == 6.0:
            graph.layers[layer.name] = layer.with_(config={"max_value": None})
        if layer.kind == "Activation" and activation_name(layer) == "relu6":
            graph.layers[layer.name] = layer.with_(config={"activation": "relu"})
    return graph


def ops_to_layers(graph: Graph) -> Graph:
    """Replace Keras operations by the layers that compute the same, so that quantizers find them.

    `x + y`, `keras.ops.relu(x)` and their like become Add, ReLU, …; an operation with a constant
    operand, with broadcasting or without such a layer stays as it is.
    """
    graph = graph.copy()
    fixed = _fixed(graph)
    for name in [n for n, layer in graph.layers.items() if layer.is_op and n not in fixed]:
        calls = [n for n in graph.nodes if n.layer == name]
        new = [made for n in calls if (made := _as_layer(graph, n)) is not None]
        if len(new) == len(calls):  # an operation of a model that is called twice has two calls
            for node, (cls, config, args) in zip(calls, new, strict=True):
                graph.layers[name] = Layer(name, cls, config)
                graph.update(node, args=args, kwargs={})
    return graph


def _as_layer(graph: Graph, node: Node) -> tuple[type, dict[str, Any], tuple[Any, ...]] | None:
    import keras

    kind, op = graph.kind(node), graph.layer_of(node).source
    layers = keras.layers
    inputs = tuple(refs((node.args, dict(node.kwargs))))
    if kind in _ACTIVATION_OPS and len(inputs) == 1:
        return layers.Activation, {"activation": _ACTIVATION_OPS[kind]}, inputs
    if kind == "op:Relu":
        return layers.ReLU, {}, inputs
    if kind == "op:Relu6":
        return layers.ReLU, {"max_value": 6.0}, inputs
    if kind == "op:LeakyRelu":
        return layers.LeakyReLU, {"negative_slope": float(op.negative_slope)}, inputs
    if kind in _MERGE_OPS and _same_shapes(graph, inputs):
        return getattr(layers, _MERGE_OPS[kind]), {}, (list(inputs),)
    if kind == "op:Concatenate":
        return layers.Concatenate, {"axis": op.axis}, (list(inputs),)
    return None


def _same_shapes(graph: Graph, inputs: tuple[Ref, ...]) -> bool:
    return len(inputs) == 2 and graph.values[inputs[0].id].shape == graph.values[inputs[1].id].shape


KERNEL = "kernel"


def fold_batch_norm(graph: Graph, weighted: Collection[str] = WEIGHTED) -> Graph:
    """Fold each batch normalization into the convolution or dense layer that alone feeds it.

    With m = gamma / sqrt(variance + epsilon), per output channel and in float32:
    kernel <- kernel * m, bias <- beta + (bias - mean) * m.
    Source: Jacob et al. 2018 (arXiv:1712.05877) §3.2.

    Args:
        graph: to rewrite.
        weighted: class names of the layers that it is folded into; an EinsumDense never is.
    """
    graph = graph.copy()
    for name in [n.name for n in graph.nodes if graph.kind(n) == "BatchNormalization"]:
        node = graph.node(name)
        if _channels_last(graph, node):
            found = Chains(graph).upstream(node, lambda layer: _foldable(layer, weighted))
            if found is not None:
                _fold(graph, found[0], node)
    return graph


def _foldable(layer: Layer, weighted: Collection[str]) -> bool:
    return (
        layer.kind in weighted
        and layer.kind != "EinsumDense"
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
    if kind.startswith("DepthwiseConv"):
        return factor.reshape(shape[-2], shape[-1])
    return factor[:, None] if kind.endswith("Transpose") else factor


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
