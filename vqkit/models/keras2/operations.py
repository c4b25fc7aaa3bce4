"""TFOpLambda and TensorFlowOpLayer of Keras 2 as Keras 3 operations.

Keras 2 wrote each `tf.…` call and each operator as a TFOpLambda with the function's public name; the table
says what Keras 3 has for it. A function or an argument that is not here is an error: nothing is guessed.

Such a layer holds a node of a graph: the operation's name, its attributes, and the constant operands by
position. Each is called as the function that made it, from a table.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from vqkit.errors import ModelError, nearest
from vqkit.models.loading import reason

Function = Callable[..., Any]
# Older keyword -> the one that TensorFlow 2 uses.
_OLD_KEYWORDS = {
    "keep_dims": "keepdims",
    "reduction_indices": "axis",
    "concat_dim": "axis",
    "squeeze_dims": "axis",
    "dim": "axis",
    "split_dim": "axis",
}


_MOST = 1 << 26
# They pick from what is there; sizes of a shape stay Python numbers in them.
_PICKING = ("shape", "stack", "slice", "strided_slice", "__operators__.getitem")


@dataclass
class ConstantBudget:
    """What calls on constants may take, all of a file together: 64 MB.

    Attributes:
        used: bytes so far, read and made.
    """

    used: int = 0

    def hold(self, call: Function, args: Any, given: Mapping[str, Any]) -> None:
        """Raise before a call on constants would take more; a call on the model's tensors computes nothing yet.

        Args:
            call: of the table.
            args: its first argument.
            given: the others, by name.

        Raises:
            ValueError: it would.
        """
        if _has_tensor((args, list(given.values()))):
            return
        one_by_one = isinstance(args, list) and any(np.ndim(a) for a in args)
        symbols = [_symbol(a) for a in args] if one_by_one and call in _MANY else _symbol(args)
        made = keras.tree.flatten(call(symbols, **given))
        self.used += sum(8 * math.prod(s.shape) for s in [*keras.tree.flatten(symbols), *made])
        if self.used > _MOST:
            raise ValueError(
                f"calls on constants would take {self.used} bytes, at most {_MOST} are taken for all of a file; "
                "Keras writes no such file"
            )


def _symbol(constant: Any) -> Any:
    array = np.asarray(constant)
    return keras.KerasTensor(array.shape, str(array.dtype))


def call_function(
    function: str, args: Any, kwargs: Mapping[str, Any], where: str, constants: ConstantBudget | None = None
) -> Any:
    """Call what Keras 3 has for a TensorFlow function.

    Args:
        function: public name without `tf.`, such as "nn.relu6" or "__operators__.add".
        args: its first argument: a tensor, a constant, or a list of them.
        kwargs: the other arguments by name.
        where: names the layer in messages.
        constants: of the file, if the call is one of several.

    Returns:
        A tensor, a list of tensors, or a shape.

    Raises:
        ModelError: the function or one of its arguments has no counterpart.
    """
    name = function.removeprefix("compat.v1.").removeprefix("compat.v2.")
    known = FUNCTIONS.get(name)
    if known is None:
        raise ModelError(
            f"{where}: tf.{function} has no counterpart here{nearest(name, FUNCTIONS)}. Build the model anew "
            "in Keras 3 with keras.ops, and load the weights into it"
        )
    given = {_OLD_KEYWORDS.get(k, k): v for k, v in kwargs.items() if v is not None and k != "name"}
    try:
        if name not in _PICKING:
            (constants or ConstantBudget()).hold(known, args, given)
        return known(args, **given)
    except Exception as error:
        raise ModelError(f"{where}: tf.{function} with {sorted(given)}: {reason(error)}") from error


def _unary(op: Function) -> Function:
    return lambda x: op(x)


def _binary(op: Function) -> Function:
    def call(a: Any, y: Any = None, b: Any = None) -> Any:
        a, b = _constant(a), _constant(y if b is None else b)
        return op(a, b)

    return call


def _constant(value: Any) -> Any:
    """Numbers stay Python numbers, so that they take the tensor's type; lists become arrays."""
    if not isinstance(value, list):
        return value
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _reduction(op: Function) -> Function:
    def call(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return op(x, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)

    return call


def _along(op: Function, default: int = 0) -> Function:
    return lambda values, axis=default: op(values, axis=axis)


def _stack(values: Any, axis: int = 0) -> Any:
    """Sizes of a shape put together stay Python numbers."""
    return ops.stack(values, axis=axis) if _has_tensor(values) else list(values)


def _has_tensor(values: Any) -> bool:
    return any(isinstance(v, keras.KerasTensor) for v in keras.tree.flatten(values))


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> list[Any]:
    if isinstance(num_or_size_splits, list):
        at = np.cumsum(num_or_size_splits)[:-1].tolist()
        return list(ops.split(value, at, axis=axis))
    return list(ops.split(value, num_or_size_splits, axis=axis))


def _reshape(tensor: Any, shape: Any) -> Any:
    """The first size may be the batch's, which is not known."""
    sizes = list(shape)
    if sizes[0] is None or (sizes[0] == -1 and None not in sizes[1:] and -1 not in sizes[1:]):
        return keras.layers.Reshape(tuple(-1 if s is None else s for s in sizes[1:]))(tensor)
    return ops.reshape(tensor, sizes)


def _squeeze(value: Any, axis: Any = None) -> Any:
    for a in sorted([axis] if isinstance(axis, int) else (axis or [None]), reverse=True, key=lambda a: a or 0):
        value = ops.squeeze(value, axis=a)
    return value


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    mode = mode.lower()
    extra = {"constant_values": constant_values} if mode == "constant" else {}
    return ops.pad(tensor, tuple(map(tuple, paddings)), mode=mode, **extra)


def _getitem(x: Any, slice_spec: Any) -> Any:
    index = tuple(_index(s) for s in (slice_spec if isinstance(slice_spec, list) else [slice_spec]))
    return x[index] if isinstance(x, keras.KerasTensor) else x[index[0]]


def _index(spec: Any) -> Any:
    if isinstance(spec, Mapping) and {"start", "stop"} <= set(spec):
        return slice(spec["start"], spec["stop"], spec.get("step"))
    if isinstance(spec, Mapping):
        return Ellipsis
    return spec


def _strided_slice(
    x: Any,
    begin: Any,
    end: Any,
    strides: Any = None,
    begin_mask: int = 0,
    end_mask: int = 0,
    ellipsis_mask: int = 0,
    new_axis_mask: int = 0,
    shrink_axis_mask: int = 0,
) -> Any:
    if ellipsis_mask or new_axis_mask:
        raise ValueError("ellipsis and new axes are not read here")
    index = tuple(
        b
        if shrink_axis_mask >> k & 1
        else slice(None if begin_mask >> k & 1 else b, None if end_mask >> k & 1 else e, s)
        for k, (b, e, s) in enumerate(zip(begin, end, strides or [1] * len(begin), strict=True))
    )
    return x[index] if isinstance(x, keras.KerasTensor) else x[index[0]]


def _slice(x: Any, begin: Any, size: Any) -> Any:
    return x[tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begin, size, strict=True))]


def _resize(
    images: Any,
    size: Any,
    method: str = "bilinear",
    antialias: bool = False,
    preserve_aspect_ratio: bool = False,
) -> Any:
    if preserve_aspect_ratio:
        raise ValueError("preserve_aspect_ratio is not read here")
    return ops.image.resize(images, tuple(size), interpolation=method, antialias=antialias)


def _pool(op: Function) -> Function:
    def call(x: Any, ksize: Any, strides: Any, padding: str, data_format: str = "NHWC") -> Any:
        if data_format != "NHWC":
            raise ValueError(f"data_format={data_format!r}; channels must be last")
        return op(x, _window(ksize), _window(strides), padding=padding.lower())

    return call


def _window(size: Any) -> Any:
    if not isinstance(size, list):
        return size
    return tuple(size[1:3]) if len(size) == 4 else tuple(size)


def _leaky_relu(features: Any, alpha: float = 0.2) -> Any:
    return ops.leaky_relu(features, negative_slope=alpha)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    def swapped(t: Any) -> Any:
        return ops.swapaxes(t, -1, -2)

    return ops.matmul(swapped(a) if transpose_a else a, swapped(_constant(b)) if transpose_b else _constant(b))


def _normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    total = ops.sum(ops.square(x), axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(total, epsilon)))


def _clip(t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    return ops.clip(t, clip_value_min, clip_value_max)


def _shape(x: Any, out_type: Any = None) -> Any:  # noqa: ARG001 (the integer's width)
    """Sizes, the unknown ones None."""
    return list(x.shape)


def _cast(x: Any, dtype: Any) -> Any:
    return ops.cast(x, dtype)


def _bias_add(value: Any, bias: Any, data_format: str | None = None) -> Any:
    if data_format not in (None, "NHWC", "N...C"):
        raise ValueError(f"data_format={data_format!r}; channels must be last")
    return ops.add(value, _constant(bias))


def _sum_of(inputs: Any) -> Any:
    total = inputs[0]
    for tensor in inputs[1:]:
        total = ops.add(total, tensor)
    return total


def _softmax(logits: Any, axis: int = -1) -> Any:
    return ops.softmax(logits, axis=axis)


def _spelled(function: Function, *names: str) -> dict[str, Function]:
    return dict.fromkeys(names, function)


FUNCTIONS: dict[str, Function] = {
    **_spelled(_binary(ops.add), "__operators__.add", "math.add", "add"),
    **_spelled(_binary(ops.subtract), "math.subtract", "subtract"),
    **_spelled(_binary(ops.multiply), "math.multiply", "multiply"),
    **_spelled(_binary(ops.true_divide), "math.truediv", "truediv", "math.divide", "divide", "realdiv"),
    **_spelled(_binary(ops.floor_divide), "math.floordiv", "floordiv"),
    **_spelled(_binary(ops.mod), "math.floormod", "math.mod", "floormod"),
    **_spelled(_binary(ops.power), "math.pow", "pow"),
    **_spelled(_binary(ops.maximum), "math.maximum", "maximum"),
    **_spelled(_binary(ops.minimum), "math.minimum", "minimum"),
    **_spelled(_binary(ops.greater), "math.greater"),
    **_spelled(_binary(ops.greater_equal), "math.greater_equal"),
    **_spelled(_binary(ops.less), "math.less"),
    **_spelled(_binary(ops.less_equal), "math.less_equal"),
    **_spelled(_binary(ops.equal), "math.equal", "__operators__.eq"),
    **_spelled(_binary(ops.not_equal), "math.not_equal", "__operators__.ne"),
    **_spelled(_binary(lambda x, y: ops.square(ops.subtract(x, y))), "math.squared_difference"),
    **_spelled(_unary(ops.negative), "math.negative", "negative"),
    **_spelled(_unary(ops.abs), "math.abs", "abs"),
    **_spelled(_unary(ops.square), "math.square", "square"),
    **_spelled(_unary(ops.sqrt), "math.sqrt", "sqrt"),
    **_spelled(_unary(ops.rsqrt), "math.rsqrt"),
    **_spelled(_unary(ops.exp), "math.exp", "exp"),
    **_spelled(_unary(ops.log), "math.log"),
    **_spelled(_unary(ops.sign), "math.sign", "sign"),
    **_spelled(_unary(ops.floor), "math.floor", "floor"),
    **_spelled(_unary(ops.ceil), "math.ceil"),
    **_spelled(_unary(ops.round), "math.round", "round"),
    **_spelled(_unary(ops.reciprocal), "math.reciprocal"),
    **_spelled(_unary(ops.tanh), "math.tanh", "tanh", "nn.tanh"),
    **_spelled(_unary(ops.sigmoid), "math.sigmoid", "sigmoid", "nn.sigmoid"),
    **_spelled(_unary(ops.softplus), "math.softplus", "nn.softplus"),
    **_spelled(_unary(ops.relu), "nn.relu"),
    **_spelled(_unary(ops.relu6), "nn.relu6"),
    **_spelled(_unary(ops.elu), "nn.elu"),
    **_spelled(_unary(ops.selu), "nn.selu"),
    **_spelled(_unary(ops.softsign), "nn.softsign"),
    **_spelled(_unary(ops.silu), "nn.swish", "nn.silu"),
    **_spelled(_unary(lambda x: x), "identity"),
    **_spelled(_unary(ops.zeros_like), "zeros_like"),
    **_spelled(_unary(ops.ones_like), "ones_like"),
    **_spelled(_unary(_sum_of), "math.add_n", "add_n"),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "nn.leaky_relu": _leaky_relu,
    "nn.softmax": _softmax,
    "nn.log_softmax": lambda logits, axis=-1: ops.log_softmax(logits, axis=axis),
    **_spelled(_reduction(ops.mean), "math.reduce_mean", "reduce_mean"),
    **_spelled(_reduction(ops.sum), "math.reduce_sum", "reduce_sum"),
    **_spelled(_reduction(ops.max), "math.reduce_max", "reduce_max"),
    **_spelled(_reduction(ops.min), "math.reduce_min", "reduce_min"),
    **_spelled(_reduction(ops.prod), "math.reduce_prod"),
    **_spelled(_reduction(ops.var), "math.reduce_variance"),
    **_spelled(_reduction(ops.std), "math.reduce_std"),
    "math.argmax": lambda x, axis=None: ops.argmax(x, axis=0 if axis is None else axis),
    "math.l2_normalize": _normalize,
    "clip_by_value": _clip,
    "concat": _along(ops.concatenate),
    "stack": _stack,
    "unstack": lambda value, axis=0, num=None: list(ops.unstack(value, num=num, axis=axis)),
    "split": _split,
    "reshape": _reshape,
    "transpose": lambda a, perm=None: ops.transpose(a, axes=perm),
    "expand_dims": lambda x, axis: ops.expand_dims(x, axis=axis),
    "squeeze": _squeeze,
    "pad": _pad,
    "tile": lambda x, multiples: ops.tile(x, tuple(multiples)),
    "repeat": lambda x, repeats, axis=None: ops.repeat(x, repeats, axis=axis),
    "reverse": lambda x, axis: ops.flip(x, axis=tuple(axis)),
    "gather": lambda x, indices, axis=0: ops.take(x, _constant(indices), axis=axis),
    "where": lambda condition, x, y: ops.where(condition, _constant(x), _constant(y)),
    "cast": _cast,
    "shape": _shape,
    "slice": _slice,
    "strided_slice": _strided_slice,
    "__operators__.getitem": _getitem,
    **_spelled(_matmul, "linalg.matmul", "matmul"),
    "image.resize": _resize,
    "nn.bias_add": _bias_add,
    **_spelled(_pool(ops.max_pool), "nn.max_pool2d", "nn.max_pool"),
    **_spelled(_pool(ops.average_pool), "nn.avg_pool2d", "nn.avg_pool"),
    "nn.depth_to_space": lambda x, block_size: ops.depth_to_space(x, block_size),
    "nn.space_to_depth": lambda x, block_size: ops.space_to_depth(x, block_size),
}


_MANY = [FUNCTIONS[name] for name in ("concat", "math.add_n", "add_n")]

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
    "Mean": "math.reduce_mean",
    "Sum": "math.reduce_sum",
    "Max": "math.reduce_max",
    "Min": "math.reduce_min",
    "Prod": "math.reduce_prod",
}
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
    "MatMul": lambda i, a: (
        "matmul",
        i[0],
        {"b": i[1], "transpose_a": a.get("transpose_a", False), "transpose_b": a.get("transpose_b", False)},
    ),
    "BatchMatMulV2": lambda i, a: (
        "matmul",
        i[0],
        {"b": i[1], "transpose_a": a.get("adj_x", False), "transpose_b": a.get("adj_y", False)},
    ),
    "StridedSlice": lambda i, a: (
        "strided_slice",
        i[0],
        {"begin": i[1], "end": i[2], "strides": i[3], **{k: v for k, v in a.items() if k.endswith("_mask")}},
    ),
    "Slice": lambda i, _: ("slice", i[0], {"begin": i[1], "size": i[2]}),
    "MaxPool": lambda i, a: ("nn.max_pool2d", i[0], _raw_window(a)),
    "AvgPool": lambda i, a: ("nn.avg_pool2d", i[0], _raw_window(a)),
    "Cast": lambda i, a: ("cast", i[0], {"dtype": a["DstT"]}),
}


def call_raw(config: Mapping[str, Any], tensors: list[Any], where: str, constants: ConstantBudget | None = None) -> Any:
    """Call what Keras 3 has for a graph operation.

    Args:
        config: of the layer: `node_def` and `constants`.
        tensors: the operands that are tensors, in order.
        where: names the layer in messages.
        constants: of the file, if the call is one of several.

    Returns:
        A tensor or a list of tensors.

    Raises:
        ModelError: the operation has no counterpart.
    """
    node, known = config["node_def"], {int(k): v for k, v in config.get("constants", {}).items()}
    rest = iter(tensors)
    inputs = [known[k] if k in known else next(rest) for k in range(len(tensors) + len(known))]
    attributes = {k: _attribute(v) for k, v in node.get("attr", {}).items()}
    function, first, kwargs = _function(node["op"], inputs, attributes, where)
    return call_function(function, first, kwargs, where, constants)


def _function(op: str, inputs: list[Any], attr: Mapping[str, Any], where: str) -> tuple[str, Any, dict[str, Any]]:
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


def _raw_window(attr: Mapping[str, Any]) -> dict[str, Any]:
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
