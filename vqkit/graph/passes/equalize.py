"""Cross-layer equalization: shift range between neighbouring convolutions until one scale fits all.

Source: Nagel et al. 2019, Data-Free Quantization (arXiv:1906.04721) §4.1; step order, clipping and
threshold follow the behaviour of the Vitis quantizer 2.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vqkit.graph.ir import Graph, Layer
from vqkit.graph.passes.match import Chains, Test, activation_name, kind_in
from vqkit.graph.passes.simplify import KERNEL

_LOW, _HIGH = np.float32(0.1), np.float32(10.0)


_HOMOGENEOUS = ("linear", "relu", "leaky_relu")
"""Functions with f(a x) = a f(x) for each a > 0: across them equalization is exact."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What may stand between two convolutions whose channels are rescaled against each other.

    Attributes:
        between: a test for each layer between them, nearest to the second first.
        head: a test for the first one's own activation, by name.
    """

    between: tuple[Test, ...]
    head: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two convolutions whose shared channels can be rescaled against each other, by layer name.

    Attributes:
        head: the first convolution.
        tail: the second.
        clip: the ReLU6 between them, whose ceiling has to follow; "" when there is none.
    """

    head: str
    tail: str
    clip: str = ""


def equalize(
    graph: Graph,
    *,
    steps: int = 10,
    balance: str = "max",
    threshold: float = 0.1,
    through_relu6: bool = False,
    vitis_compat: bool = False,
) -> Graph:
    """Equalize all pairs of convolutions with at most an activation (and padding) between them.

    By default the activation is one across which equalization is exact: ReLU (with a slope below zero or
    without), LeakyReLU, PReLU, and ReLU6 with `through_relu6`.

    Args:
        graph: batch norms folded and activations separated before, or few pairs are found.
        steps: how often to go over all pairs.
        balance: "max" compares largest magnitudes, "avg" means.
        threshold: channels whose largest magnitudes add up to less are left alone, whatever `balance` says.
        through_relu6: also across ReLU6, which becomes a ReLU with a ceiling for each channel.
        vitis_compat: as the reference does by mistake, skip pairs across a `ReLU` layer; with `through_relu6`
            equalize across any activation and leave ceilings where they are, which changes the function.

    Returns:
        A graph with rescaled kernels and biases, and the same function.
    """
    graph = graph.copy()
    patterns = _compat_patterns(through_relu6) if vitis_compat else _patterns(through_relu6)
    groups = [_pairs(graph, pattern) for pattern in patterns]
    if not vitis_compat:
        _free_ceilings(graph, [p for pairs in groups for p in pairs if p.clip])
    for _ in range(steps):
        for pairs in groups:
            for pair in pairs:
                _balance(graph, pair, balance, np.float32(threshold))
    return graph


def pairs_of(graph: Graph, *, through_relu6: bool = False) -> list[Pair]:
    """All pairs of convolutions whose shared channels can be rescaled.

    Args:
        graph: batch norms folded and activations separated before, or few pairs are found.
        through_relu6: also across ReLU6.
    """
    return [p for pattern in _patterns(through_relu6) for p in _pairs(graph, pattern)]


def rescaled(graph: Graph, pair: Pair, scale: np.ndarray) -> Graph:
    """A graph of the same function with the channels between two convolutions rescaled.

    Args:
        graph: it is not changed.
        pair: from `pairs_of`.
        scale: above 0, shape (channels,), float32.
    """
    graph = graph.copy()
    _free_ceilings(graph, [pair] if pair.clip else [])
    _rescale(graph, pair, scale)
    return graph


def _patterns(through_relu6: bool) -> list[Pattern]:
    names = (*_HOMOGENEOUS, "relu6") if through_relu6 else _HOMOGENEOUS

    def activation(layer: Layer) -> bool:
        return layer.kind == "Activation" and activation_name(layer) in names

    def relu(layer: Layer) -> bool:
        return layer.kind in ("LeakyReLU", "PReLU") or (layer.kind == "ReLU" and _scales(layer, through_relu6))

    fused, none = Pattern((), _HOMOGENEOUS.__contains__), "linear".__eq__
    padded = (kind_in("ZeroPadding2D"), relu)
    return [fused, Pattern((activation,), none), Pattern((relu,), none), Pattern(padded, none)]


def _compat_patterns(anything: bool) -> list[Pattern]:
    """The reference's: `cle_to_relu6` lets it pass any activation; without, no ReLU layer at all."""

    def passes(name: str) -> bool:
        return anything or name in ("linear", "relu")

    def activation(layer: Layer) -> bool:
        return layer.kind == "Activation" and passes(activation_name(layer))

    def relu(layer: Layer) -> bool:
        return layer.kind == "ReLU" and anything

    fused, none = Pattern((), passes), "linear".__eq__
    padded = (kind_in("ZeroPadding2D"), relu)
    return [fused, Pattern((activation,), none), Pattern((relu,), none), Pattern(padded, none)]


def _scales(layer: Layer, through_relu6: bool) -> bool:
    """Whether a ReLU is homogeneous, or a plain ReLU6 whose ceiling can follow."""
    if layer.config.get("threshold"):
        return False
    ceiling = layer.config.get("max_value")
    return ceiling is None or (through_relu6 and ceiling == 6.0 and not layer.config.get("negative_slope"))


def _pairs(graph: Graph, pattern: Pattern) -> list[Pair]:
    chains = Chains(graph)
    found = []
    for node in graph.nodes:
        if _equalizable(graph.layer_of(node)):
            chain = chains.upstream(node, *pattern.between, _equalizable)
            if chain is not None and pattern.head(activation_name(graph.layer_of(chain[-1]))):
                clips = [n.layer for n in chain[:-1] if _clips(graph.layer_of(n))]
                found.append(Pair(chain[-1].layer, node.layer, "".join(clips)))
    return found


def _clips(layer: Layer) -> bool:
    return "ceiling" in layer.weights or layer.config.get("max_value") == 6.0 or activation_name(layer) == "relu6"


def _free_ceilings(graph: Graph, pairs: list[Pair]) -> None:
    from vqkit.graph.passes.layers import EqualizedReLU

    for pair in pairs:
        layer = graph.layers[pair.clip]
        if "ceiling" not in layer.weights:
            channels = _rows_by_output(graph.layers[pair.head]).shape[1]
            ceiling = np.full(channels, 6, np.float32)
            graph.layers[pair.clip] = Layer(layer.name, EqualizedReLU, {"channels": channels}, {"ceiling": ceiling})


def _equalizable(layer: Layer) -> bool:
    if layer.kind not in ("Conv2D", "DepthwiseConv2D") or layer.config.get("groups", 1) not in (None, 1):
        return False
    return layer.kind == "Conv2D" or layer.config.get("depth_multiplier", 1) == 1


def _balance(graph: Graph, pair: Pair, balance: str, threshold: np.float32) -> None:
    head, tail = graph.layers[pair.head], graph.layers[pair.tail]
    rows = np.abs(_rows_by_output(head)), np.abs(_rows_by_input(tail))
    head_range, tail_range = (r.max(axis=0) if balance == "max" else r.mean(axis=0) for r in rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.clip(np.sqrt(tail_range / head_range), _LOW, _HIGH)
    small = rows[0].max(axis=0) + rows[1].max(axis=0) < threshold
    scale = np.where(small, np.float32(1), scale).astype(np.float32)
    _rescale(graph, pair, scale)


def _rescale(graph: Graph, pair: Pair, scale: np.ndarray) -> None:
    head, tail = graph.layers[pair.head], graph.layers[pair.tail]
    graph.layers[head.name] = _scaled_outputs(head, scale)
    if pair.clip and "ceiling" in (clip := graph.layers[pair.clip]).weights:
        graph.layers[clip.name] = clip.with_(weights={"ceiling": clip.weights["ceiling"] * scale})
    graph.layers[tail.name] = tail.with_(weights={**tail.weights, KERNEL: tail.weights[KERNEL] / _by_input(scale)})


def _rows_by_output(layer: Layer) -> np.ndarray:
    kernel = layer.weights[KERNEL]
    channels = kernel.shape[3] if layer.kind == "Conv2D" else kernel.shape[2]
    rows = kernel.reshape(-1, channels)
    return np.vstack([rows, layer.weights["bias"][None]]) if "bias" in layer.weights else rows


def _rows_by_input(layer: Layer) -> np.ndarray:
    kernel = layer.weights[KERNEL]
    return np.moveaxis(kernel, 2, -1).reshape(-1, kernel.shape[2])


def _by_input(scale: np.ndarray) -> np.ndarray:
    return scale[:, None]


def _scaled_outputs(layer: Layer, scale: np.ndarray) -> Layer:
    factor = scale if layer.kind == "Conv2D" else _by_input(scale)
    weights = {**layer.weights, KERNEL: layer.weights[KERNEL] * factor}
    if "bias" in weights:
        weights["bias"] = weights["bias"] * scale
    return layer.with_(weights=weights)
