"""Layers that compute in several steps, taken apart so that each step can be quantized.

Nothing is lost: the parts compute what the layer does, to the rounding of float32. Where they would not, a layer
stays whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from vqkit.graph.ir import Graph, Layer, Node, Ref, map_refs
from vqkit.graph.keras_io import lower, name_operation
from vqkit.graph.keras_layers import is_custom, objects_within

Weights = dict[str, dict[str, np.ndarray]]
_LAST = "last"
"""The part that has the layer's own name."""


def take_apart(graph: Graph) -> Graph:
    """The graph with separable convolutions and attention in their parts.

    `<layer>_depthwise` and `<layer>` are what becomes of a separable convolution; `<layer>_query`, `_key`,
    `_value`, `_logits`, `_probabilities`, `_context` and `<layer>` of attention of many heads, whose factor
    1/sqrt(size of a head) goes into the query's weights; `_bias` and `_masked` where masks are at work.
    """
    graph = graph.copy()
    masked = masked_values(graph)
    for name in [n for n, layer in graph.layers.items() if layer.kind in _PARTS and not is_custom(layer.cls)]:
        nodes = [n for n in graph.nodes if n.layer == name]
        given = [_arguments(graph, n, masked) for n in nodes]
        calls = [g for g in given if g is not None]
        alike = len({tuple((k, _shape(graph, v)) for k, v in sorted(g.items())) for g in calls}) == 1
        if alike and len(calls) == len(nodes) and all(map(graph.is_candidate, nodes)):
            _replace(graph, graph.layers[name], nodes, calls)
    graph.drop_unused_layers()
    return graph


def masked_values(graph: Graph) -> set[int]:
    """Ids of the values that may carry a mask of Keras, which a layer makes unseen by the graph."""
    from keras.layers import Layer as KerasLayer

    found: set[int] = set()
    for node in graph.nodes:
        layer = graph.layer_of(node)
        own = is_custom(layer.cls) and getattr(layer.cls, "compute_mask", None) is not KerasLayer.compute_mask
        made = layer.kind == "Masking" or layer.config.get("mask_zero") or (own and not layer.is_op)
        if made or found.intersection(node.inputs):
            found.update(node.outputs)
    return found


def _arguments(graph: Graph, node: Node, masked: Collection[int]) -> dict[str, Any] | None:
    """The arguments of a call by name, and whether one is "masked"; None where the parts do not compute it."""
    layer = graph.layer_of(node)
    try:
        bound = inspect.signature(layer.cls.call).bind(None, *node.args, **node.kwargs)  # type: ignore[attr-defined]
    except TypeError:
        return None
    given = {k: v for k, v in bound.arguments.items() if k != "self" and v is not None and v is not False}
    if "value" in given:
        given.setdefault("key", given["value"])
    values = {k: v for k, v in given.items() if isinstance(v, Ref)}
    fits = _fits_attention if layer.kind in _HEADS else _fits_convolution
    if any(r.id in masked for r in values.values()):
        given["masked"] = True
    return given if fits(graph, layer, values, given) else None


def _shape(graph: Graph, argument: Any) -> tuple[int | None, ...] | None:
    return graph.values[argument.id].shape if isinstance(argument, Ref) else None


def _fits_convolution(_: Graph, layer: Layer, values: Mapping[str, Ref], given: Mapping[str, Any]) -> bool:
    plain = given.keys() - {"masked"} == values.keys() == {"inputs"}
    return plain and layer.config["data_format"] == "channels_last"


def _fits_attention(graph: Graph, layer: Layer, values: Mapping[str, Ref], given: Mapping[str, Any]) -> bool:
    c, needed = layer.config, {"query", "value", "key"}
    if not needed <= values.keys() <= needed | {"attention_mask"}:
        return False
    fixed = None not in (graph.values[given["query"].id].shape[1], graph.values[given["value"].id].shape[1])
    return (
        given.keys() <= {*values, "use_causal_mask", "masked"}
        and all(len(graph.values[r.id].shape) == 3 for r in values.values())
        and not c.get("use_gate")
        and c.get("output_shape") is None
        and (fixed or not _restricted(layer, given))
        # With dropout, Keras gives 0 to a query that may look at nothing, else the mean of all values.
        and not (c["dropout"] and given.keys() & {"masked", "attention_mask"})
    )


def _restricted(layer: Layer, given: Mapping[str, Any]) -> bool:
    """Whether a query may not look at all values."""
    return bool(layer.config.get("sliding_window") or given.keys() & {"use_causal_mask", "attention_mask", "masked"})


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
                names[part] = layer.name if part == _LAST else graph.unique(f"{layer.name}_{part}")
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
        c["filters"], 1, use_bias=c["use_bias"], activation=c["activation"], dtype=c["dtype"], name=_LAST
    )
    weights = {
        "depthwise": {"kernel": layer.weights["depthwise_kernel"]},
        _LAST: {"kernel": layer.weights["pointwise_kernel"], **_bias(layer, "bias")},
    }
    return keras.Model(x, point(depthwise(x))), weights, {"x": given["inputs"]}


def _bias(layer: Layer, name: str) -> dict[str, np.ndarray]:
    return {"bias": layer.weights[name]} if name in layer.weights else {}


def _type(graph: Graph, ref: Ref) -> str:
    return graph.values[ref.id].dtype


class _Heads(NamedTuple):
    """What the configuration of attention says of its heads.

    Attributes:
        shared: how many heads of keys and values there are.
        each: how many of queries for one of these; None where they are the same heads.
        key_size: numbers of a query and of a key.
        value_size: of a value.
    """

    shared: int
    each: int | None
    key_size: int
    value_size: int


_HEADS: Mapping[str, Callable[[Mapping[str, Any]], _Heads]] = {
    "MultiHeadAttention": lambda c: _Heads(c["num_heads"], None, c["key_dim"], c["value_dim"] or c["key_dim"]),
    "GroupedQueryAttention": lambda c: _Heads(
        c["num_key_value_heads"], c["num_query_heads"] // c["num_key_value_heads"], c["head_dim"], c["head_dim"]
    ),
}


def _attention(graph: Graph, layer: Layer, given: Mapping[str, Any]) -> tuple[Any, Weights, dict[str, Ref]]:
    import keras

    from vqkit.graph.passes.layers import AttentionBias, CarryMask, Projection

    c, heads = layer.config, _HEADS[layer.kind](layer.config)
    inputs = {k: v for k, v in given.items() if isinstance(v, Ref)}
    x = {
        name: keras.Input(graph.values[r.id].shape[1:], name=f"read_{name}", dtype=_type(graph, r))
        for name, r in inputs.items()
    }

    def dense(name: str, equation: str, shape: tuple[Any, ...], axes: str) -> Any:
        bias = axes if c["use_bias"] else None
        return Projection(equation, shape, bias_axes=bias, dtype=c["dtype"], name=name)

    # n heads, in each of them g queries where these have more; their sizes.
    letters, sizes = ("n", (heads.shared,)) if heads.each is None else ("ng", (heads.shared, heads.each))
    q = dense("query", f"btc,c{letters}h->bt{letters}h", (x["query"].shape[1], *sizes, heads.key_size), f"{letters}h")
    k = dense("key", "bsc,cnh->bsnh", (x["key"].shape[1], heads.shared, heads.key_size), "nh")
    v = dense("value", "bsc,cnh->bsnh", (x["value"].shape[1], heads.shared, heads.value_size), "nh")
    logits = name_operation(
        keras.ops.einsum(f"bt{letters}h,bsnh->b{letters}ts", q(x["query"]), k(x["key"])), "logits", x
    )
    if _restricted(layer, given):
        bias = AttentionBias(bool(given.get("use_causal_mask")), c.get("sliding_window"), len(letters), name="bias")
        logits = name_operation(keras.ops.add(logits, bias(**x)), "restricted", x)
    softmax = keras.layers.Softmax(dtype=c["dtype"], name="probabilities")(logits)
    context = name_operation(keras.ops.einsum(f"b{letters}ts,bsnh->bt{letters}h", softmax, v(x["value"])), "context", x)
    out = dense(_LAST, f"bt{letters}h,{letters}hd->btd", x["query"].shape[1:], "d")(context)
    if "masked" in given:
        out = CarryMask(dtype=c["dtype"], name="masked")([out, x["query"]])
    sources = {f"read_{name}": r for name, r in inputs.items()}
    return keras.Model(list(x.values()), out), _attention_weights(layer, heads, sizes), sources


def _attention_weights(layer: Layer, heads: _Heads, sizes: tuple[int, ...]) -> Weights:
    found = {name: {"kernel": layer.weights[f"{name}/kernel"], **_bias(layer, f"{name}/bias")} for name in _PROJECTED}
    last = found[_LAST] = found.pop("attention_output")
    scale = np.float32(1 / np.sqrt(float(heads.key_size)))
    found["query"] = {k: (w * scale).reshape(*w.shape[:-2], *sizes, -1) for k, w in found["query"].items()}
    last["kernel"] = last["kernel"].reshape(*sizes, *last["kernel"].shape[1:])
    return found


_PROJECTED = ("query", "key", "value", "attention_output")
_PARTS: Mapping[str, Callable[[Graph, Layer, Mapping[str, Any]], tuple[Any, Weights, dict[str, Ref]]]] = {
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    **dict.fromkeys(_HEADS, _attention),
}
