"""Convolutions, pools and resizing inside layers that are not quantized; ONNX wants their channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vqkit.export.layers import same_pads
from vqkit.export.onnx.floats import CONVERTERS, Converter, Floats, converts
from vqkit.export.program import Constant, Shape
from vqkit.export.traced import Op, Slot


def _first(op: Op) -> bool:
    return str(op.attrs.get("data_format", "NHWC")).startswith("NC")


def _spatial(op: Op, values: Sequence[int]) -> list[int]:
    """The entries of the spatial axes of an attribute with one for each axis."""
    return [int(v) for v in (values[2:] if _first(op) else values[1:-1])]


def _sizes(f: Floats, op: Op, slot: Slot) -> Shape:
    """The sizes of a value's spatial axes."""
    shape = f.shape(slot)
    return shape[2:] if _first(op) else shape[1:-1]


def _channels_first(f: Floats, op: Op, slot: Slot) -> str:
    rank = f.rank(slot)
    x = f.name(slot)
    return x if _first(op) else f.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def _as_before(f: Floats, op: Op, x: str) -> str:
    rank = f.rank(op.outputs[0])
    return x if _first(op) else f.transpose(x, [0, *range(2, rank), 1])


def _pads(f: Floats, op: Op, slot: Slot, reach: Sequence[int], strides: Sequence[int]) -> dict[str, Any]:
    """Explicit borders, where the sizes are known."""
    padding = op.attrs["padding"]
    if padding == "VALID":
        return {}
    if padding == "EXPLICIT":
        found = list(op.attrs["explicit_paddings"])
        pairs = [(found[2 * i], found[2 * i + 1]) for i in range(len(found) // 2)]
        pairs = pairs[2:] if _first(op) else pairs[1:-1]
    else:
        known = same_pads(_sizes(f, op, slot), reach, strides)
        if known is None:
            return {"auto_pad": "SAME_UPPER"}
        pairs = list(known)
    return {"pads": [p[0] for p in pairs] + [p[1] for p in pairs]}


def _weight(f: Floats, slot: Slot, perm: Sequence[int], word: str) -> str:
    if isinstance(slot, Constant):
        return f.laid(slot, lambda a: np.transpose(a, perm), f"/{word}")
    return f.transpose(f.name(slot), perm)


# --- convolutions ---


@converts("Conv2D", "Conv3D")
def _conv(f: Floats, op: Op) -> str:
    x, kernel = op.inputs[:2]
    rank = f.rank(kernel)
    window = list(f.shape(kernel)[:-2])
    strides, dilations = _spatial(op, op.attrs["strides"]), _spatial(op, op.attrs["dilations"])
    channels, inner = f.shape(x)[1 if _first(op) else -1], f.shape(kernel)[-2]
    if channels is None or inner is None or None in window:
        raise f.refuse(f"the channels of its operation {op.kind} are not known")
    reach = [(int(k or 1) - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    laid = _weight(f, kernel, [rank - 1, rank - 2, *range(rank - 2)], "outputs_first")
    y = f.op(
        "Conv",
        [_channels_first(f, op, x), laid],
        kernel_shape=window,
        strides=strides,
        dilations=dilations,
        group=channels // inner,
        **_pads(f, op, x, reach, strides),
    )
    return _as_before(f, op, y)


@converts("DepthwiseConv2dNative")
def _depthwise(f: Floats, op: Op) -> str:
    x, kernel = op.inputs
    if not isinstance(kernel, Constant):
        raise f.refuse("the kernel of its depthwise convolution depends on the input")
    window, (channels, times) = list(kernel.value.shape[:2]), kernel.value.shape[2:]
    strides, dilations = _spatial(op, op.attrs["strides"]), _spatial(op, op.attrs["dilations"])

    def lay(a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a.reshape(*a.shape[:2], -1), -1, 0)[:, None]

    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    assert channels * times == lay(kernel.value).shape[0]
    laid = f.laid(kernel, lay, "/outputs_first")
    y = f.op(
        "Conv",
        [_channels_first(f, op, x), laid],
        kernel_shape=window,
        strides=strides,
        dilations=dilations,
        group=channels,
        **_pads(f, op, x, reach, strides),
    )
    return _as_before(f, op, y)


@converts("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def _conv_transpose(f: Floats, op: Op) -> str:
    _, kernel, x = op.inputs
    rank = f.rank(kernel)
    window = [int(k or 1) for k in f.shape(kernel)[:-2]]
    strides, dilations = _spatial(op, op.attrs["strides"]), _spatial(op, op.attrs["dilations"])
    before, after = _sizes(f, op, x), _sizes(f, op, op.outputs[0])
    if op.attrs["padding"] == "EXPLICIT":
        raise f.refuse("explicit borders of a transposed convolution")
    begin, end, extra = [], [], []
    for n, m, k, s, d in zip(before, after, window, strides, dilations, strict=True):
        reach = (k - 1) * d + 1
        if n is None or m is None:
            raise f.refuse("the size of its transposed convolution is free")
        # The convolution that this one undoes had `total` zeros around its input.
        total = 0 if op.attrs["padding"] == "VALID" else max((n - 1) * s + reach - m, 0)
        begin.append(total // 2)
        end.append(total - total // 2)
        extra.append(m - ((n - 1) * s + reach - total))
    laid = _weight(f, kernel, [rank - 1, rank - 2, *range(rank - 2)], "inputs_first")
    y = f.op(
        "ConvTranspose",
        [_channels_first(f, op, x), laid],
        kernel_shape=window,
        strides=strides,
        dilations=dilations,
        pads=begin + end,
        output_padding=extra,
    )
    return _as_before(f, op, y)


# --- pools ---


def _pool(kind: str) -> Converter:
    def convert(f: Floats, op: Op) -> str:
        slot = op.inputs[0]
        window, strides = (_spatial(op, op.attrs[k]) for k in ("ksize", "strides"))
        attrs = _pads(f, op, slot, window, strides)
        x = _channels_first(f, op, slot)

        def pool(x: str, name: str) -> str:
            return str(f.b.op(kind, [x], name, kernel_shape=window, strides=strides, **attrs))

        y = f.moved(x, pool, bits=8) if kind == "MaxPool" else pool(x, f.label)
        return _as_before(f, op, y)

    return convert


for _suffix in ("", "3D"):
    CONVERTERS[f"MaxPool{_suffix}"], CONVERTERS[f"AvgPool{_suffix}"] = _pool("MaxPool"), _pool("AveragePool")


# --- sizes ---


@converts("ResizeBilinear", "ResizeNearestNeighbor")
def _resize(f: Floats, op: Op) -> str:
    x, size = op.inputs
    sizes = f.static(size, op, "the sizes").tolist()
    corners, centers = op.attrs["align_corners"], op.attrs["half_pixel_centers"]
    where = "align_corners" if corners else "half_pixel" if centers else "asymmetric"
    mode = {"ResizeBilinear": "linear", "ResizeNearestNeighbor": "nearest"}[op.kind]
    more: dict[str, Any] = {}
    if mode == "nearest":
        more["nearest_mode"] = "floor" if where == "asymmetric" else "round_prefer_ceil"
    turned = _channels_first(f, op, x)
    if f.dtype(x) != f.dtype(op.outputs[0]):
        turned = f.cast(turned, f.dtype(op.outputs[0]))
    shape = f.op("Shape", [turned], "shape")
    kept = f.op("Slice", [shape, f.ints([0]), f.ints([2]), f.ints([0])], "batch_and_channels")
    wanted = f.op("Concat", [kept, f.ints(sizes)], "sizes", axis=0)
    y = f.op(
        "Resize",
        [turned, f.b.absent(), f.b.absent(), wanted],
        mode=mode,
        coordinate_transformation_mode=where,
        **more,
    )
    return _as_before(f, op, y)


@converts("ResizeBicubic", "ResizeArea", "ScaleAndTranslate")
def _resampled(f: Floats, op: Op) -> str:
    """Rows and columns as sums of the given ones: TensorFlow itself says with which weights."""
    x, size = op.inputs[:2]
    given, wanted = _sizes(f, op, x), f.static(size, op, "the sizes").tolist()
    rest = [f.static(s, op, "the scales") for s in op.inputs[2:]]
    sums = []
    for axis, (n, m) in enumerate(zip(given, wanted, strict=True)):
        if n is None:
            raise f.refuse(f"the size before its operation {op.kind} is free")
        sums.append(_weights_of(op, n, m, [float(r[axis]) for r in rest]))
    turned = _channels_first(f, op, x)
    if f.dtype(x) != "float32":
        turned = f.cast(turned, "float32")
    rows = str(f.b.constant(sums[0], f"{f.label}/rows"))
    columns = str(f.b.constant(np.ascontiguousarray(sums[1].T), f"{f.label}/columns"))
    y = f.op("MatMul", [rows, f.op("MatMul", [turned, columns], "across")])
    return _as_before(f, op, y)


def _weights_of(op: Op, given: int, wanted: int, rest: Sequence[float]) -> np.ndarray:
    """The matrix (wanted, given) of one axis, read off the operation's answer to unit vectors."""
    import tensorflow as tf

    units = np.eye(given, dtype=np.float32)[None, :, None]
    if op.kind == "ScaleAndTranslate":
        scale, shift = rest
        more = {"scale": [scale, 1.0], "translation": [shift, 0.0]}
        more |= {k: op.attrs[k] for k in ("kernel_type", "antialias")}
    else:
        more = {k: v for k, v in op.attrs.items() if k in ("align_corners", "half_pixel_centers")}
    made = getattr(tf.raw_ops, op.kind)(images=units, size=[wanted, 1], **more)
    return np.asarray(made)[0, :, 0]


@converts("SpaceToDepth", "DepthToSpace")
def _space(f: Floats, op: Op) -> str:
    attrs: dict[str, Any] = {"mode": "DCR"} if op.kind == "DepthToSpace" else {}
    x = f.op(op.kind, [_channels_first(f, op, op.inputs[0])], blocksize=op.attrs["block_size"], **attrs)
    return _as_before(f, op, x)
