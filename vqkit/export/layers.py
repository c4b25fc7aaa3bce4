"""Each Keras layer class in plain steps; a form reads its site's configuration and puts steps there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vqkit.export.program import Constant, Shape
from vqkit.graph.passes.match import activation_name

Form = Callable[[Any], None]
Pads = tuple[tuple[int, int], ...]

FORMS: dict[str, Form] = {}
"""Layer class, or `op:<Class>`, -> its form."""

TAKES_INTEGERS: set[str] = set()
"""Layer classes whose form reads integers as they are given; all others get them as float32, as in Keras."""

MOVES_ANY_TYPE = {"Flatten", "Reshape", "Permute", "Concatenate", "Identity", "op:Reshape", "op:Squeeze",
                  "op:ExpandDims", "op:Transpose", "op:Concatenate", "op:Flatten"}  # fmt: skip
"""Layer classes that give their input's type and do no arithmetic, so that float32 holds what they give."""


def form(*kinds: str) -> Callable[[Form], Form]:
    """Register a form for layer classes."""

    def register(function: Form) -> Form:
        FORMS.update(dict.fromkeys(kinds, function))
        return function

    return register


def many(value: Any, rank: int) -> tuple[int, ...]:
    """An int or a sequence as one number for each spatial axis."""
    return (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)


def same_pads(size: Shape, window: Sequence[int], strides: Sequence[int]) -> Pads | None:
    """Zeros before and after each spatial axis for padding "same"; None where a size is free and matters."""
    pads = []
    for n, k, s in zip(size, window, strides, strict=True):
        if n is None and s > 1:
            return None
        total = max(k - s if n is None or n % s == 0 else k - n % s, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


def window_attrs(site: Any, size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> dict[str, Any]:
    """What convolutions and pools share: window, strides, dilations, padding word and explicit pads."""
    rank, padding = len(size), site.config.get("padding", "valid")
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
    pads: Pads | None = ((0, 0),) * rank
    if padding == "same":
        pads = same_pads(site.shape()[1:-1], reach, strides)
    elif padding == "causal":
        pads = ((reach[0] - 1, 0),)
    return {
        "window": tuple(size),
        "strides": tuple(strides),
        "dilations": tuple(dilations),
        "padding": padding,
        "pads": pads,
    }


# --- weighted layers ---


def _conv(rank: int, *, depthwise: bool) -> Form:
    def put(site: Any) -> None:
        c = site.config
        kernel = site.constant("kernel")
        attrs = window_attrs(
            site,
            kernel.value.shape[:rank],
            many(c.get("strides", 1), rank),
            many(c.get("dilation_rate", 1), rank),
        )
        groups = site.shape()[-1] if depthwise else int(c.get("groups", 1))
        site.put(
            "conv",
            shape=site.out_shape,
            constants={"kernel": kernel, "bias": site.constant("bias")},
            groups=groups,
            depthwise=depthwise,
            **attrs,
        )

    return put


for _rank in (1, 2, 3):
    FORMS[f"Conv{_rank}D"] = _conv(_rank, depthwise=False)
for _rank in (1, 2):
    FORMS[f"DepthwiseConv{_rank}D"] = _conv(_rank, depthwise=True)


@form("SeparableConv1D", "SeparableConv2D")
def _separable(site: Any) -> None:
    c, rank = site.config, len(site.shape()) - 2
    depth, point = site.constant("depthwise_kernel"), site.constant("pointwise_kernel")
    attrs = window_attrs(
        site, depth.value.shape[:rank], many(c.get("strides", 1), rank), many(c.get("dilation_rate", 1), rank)
    )
    channels = site.shape()[-1] * depth.value.shape[-1]
    site.put(
        "conv",
        shape=(*site.out_shape[:-1], channels),
        constants={"kernel": depth},
        groups=site.shape()[-1],
        depthwise=True,
        **attrs,
    )
    ones = (1,) * rank
    site.put(
        "conv",
        constants={"kernel": point, "bias": site.constant("bias")},
        groups=1,
        depthwise=False,
        window=ones,
        strides=ones,
        dilations=ones,
        padding="valid",
        pads=((0, 0),) * rank,
    )


@form("Conv2DTranspose")
def _conv_transpose(site: Any) -> None:
    c, kernel = site.config, site.constant("kernel")
    if many(c.get("dilation_rate", 1), 2) != (1, 1) or c.get("output_padding") is not None:
        raise site.refuse("dilation_rate and output_padding are not mapped", "Leave both at their defaults")
    site.put(
        "conv_transpose",
        constants={"kernel": kernel, "bias": site.constant("bias")},
        window=kernel.value.shape[:2],
        strides=many(c["strides"], 2),
        padding=c["padding"],
    )


@form("Dense")
def _dense(site: Any) -> None:
    site.put("dense", constants={"kernel": site.constant("kernel"), "bias": site.constant("bias")})


@form("BatchNormalization")
def _batch_norm(site: Any) -> None:
    axis = site.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, (list, tuple)) else axis
    if axis % len(site.shape()) != len(site.shape()) - 1:
        raise site.refuse(f"it normalizes axis {axis}", "Normalize the last axis")
    value = {k: site.constant(k) for k in ("gamma", "beta", "moving_mean", "moving_variance")}
    mean, variance = value["moving_mean"].value, value["moving_variance"].value
    scale = np.float32(1) / np.sqrt(variance + np.float32(site.config["epsilon"]))
    scale = scale if value["gamma"] is None else scale * value["gamma"].value
    offset = -mean * scale if value["beta"] is None else value["beta"].value - mean * scale
    _affine(site, scale, offset)


def _affine(site: Any, scale: Any, offset: Any) -> None:
    site.put("affine", constants={"scale": site.number("scale", scale), "offset": site.number("offset", offset)})


@form("Rescaling")
def _rescaling(site: Any) -> None:
    _affine(site, site.config["scale"], site.config["offset"])


# --- activations ---

_UNARY = {
    "sigmoid", "tanh", "softplus", "softsign", "swish", "gelu", "exponential", "hard_sigmoid", "hard_silu",
    "mish", "elu", "selu",
}  # fmt: skip


@form("Activation")
def _activation(site: Any) -> None:
    function = {"hard_swish": "hard_silu"}.get(activation_name(site.layer), activation_name(site.layer))
    if function in ("relu", "relu6"):
        site.put("relu", max_value=6.0 if function == "relu6" else None, slope=0.0, threshold=0.0)
    elif function == "leaky_relu":
        site.put("relu", max_value=None, slope=0.2, threshold=0.0)
    elif function in ("softmax", "log_softmax"):
        site.put(function, axis=-1)
    elif function in _UNARY:
        site.put("unary", function=function, alpha=1.0)
    elif function != "linear":
        known = ", ".join(sorted({*_UNARY, "relu", "relu6", "leaky_relu", "softmax", "linear"}))
        raise site.refuse(f"activation {function!r} has no form", f"Known: {known}")


@form("ReLU")
def _relu(site: Any) -> None:
    ceiling = site.constant("ceiling")
    if ceiling is not None:
        site.put("relu", max_value=None, slope=0.0, threshold=0.0)
        site.put("ceiling", constants={"ceiling": ceiling})
        return
    c = site.config
    site.put(
        "relu",
        max_value=c.get("max_value"),
        slope=float(c.get("negative_slope") or 0.0),
        threshold=float(c.get("threshold") or 0.0),
    )


@form("LeakyReLU")
def _leaky(site: Any) -> None:
    site.put("relu", max_value=None, slope=float(site.config["negative_slope"]), threshold=0.0)


@form("PReLU")
def _prelu(site: Any) -> None:
    site.put("prelu", constants={"alpha": site.constant("alpha")})


@form("ELU")
def _elu(site: Any) -> None:
    site.put("unary", function="elu", alpha=float(site.config.get("alpha", 1.0)))


@form("Softmax")
def _softmax(site: Any) -> None:
    axis = site.config.get("axis", -1)
    if not isinstance(axis, int):
        raise site.refuse(f"softmax over axes {axis}", "Use one axis")
    site.put("softmax", axis=axis)


@form("VitisSigmoid")
def _dpu_sigmoid(site: Any) -> None:
    site.put("dpu_sigmoid")


@form("op:Relu")
def _op_relu(site: Any) -> None:
    site.put("relu", max_value=None, slope=0.0, threshold=0.0)


@form("op:Relu6")
def _op_relu6(site: Any) -> None:
    site.put("relu", max_value=6.0, slope=0.0, threshold=0.0)


def _unary(function: str) -> Form:
    def put(site: Any) -> None:
        site.put("unary", function=function, alpha=1.0)

    return put


for _op, _function in {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Silu": "swish",
    "Exp": "exponential",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
}.items():
    FORMS[f"op:{_op}"] = _unary(_function)


# --- pools ---


def _pool(kind: str, rank: int) -> Form:
    def put(site: Any) -> None:
        c = site.config
        size = many(c["pool_size"], rank)
        strides = size if c.get("strides") is None else many(c.get("strides", 1), rank)
        attrs = window_attrs(site, size, strides, (1,) * rank)
        site.put(kind, factor=c.get("factor"), **attrs)

    return put


def _global_pool(kind: str) -> Form:
    def put(site: Any) -> None:
        site.put(kind, factor=site.config.get("factor"), keepdims=bool(site.config.get("keepdims", False)))

    return put


for _rank in (1, 2, 3):
    FORMS[f"MaxPooling{_rank}D"] = _pool("max_pool", _rank)
    FORMS[f"AveragePooling{_rank}D"] = _pool("avg_pool", _rank)
    FORMS[f"GlobalMaxPooling{_rank}D"] = _global_pool("global_max")
    FORMS[f"GlobalAveragePooling{_rank}D"] = _global_pool("global_avg")
FORMS["VitisAveragePooling2D"] = _pool("avg_pool", 2)
FORMS["VitisGlobalAveragePooling2D"] = _global_pool("global_avg")


# --- arithmetic ---


def _binary(function: str) -> Form:
    def put(site: Any) -> None:
        operands = [_operand(site, i, o) for i, o in enumerate(site.operands)]
        total = operands[0]
        for i, other in enumerate(operands[1:], start=2):
            shape = None if i == len(operands) else np.broadcast_shapes(*map(_known, map(site.shape, (total, other))))
            shape = None if shape is None else (None, *shape[1:])
            site.put("binary", inputs=(total, other), function=function, shape=shape)
            total = site.last

    return put


def _known(shape: Shape) -> tuple[int, ...]:
    return tuple(1 if n is None else n for n in shape)


def _operand(site: Any, index: int, operand: Any) -> int | Constant:
    if _is_value(site, index):
        return int(operand)
    try:
        return site.number(f"operand_{index}", operand)
    except (TypeError, ValueError) as error:
        raise site.refuse(f"operand {index} is {operand!r}", "Use tensors and numbers") from error


def _is_value(site: Any, index: int) -> bool:
    return bool(site.is_value[index])


for _kind, _function in {
    "Add": "add",
    "Subtract": "sub",
    "Multiply": "mul",
    "Maximum": "max",
    "Minimum": "min",
    "op:Add": "add",
    "op:Subtract": "sub",
    "op:Multiply": "mul",
    "op:Maximum": "max",
    "op:Minimum": "min",
    "op:TrueDivide": "div",
    "op:Divide": "div",
}.items():
    FORMS[_kind] = _binary(_function)


@form("Average")
def _average(site: Any) -> None:
    n = len(site.operands)
    _binary("add")(site)
    site.put("affine", constants={"scale": site.number("share", 1.0 / n), "offset": site.number("zero", 0.0)})


@form("Concatenate", "op:Concatenate")
def _concatenate(site: Any) -> None:
    axis = int(site.config.get("axis", site.argument("axis", 1, -1)))
    values = tuple(o for i, o in enumerate(site.operands) if _is_value(site, i))
    site.put("concat", inputs=values, axis=axis % len(site.out_shape))


# --- moving values ---


@form("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(site: Any) -> None:
    site.put("pad", pads=_pairs(site.config["padding"], len(site.shape()) - 2))


@form("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(site: Any) -> None:
    site.put("crop", crops=_pairs(site.config["cropping"], len(site.shape()) - 2))


def _pairs(value: Any, rank: int) -> Pads:
    if isinstance(value, int):
        return ((value, value),) * rank
    if rank == 1:
        return (tuple(value),)
    return tuple((v, v) if isinstance(v, int) else tuple(v) for v in value)


@form("UpSampling1D", "UpSampling2D")
def _upsampling(site: Any) -> None:
    rank = len(site.shape()) - 2
    mode = site.config.get("interpolation", "nearest")
    if mode not in ("nearest", "bilinear"):
        raise site.refuse(f"interpolation {mode!r}", "Use nearest or bilinear")
    site.put("resize", factors=many(site.config["size"], rank), mode=mode)


@form("Flatten", "Reshape", "op:Reshape", "op:Squeeze", "op:ExpandDims", "op:Flatten")
def _reshape(site: Any) -> None:
    shape = site.out_shape
    if sum(n is None for n in shape) > 1 or (shape[0] is not None and site.shape()[0] is None):
        raise site.refuse(f"its output shape {shape} is not fixed", "Give the model's input a fixed size")
    site.put("reshape", to=shape)


@form("Permute")
def _permute(site: Any) -> None:
    site.put("transpose", perm=(0, *site.config["dims"]))


@form("op:Transpose")
def _op_transpose(site: Any) -> None:
    axes = site.argument("axes", 1)
    if axes is None or axes[0] != 0:
        raise site.refuse(f"it moves the batch axis ({axes})", "Keep axis 0 first")
    site.put("transpose", perm=tuple(axes))


@form("RepeatVector")
def _repeat(site: Any) -> None:
    site.put("repeat", n=int(site.config["n"]))


@form("RoundToType")
def _round_to_type(site: Any) -> None:
    site.put("round_to_type", dtype=site.config["data_type"])


@form(
    "Identity",
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
)
def _identity(site: Any) -> None:
    site.put("identity")
