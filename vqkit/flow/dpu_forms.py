"""Forms of a layer that a DPU has: the slope of a leaky ReLU, the bound of a ReLU, the window of a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vqkit.graph.ir import Layer
from vqkit.graph.layers import EqualizedReLU
from vqkit.primitives.dpu import LARGEST_WINDOW, LEAKY_RELU_SLOPE

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a layer is not on the device, or what to know although it is.

    Attributes:
        reason: in words.
        way_out: what to change in the model or strategy.
    """

    reason: str
    way_out: str


def leaky_relu(layer: Layer, _shape: Shape) -> Finding | None:
    """The device has one slope."""
    slope = float(layer.config["negative_slope"])
    if slope == LEAKY_RELU_SLOPE:
        return None
    way = "set convert_leaky_relu_to_dpu_version to true"
    if abs(slope - 0.1) >= 1e-7:
        way = "train with slope 0.1, which convert_leaky_relu_to_dpu_version turns into 26/256"
    return Finding(f"slope {slope:g}; the device has 26/256 only", way)


def relu(layer: Layer, _shape: Shape) -> Finding | None:
    """The device has ReLU and ReLU6."""
    if layer.cls is EqualizedReLU:
        way = "set cle_to_relu6 to false, or convert_relu6_to_relu to true"
        return Finding("equalization gave it a bound for each channel", way)
    bent = layer.config.get("negative_slope") or layer.config.get("threshold")
    if not bent and layer.config.get("max_value") in (None, 6):
        return None
    return Finding("neither ReLU nor ReLU6", "train with ReLU or ReLU6")


def average_pool(layer: Layer, shape: Shape) -> Finding | None:
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
    return Finding(reason, "pool in two steps")


FORMS: Mapping[str, Callable[[Layer, Shape], Finding | None]] = {
    "LeakyReLU": leaky_relu,
    "ReLU": relu,
    "AveragePooling2D": average_pool,
    "GlobalAveragePooling2D": average_pool,
    "VitisAveragePooling2D": average_pool,
    "VitisGlobalAveragePooling2D": average_pool,
}
"""Layer class -> what about its form the device does not have."""
