"""Layers that compute in several steps, taken apart so that each step can be quantized.

Nothing is lost: the parts compute what the layer does, to the rounding of float32. Where a mask of Keras may be
at work, which a layer reads unseen by the graph, layers stay whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vqkit.graph.ir import Graph, Layer, Node, Ref, map_refs
from vqkit.graph.keras_io import lower
from vqkit.graph.keras_layers import objects_within

Weights = dict[str, dict[str, np.ndarray]]
_FAR = -1e9
"""What Keras' softmax adds where a mask is off."""


def take_apart(graph: Graph) -> Graph:
    """The graph with separable convolutions and attention in their parts.

    `<layer>_depthwise` and `<layer>` are what becomes of a separable convolution; `<layer>_query`, `_key`,
    `_value`, `_logits`, `_probabilities`, `_context` and `<layer>` of a MultiHeadAttention, whose factor
    1/sqrt(key_dim) goes into the query's weights.
    """
    if any(layer.kind == "Masking" or layer.config.get("mask_zero") for layer in graph.layers.values()):
        return graph
    graph = graph.copy()
    for name in [n for n, layer in graph.layers.items() if layer.kind in _PARTS]:
        nodes = [n for n in graph.nodes if n.layer == name]
        given = [_arguments(graph, n) for n in nodes]
        if all(map(graph.is_candidate, nodes)) and all(g is not None for g in given):
            _replace(graph, graph.layers[name], nodes, [g or {} for g in given])
    graph.drop_unused_layers()
    return graph


def _arguments(graph: Graph, node: Node) -> dict[str, Any] | None:
    """The arguments of a call by name; None where they ask for what the parts do not compute."""
    layer = graph.layer_of(node)
    try:
        bound = inspect.signature(layer.cls.call).bind(None, *node.args, **node.kwargs)  # type: ignore[attr-defined]
    except TypeError:
        return None
    given = {k: v for k, v in bound.arguments.items() if k != "self" and v is not None}
    values = {k: v for k, v in given.items() if isinstance(v, Ref)}
    rest = {k: v for k, v in given.items() if k not in values and v is not False}
    return given if _fits(graph, layer, values, rest) else None


def _fits(graph: Graph, layer: Layer, values: Mapping[str, Ref], rest: Mapping[str, Any]) -> bool:
    shapes = {k: graph.values[r.id].shape for k, r in values.items()}
    if layer.kind != "MultiHeadAttention":
        return values.keys() == {"inputs"} and not rest and layer.config.get("data_format") == "channels_last"
    causal = rest.get("use_causal_mask")
    sizes = (shapes["query"][1], shapes["value"][1]) if {"query", "value"} <= shapes.keys() else (None, None)
    return (
        values.keys() <= {"query", "value", "key"}
        and rest.keys() <= {"use_causal_mask"}
        and all(len(shape) == 3 for shape in shapes.values())
        and not any(layer.config.get(k) for k in ("use_gate", "sliding_window"))
        and layer.config.get("output_shape") is None
        and not (causal and None in sizes)
    )


def _replace(graph: Graph, layer: Layer, nodes: list[Node], given: list[dict[str, Any]]) -> None:
    """Put the parts of a layer where it was called."""
    from keras.saving import custom_object_scope

    names: dict[str, str] = {}
    for i, (node, arguments) in enumerate(zip(nodes, given, strict=True), start=1):
        with custom_object_scope(objects_within(layer.source)):
            model, weights, sources = _PARTS[layer.kind](graph, layer, arguments)
        inner = lower(model)
        for part, made in inner.layers.items():
            if part not in names:
                names[part] = layer.name if part == layer.name else graph.unique(f"{layer.name}_{part}")
            config = {**made.config, "name": names[part]} if made.config else made.config
            new = replace(made, name=names[part], config=config, weights=weights.get(part, made.weights))
            graph.layers[names[part]] = replace(new, read=None, saved=None)
        values = {inner.inputs[k]: r.id for k, r in sources.items()}

        def moved(ref: Ref, values: Mapping[int, int] = values) -> Ref:
            return Ref(values[ref.id])

        calls = []
        for each in inner.nodes:
            for value in each.outputs:
                last = value in inner.outputs
                values[value] = node.output if last else graph.new_value(node.output)
                graph.values[values[value]] = inner.values[value]
            args, kwargs = map_refs(moved, (each.args, dict(each.kwargs)))
            name = names[each.layer]
            label = node.name if name == layer.name else name if i == 1 else f"{name}@{i}"
            calls.append(Node(label, name, args, kwargs, tuple(values[v] for v in each.outputs), node.origin))
        graph.replace_node(node, *calls)


def _separable(graph: Graph, layer: Layer, given: Mapping[str, Any]) -> tuple[Any, Weights, dict[str, Ref]]:
    import keras

    rank, c = int(layer.kind[-2]), layer.config
    x = keras.Input(graph.values[given["inputs"].id].shape[1:], name="x", dtype=_type(graph, given["inputs"]))
    depthwise = getattr(keras.layers, f"DepthwiseConv{rank}D")(
        c["kernel_size"],
        strides=c["strides"],
        padding=c["padding"],
        depth_multiplier=c["depth_multiplier"],
        dilation_rate=c["dilation_rate"],
        use_bias=False,
        dtype=c["dtype"],
        name="depthwise",
    )
    point = getattr(keras.layers, f"Conv{rank}D")(
        c["filters"], 1, use_bias=c["use_bias"], activation=c["activation"], dtype=c["dtype"], name=layer.name
    )
    weights = {
        "depthwise": {"kernel": layer.weights["depthwise_kernel"]},
        layer.name: {"kernel": layer.weights["pointwise_kernel"], **_bias(layer, "bias")},
    }
    return keras.Model(x, point(depthwise(x))), weights, {"x": given["inputs"]}


def _bias(layer: Layer, name: str) -> dict[str, np.ndarray]:
    return {"bias": layer.weights[name]} if name in layer.weights else {}


def _type(graph: Graph, ref: Ref) -> str:
    return graph.values[ref.id].dtype


def _attention(graph: Graph, layer: Layer, given: Mapping[str, Any]) -> tuple[Any, Weights, dict[str, Ref]]:
    import keras

    c, ops = layer.config, keras.ops
    sources = {"q": given["query"], "k": given.get("key", given["value"]), "v": given["value"]}
    x = {
        name: keras.Input(graph.values[r.id].shape[1:], name=name, dtype=_type(graph, r)) for name, r in sources.items()
    }

    def dense(name: str, equation: str, shape: tuple[Any, ...], axes: str) -> Any:
        bias = axes if c["use_bias"] else None
        return keras.layers.EinsumDense(equation, shape, bias_axes=bias, dtype=c["dtype"], name=name)

    heads = {"query": c["key_dim"], "key": c["key_dim"], "value": c["value_dim"]}
    q, k, v = (
        dense(name, "btc,cnh->btnh", (each.shape[1], c["num_heads"], size), "nh")(each)
        for (name, size), each in zip(heads.items(), x.values(), strict=True)
    )
    logits = ops.einsum("btnh,bsnh->bnts", q, k)
    logits._keras_history.operation.name = "logits"
    if given.get("use_causal_mask"):
        far = np.triu(np.full((1, 1, *logits.shape[2:]), _FAR, "float32"), 1)
        logits = ops.add(logits, far)
        logits._keras_history.operation.name = "causal"
    softmax = keras.layers.Softmax(dtype=c["dtype"], name="probabilities")(logits)
    context = ops.einsum("bnts,bsnh->btnh", softmax, v)
    context._keras_history.operation.name = "context"
    out = dense(layer.name, "btnh,nhd->btd", x["q"].shape[1:], "d")(context)
    scale = np.float32(1 / np.sqrt(float(c["key_dim"])))
    weights = {name: {"kernel": layer.weights[f"{name}/kernel"], **_bias(layer, f"{name}/bias")} for name in heads}
    weights["query"] = {key: w * scale for key, w in weights["query"].items()}
    weights[layer.name] = {
        "kernel": layer.weights["attention_output/kernel"],
        **_bias(layer, "attention_output/bias"),
    }
    return keras.Model(list(x.values()), out), weights, sources


_PARTS: Mapping[str, Callable[[Graph, Layer, Mapping[str, Any]], tuple[Any, Weights, dict[str, Ref]]]] = {
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "MultiHeadAttention": _attention,
}
