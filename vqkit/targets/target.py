"""What a DPU runs, as tables: layer classes, activation functions, grids, shifts; and what to do otherwise.

Sources: the default strategy `pof2s` of the Vitis AI quantizer 2.5 for TensorFlow 2, which is made for the
DPU (its layer registry, its conversions to device form, its adjustments of shifts), as observed by running
it. Limits that depend on the particular DPU (kernel and stride sizes, products of channels, depth of the
memory banks, image sizes) are not known here and not checked; the vendor's compiler has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vqkit.graph.ir import Layer
from vqkit.graph.passes.layers import EqualizedReLU
from vqkit.graph.passes.simplify import DROPOUTS, WEIGHTED
from vqkit.primitives.kernels import LARGEST_WINDOW, LEAKY_RELU_SLOPE
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization.refine import MAX_BIAS, MAX_CUT, MAX_READ, SIGMOID_OUTPUT

KINDS = frozenset((
    *WEIGHTED, "Activation", "ReLU", "LeakyReLU", "VitisSigmoid", "Add", "Multiply", "Concatenate",
    "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "VitisAveragePooling2D",
    "VitisGlobalAveragePooling2D", "UpSampling2D", "ZeroPadding2D", "Reshape", "Flatten",
))  # fmt: skip
"""Classes of the registry of `pof2s` but for batch norm, which must be folded or converted."""

FUNCTIONS = ("linear", "relu", "relu6")
"""Activation functions computed in integers; sigmoid and swish are too, once in the device's form."""

GATES = ("sigmoid", "swish", "hard_sigmoid", "hard_silu", "hard_swish")
"""Functions that the conversions turn into the device's form."""

AT_THE_END = "leave it at the end of the model: the CPU computes it there without a further partition"
AT_AN_END = (
    "build it from layers that the DPU has, or move it to the beginning or the end of the model, "
    "where it costs no further partition"
)
PREPARATION = "take it out of the model: do it where the images are prepared"
_NORM = "train with BatchNormalization, which is folded into the convolution before it"
_BENT = "train with ReLU, LeakyReLU(0.1), sigmoid or swish"
_PLANE = "write it as the 2D layer, with a height of 1"

WAYS_BY_KIND: Mapping[str, str] = {
    "Softmax": AT_THE_END,
    "BatchNormalization": "set fold_conv_bn and convert_bn_to_dwconv to true; use it once, and on vectors "
    "directly behind a Dense",
    **dict.fromkeys(DROPOUTS, "set remove_dropout to true"),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "RMSNormalization"), _NORM),
    **dict.fromkeys(("PReLU", "ELU"), _BENT),
    **dict.fromkeys(("Rescaling", "Normalization", "Resizing", "CenterCrop"), PREPARATION),
    **dict.fromkeys(
        (
            "Conv1D",
            "DepthwiseConv1D",
            "Conv1DTranspose",
            "MaxPooling1D",
            "AveragePooling1D",
            "ZeroPadding1D",
            "UpSampling1D",
        ),
        _PLANE,
    ),
    "SeparableConv2D": "write it as DepthwiseConv2D and a 1x1 Conv2D",
    "GlobalMaxPooling2D": "write it as MaxPooling2D over the whole image and Flatten",
    "Subtract": "write it as Add, with the minus sign in the weights before it",
    "Average": "write it as Add, with the factor in the weights before it",
    "op:Add": "use the layer Add on two tensors of one shape; fold a constant into the bias before it",
    "op:Multiply": "use the layer Multiply on two tensors of one shape; fold a constant into weights before",
}


@dataclass(frozen=True)
class GridRule:
    """One demand on a tensor's quantizer.

    Attributes:
        param: the parameter it is about.
        holds: whether a quantizer meets it.
        reason: what is wrong otherwise; formatted with the quantizer as `spec`.
        wanted: the value that would be right.
    """

    param: str
    holds: Callable[[QuantizerSpec], bool]
    reason: str
    wanted: str


GRID = (
    GridRule(
        "quantizer_type",
        lambda s: s.pow2,
        "has a float scale, where the device has powers of two",
        "Pof2SQuantizer",
    ),
    GridRule("bit_width", lambda s: s.bit_width == 8, "has {spec.bit_width} bits, the device 8", "8"),
    GridRule("per_channel", lambda s: not s.per_channel, "has a scale for each channel, the device one", "false"),
    GridRule("symmetry", lambda s: s.symmetry, "has a zero point, the device none", "true"),
    GridRule("unsigned", lambda s: not s.unsigned, "has codes from 0, the device signed ones", "false"),
)
"""The device's grid: int8, symmetric, one power of two for each tensor."""


@dataclass(frozen=True)
class Shift:
    """A range of shifts that the device has, and the adjustment that keeps positions in it.

    Attributes:
        key: of the refine pipeline.
        kinds: layers it is about.
        limit: in words.
    """

    key: str
    kinds: tuple[str, ...]
    limit: str


SHIFTS = (
    Shift("adjust_dpu_shift_cut", WEIGHTED, f"the output's shift must lie in 0..{MAX_CUT}"),
    Shift("adjust_dpu_shift_bias", WEIGHTED, f"the bias' shift must be at most {MAX_BIAS}"),
    Shift("adjust_dpu_shift_read", ("Add", "Multiply"), f"inputs must be at most {MAX_READ} positions apart"),
    Shift(
        "adjust_dpu_sigmoid",
        ("VitisSigmoid",),
        f"the input's position must be at least 0, the output's at least {SIGMOID_OUTPUT}",
    ),
)
"""Positions are known only after calibration; these adjustments keep them in range."""


Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class DeviceFinding:
    """Why a layer is not on the device, or what to know although it is.

    Attributes:
        reason: in words.
        way_out: what to change in the model or strategy.
    """

    reason: str
    way_out: str


def leaky_relu(layer: Layer, _shape: Shape) -> DeviceFinding | None:
    """The device has one slope."""
    slope = float(layer.config["negative_slope"])
    if slope == LEAKY_RELU_SLOPE:
        return None
    way = "set convert_leaky_relu_to_dpu_version to true"
    if abs(slope - 0.1) >= 1e-7:
        way = "train with slope 0.1, which convert_leaky_relu_to_dpu_version turns into 26/256"
    return DeviceFinding(f"slope {slope:g}; the device has 26/256 only", way)


def relu(layer: Layer, _shape: Shape) -> DeviceFinding | None:
    """The device has ReLU and ReLU6."""
    if layer.cls is EqualizedReLU:
        way = "set cle_to_relu6 to false, or convert_relu6_to_relu to true"
        return DeviceFinding("equalization gave it a bound for each channel", way)
    bent = layer.config.get("negative_slope") or layer.config.get("threshold")
    if not bent and layer.config.get("max_value") in (None, 6):
        return None
    return DeviceFinding("neither ReLU nor ReLU6", "train with ReLU or ReLU6")


def average_pool(layer: Layer, shape: Shape) -> DeviceFinding | None:
    """The device averages over windows up to a size.

    Args:
        layer: with a window, or pooling globally.
        shape: of its input, batch first.
    """
    channels_first = layer.config.get("data_format") == "channels_first"
    window: Any = layer.config.get("pool_size", shape[2:4] if channels_first else shape[1:3])
    if max((side or 0 for side in window), default=0) <= LARGEST_WINDOW:
        return None
    size = " x ".join(str(side) for side in window)
    reason = f"window {size}; the device averages up to {LARGEST_WINDOW} pixels on a side"
    return DeviceFinding(reason, "pool in two steps")


FORMS: Mapping[str, Callable[[Layer, Shape], DeviceFinding | None]] = {
    "LeakyReLU": leaky_relu,
    "ReLU": relu,
    "AveragePooling2D": average_pool,
    "GlobalAveragePooling2D": average_pool,
    "VitisAveragePooling2D": average_pool,
    "VitisGlobalAveragePooling2D": average_pool,
}
"""Layer class -> what about its form the device does not have."""
