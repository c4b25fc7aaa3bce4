"""Each step of a program in TFLite's integer operators: those that end at a quantizer, and those that move integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.export.integer.fixed import binary_share
from vqkit.export.layers import same_pads
from vqkit.export.program import Constant, Shape, Step, Sums, int32_codes
from vqkit.export.tflite.planes import axes_of, depthwise_kernel, last_axis, lowered, output_first, planar, raised, tall
from vqkit.export.tflite.rounding import Lift, Nudge, add_is_exact, product
from vqkit.export.tflite.writer import Writer
from vqkit.primitives.qparams import QParams

_DEAD_SHARE = 2.0**-8

Move = Callable[[Writer, Step, int], int | None]
Fused = Callable[[Writer, Step, Step, QParams, str], int | None]

MOVES: dict[str, Move] = {}
FUSED: dict[str, Fused] = {}


def _fuses(kind: str) -> Callable[[Fused], Fused]:
    def register(function: Fused) -> Fused:
        FUSED[kind] = function
        return function

    return register


def fused(w: Writer, step: Step, params: QParams) -> int | None:
    """The operator that makes what a quantizer reads, its ReLU and the quantizer in one; None without one.

    Args:
        w: the writer.
        step: the quantize step.
        params: its grid.

    Returns:
        The tensor of codes.
    """
    made = w.program.producers.get(step.values[0])
    if made is None or not _only_for(w, made, step):
        return None
    word = _fusable(made)
    if word is not None:
        before = w.program.producers.get(made.values[0])
        if before is not None and before.kind in FUSED and _only_for(w, before, made):
            y = FUSED[before.kind](w, before, step, params, word)
            if y is not None:
                return y
        if w.moved(made.values[0]) is not None:
            y = w.grid_tensor(step.name, step.output, params)
            return w.b.op(word, [w.integers[made.values[0]]], [y])
    if made.kind in FUSED:
        return FUSED[made.kind](w, made, step, params, "NONE")
    return None


def _only_for(w: Writer, made: Step, reader: Step) -> bool:
    """Whether nothing else reads a value and no integers of it exist already."""
    return w.program.readers[made.output] == [reader] and made.output not in w.program.outputs.values()


def _fusable(step: Step) -> str | None:
    if step.kind != "relu" or step.attrs["slope"] or step.attrs["threshold"]:
        return None
    return {None: "RELU", 6.0: "RELU6"}.get(step.attrs["max_value"])


# --- sums of products ---


def _weight(
    w: Writer,
    c: Constant,
    lay: Callable[[np.ndarray], np.ndarray],
    axis: int,
    nudge: Nudge,
    dead: float,
    sums: Sums | None = None,
) -> tuple[int, np.ndarray] | None:
    """The tensor of a weight and its scales before the nudge; None where TFLite has no such grid.

    Where all is 0 there is no scale: any serves its codes, `dead` serves its bias too.
    """
    if c.params is None or c.params.spec.bit_width > 8 or np.any(c.params.zero_point) or c.params.spec.unsigned:
        return None
    scale = np.broadcast_to(np.asarray(c.params.scale, np.float32), c.value.shape)
    laid = lay(scale)
    along = np.moveaxis(laid, axis, 0).reshape(laid.shape[axis], -1)
    if np.any(along != along[:, :1]):
        return None
    scales = along[:, 0] if np.any(along != along[0, 0]) else along[:1, 0]
    scales = scales if sums is None else sums.weight_scale
    scales = np.where(scales > 0, scales, np.float32(dead)).astype(np.float32)
    codes = np.ascontiguousarray(lay(w.weight_codes(c)))
    return w.b.tensor(c.name, codes.shape, "int8", data=codes, scale=nudge(scales), axis=axis), scales


def _scale_of(kernel: Constant) -> np.ndarray | None:
    """Scales of a weight; None where it has none, or where all of it is 0."""
    scale = None if kernel.params is None else np.asarray(kernel.params.scale)
    return None if scale is None or not np.all(scale > 0) else scale


def _dead(grid: QParams, params: QParams) -> float:
    """A scale for weights that are all 0, fine enough for their bias and within what LiteRT multiplies by."""
    return float(_DEAD_SHARE * params.scale / grid.scale)


def _bias(w: Writer, step: Step, grid: QParams, scales: np.ndarray, outputs: int, lift: Lift) -> int:
    """The bias as int32 on the grid of the accumulator; zeros where the layer has none."""
    given = step.constants.get("bias")
    value = np.zeros(outputs, np.float32) if given is None else given.value
    scale = np.float32(grid.scale) * scales
    codes = int32_codes(value, scale, lift.offset, lift.whole)
    name = f"{step.layer}/bias" if given is None else given.name
    return w.b.tensor(name, codes.shape, "int32", data=codes, scale=scale)


def placed(w: Writer, step: Step, x: int, shape: Any, like: Callable[[str, Shape], int]) -> tuple[int, int]:
    """Padding as TFLite has it: the input, padded by an operator where it must be, and the padding word.

    Args:
        w: the writer.
        step: with two or three spatial axes.
        x: what it reads.
        shape: of `x`.
        like: from a name and a shape to a tensor of the same type and grid.
    """
    pads, word = step.attrs["pads"], step.attrs["padding"]
    if word == "valid" or pads is None or not any(p for pair in pads for p in pair):
        return x, w.b.padding("same" if word == "same" and pads is None else "valid")
    reach = [(k - 1) * d + 1 for k, d in zip(step.attrs["window"], step.attrs["dilations"], strict=True)]
    if word == "same" and pads == same_pads(shape[1:-1], reach, step.attrs["strides"]):
        return x, w.b.padding("same")
    sizes = [None if n is None else n + sum(p) for n, p in zip(shape[1:-1], pads, strict=True)]
    return pad(w, step, x, like("padded", (shape[0], *sizes, shape[-1]))), w.b.padding("valid")


def _beside(w: Writer, step: Step, value: int) -> Callable[[str, Shape], int]:
    """Tensors on the grid of a value."""
    return lambda word, shape: w.grid_tensor(f"{step.name}/{word}", value, w.grids[value], shape)


@_fuses("conv")
def _conv(w: Writer, step: Step, end: Step, params: QParams, word: str) -> int | None:
    source, whole = step.values[0], w.program.shapes[end.output]
    if axes_of(step) > 2 or w.moved(source) is None:
        return None
    grid, like, image = w.grids[source], _beside(w, step, source), tall(whole)
    flat = image == whole
    x, step = raised(w, w.integers[source], like), planar(step)
    depthwise, kernel = step.attrs["depthwise"], step.constants["kernel"]
    lift = Lift(w, end, grid, params, word, _scale_of(kernel), None if flat else image)
    weight = _weight(
        w,
        kernel,
        depthwise_kernel if depthwise else output_first,
        3 if depthwise else 0,
        lift.nudge,
        _dead(grid, params),
        step.sums,
    )
    if weight is None:
        return None
    x, padding = placed(w, step, x, w.b.shape(x), like)
    outputs = last_axis(w.program.shapes[step.output])
    inputs = [x, weight[0], _bias(w, step, grid, weight[1], outputs, lift)]
    y = lift.lower(convolution(w, step, inputs, lift.target(), padding, word))
    return y if flat else lowered(w, y, w.grid_tensor(end.name, end.output, params))


def convolution(w: Writer, step: Step, inputs: list[int], y: int, padding: int, word: str) -> int:
    """A convolution operator, plain or depthwise, of integers or floats."""
    a = step.attrs
    common = {
        "padding": padding,
        "strideH": a["strides"][0],
        "strideW": a["strides"][1],
        "dilationHFactor": a["dilations"][0],
        "dilationWFactor": a["dilations"][1],
        "fusedActivationFunction": w.b.activation(word),
    }
    if a["depthwise"]:
        multiplier = step.constants["kernel"].value.shape[-1]
        return w.b.op(
            "DEPTHWISE_CONV_2D",
            inputs,
            [y],
            "DepthwiseConv2DOptions",
            depthMultiplier=multiplier,
            **common,
        )
    return w.b.op("CONV_2D", inputs, [y], "Conv2DOptions", **common)


@_fuses("dense")
def _dense(w: Writer, step: Step, end: Step, params: QParams, word: str) -> int | None:
    source = step.values[0]
    if len(w.program.shapes[source]) != 2 or w.moved(source) is None:
        return None
    kernel = step.constants["kernel"]
    lift = Lift(w, end, w.grids[source], params, word, _scale_of(kernel))
    dead = _dead(w.grids[source], params)
    weight = _weight(w, kernel, np.transpose, 0, lift.nudge, dead, step.sums)
    if weight is None:
        return None
    bias = _bias(w, step, w.grids[source], weight[1], last_axis(w.program.shapes[step.output]), lift)
    y = w.b.op(
        "FULLY_CONNECTED",
        [w.integers[source], weight[0], bias],
        [lift.target()],
        "FullyConnectedOptions",
        fusedActivationFunction=w.b.activation(word),
    )
    return lift.lower(y)


# --- pools as depthwise convolutions with one weight ---


@_fuses("avg_pool")
def _avg_pool(w: Writer, step: Step, end: Step, params: QParams, word: str) -> int | None:
    pads = step.attrs["pads"]
    if axes_of(step) > 2 or pads is None or any(p for pair in pads for p in pair):
        return None
    flat = planar(step).attrs
    return _pool(w, step, end, params, word, flat["window"], flat["strides"])


@_fuses("global_avg")
def _global_avg(w: Writer, step: Step, end: Step, params: QParams, word: str) -> int | None:
    window = tall(w.program.shapes[step.values[0]])[1:-1]
    if len(window) != 2 or None in window:
        return None
    return _pool(w, step, end, params, word, window, (1, 1))


def _pool(w: Writer, step: Step, end: Step, params: QParams, word: str, window: Any, strides: Any) -> int | None:
    """Sum times k / 2**n (or 1 / area): AVERAGE_POOL_2D has no factor and keeps the scale of its input."""
    source = step.values[0]
    if w.moved(source) is None:
        return None
    grid, channels = w.grids[source], last_axis(w.program.shapes[source])
    area = int(np.prod(window))
    share = None if step.attrs["factor"] is None else binary_share(step.attrs["factor"], area)
    k, scale = (1, 1 / area) if share is None else (share[0], 2.0 ** -share[1])
    if k > 127:
        return None
    taps = np.full((1, *window, channels), k, np.int8)
    word = "RELU" if word == "NONE" and _never_negative(w, source) else word
    x, shape = raised(w, w.integers[source], _beside(w, step, source)), w.program.shapes[end.output]
    sizes = [
        None if n is None else (n - k) // s + 1 for n, k, s in zip(w.b.shape(x)[1:3], window, strides, strict=True)
    ]
    image = (shape[0], *sizes, channels)
    flat = image == shape
    scales = np.asarray([scale], np.float32)
    lift = Lift(w, end, grid, params, word, scales, None if flat else image)
    weight = w.b.tensor(f"{step.name}/share", taps.shape, "int8", data=taps, scale=lift.nudge(scales), axis=3)
    bias = _bias(w, step, grid, scales, channels, lift)
    y = w.b.op(
        "DEPTHWISE_CONV_2D",
        [x, weight, bias],
        [lift.target()],
        "DepthwiseConv2DOptions",
        padding=w.b.padding("valid"),
        strideH=strides[0],
        strideW=strides[1],
        depthMultiplier=1,
        dilationHFactor=1,
        dilationWFactor=1,
        fusedActivationFunction=w.b.activation(word),
    )
    y = lift.lower(y)
    if flat:
        return y
    target = w.grid_tensor(end.name, end.output, params)
    return lowered(w, y, target) if len(shape) == 3 else reshaped(w, y, target, shape)


def _never_negative(w: Writer, value: int) -> bool:
    """Whether a value is a ReLU's, through steps that only move values."""
    step = w.program.producers.get(value)
    if step is None:
        return False
    if step.kind == "relu":
        return not step.attrs["slope"] and not step.attrs["threshold"]
    return (step.kind in MOVES or step.kind == "quantize") and _never_negative(w, step.values[0])


def reshaped(w: Writer, x: int, y: int, shape: Any) -> int:
    """A RESHAPE; the batch stays free."""
    to = np.asarray([-1 if n is None else n for n in shape], np.int32)
    name = "shape_" + "_".join(map(str, to))
    return w.b.op("RESHAPE", [x, w.b.constant(name, to)], [y], "ReshapeOptions", newShape=to)


# --- arithmetic ---

_BINARY = {"add": ("ADD", "AddOptions"), "sub": ("SUB", "SubOptions"), "mul": ("MUL", "MulOptions")}


@_fuses("binary")
def _binary(w: Writer, step: Step, end: Step, params: QParams, word: str) -> int | None:
    kind = _BINARY.get(step.attrs["function"])
    if kind is None or len(step.values) != 2 or any(w.moved(v) is None for v in step.values):
        return None
    grids, given = [w.grids[v] for v in step.values], [w.integers[v] for v in step.values]
    if kind[0] == "MUL":
        return product(w, end, grids, given, params, word)
    if w.exact and not add_is_exact(grids, params):
        return None
    y = w.grid_tensor(end.name, end.output, params)
    return w.b.op(kind[0], given, [y], kind[1], fusedActivationFunction=w.b.activation(word))


@_fuses("concat")
def _concat(w: Writer, step: Step, end: Step, params: QParams, word: str) -> int | None:
    if word != "NONE" or any(w.moved(v) is None for v in step.values):
        return None
    parts = []
    for i, v in enumerate(step.values):
        x = w.integers[v]
        if w.grids[v] != params:
            x = w.on_grid(v, params, f"{end.name}/part_{i}")
        parts.append(x)
    y = w.grid_tensor(end.name, end.output, params)
    return w.b.op(
        "CONCATENATION",
        parts,
        [y],
        "ConcatenationOptions",
        axis=step.attrs["axis"],
        fusedActivationFunction=0,
    )


# --- moves ---


def _same_grid(w: Writer, step: Step) -> int:
    return w.grid_tensor(step.name, step.output, w.grids[step.output])


def _max_pool(w: Writer, step: Step, x: int) -> int | None:
    source, whole = step.values[0], w.program.shapes[step.output]
    if axes_of(step) > 2:
        return None
    like = _beside(w, step, source)
    flat, image = planar(step), tall(whole)
    x = raised(w, x, like)
    spot = placed(w, flat, x, w.b.shape(x), like)
    if image == whole:
        return pool(w, "MAX_POOL_2D", flat, spot, _same_grid(w, step))
    y = pool(
        w,
        "MAX_POOL_2D",
        flat,
        spot,
        w.grid_tensor(f"{step.name}/image", step.output, w.grids[step.output], image),
    )
    return lowered(w, y, _same_grid(w, step))


def pool(w: Writer, kind: str, step: Step, spot: tuple[int, int], y: int) -> int:
    """A pooling operator."""
    a = step.attrs
    return w.b.op(
        kind,
        [spot[0]],
        [y],
        "Pool2DOptions",
        padding=spot[1],
        strideH=a["strides"][0],
        strideW=a["strides"][1],
        filterHeight=a["window"][0],
        filterWidth=a["window"][1],
        fusedActivationFunction=0,
    )


def pad(w: Writer, step: Step, x: int, y: int) -> int:
    """Zeros around the spatial axes; of integers TFLite takes the zero point."""
    pads = np.asarray([(0, 0), *step.attrs["pads"], (0, 0)], np.int32)
    return w.b.op("PAD", [x, w.b.constant(f"{step.name}/pads", pads)], [y], "PadOptions")


def transpose(w: Writer, step: Step, x: int, y: int) -> int:
    """Axes in another order."""
    perm = w.b.constant(f"{step.name}/perm", np.asarray(step.attrs["perm"], np.int32))
    return w.b.op("TRANSPOSE", [x, perm], [y], "TransposeOptions")


MOVES["max_pool"] = _max_pool
MOVES["pad"] = lambda w, step, x: pad(w, step, x, _same_grid(w, step))
MOVES["reshape"] = lambda w, step, x: reshaped(w, x, _same_grid(w, step), step.attrs["to"])
MOVES["transpose"] = lambda w, step, x: transpose(w, step, x, _same_grid(w, step))
MOVES["identity"] = lambda _w, _step, x: x
