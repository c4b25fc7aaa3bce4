"""Each step of a program in TFLite's float operators: what a strategy leaves in float or no integer operator has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export.float_layers import KIND as LAYER
from vqkit.export.integer.fixed import padded, windows
from vqkit.export.program import Constant, Shape, Step
from vqkit.export.tflite import float_layers, planes
from vqkit.export.tflite import integer_ops as integer
from vqkit.export.tflite.functions import FunctionWriter
from vqkit.export.tflite.writer import Writer
from vqkit.primitives.kernels import SIGMOID_FACTOR

Float = Callable[[Writer, Step], "int | list[int]"]
"""From a step to its tensor, or to those of all its outputs."""

FLOATS: dict[str, Float] = {}


def _floats(*kinds: str) -> Callable[[Float], Float]:
    def register(function: Float) -> Float:
        FLOATS.update(dict.fromkeys(kinds, function))
        return function

    return register


def _out(w: Writer, step: Step, suffix: str = "", shape: Any = None) -> int:
    shape = w.program.shapes[step.output] if shape is None else shape
    return w.b.tensor(f"{step.name}{suffix}", shape, w.program.dtypes[step.output])


def _given(w: Writer, step: Step) -> int:
    return w.float(step.values[0])


def _number(w: Writer, value: Any) -> int:
    return w.b.constant(f"number_{float(value):g}", np.float32(value))


def _refuse(step: Step, why: str) -> ModelError:
    return ModelError(f"layer {step.layer!r} cannot be exported to TFLite: {why}. Export onnx")


def _beside(w: Writer, step: Step) -> Callable[[str, Shape], int]:
    return lambda word, shape: w.b.tensor(f"{step.name}/{word}", shape, "float32")


def _planar(w: Writer, step: Step, write: Callable[[Step, int, int], int]) -> int:
    """A window over one or two spatial axes, written as one over two.

    Args:
        w: the writer.
        step: the step.
        write: from the step with two axes, what it reads and where it goes to the result.
    """
    whole, like = w.program.shapes[step.output], _beside(w, step)
    image = planes.tall(whole)
    x = planes.raised(w, _given(w, step), like)
    y = write(planes.planar(step), x, _out(w, step, "" if image == whole else "/image", image))
    return y if image == whole else planes.lowered(w, y, _out(w, step))


@_floats("conv")
def _conv(w: Writer, step: Step) -> int:
    outputs = planes.last_axis(w.program.shapes[step.output])
    if planes.axes_of(step) == 3:
        return _conv_3d(w, step, _bias(w, step, outputs))

    def write(step: Step, x: int, y: int) -> int:
        lay = planes.depthwise_kernel if step.attrs["depthwise"] else planes.output_first
        spot = integer.placed(w, step, x, w.b.shape(x), _beside(w, step))
        kernel = w.float_constant(step.constants["kernel"], lay)
        return integer.convolution(w, step, [spot[0], kernel, _bias(w, step, outputs)], y, spot[1], "NONE")

    return _planar(w, step, write)


def _conv_3d(w: Writer, step: Step, bias: int) -> int:
    a, x = step.attrs, _given(w, step)
    if a["groups"] != 1:
        raise _refuse(step, f"it has three spatial axes and {a['groups']} groups")
    spot = integer.placed(w, step, x, w.b.shape(x), _beside(w, step))
    sizes = {f"stride{axis}": n for axis, n in zip("DHW", a["strides"], strict=True)}
    sizes |= {f"dilation{axis}Factor": n for axis, n in zip("DHW", a["dilations"], strict=True)}
    inputs = [spot[0], w.float_constant(step.constants["kernel"]), bias]
    return w.b.op(
        "CONV_3D",
        inputs,
        [_out(w, step)],
        "Conv3DOptions",
        padding=spot[1],
        fusedActivationFunction=0,
        **sizes,
    )


def _bias(w: Writer, step: Step, outputs: int) -> int:
    if "bias" in step.constants:
        return w.float_constant(step.constants["bias"])
    return w.b.constant(f"{step.layer}/no_bias", np.zeros(outputs, np.float32))


@_floats("dense")
def _dense(w: Writer, step: Step) -> int:
    kernel = w.float_constant(step.constants["kernel"], np.transpose)
    bias = _bias(w, step, planes.last_axis(w.program.shapes[step.output]))
    deep = len(w.program.shapes[step.output]) > 2
    return w.b.op(
        "FULLY_CONNECTED",
        [_given(w, step), kernel, bias],
        [_out(w, step)],
        "FullyConnectedOptions",
        keepNumDims=deep,
    )


@_floats("conv_transpose")
def _conv_transpose(w: Writer, step: Step) -> int:
    b, x, shape = w.b, _given(w, step), w.program.shapes[step.output]
    if None in shape[1:]:
        raise _refuse(step, f"its output size {shape} is free")
    # The operator wants the whole output shape, and the batch is free.
    all_sizes = b.op(
        "SHAPE",
        [x],
        [b.tensor(f"{step.name}/input_shape", (4,), "int32")],
        "ShapeOptions",
        outType=b.s.TensorType.INT32,
    )
    one, two = (b.constant(f"ints_{v}", np.asarray([v], np.int32)) for v in (1, 0))
    batch = b.op(
        "STRIDED_SLICE",
        [all_sizes, two, one, one],
        [b.tensor(f"{step.name}/batch", (1,), "int32")],
        "StridedSliceOptions",
    )
    rest = b.constant(f"{step.name}/sizes", np.asarray(shape[1:], np.int32))
    sizes = b.op(
        "CONCATENATION",
        [batch, rest],
        [b.tensor(f"{step.name}/output_shape", (4,), "int32")],
        "ConcatenationOptions",
        axis=0,
        fusedActivationFunction=0,
    )
    # (h, w, outputs, inputs) as (outputs, h, w, inputs).
    kernel = w.float_constant(step.constants["kernel"], lambda a: np.moveaxis(a, 2, 0))
    inputs = [sizes, kernel, x, _bias(w, step, planes.last_axis(shape))]
    strides = step.attrs["strides"]
    return b.op(
        "TRANSPOSE_CONV",
        inputs,
        [_out(w, step)],
        "TransposeConvOptions",
        strideH=strides[0],
        strideW=strides[1],
        padding=b.padding(step.attrs["padding"]),
    )


# --- activations ---


@_floats("relu")
def _relu(w: Writer, step: Step) -> int:
    a, x = step.attrs, _given(w, step)
    if a["threshold"]:
        return _bent_relu(w, step, x)
    if a["slope"]:
        last = a["max_value"] is None
        x = w.b.op("LEAKY_RELU", [x], [_out(w, step, "" if last else "/leaky")], "LeakyReluOptions", alpha=a["slope"])
        return x if last else _pair(w, step, "MINIMUM", x, _number(w, a["max_value"]))
    if a["max_value"] in (None, 6.0):
        return w.b.op("RELU6" if a["max_value"] else "RELU", [x], [_out(w, step)])
    y = w.b.op("RELU", [x], [_out(w, step, "/positive")])
    return _pair(w, step, "MINIMUM", y, _number(w, a["max_value"]))


def _bent_relu(w: Writer, step: Step, x: int) -> int:
    """x above the threshold, slope * (x - threshold) below."""
    a, shape = step.attrs, w.program.shapes[step.output]
    threshold = _number(w, a["threshold"])
    above = w.b.op("GREATER", [x, threshold], [w.b.tensor(f"{step.name}/above", shape, "bool")], "GreaterOptions")
    less = _pair(w, step, "SUB", x, threshold, "/less")
    below = _pair(w, step, "MUL", less, _number(w, a["slope"]), "/below")
    last = a["max_value"] is None
    y = w.b.op("SELECT_V2", [above, x, below], [_out(w, step, "" if last else "/bent")], "SelectV2Options")
    return int(y) if last else _pair(w, step, "MINIMUM", y, _number(w, a["max_value"]))


def _pair(w: Writer, step: Step, kind: str, x: int, y: int, suffix: str = "") -> int:
    options = {
        "MINIMUM": "MaximumMinimumOptions",
        "MAXIMUM": "MaximumMinimumOptions",
        "ADD": "AddOptions",
        "SUB": "SubOptions",
        "MUL": "MulOptions",
        "DIV": "DivOptions",
    }[kind]
    return w.b.op(kind, [x, y], [_out(w, step, suffix)], options)


@_floats("ceiling")
def _ceiling(w: Writer, step: Step) -> int:
    return _pair(w, step, "MINIMUM", _given(w, step), w.float_constant(step.constants["ceiling"]))


@_floats("prelu")
def _prelu(w: Writer, step: Step) -> int:
    return w.b.op("PRELU", [_given(w, step), w.float_constant(step.constants["alpha"])], [_out(w, step)])


@_floats("dpu_sigmoid")
def _dpu_sigmoid(w: Writer, step: Step) -> int:
    x = _pair(w, step, "ADD", _given(w, step), _number(w, 3.0), "/shifted")
    x = w.b.op("RELU6", [x], [_out(w, step, "/clipped")])
    return _pair(w, step, "MUL", x, w.b.constant("dpu_sixth", np.float32(SIGMOID_FACTOR)))


@_floats("unary")
def _unary(w: Writer, step: Step) -> int:
    curve = FunctionWriter(w.b, step.name, w.program.shapes[step.output])
    found = curve.write(step.attrs["function"], _given(w, step), step.attrs)
    if found is None:
        raise _refuse(step, f"activation {step.attrs['function']!r} has no operator there")
    return found


@_floats("softmax", "log_softmax")
def _softmax(w: Writer, step: Step) -> int:
    shape, x = w.program.shapes[step.output], _given(w, step)
    axis, last = step.attrs["axis"] % len(shape), len(shape) - 1
    kind, options = ("SOFTMAX", "SoftmaxOptions") if step.kind == "softmax" else ("LOG_SOFTMAX", "LogSoftmaxOptions")
    more = {"beta": 1.0} if step.kind == "softmax" else {}
    if axis == last:
        return w.b.op(kind, [x], [_out(w, step)], options, **more)
    # TFLite's is over the last axis.
    perm = [last if i == axis else axis if i == last else i for i in range(len(shape))]
    order = w.b.constant(f"order_{'_'.join(map(str, perm))}", np.asarray(perm, np.int32))
    turned = tuple(shape[i] for i in perm)
    x = w.b.op("TRANSPOSE", [x, order], [_out(w, step, "/turned", turned)], "TransposeOptions")
    y = w.b.op(kind, [x], [_out(w, step, "/last", turned)], options, **more)
    return w.b.op("TRANSPOSE", [y, order], [_out(w, step)], "TransposeOptions")


# --- pools ---


@_floats("max_pool", "avg_pool")
def _pool(w: Writer, step: Step) -> int:
    if planes.axes_of(step) == 3:
        return _scaled(w, step, _pool_3d(w, step))
    kind = _POOLS[step.kind]

    bordered = step.kind == "avg_pool" and any(p for pair in step.attrs["pads"] or () for p in pair)
    exact = w.exact and bordered and w.moved(step.values[0]) is not None

    def write(step: Step, x: int, y: int) -> int:
        spot = integer.placed(w, step, x, w.b.shape(x), _beside(w, step))
        whole = exact and None not in w.b.shape(x)[1:]
        return _mean(w, step, x, spot, y) if whole else integer.pool(w, kind, step, spot, y)

    if step.attrs["factor"] is None:
        return _planar(w, step, write)
    unscaled = replace(step, name=f"{step.name}/mean")
    return _scaled(w, step, _planar(w, unscaled, write))


_POOLS = {"max_pool": "MAX_POOL_2D", "avg_pool": "AVERAGE_POOL_2D"}


def _mean(w: Writer, step: Step, x: int, spot: tuple[int, int], y: int) -> int:
    """Sums by the number of elements, as TensorFlow has it; AVERAGE_POOL_2D multiplies by a rounded 1 / n."""
    *size, channels = (n or 1 for n in w.b.shape(x)[1:])
    window = step.attrs["window"]
    ones = Constant(f"{step.name}/ones", np.ones((*window, channels, 1), np.float32))
    weight = w.float_constant(ones, planes.depthwise_kernel)
    zeros = w.b.constant(f"{step.name}/no_bias", np.zeros(channels, np.float32))
    total = w.b.tensor(f"{step.name}/sum", w.b.shape(y), "float32")
    conv = replace(step, attrs={**step.attrs, "depthwise": True}, constants={"kernel": ones})
    integer.convolution(w, conv, [spot[0], weight, zeros], total, spot[1], "NONE")
    inside = padded(np.ones((1, *size, 1), np.int64), step.attrs["pads"])
    counts = sum(part for _, part in windows(inside, window, step.attrs["strides"], step.attrs["dilations"]))
    return w.b.op("DIV", [total, w.b.constant(f"{step.name}/counts", counts, "float32")], [y], "DivOptions")


def _pool_3d(w: Writer, step: Step) -> int:
    """A pool over height and width, then over depth: both kinds are products of the two."""
    (_, *size, channels), (_, *made, _) = (w.program.shapes[v] for v in (step.values[0], step.output))
    if None in (*size, *made):
        raise _refuse(step, f"its size {size} is free")
    x, (depth, height, width) = _given(w, step), size
    out = "" if step.attrs["factor"] is None else "/mean"

    def part(x: int, shape: Shape, axes: slice, to: Shape, word: str) -> int:
        attrs = {
            k: step.attrs[k][axes] if isinstance(step.attrs[k], tuple) else step.attrs[k]
            for k in ("window", "strides", "dilations", "padding", "pads")
        }
        flat = planes.planar(replace(step, attrs=attrs))
        x = integer.reshaped(w, x, _out(w, step, f"/{word}_of", shape), shape)
        spot = integer.placed(w, flat, x, shape, _beside(w, step))
        return integer.pool(w, _POOLS[step.kind], flat, spot, _out(w, step, f"/{word}", to))

    x = part(x, (None, height, width, channels), slice(1, 3), (None, made[1], made[2], channels), "plane")
    row = math.prod(n for n in (made[1], made[2], channels) if n is not None)
    y = part(x, (None, 1, depth, row), slice(0, 1), (None, 1, made[0], row), "depth")
    return integer.reshaped(w, y, _out(w, step, out), w.program.shapes[step.output])


def _scaled(w: Writer, step: Step, y: int) -> int:
    factor = step.attrs["factor"]
    return y if factor is None else _pair(w, step, "MUL", y, w.b.constant(f"{step.name}/factor", np.float32(factor)))


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
    return w.b.op(
        "CONCATENATION",
        [w.float(v) for v in step.values],
        [_out(w, step)],
        "ConcatenationOptions",
        axis=step.attrs["axis"],
        fusedActivationFunction=0,
    )


@_floats("crop")
def _crop(w: Writer, step: Step) -> int:
    crops = [(0, 0), *step.attrs["crops"], (0, 0)]
    begin, end = (np.asarray(v, np.int32) for v in ([b for b, _ in crops], [-e for _, e in crops]))
    names = [w.b.constant(f"{step.name}/{k}", v) for k, v in (("begin", begin), ("end", end))]
    ones = w.b.constant(f"ones_{len(crops)}", np.ones(len(crops), np.int32))
    mask = sum(1 << i for i, (_, e) in enumerate(crops) if e == 0)
    return w.b.op(
        "STRIDED_SLICE",
        [_given(w, step), *names, ones],
        [_out(w, step)],
        "StridedSliceOptions",
        endMask=mask,
    )


@_floats("resize")
def _resize(w: Writer, step: Step) -> int:
    shape = planes.tall(w.program.shapes[step.output])
    if len(shape) != 4 or None in shape[1:3]:
        raise _refuse(step, f"its output size {shape} is free or has three spatial axes")
    smooth = step.attrs["mode"] == "bilinear"
    kind, name = (
        ("RESIZE_BILINEAR", "ResizeBilinearOptions")
        if smooth
        else ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")
    )
    size = w.b.constant(f"{step.name}/size", np.asarray(shape[1:3], np.int32))

    def write(_: Step, x: int, y: int) -> int:
        return w.b.op(kind, [x, size], [y], name, halfPixelCenters=smooth)

    return _planar(w, step, write)


@_floats("round_to_type")
def _round_to_type(w: Writer, step: Step) -> int:
    if step.attrs["dtype"] != "float16":
        raise _refuse(step, f"rounding to {step.attrs['dtype']}")
    short = w.b.tensor(f"{step.name}/short", w.program.shapes[step.output], "float16")
    return w.b.cast(w.b.cast(_given(w, step), short), _out(w, step))


@_floats("cast")
def _cast(w: Writer, step: Step) -> int:
    return w.b.cast(_given(w, step), _out(w, step))


@_floats("repeat")
def _repeat(w: Writer, step: Step) -> int:
    n, width = step.attrs["n"], w.program.shapes[step.output][-1]
    row = integer.reshaped(w, _given(w, step), _out(w, step, "/row", (None, 1, width)), (None, 1, width))
    times = w.b.constant(f"{step.name}/times", np.asarray([1, n, 1], np.int32))
    return w.b.op("TILE", [row, times], [_out(w, step)], "TileOptions")


FLOATS[LAYER] = float_layers.float_layer
FLOATS["identity"] = _given
FLOATS["pad"] = lambda w, step: integer.pad(w, step, _given(w, step), _out(w, step))
FLOATS["reshape"] = lambda w, step: integer.reshaped(w, _given(w, step), _out(w, step), step.attrs["to"])
FLOATS["transpose"] = lambda w, step: integer.transpose(w, step, _given(w, step), _out(w, step))
