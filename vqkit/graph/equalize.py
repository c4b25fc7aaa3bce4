"""Cross-layer equalization: shift range between neighbouring convolutions until one scale fits all.

Source: Nagel et al. 2019, Data-Free Quantization (arXiv:1906.04721) §4.1; step order, clipping and
threshold follow the behaviour of the Vitis quantizer 2.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqkit.graph.fold import KERNEL
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.match import Chains, Test, activation_name, kind_in

_LOW, _HIGH = np.float32(0.1), np.float32(10.0)


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


def equalize(graph: Graph, *, steps: int = 10, balance: str = "max", threshold: float = 0.1,
             through_relu6: bool = False, vitis_compat: bool = False) -> Graph:  # fmt: skip
    """Equalize all pairs of convolutions with at most a ReLU (and padding) between them.

    Args:
        graph: batch norms folded and activations separated before, or few pairs are found.
        steps: how often to go over all pairs.
        balance: "max" compares largest magnitudes, "avg" means.
        threshold: channels whose magnitudes add up to less are left alone.
        through_relu6: also across ReLU6, which becomes a ReLU with a ceiling for each channel.
        vitis_compat: skip pairs across a `ReLU` layer and leave the ceiling of a ReLU6 at 6, which changes
            the float function, as the reference does by mistake.

    Returns:
        A graph with rescaled kernels and biases, and the same function.
    """
    graph = graph.copy()
    groups = [_pairs(graph, middle) for middle in _patterns(through_relu6, vitis_compat)]
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
    return [p for middle in _patterns(through_relu6, False) for p in _pairs(graph, middle)]


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


def _patterns(through_relu6: bool, vitis_compat: bool) -> list[tuple[Test, ...]]:
    def activation(layer: Layer) -> bool:
        names = ("linear", "relu", "relu6") if through_relu6 and not vitis_compat else ("linear", "relu")
        return layer.kind == "Activation" and activation_name(layer) in names

    def relu(layer: Layer) -> bool:
        return layer.kind == "ReLU" and _scales(layer, through_relu6) and (through_relu6 or not vitis_compat)

    return [(), (activation,), (relu,), (kind_in("ZeroPadding2D"), relu)]


def _scales(layer: Layer, through_relu6: bool) -> bool:
    limits = (None, 6.0) if through_relu6 else (None,)
    plain = not layer.config.get("negative_slope") and not layer.config.get("threshold")
    return plain and layer.config.get("max_value") in limits


def _pairs(graph: Graph, middle: tuple[Test, ...]) -> list[Pair]:
    chains = Chains(graph)
    found = []
    for node in graph.nodes:
        if _equalizable(graph.layer_of(node)):
            chain = chains.upstream(node, *middle, _equalizable)
            if chain is not None and activation_name(graph.layer_of(chain[-1])) == "linear":
                clips = [n.layer for n in chain[:-1] if _clips(graph.layer_of(n))]
                found.append(Pair(chain[-1].layer, node.layer, "".join(clips)))
    return found


def _clips(layer: Layer) -> bool:
    return (
        "ceiling" in layer.weights
        or layer.config.get("max_value") == 6.0
        or activation_name(layer) == "relu6"
    )


def _free_ceilings(graph: Graph, pairs: list[Pair]) -> None:
    from vqkit.graph.layers import EqualizedReLU

    for pair in pairs:
        layer = graph.layers[pair.clip]
        if "ceiling" not in layer.weights:
            channels = _rows_by_output(graph.layers[pair.head]).shape[1]
            ceiling = np.full(channels, 6, np.float32)
            graph.layers[pair.clip] = Layer(
                layer.name, EqualizedReLU, {"channels": channels}, {"ceiling": ceiling}
            )


def _equalizable(layer: Layer) -> bool:
    if layer.kind not in ("Conv2D", "DepthwiseConv2D") or layer.config.get("groups", 1) not in (None, 1):
        return False
    return layer.kind == "Conv2D" or layer.config.get("depth_multiplier", 1) == 1


def _balance(graph: Graph, pair: Pair, balance: str, threshold: np.float32) -> None:
    head, tail = graph.layers[pair.head], graph.layers[pair.tail]
    head_range = _magnitude(_rows_by_output(head), balance)
    tail_range = _magnitude(_rows_by_input(tail), balance)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.clip(np.sqrt(tail_range / head_range), _LOW, _HIGH)
    scale = np.where(head_range + tail_range < threshold, np.float32(1), scale).astype(np.float32)
    _rescale(graph, pair, scale)


def _rescale(graph: Graph, pair: Pair, scale: np.ndarray) -> None:
    head, tail = graph.layers[pair.head], graph.layers[pair.tail]
    graph.layers[head.name] = _scaled_outputs(head, scale)
    if pair.clip and "ceiling" in (clip := graph.layers[pair.clip]).weights:
        graph.layers[clip.name] = clip.with_(weights={"ceiling": clip.weights["ceiling"] * scale})
    graph.layers[tail.name] = tail.with_(
        weights={**tail.weights, KERNEL: tail.weights[KERNEL] / _by_input(scale)}
    )


def _magnitude(rows: np.ndarray, balance: str) -> np.ndarray:
    return np.max(np.abs(rows), axis=0) if balance == "max" else np.mean(np.abs(rows), axis=0)


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
