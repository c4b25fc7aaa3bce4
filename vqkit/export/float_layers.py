"""Layers without a form of their own, as the operations that TensorFlow traces them to; and Keras' masks.

A mask is a tensor that Keras hangs on another one, unseen by the graph: `Embedding(mask_zero=True)` makes it,
a quantizer hands it on, an LSTM reads it. Here it is a value like any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export.layers import MOVES_ANY_TYPE
from vqkit.export.program import Constant, Shape, Step
from vqkit.export.traced import Traced, trace
from vqkit.graph.ir import Node, map_refs
from vqkit.graph.keras_io import at_inference, mask_of, masked
from vqkit.graph.keras_layers import variables

Masks = dict[int, int]
"""Value id -> id of the mask that hangs on it."""
KIND = "float_layer"
MOVING = {"Reshape", "Transpose", "Slice", "StridedSlice", "Squeeze", "ExpandDims", "Split", "SplitV",
          "Unpack", "ReverseV2", "Tile", "Roll"}  # fmt: skip
"""Operations whose results are some of what they read."""
_EXACT = MOVING | {
    "Shape", "Pack", "ConcatV2", "GatherV2", "Relu", "Relu6", "Maximum", "Minimum", "Max", "Min", "MaxPool",
    "MaxPool3D", "Abs", "Neg", "Select", "SelectV2", "Less", "LessEqual", "Greater", "GreaterEqual",
    "Equal", "NotEqual", "LogicalAnd", "LogicalOr", "LogicalNot", "ZerosLike", "OnesLike", "Fill", "Pad",
    "PadV2", "MirrorPad", "Floor", "Ceil", "Round", "Sign", "ArgMax", "ArgMin", "TopKV2", "BroadcastTo",
    "Any", "All", "OneHot", "DepthToSpace", "SpaceToDepth", "ResizeNearestNeighbor",
}  # fmt: skip
"""Operations that no runtime rounds otherwise."""


def form_serves(lowering: Any, node: Node) -> bool:
    """Whether a layer's form says what this call computes: floats in and out, and no mask that it reads."""
    layer, live = lowering.graph.layer_of(node), lowering.quantized.live[node.layer]
    dtype = lowering.graph.values[node.output].dtype
    if len(node.outputs) != 1 or lowering.reshaped.intersection(node.inputs):
        return False
    if dtype not in ("float32", "float64") and layer.kind not in MOVES_ANY_TYPE:
        return False
    reads = not layer.is_op and "mask" in inspect.signature(live.call).parameters
    return not (reads and any(v in lowering.masks for v in node.inputs))


def put_traced(lowering: Any, node: Node) -> None:
    """Append a step that holds the traced call; it gives the node's outputs and their masks."""
    _put(lowering, node, with_values=True)


def put_masks(lowering: Any, node: Node) -> None:
    """Hand the masks of a node's inputs on to its outputs, where its inputs have some."""
    if any(v in lowering.masks for v in node.inputs):
        _put(lowering, node, with_values=False)


def _put(lowering: Any, node: Node, *, with_values: bool) -> None:
    values = list(dict.fromkeys(node.inputs))
    under = [v for v in values if v in lowering.masks]
    given = [lowering.in_type(v, lowering.type_of(v)) for v in values]
    inputs = [*given, *(lowering.masks[v] for v in under)]
    traced, owners = _traced(lowering, node, values, under, with_values=with_values)
    made = node.outputs if with_values else ()
    outputs, kept = list(made), list(range(len(made)))
    for owner, slot in zip(made, traced.body.outputs, strict=False):
        # Keras' own statement of shape and type is not always what the layer gives.
        lowering.traced.add(owner)
        found, lowering.dtypes[owner] = traced.kind_of(slot)
        lowering.shapes[owner], differs = _agreed(lowering.shapes[owner], found)
        if differs:
            lowering.reshaped.add(owner)
    for i, owner in enumerate(owners, start=len(made)):
        slot = traced.body.outputs[i]
        if isinstance(slot, int) and slot in traced.body.inputs:
            lowering.masks[owner] = inputs[traced.body.inputs.index(slot)]
            continue
        lowering.masks[owner] = lowering.value(*traced.kind_of(slot))
        outputs.append(lowering.masks[owner])
        kept.append(i)
    if outputs:
        traced = traced.only(kept)
        name = node.name if with_values else f"{node.name}.mask"
        attrs, weights = _attrs(traced, inputs), _weights(traced)
        attrs["live"] = lowering.quantized.live[node.layer]
        lowering.steps.append(
            Step(KIND, name, tuple(inputs), outputs[0], attrs, weights, node.layer, also=tuple(outputs[1:]))
        )


def _agreed(stated: Shape, found: Shape | None) -> tuple[Shape, bool]:
    """What two statements of a shape say together, and whether they differ: then the second is right."""
    if found is None:
        return stated, False
    if len(stated) != len(found) or any(None not in p and p[0] != p[1] for p in zip(stated, found, strict=True)):
        return found, True
    return tuple(f if s is None else s for s, f in zip(stated, found, strict=True)), False


def _attrs(traced: Traced, inputs: list[int]) -> dict[str, Any]:
    kinds = traced.kinds
    return {"traced": traced, "moves": kinds <= MOVING and len(inputs) == 1, "inexact": not kinds <= _EXACT}


def _weights(traced: Traced) -> dict[str, Constant]:
    """The quantized constants that a call reads, by name."""
    slots = [s for op in traced.body.ops for s in op.inputs]
    return {s.name: s for s in slots if isinstance(s, Constant) and s.params is not None}


def _traced(
    lowering: Any, node: Node, values: list[int], under: list[int], *, with_values: bool
) -> tuple[Traced, list[int]]:
    import tensorflow as tf
    from keras import tree

    live = lowering.quantized.live[node.layer]
    specs = [tf.TensorSpec(lowering.shapes[v], lowering.type_of(v)) for v in values]
    specs += [tf.TensorSpec(lowering.shapes[lowering.masks[v]], "bool") for v in under]
    owners: list[int] = []

    def run(*tensors: Any) -> list[Any]:
        given = dict(zip(values, tensors, strict=False))
        for value, mask in zip(under, tensors[len(values) :], strict=True):
            given[value] = masked(tf.identity(given[value]), mask)
        args, kwargs = map_refs(lambda r: given[r.id], (node.args, dict(node.kwargs)))
        outputs = tree.flatten(live(*args, **at_inference(live, kwargs)))
        masks = {v: mask_of(o) for v, o in zip(node.outputs, outputs, strict=True)}
        owners[:] = [v for v, m in masks.items() if m is not None]
        return [*(outputs if with_values else ()), *(masks[v] for v in owners)]

    try:
        return trace(run, specs, _handles(lowering, node, live), node.name), owners
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"layer {node.name!r} ({lowering.graph.kind(node)}) cannot be exported: "
            f"TensorFlow does not trace it: {' '.join(str(error).split())[:300]}. "
            "Export format keras, h5 or saved_model"
        ) from error


def _handles(lowering: Any, node: Node, live: Any) -> Mapping[int, Constant]:
    """Id of a variable's handle -> the layer's weight, with its grid where it has one."""
    layer = lowering.graph.layer_of(node)
    found = {}
    for name, variable in variables(live, layer.weights).items() if layer.weights else ():
        constant = lowering.constant(layer, name)
        value = np.asarray(variable)
        if constant.params is None:
            constant = Constant(constant.name, value)
        found[id(variable.value.handle)] = constant
    return found
