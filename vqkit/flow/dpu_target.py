"""What a DPU runs, as tables: layer classes, activation functions, grids, shifts; and what to do otherwise.

Sources: the default strategy `pof2s` of the Vitis AI quantizer 2.5 for TensorFlow 2, which is made for the
DPU (its layer registry, its conversions to device form, its adjustments of shifts), as observed by running
it. Limits that depend on the particular DPU (kernel and stride sizes, products of channels, depth of the
memory banks, image sizes) are not known here and not checked; the vendor's compiler has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vqkit.flow.refine import MAX_BIAS, MAX_CUT, MAX_READ, SIGMOID_OUTPUT
from vqkit.graph.simplify import DROPOUTS, WEIGHTED
from vqkit.primitives.spec import QuantizerSpec

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
        ("Conv1D", "DepthwiseConv1D", "Conv1DTranspose", "MaxPooling1D", "AveragePooling1D", "ZeroPadding1D",
         "UpSampling1D"), _PLANE),
    "SeparableConv2D": "write it as DepthwiseConv2D and a 1x1 Conv2D",
    "GlobalMaxPooling2D": "write it as MaxPooling2D over the whole image and Flatten",
    "Subtract": "write it as Add, with the minus sign in the weights before it",
    "Average": "write it as Add, with the factor in the weights before it",
    "op:Add": "use the layer Add on two tensors of one shape; fold a constant into the bias before it",
    "op:Multiply": "use the layer Multiply on two tensors of one shape; fold a constant into weights before",
}  # fmt: skip


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
    GridRule("quantizer_type", lambda s: s.pow2,
             "has a float scale, where the device has powers of two", "Pof2SQuantizer"),
    GridRule("bit_width", lambda s: s.bit_width == 8, "has {spec.bit_width} bits, the device 8", "8"),
    GridRule("per_channel", lambda s: not s.per_channel,
             "has a scale for each channel, the device one", "false"),
    GridRule("symmetry", lambda s: s.symmetry, "has a zero point, the device none", "true"),
    GridRule("unsigned", lambda s: not s.unsigned, "has codes from 0, the device signed ones", "false"),
)  # fmt: skip
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
    Shift("adjust_dpu_sigmoid", ("VitisSigmoid",),
          f"the input's position must be at least 0, the output's at least {SIGMOID_OUTPUT}"),
)  # fmt: skip
"""Positions are known only after calibration; these adjustments keep them in range."""
