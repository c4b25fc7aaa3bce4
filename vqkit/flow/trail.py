"""What a value of a graph is made of, as a digest: equal digests, equal numbers on equal inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vqkit import digest
from vqkit.graph.ir import Graph, Layer, Node, map_refs


def value_digests(
    graph: Graph, tokens: Mapping[str, str], weight_digest: Callable[[np.ndarray], str]
) -> dict[int, str]:
    """Digest of each value from everything that decides it.

    Args:
        graph: its weights are those that are computed with.
        tokens: layer name -> what it does instead of what its class and weights say; "" where it passes its
            input on. For fake-quantize layers.
        weight_digest: digest of an array.

    Returns:
        Value id -> digest; comparable between graphs made of the same model.
    """
    found = {v: f"input:{name}" for name, v in graph.inputs.items()}
    layers = {k: _layer(layer, weight_digest) for k, layer in graph.layers.items() if k not in tokens}
    for node in graph.nodes:
        if tokens.get(node.layer) == "":
            found[node.output] = found[node.inputs[0]]
        else:
            made = _node(node, tokens.get(node.layer) or layers[node.layer], found)
            found.update({v: f"{made}:{i}" for i, v in enumerate(node.outputs)})
    return found


def _layer(layer: Layer, weight_digest: Callable[[np.ndarray], str]) -> str:
    weights = [(k, weight_digest(w)) for k, w in layer.weights.items()]
    return repr((layer.name, layer.kind, sorted(layer.config.items()), layer.state, weights))


def _node(node: Node, what: str, found: Mapping[int, str]) -> str:
    args: Any = map_refs(lambda r: found[r.id], (node.args, sorted(node.kwargs.items())))
    return digest.of_bytes(repr((what, args)).encode())
