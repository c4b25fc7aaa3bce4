"""Steps in TFLite's float operators: what a strategy leaves in float, and what has no integer operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export import tflite_integer as integer
from vqkit.export.steps import Constant, Step
from vqkit.primitives.dpu import SIGMOID_FACTOR

Writer = Any
Float = Callable[[Writer, Step], int]

FLOATS: dict[str, Float] = {}


def _floats(*kinds: str) -> Callable[[Float], Float]:
    def register(function: Float) -> Float:
        FLOATS.update(dict.fromkeys(kinds, function))
        return function

    return register


def _out(w: Writer, step: Step, suffix: str = "", shape: Any = None) -> int:
    shape = w.program.shapes[step.output] if shape is None else shape
    return int(w.b.tensor(f"{step.name}{suffix}", shape, w.program.dtypes[step.output]))


def _given(w: Writer, step: Step) -> int:
    return int(w.float(step.values[0]))


def _number(w: Writer, value: Any) -> int:
    return int(w.b.constant(f"number_{float(value):g}", np.float32(value)))


def _refuse(step: Step, why: str) -> ModelError:
    return ModelError(f"layer {step.layer!r} cannot be exported to TFLite: {why}. Export onnx")


@_floats("conv")
def _conv(w: Writer, step: Step) -> int:
    a, source = step.attrs, step.values[0]
    if len(a["window"]) != 2:
        raise _refuse(step, f"it has {len(a['window'])} spatial axes, TFLite's convolutions have 2")
    if a["groups"] != 1 and not a["depthwise"]:
        raise _refuse(step, f"it has {a['groups']} groups")
    lay = integer.depthwise_kernel if a["depthwise"] else integer.output_first
    x = w.float(source)
    spot = integer.placed(w, step, x, w.program.shapes[source])
    if spot is None:
        raise _refuse(step, f"padding {a['padding']!r}")
    outputs = w.program.shapes[step.output][-1]
    inputs = [spot[0], w.float_constant(step.constants["kernel"], lay), _bias(w, step, outputs)]
    return integer.convolution(w, step, inputs, _out(w, step), spot[1], "NONE")


def _bias(w: Writer, step: Step, outputs: int) -> int:
    if "bias" in step.constants:
        return int(w.float_constant(step.constants["bias"]))
    return int(w.b.constant(f"{step.layer}/no_bias", np.zeros(outputs, np.float32)))


@_floats("dense")
def _dense(w: Writer, step: Step) -> int:
    kernel = w.float_constant(step.constants["kernel"], np.transpose)
    bias = _bias(w, step, int(w.program.shapes[step.output][-1]))
    deep = len(w.program.shapes[step.output]) > 2
    return int(
        w.b.op(
            "FULLY_CONNECTED",
            [_given(w, step), kernel, bias],
            [_out(w, step)],
            "FullyConnectedOptions",
            keepNumDims=deep,
        )
    )


@_floats("conv_transpose")
def _conv_transpose(w: Writer, step: Step) -> int:
    b, x, shape = w.b, _given(w, step), w.program.shapes[step.output]
    if None in shape[1:]:
        raise _refuse(step, f"its output size {shape} is free")
    # The operator wants the whole output shape, and the batch is free.
    all_sizes = b.op("SHAPE", [x], [b.tensor(f"{step.name}/input_shape", (4,), "int32")], "ShapeOptions",
                     outType=b.s.TensorType.INT32)  # fmt: skip
    one, two = (b.constant(f"ints_{v}", np.asarray([v], np.int32)) for v in (1, 0))
    batch = b.op("STRIDED_SLICE", [all_sizes, two, one, one], [b.tensor(f"{step.name}/batch", (1,), "int32")],
                 "StridedSliceOptions")  # fmt: skip
    rest = b.constant(f"{step.name}/sizes", np.asarray(shape[1:], np.int32))
    sizes = b.op("CONCATENATION", [batch, rest], [b.tensor(f"{step.name}/output_shape", (4,), "int32")],
                 "ConcatenationOptions", axis=0, fusedActivationFunction=0)  # fmt: skip
    # (h, w, outputs, inputs) as (outputs, h, w, inputs).
    kernel = w.float_constant(step.constants["kernel"], lambda a: np.moveaxis(a, 2, 0))
    inputs = [sizes, kernel, x, _bias(w, step, int(shape[-1]))]
    strides = step.attrs["strides"]
    return int(b.op("TRANSPOSE_CONV", inputs, [_out(w, step)], "TransposeConvOptions", strideH=strides[0],
                    strideW=strides[1], padding=b.padding(step.attrs["padding"])))  # fmt: skip


# --- activations ---


@_floats("relu")
def _relu(w: Writer, step: Step) -> int:
    a, x = step.attrs, _given(w, step)
    if a["threshold"]:
        raise _refuse(step, "a ReLU with a threshold")
    if a["slope"]:
        x = w.b.op("LEAKY_RELU", [x], [_out(w, step)], "LeakyReluOptions", alpha=a["slope"])
        return x if a["max_value"] is None else _pair(w, step, "MINIMUM", x, _number(w, a["max_value"]))
    if a["max_value"] in (None, 6.0):
        return int(w.b.op("RELU6" if a["max_value"] else "RELU", [x], [_out(w, step)]))
    y = w.b.op("RELU", [x], [_out(w, step, "/positive")])
    return _pair(w, step, "MINIMUM", y, _number(w, a["max_value"]))


def _pair(w: Writer, step: Step, kind: str, x: int, y: int, suffix: str = "") -> int:
    options = {"MINIMUM": "MaximumMinimumOptions", "MAXIMUM": "MaximumMinimumOptions", "ADD": "AddOptions",
               "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}[kind]  # fmt: skip
    return int(w.b.op(kind, [x, y], [_out(w, step, suffix)], options))


@_floats("ceiling")
def _ceiling(w: Writer, step: Step) -> int:
    return _pair(w, step, "MINIMUM", _given(w, step), w.float_constant(step.constants["ceiling"]))


@_floats("prelu")
def _prelu(w: Writer, step: Step) -> int:
    return int(w.b.op("PRELU", [_given(w, step), w.float_constant(step.constants["alpha"])], [_out(w, step)]))


@_floats("dpu_sigmoid")
def _dpu_sigmoid(w: Writer, step: Step) -> int:
    x = _pair(w, step, "ADD", _given(w, step), _number(w, 3.0), "/shifted")
    x = w.b.op("RELU6", [x], [_out(w, step, "/clipped")])
    return _pair(w, step, "MUL", x, int(w.b.constant("dpu_sixth", np.float32(SIGMOID_FACTOR))))


_UNARY = {
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "exponential": "EXP",
    "elu": "ELU",
    "hard_silu": "HARD_SWISH",
}
_UNARY_OPTIONS = {"EXP": "ExpOptions", "HARD_SWISH": "HardSwishOptions"}


@_floats("unary")
def _unary(w: Writer, step: Step) -> int:
    function, x = step.attrs["function"], _given(w, step)
    if function == "swish":
        return _pair(w, step, "MUL", x, w.b.op("LOGISTIC", [x], [_out(w, step, "/gate")]))
    if function == "gelu":
        approximate = bool(step.attrs.get("approximate"))
        return int(w.b.op("GELU", [x], [_out(w, step)], "GeluOptions", approximate=approximate))
    if function == "hard_sigmoid":
        x = _pair(w, step, "ADD", x, _number(w, 3.0), "/shifted")
        x = w.b.op("RELU6", [x], [_out(w, step, "/clipped")])
        return _pair(w, step, "MUL", x, int(w.b.constant("sixth", np.float32(1 / 6))))
    if function not in _UNARY or (function == "elu" and step.attrs["alpha"] != 1.0):
        raise _refuse(step, f"activation {function!r} has no operator there")
    return int(w.b.op(_UNARY[function], [x], [_out(w, step)], _UNARY_OPTIONS.get(_UNARY[function], "")))


@_floats("softmax", "log_softmax")
def _softmax(w: Writer, step: Step) -> int:
    rank = len(w.program.shapes[step.output])
    if step.attrs["axis"] % rank != rank - 1:
        raise _refuse(step, f"softmax over axis {step.attrs['axis']}, TFLite's is over the last one")
    if step.kind == "log_softmax":
        return int(w.b.op("LOG_SOFTMAX", [_given(w, step)], [_out(w, step)], "LogSoftmaxOptions"))
    return int(w.b.op("SOFTMAX", [_given(w, step)], [_out(w, step)], "SoftmaxOptions", beta=1.0))


# --- pools ---


@_floats("max_pool", "avg_pool")
def _pool(w: Writer, step: Step) -> int:
    spot = integer.placed(w, step, _given(w, step), w.program.shapes[step.values[0]])
    if spot is None or len(step.attrs["window"]) != 2:
        raise _refuse(step, "this window has no operator there")
    kind, factor = {"max_pool": "MAX_POOL_2D", "avg_pool": "AVERAGE_POOL_2D"}[step.kind], step.attrs["factor"]
    y = integer.pool(w, kind, step, spot, _out(w, step, "" if factor is None else "/mean"))
    return _scaled(w, step, y)


def _scaled(w: Writer, step: Step, y: int) -> int:
    factor = step.attrs["factor"]
    return (
        y
        if factor is None
        else _pair(w, step, "MUL", y, int(w.b.constant(f"{step.name}/factor", np.float32(factor))))
    )


@_floats("global_max", "global_avg")
def _global_pool(w: Writer, step: Step) -> int:
    rank = len(w.program.shapes[step.values[0]])
    axes = w.b.constant(f"axes_of_{rank}", np.arange(1, rank - 1, dtype=np.int32))
    kind = {"global_max": "REDUCE_MAX", "global_avg": "MEAN"}[step.kind]
    factor = step.attrs["factor"]
    y = w.b.op(
        kind,
        [_given(w, step), axes],
        [_out(w, step, "" if factor is None else "/mean")],
        "ReducerOptions",
        keepDims=step.attrs["keepdims"],
    )
    return _scaled(w, step, y)


# --- arithmetic and moves ---

_BINARY = {"add": "ADD", "sub": "SUB", "mul": "MUL", "div": "DIV", "max": "MAXIMUM", "min": "MINIMUM"}


@_floats("binary")
def _binary(w: Writer, step: Step) -> int:
    x, y = (w.float_constant(o) if isinstance(o, Constant) else w.float(o) for o in step.inputs)
    return _pair(w, step, _BINARY[step.attrs["function"]], x, y)


@_floats("affine")
def _affine(w: Writer, step: Step) -> int:
    scale, offset = (w.float_constant(step.constants[k]) for k in ("scale", "offset"))
    return _pair(w, step, "ADD", _pair(w, step, "MUL", _given(w, step), scale, "/scaled"), offset)


@_floats("concat")
def _concat(w: Writer, step: Step) -> int:
    return int(
        w.b.op(
            "CONCATENATION",
            [w.float(v) for v in step.values],
            [_out(w, step)],
            "ConcatenationOptions",
            axis=step.attrs["axis"],
            fusedActivationFunction=0,
        )
    )


@_floats("crop")
def _crop(w: Writer, step: Step) -> int:
    crops = [(0, 0), *step.attrs["crops"], (0, 0)]
    begin, end = (np.asarray(v, np.int32) for v in ([b for b, _ in crops], [-e for _, e in crops]))
    names = [w.b.constant(f"{step.name}/{k}", v) for k, v in (("begin", begin), ("end", end))]
    ones = w.b.constant(f"ones_{len(crops)}", np.ones(len(crops), np.int32))
    mask = sum(1 << i for i, (_, e) in enumerate(crops) if e == 0)
    return int(
        w.b.op(
            "STRIDED_SLICE",
            [_given(w, step), *names, ones],
            [_out(w, step)],
            "StridedSliceOptions",
            endMask=mask,
        )
    )


@_floats("resize")
def _resize(w: Writer, step: Step) -> int:
    shape = w.program.shapes[step.output]
    if len(shape) != 4 or None in shape[1:3]:
        raise _refuse(step, f"its output size {shape} is free or has not two spatial axes")
    kind, name = ("RESIZE_BILINEAR", "ResizeBilinearOptions") if step.attrs["mode"] == "bilinear" else (
        "RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")  # fmt: skip
    size = w.b.constant(f"{step.name}/size", np.asarray(shape[1:3], np.int32))
    return int(
        w.b.op(
            kind, [_given(w, step), size], [_out(w, step)], name, halfPixelCenters=kind == "RESIZE_BILINEAR"
        )
    )


@_floats("round_to_type")
def _round_to_type(w: Writer, step: Step) -> int:
    if step.attrs["dtype"] != "float16":
        raise _refuse(step, f"rounding to {step.attrs['dtype']}")
    short = w.b.tensor(f"{step.name}/short", w.program.shapes[step.output], "float16")
    return int(w.b.cast(w.b.cast(_given(w, step), short), _out(w, step)))


@_floats("cast")
def _cast(w: Writer, step: Step) -> int:
    return int(w.b.cast(_given(w, step), _out(w, step)))


@_floats("repeat")
def _repeat(w: Writer, step: Step) -> int:
    n, width = step.attrs["n"], w.program.shapes[step.output][-1]
    row = integer.reshaped(w, _given(w, step), _out(w, step, "/row", (None, 1, width)), (None, 1, width))
    times = w.b.constant(f"{step.name}/times", np.asarray([1, n, 1], np.int32))
    return int(w.b.op("TILE", [row, times], [_out(w, step)], "TileOptions"))


FLOATS["identity"] = _given
FLOATS["pad"] = lambda w, step: integer.pad(w, step, _given(w, step), _out(w, step))
FLOATS["reshape"] = lambda w, step: integer.reshaped(w, _given(w, step), _out(w, step), step.attrs["to"])
FLOATS["transpose"] = lambda w, step: integer.transpose(w, step, _given(w, step), _out(w, step))
