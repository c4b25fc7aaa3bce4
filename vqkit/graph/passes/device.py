"""Replace layers by the form in which a DPU computes them (the strategy's `convert_*_to_dpu_version`)."""

from __future__ import annotations

import math
from typing import Any

from vqkit.graph.ir import Graph, Layer, Node, Ref, refs
from vqkit.graph.passes.match import Chains, activation_name
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.primitives.kernels import average_pool_scale

_LEAKY, _LEAKY_DPU = 0.1, 26.0 / 256.0


def sigmoids(graph: Graph, *, vitis_compat: bool = False) -> Graph:
    """Sigmoid becomes the device's hard sigmoid; swish becomes that times its input.

    The function may be an Activation layer, or a convolution's or dense layer's own: that is split off as
    `<layer>_sigmoid`. By default hard_sigmoid and hard_silu, which Keras 3 defines as relu6(x + 3) / 6, are
    converted too; with `vitis_compat` they stay, as in the reference.
    """
    graph = graph.copy()
    gates = {"sigmoid"} if vitis_compat else {"sigmoid", "hard_sigmoid"}
    products = {"swish"} if vitis_compat else {"swish", "hard_silu", "hard_swish"}
    chains = Chains(graph)
    for node in list(graph.nodes):
        layer = graph.layer_of(node)
        function = activation_name(layer)
        if function not in gates | products or not chains.free(node):
            continue
        if layer.kind == "Activation":
            graph.layers[layer.name] = _hard_sigmoid(layer.name)
            gate = graph.node(node.name)
        elif layer.kind in WEIGHTED:
            gate = _split_gate(graph, node)
        else:
            continue
        if function in products:
            _times_input(graph, gate, f"{node.name}_mul")
    return graph


def _split_gate(graph: Graph, node: Node) -> Node:
    """The hard sigmoid behind a layer that computed a function of its own."""
    graph.layers[node.layer] = graph.layer_of(node).with_(config={"activation": "linear"})
    name = graph.unique(f"{node.name}_sigmoid")
    gate = graph.insert_after(node.output, _hard_sigmoid(name), origin=node.origin)
    if graph.candidates is not None:
        graph.candidates.add(name)
    return gate


def _hard_sigmoid(name: str) -> Layer:
    return Layer(name, _class("VitisSigmoid"), {})


def _class(name: str) -> type:
    from vqkit.graph.passes import layers

    found: type = getattr(layers, name)
    return found


def _times_input(graph: Graph, gate: Node, name: str) -> None:
    import keras

    name = graph.unique(name)
    out = graph.new_value(gate.output)
    graph.redirect(gate.output, out)
    graph.layers[name] = Layer(name, keras.layers.Multiply, {})
    product = Node(name, name, ([Ref(gate.inputs[0]), Ref(gate.output)],), {}, (out,), gate.origin)
    graph.replace_node(gate, gate, product)


def hard_sigmoid_patterns(graph: Graph, *, vitis_compat: bool = False) -> Graph:
    """(x + 3) -> ReLU6 -> * 1/6 written with operators becomes the device's hard sigmoid.

    By default the two constants are checked; with `vitis_compat` they are not, as in the reference.
    """
    graph = graph.copy()
    for node in list(graph.nodes):
        if graph.kind(node) not in ("op:Multiply", "op:TrueDivide", "op:Divide") or len(node.inputs) != 1:
            continue
        chain = Chains(graph).upstream(node, _is_relu6, lambda layer: layer.kind == "op:Add")
        if chain is None or len(chain[1].inputs) != 1:
            continue
        if vitis_compat or (_constant(chain[1]) == 3.0 and _is_sixth(graph, node)):
            _replace_chain(graph, node, chain)
    return graph


def _is_relu6(layer: Layer) -> bool:
    return layer.kind == "op:Relu6" or (layer.kind == "ReLU" and layer.config.get("max_value") == 6.0)


def _constant(node: Node) -> float | None:
    constants = [a for a in (*node.args, *node.kwargs.values()) if not isinstance(a, Ref)]
    try:
        return float(constants[0])
    except (IndexError, TypeError, ValueError):
        return None


def _is_sixth(graph: Graph, node: Node) -> bool:
    value = _constant(node)
    expected = 1.0 / 6.0 if graph.kind(node) == "op:Multiply" else 6.0
    return value is not None and math.isclose(value, expected, rel_tol=1e-6)


def _replace_chain(graph: Graph, last: Node, chain: tuple[Node, ...]) -> None:
    name = graph.unique("vitis_sigmoid")
    origin = tuple(o for n in (*reversed(chain), last) for o in n.origin)
    graph.layers[name] = _hard_sigmoid(name)
    graph.replace_node(last, Node(name, name, (Ref(chain[-1].inputs[0]),), {}, last.outputs, origin))
    for node in chain:
        graph.nodes.remove(node)
    graph.drop_unused_layers()


def leaky_relus(graph: Graph) -> Graph:
    """LeakyReLU with slope 0.1 gets the device's 26/256; other slopes stay."""
    graph = graph.copy()
    for name, layer in graph.layers.items():
        nodes = [n for n in graph.nodes if n.layer == name]
        if layer.kind == "LeakyReLU" and all(map(graph.is_candidate, nodes)):
            slope = layer.config.get("negative_slope", layer.config.get("alpha"))
            if slope is not None and abs(float(slope) - _LEAKY) < 1e-7:
                graph.layers[name] = layer.with_(config={"negative_slope": _LEAKY_DPU})
    return graph


def average_pools(graph: Graph, *, vitis_compat: bool = False) -> Graph:
    """Average pools get the device's approximation of 1/n.

    By default a non-square window is scaled by its own size; with `vitis_compat` only a global one is,
    as in the reference. A global pool over an image of unknown size stays exact.
    """
    graph = graph.copy()
    chains = Chains(graph)
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if layer.kind not in ("AveragePooling2D", "GlobalAveragePooling2D") or not chains.free(node):
            continue
        factor = _pool_factor(layer, _image_size(graph, node, layer), vitis_compat)
        if factor is not None:
            graph.layers[layer.name] = layer.with_(config={"factor": factor}, cls=_class(f"Vitis{layer.kind}"))
    return graph


def _image_size(graph: Graph, node: Node, layer: Layer) -> tuple[int, int] | None:
    shape = graph.values[next(refs(node.args)).id].shape
    size = shape[1:3] if layer.config.get("data_format", "channels_last") == "channels_last" else shape[2:4]
    return None if None in size else (int(size[0] or 0), int(size[1] or 0))


def _pool_factor(layer: Layer, image: tuple[int, int] | None, vitis_compat: bool) -> float | None:
    if layer.kind == "GlobalAveragePooling2D":
        return None if image is None else _global_factor(*image)
    window = _pair(layer.config["pool_size"])
    if window[0] == window[1]:
        return average_pool_scale(*window)
    if window == image and math.lcm(*window) <= 8:
        return _global_factor(*window)
    return 1.0 if vitis_compat else average_pool_scale(*window)


def _global_factor(height: int, width: int) -> float:
    side = math.lcm(height, width)
    if height != width and side <= 8:
        return average_pool_scale(side, side)
    return average_pool_scale(height, width)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
