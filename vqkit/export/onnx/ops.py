"""Each step of a program in ONNX operators, with floats or with whole numbers.

Steps that add integers, in ONNX: floats that hold whole numbers, so that no runtime's order matters.

    DequantizeLinear (scale 1) -> Conv | Gemm | ReduceSum -> Round -> Add -> Mul -> Round -> Mul

Float kernels are exact on such numbers on every processor; `QLinearConv` is not on x86 without VNNI, where
its 16-bit sums of two products saturate. The first Round also keeps optimizers from moving the factor behind
it into the weights, which would no longer be whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.export.onnx.graph import LAST, Writer, writes
from vqkit.export.program import Constant, Step, Sums
from vqkit.primitives.kernels import SIGMOID_FACTOR

_BASE = 16
"""Wide sums are added in two parts: weights = _BASE * high + low."""
_DEQUANTIZE_SCALAR = np.float32(1)


def input_codes(w: Writer, step: Step) -> str:
    """The codes of a step's input as floats, zero point taken off, in the step's layout."""
    value = step.values[0]
    x = w.read(value)
    if x in w.quant.codes:
        codes, (_, zero), _ = w.quant.codes[x]
        name = f"{codes}/codes"
        if name not in w.memo:
            one = w.b.constant(_DEQUANTIZE_SCALAR, "one")
            w.memo[name] = w.b.op("DequantizeLinear", [codes, one, zero], name)
        return str(w.memo[name])
    scale = w.b.constant(np.float32(w.program.grids[value].scale), f"{x}/step")
    return str(w.b.op("Round", [w.b.op("Div", [x, scale], f"{x}/steps")], f"{x}/codes"))


def weighted(
    w: Writer,
    step: Step,
    sums: Sums,
    lay: Callable[[np.ndarray], np.ndarray],
    product: Callable[[str, str], str],
) -> str:
    """A convolution or dense step.

    Args:
        w: the writer.
        step: the step.
        sums: its numbers.
        lay: lays the kernel out as ONNX wants it.
        product: from the name of the kernel and of the result to the result.

    Returns:
        Name of the values, on the output's grid, not clipped yet.
    """
    kernel = step.constants["kernel"]
    codes = lay(kernel.codes)
    if not sums.wide:
        total = w.b.op("Round", [product(_kernel(w, kernel, codes, ""), f"{step.name}/sum")], f"{step.name}/whole")
        return scaled(w, step, sums, total)
    low = (codes + _BASE // 2) % _BASE - _BASE // 2
    parts = {"high": (codes - low) // _BASE, "low": low}
    done = {k: product(_kernel(w, kernel, v, f"/{k}"), f"{step.name}/{k}") for k, v in parts.items()}
    high, rest = (w.b.cast(done[k], "DOUBLE", f"{step.name}/{k}/double") for k in ("high", "low"))
    high = w.b.op("Mul", [high, w.b.constant(np.float64(_BASE), "base")], f"{step.name}/high/shifted")
    return scaled(w, step, sums, w.b.op("Add", [high, rest], f"{step.name}/whole"))


def _kernel(w: Writer, kernel: Constant, codes: np.ndarray, suffix: str) -> str:
    name = f"{kernel.name}{suffix}"
    given = [w.b.integers(codes, 8, False, f"{name}/q"), w.b.constant(_DEQUANTIZE_SCALAR, "one")]
    return str(w.b.op("DequantizeLinear", given, f"{name}/codes"))


def scaled(w: Writer, step: Step, sums: Sums, total: str) -> str:
    """From whole sums to values on the output's grid."""
    b, name, rank = w.b, step.name, w.rank(step.output)
    if sums.bias is not None:
        dtype = np.float64 if sums.wide else np.float32
        bias = b.constant(w.beside(sums.bias.astype(dtype), rank), f"{step.layer}/bias/int32")
        total = b.op("Add", [total, bias], f"{name}/with_bias")
    if sums.wide:
        total = b.cast(total, "FLOAT", f"{name}/float")
    factor = b.constant(w.beside(sums.multiplier, rank), f"{name}/multiplier")
    codes = b.op("Round", [b.op("Mul", [total, factor], f"{name}/scaled")], f"{name}/codes")
    return str(b.op("Mul", [codes, b.constant(sums.output_scale, f"{name}/output_scale")], name))


def average(w: Writer, step: Step, sums: Sums, mean: Callable[[str, str], str], area: int) -> str:
    """An average pool: the sum of the codes in a window.

    Args:
        w: the writer.
        step: the step.
        sums: its numbers.
        mean: from the names of codes and result to the mean of a window.
        area: elements of a window.
    """
    found = mean(input_codes(w, step), f"{step.name}/mean")
    total = w.b.op("Mul", [found, w.b.constant(np.float32(area), f"number_{area}")], f"{step.name}/sum")
    return scaled(w, step, sums, w.b.op("Round", [total], f"{step.name}/whole"))


@writes("quantize")
def _quantize(w: Writer, step: Step) -> str:
    (value,) = step.values
    rank = w.rank(value)
    return w.quant.value(w.read(value), step.attrs["params"], step.name, lambda a: w.beside(a, rank))


@writes("identity")
def _identity(w: Writer, step: Step) -> str:
    return str(w.b.op("Identity", [w.read(step.values[0])], step.name))


@writes("round_to_type")
def _round_to_type(w: Writer, step: Step) -> str:
    short = w.b.cast(w.read(step.values[0]), step.attrs["dtype"].upper(), f"{step.name}/short")
    return str(w.b.cast(short, "FLOAT", step.name))


@writes("cast")
def _cast(w: Writer, step: Step) -> str:
    return str(w.b.cast(w.read(step.values[0]), step.attrs["dtype"], step.name))


# --- weighted ---


def _bias(w: Writer, step: Step) -> list[str]:
    """The bias as an input: with its own grid, or (qdq) as int32 on the grid of the accumulator."""
    bias = step.constants.get("bias")
    if bias is None:
        return []
    grid = w.program.grids.get(step.values[0])
    kernel = step.constants["kernel"].params
    if w.exact or bias.params is None or grid is None or kernel is None:
        return [w.quant.weight(bias, lambda a: a, bias.name)]
    per_channel = np.asarray(kernel.scale).size == bias.value.size
    unit = kernel.scale.reshape(-1) if per_channel else kernel.scale.reshape(-1)[:1].reshape(())
    scale = np.asarray(grid.scale * unit, np.float32)
    codes = np.rint(np.divide(bias.value, scale, out=np.zeros(bias.value.shape), where=scale > 0))
    codes = np.clip(codes, -(2.0**31), 2.0**31 - 1).astype(np.int32)
    if not w.b.dequantizes(32, False, per_channel=per_channel):
        return [w.quant.weight(bias, lambda a: a, bias.name)]
    inputs = [w.b.constant(codes, f"{bias.name}/int32"), w.b.constant(scale, f"{bias.name}/scale")]
    return [w.b.op("DequantizeLinear", inputs, bias.name, axis=0 if per_channel else None)]


def _window(step: Step) -> dict[str, Any]:
    """kernel_shape, strides and pads as ONNX has them."""
    pads = step.attrs["pads"]
    found: dict[str, Any] = {
        "kernel_shape": list(step.attrs["window"]),
        "strides": list(step.attrs["strides"]),
    }
    if pads is None:
        return {**found, "auto_pad": "SAME_UPPER"}
    return {**found, "pads": [p[0] for p in pads] + [p[1] for p in pads]}


@writes("conv")
def _conv(w: Writer, step: Step) -> str:
    kernel = step.constants["kernel"]
    if step.attrs["depthwise"]:
        laid = _depthwise_kernel
    else:

        def laid(a: np.ndarray) -> np.ndarray:
            return np.moveaxis(a, (-1, -2), (0, 1))

    def convolve(inputs: list[str], name: str) -> str:
        return str(
            w.b.op(
                "Conv",
                inputs,
                name,
                group=step.attrs["groups"],
                dilations=list(step.attrs["dilations"]),
                **_window(step),
            )
        )

    if step.sums is not None:
        codes = input_codes(w, step)
        return weighted(w, step, step.sums, laid, lambda k, name: convolve([codes, k], name))
    inputs = [w.read(step.values[0]), w.quant.weight(kernel, laid, kernel.name), *_bias(w, step)]
    return convolve(inputs, step.name)


def _depthwise_kernel(a: np.ndarray) -> np.ndarray:
    """(*window, channels, multiplier) as (channels * multiplier, 1, *window)."""
    flat = a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1])
    return np.moveaxis(flat, -1, 0)[:, None]


@writes("conv_transpose")
def _conv_transpose(w: Writer, step: Step) -> str:
    kernel = step.constants["kernel"]
    weight = w.quant.weight(kernel, lambda a: np.moveaxis(a, (-1, -2), (0, 1)), kernel.name)
    inputs = [w.read(step.values[0]), weight, *_bias(w, step)]
    window, strides = step.attrs["window"], step.attrs["strides"]
    begin, end, extra = [], [], []
    for k, s in zip(window, strides, strict=True):
        # "same" gives n * s outputs, "valid" (n - 1) * s + max(k, s).
        cut = max(k - s, 0) if step.attrs["padding"] == "same" else 0
        begin.append(cut // 2)
        end.append(cut - cut // 2)
        extra.append(max(s - k, 0))
    return str(
        w.b.op(
            "ConvTranspose",
            inputs,
            step.name,
            kernel_shape=list(window),
            strides=list(strides),
            pads=begin + end,
            output_padding=extra,
        )
    )


@writes("dense")
def _dense(w: Writer, step: Step) -> str:
    kernel, x = step.constants["kernel"], w.read(step.values[0])
    if step.sums is not None:
        codes = input_codes(w, step)
        return weighted(w, step, step.sums, lambda a: a, lambda k, name: str(w.b.op("MatMul", [codes, k], name)))
    weight, bias = w.quant.weight(kernel, lambda a: a, kernel.name), _bias(w, step)
    if w.rank(step.values[0]) == 2:
        return str(w.b.op("Gemm", [x, weight, *bias], step.name))
    y = w.b.op("MatMul", [x, weight], f"{step.name}/product" if bias else step.name)
    return str(w.b.op("Add", [y, *bias], step.name) if bias else y)


@writes("affine")
def _affine(w: Writer, step: Step) -> str:
    rank = w.rank(step.output)
    scale, offset = (w.operand(step.constants[k], rank) for k in ("scale", "offset"))
    y = w.b.op("Mul", [w.read(step.values[0]), scale], f"{step.name}/scaled")
    return str(w.b.op("Add", [y, offset], step.name))


# --- activations ---


def number(w: Writer, value: float) -> str:
    """A float32 scalar."""
    return str(w.b.constant(np.float32(value), f"number_{value:g}"))


@writes("relu")
def _relu(w: Writer, step: Step) -> str:
    x, a = w.read(step.values[0]), step.attrs
    if a["threshold"]:
        return _bent_relu(w, x, step)
    if a["slope"] and a["max_value"] is None:
        return str(w.b.op("LeakyRelu", [x], step.name, alpha=a["slope"]))
    if a["slope"]:
        y = w.b.op("LeakyRelu", [x], f"{step.name}/leaky", alpha=a["slope"])
        return str(w.b.op("Min", [y, number(w, a["max_value"])], step.name))
    if a["max_value"] is None:
        return str(w.b.op("Relu", [x], step.name))
    return str(w.b.op("Clip", [x, number(w, 0), number(w, a["max_value"])], step.name))


def _bent_relu(w: Writer, x: str, step: Step) -> str:
    """x above the threshold, slope * (x - threshold) below."""
    a, name = step.attrs, step.name
    threshold = number(w, a["threshold"])
    above = w.b.op("Greater", [x, threshold], f"{name}/above")
    below = w.b.op("Mul", [w.b.op("Sub", [x, threshold], f"{name}/less"), number(w, a["slope"])], f"{name}/below")
    y = w.b.op("Where", [above, x, below], f"{name}/bent")
    return y if a["max_value"] is None else str(w.b.op("Min", [y, number(w, a["max_value"])], name))


@writes("ceiling")
def _ceiling(w: Writer, step: Step) -> str:
    x = w.read(step.values[0])
    return str(w.b.op("Min", [x, w.operand(step.constants["ceiling"], w.rank(step.output))], step.name))


@writes("prelu")
def _prelu(w: Writer, step: Step) -> str:
    alpha = step.constants["alpha"]
    rank = w.rank(step.output)
    slope = w.quant.weight(alpha, lambda a: w.beside(a, rank), alpha.name)
    return str(w.b.op("PRelu", [w.read(step.values[0]), slope], step.name))


@writes("dpu_sigmoid")
def _dpu_sigmoid(w: Writer, step: Step) -> str:
    x = w.b.op("Add", [w.read(step.values[0]), number(w, 3.0)], f"{step.name}/shifted")
    x = w.b.op("Clip", [x, number(w, 0.0), number(w, 6.0)], f"{step.name}/clipped")
    return str(w.b.op("Mul", [x, w.b.constant(np.float32(SIGMOID_FACTOR), "dpu_sixth")], step.name))


_DIRECT = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "exponential": "Exp",
    "selu": "Selu",
}


@writes("unary")
def _unary(w: Writer, step: Step) -> str:
    x, function, b, name = w.read(step.values[0]), step.attrs["function"], w.b, step.name
    if function in _DIRECT:
        return str(b.op(_DIRECT[function], [x], name))
    if function == "elu":
        return str(b.op("Elu", [x], name, alpha=step.attrs["alpha"]))
    if function == "swish":
        return str(b.op("Mul", [x, b.op("Sigmoid", [x], f"{name}/gate")], name))
    if function == "mish":
        gate = b.op("Tanh", [b.op("Softplus", [x], f"{name}/softplus")], f"{name}/gate")
        return str(b.op("Mul", [x, gate], name))
    if function in ("hard_sigmoid", "hard_silu"):
        gate = b.op("HardSigmoid", [x], f"{name}/gate" if function == "hard_silu" else name, alpha=1 / 6, beta=0.5)
        return str(gate if function == "hard_sigmoid" else b.op("Mul", [x, gate], name))
    if not step.attrs.get("approximate"):
        root = b.op("Mul", [x, number(w, np.sqrt(0.5))], f"{name}/argument")
        share = b.op("Add", [b.op("Erf", [root], f"{name}/erf"), number(w, 1.0)], f"{name}/one_plus")
        return str(b.op("Mul", [b.op("Mul", [x, share], f"{name}/twice"), number(w, 0.5)], name))
    cube = b.op("Mul", [b.op("Mul", [x, x], f"{name}/square"), x], f"{name}/cube")
    inner = b.op("Add", [x, b.op("Mul", [cube, number(w, 0.044715)], f"{name}/bend")], f"{name}/inner")
    root = b.constant(np.float32(np.sqrt(2 / np.pi)), "root_2_pi")
    tanh = b.op("Tanh", [b.op("Mul", [inner, root], f"{name}/argument")], f"{name}/tanh")
    share = b.op("Mul", [b.op("Add", [tanh, number(w, 1.0)], f"{name}/one_plus"), number(w, 0.5)], f"{name}/share")
    return str(b.op("Mul", [x, share], name))


@writes("softmax", "log_softmax")
def _softmax(w: Writer, step: Step) -> str:
    kind, x, rank = (
        {"softmax": "Softmax", "log_softmax": "LogSoftmax"}[step.kind],
        w.read(step.values[0]),
        w.rank(step.output),
    )
    axis = step.attrs["axis"] % rank
    if w.b.opset >= 13 or axis == rank - 1:
        return str(w.b.op(kind, [x], step.name, axis=axis))
    # Before opset 13 the operator flattened all axes from `axis` on.
    perm = [i for i in range(rank) if i != axis] + [axis]
    y = w.b.op(
        kind,
        [w.b.op("Transpose", [x], f"{step.name}/to_last", perm=perm)],
        f"{step.name}/last",
        axis=rank - 1,
    )
    return str(w.b.op("Transpose", [y], step.name, perm=[int(i) for i in np.argsort(perm)]))


# --- pools ---


@writes("max_pool")
def _max_pool(w: Writer, step: Step) -> str:
    x = w.read(step.values[0])
    return w.quant.moved(x, lambda x, name: w.b.op("MaxPool", [x], name, **_window(step)), step.name, bits=8)


@writes("avg_pool")
def _avg_pool(w: Writer, step: Step) -> str:
    def mean(x: str, name: str) -> str:
        return str(w.b.op("AveragePool", [x], name, **_window(step)))

    return _averaged(w, step, mean, step.attrs["window"])


@writes("global_max")
def _global_max(w: Writer, step: Step) -> str:
    x, axes = w.read(step.values[0]), w.spatial(w.rank(step.values[0]))
    return str(w.b.with_axes("ReduceMax", x, axes, step.name, since=18, keepdims=int(step.attrs["keepdims"])))


@writes("global_avg")
def _global_avg(w: Writer, step: Step) -> str:
    def mean(x: str, name: str) -> str:
        return w.b.with_axes(
            "ReduceMean",
            x,
            w.spatial(w.rank(step.values[0])),
            name,
            since=18,
            keepdims=int(step.attrs["keepdims"]),
        )

    return _averaged(w, step, mean, w.program.shapes[step.values[0]][1:-1])


def _averaged(w: Writer, step: Step, mean: Callable[[str, str], str], window: Any) -> str:
    if step.sums is not None:
        return average(w, step, step.sums, mean, int(np.prod(window)))
    factor = step.attrs["factor"]
    if factor is None:
        return mean(w.read(step.values[0]), step.name)
    y = mean(w.read(step.values[0]), f"{step.name}/mean")
    return str(w.b.op("Mul", [y, w.b.constant(np.float32(factor), f"{step.name}/factor")], step.name))


# --- arithmetic and moves ---

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"}


@writes("binary")
def _binary(w: Writer, step: Step) -> str:
    rank = w.rank(step.output)
    return str(w.b.op(_BINARY[step.attrs["function"]], [w.operand(o, rank) for o in step.inputs], step.name))


@writes("concat")
def _concat(w: Writer, step: Step) -> str:
    return str(
        w.b.op(
            "Concat",
            [w.read(v) for v in step.values],
            step.name,
            axis=w.axis(step.attrs["axis"], w.rank(step.output)),
        )
    )


@writes("pad")
def _pad(w: Writer, step: Step) -> str:
    rank = w.rank(step.output)
    before, after = [0] * rank, [0] * rank
    for axis, (b, a) in zip(w.spatial(rank), step.attrs["pads"], strict=True):
        before[axis], after[axis] = b, a
    pads = w.b.constant(np.asarray(before + after, np.int64), f"{step.name}/pads")
    return str(w.b.op("Pad", [w.read(step.values[0]), pads], step.name))


@writes("crop")
def _crop(w: Writer, step: Step) -> str:
    axes = w.spatial(w.rank(step.output))
    far = np.iinfo(np.int64).max
    starts = [b for b, _ in step.attrs["crops"]]
    ends = [-a if a else far for _, a in step.attrs["crops"]]
    arrays = [
        w.b.constant(np.asarray(v, np.int64), f"{step.name}/{k}")
        for k, v in (("starts", starts), ("ends", ends), ("axes", axes))
    ]
    x = w.read(step.values[0])
    return w.quant.moved(x, lambda x, name: w.b.op("Slice", [x, *arrays], name), step.name)


@writes("resize")
def _resize(w: Writer, step: Step) -> str:
    scales = w.b.constant(np.asarray([1, 1, *step.attrs["factors"]], np.float32), f"{step.name}/factors")
    linear = step.attrs["mode"] == "bilinear"
    return str(
        w.b.op(
            "Resize",
            [w.read(step.values[0]), w.b.absent(), scales],
            step.name,
            mode="linear" if linear else "nearest",
            coordinate_transformation_mode="half_pixel" if linear else "asymmetric",
            nearest_mode=None if linear else "floor",
        )
    )


@writes("reshape")
def _reshape(w: Writer, step: Step) -> str:
    to = w.b.constant(np.asarray([-1 if n is None else n for n in step.attrs["to"]], np.int64), f"{step.name}/shape")
    return w.quant.moved(w.read(step.values[0], LAST), lambda x, name: w.b.op("Reshape", [x, to], name), step.name)


@writes("transpose")
def _transpose(w: Writer, step: Step) -> str:
    perm = list(step.attrs["perm"])
    x = w.read(step.values[0], LAST)
    return w.quant.moved(x, lambda x, name: w.b.op("Transpose", [x], name, perm=perm), step.name)


@writes("repeat")
def _repeat(w: Writer, step: Step) -> str:
    shape = w.b.constant(np.asarray([1, step.attrs["n"], 1], np.int64), f"{step.name}/times")

    def repeat(x: str, name: str) -> str:
        tall = w.b.with_axes("Unsqueeze", x, [1], f"{name}/row", since=13)
        return str(w.b.op("Tile", [tall, shape], name))

    return w.quant.moved(w.read(step.values[0]), repeat, step.name)
