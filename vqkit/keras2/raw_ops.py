"""Graph operations in a functional model of TensorFlow before 2.4 (TensorFlowOpLayer), as functions.

Such a layer holds a node of a graph: the operation's name, its attributes, and the constant operands by
position. Each is called as the function that made it, from the table in `functions`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from vqkit.errors import ModelError, nearest
from vqkit.keras2.functions import call_function

# Operation -> function of one or of two operands.
_UNARY = {
    "Relu": "nn.relu", "Relu6": "nn.relu6", "Elu": "nn.elu", "Selu": "nn.selu", "Tanh": "math.tanh",
    "Sigmoid": "math.sigmoid", "Softplus": "math.softplus", "Softsign": "nn.softsign", "Neg": "math.negative",
    "Abs": "math.abs", "Square": "math.square", "Sqrt": "math.sqrt", "Rsqrt": "math.rsqrt", "Exp": "math.exp",
    "Log": "math.log", "Sign": "math.sign", "Floor": "math.floor", "Ceil": "math.ceil",
    "Identity": "identity", "Softmax": "nn.softmax", "LogSoftmax": "nn.log_softmax", "Shape": "shape",
}  # fmt: skip
_BINARY = {
    "Add": "math.add", "AddV2": "math.add", "BiasAdd": "math.add", "Sub": "math.subtract",
    "Mul": "math.multiply", "RealDiv": "math.truediv", "Pow": "math.pow", "Maximum": "math.maximum",
    "Minimum": "math.minimum", "SquaredDifference": "math.squared_difference",
}  # fmt: skip
_REDUCTIONS = {
    "Mean": "math.reduce_mean", "Sum": "math.reduce_sum", "Max": "math.reduce_max", "Min": "math.reduce_min",
    "Prod": "math.reduce_prod",
}  # fmt: skip
_TYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}
Call = Callable[[list[Any], Mapping[str, Any]], tuple[str, Any, dict[str, Any]]]
_OTHERS: dict[str, Call] = {
    "ConcatV2": lambda i, _: ("concat", i[:-1], {"axis": i[-1]}),
    "Pack": lambda i, a: ("stack", i, {"axis": a.get("axis", 0)}),
    "Reshape": lambda i, _: ("reshape", i[0], {"shape": i[1]}),
    "Transpose": lambda i, _: ("transpose", i[0], {"perm": i[1]}),
    "ExpandDims": lambda i, _: ("expand_dims", i[0], {"axis": i[1]}),
    "Squeeze": lambda i, a: ("squeeze", i[0], {"axis": a.get("squeeze_dims") or None}),
    "Pad": lambda i, _: ("pad", i[0], {"paddings": i[1]}),
    "PadV2": lambda i, _: ("pad", i[0], {"paddings": i[1], "constant_values": i[2]}),
    "MirrorPad": lambda i, a: ("pad", i[0], {"paddings": i[1], "mode": a["mode"]}),
    "LeakyRelu": lambda i, a: ("nn.leaky_relu", i[0], {"alpha": a.get("alpha", 0.2)}),
    "ClipByValue": lambda i, _: ("clip_by_value", i[0], {"clip_value_min": i[1], "clip_value_max": i[2]}),
    "Split": lambda i, a: ("split", i[1], {"num_or_size_splits": a["num_split"], "axis": i[0]}),
    "MatMul": lambda i, a: ("matmul", i[0], {"b": i[1], "transpose_a": a.get("transpose_a", False),
                                             "transpose_b": a.get("transpose_b", False)}),
    "BatchMatMulV2": lambda i, a: ("matmul", i[0], {"b": i[1], "transpose_a": a.get("adj_x", False),
                                                    "transpose_b": a.get("adj_y", False)}),
    "StridedSlice": lambda i, a: ("strided_slice", i[0], {
        "begin": i[1], "end": i[2], "strides": i[3],
        **{k: v for k, v in a.items() if k.endswith("_mask")}}),
    "Slice": lambda i, _: ("slice", i[0], {"begin": i[1], "size": i[2]}),
    "MaxPool": lambda i, a: ("nn.max_pool2d", i[0], _window(a)),
    "AvgPool": lambda i, a: ("nn.avg_pool2d", i[0], _window(a)),
    "Cast": lambda i, a: ("cast", i[0], {"dtype": a["DstT"]}),
}  # fmt: skip


def call_raw(config: Mapping[str, Any], tensors: list[Any], where: str) -> Any:
    """Call what Keras 3 has for a graph operation.

    Args:
        config: of the layer: `node_def` and `constants`.
        tensors: the operands that are tensors, in order.
        where: names the layer in messages.

    Returns:
        A tensor or a list of tensors.

    Raises:
        ModelError: the operation has no counterpart.
    """
    node, constants = config["node_def"], {int(k): v for k, v in config.get("constants", {}).items()}
    rest = iter(tensors)
    inputs = [constants[k] if k in constants else next(rest) for k in range(len(tensors) + len(constants))]
    attributes = {k: _attribute(v) for k, v in node.get("attr", {}).items()}
    function, first, kwargs = _function(node["op"], inputs, attributes, where)
    return call_function(function, first, kwargs, where)


def _function(
    op: str, inputs: list[Any], attr: Mapping[str, Any], where: str
) -> tuple[str, Any, dict[str, Any]]:
    if op in _UNARY:
        return _UNARY[op], inputs[0], {}
    if op in _BINARY:
        return _BINARY[op], inputs[0], {"y": inputs[1]}
    if op in _REDUCTIONS:
        return _REDUCTIONS[op], inputs[0], {"axis": inputs[1], "keepdims": attr.get("keep_dims", False)}
    if op in _OTHERS:
        return _OTHERS[op](inputs, attr)
    known = (*_UNARY, *_BINARY, *_REDUCTIONS, *_OTHERS)
    raise ModelError(
        f"{where}: the TensorFlow operation {op} has no counterpart here{nearest(op, known)}. Build the "
        "model anew in Keras 3 with keras.ops, and load the weights into it"
    )


def _window(attr: Mapping[str, Any]) -> dict[str, Any]:
    return {k: attr[k] for k in ("ksize", "strides", "padding", "data_format") if k in attr}


def _attribute(value: Mapping[str, Any]) -> Any:
    """An attribute of a node, from the JSON of its protocol buffer: integers are text, bytes base64."""
    if "list" in value:
        return [_attribute({kind: item}) for kind, items in value["list"].items() for item in items]
    kind, raw = next(iter(value.items()))
    if kind == "i":
        return int(raw)
    if kind == "s":
        return base64.b64decode(raw).decode()
    return _TYPES.get(raw, raw.removeprefix("DT_").lower()) if kind == "type" else raw
