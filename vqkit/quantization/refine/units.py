"""Which layers of a graph are reconstructed together.

A unit is what lies between two places that a single value crosses: a residual block, a dense block's layer, an
attention block. In a chain, where every layer is such a place, a depthwise convolution is taken together with the
one behind it, and with the expanding one in front of it (an inverted residual without its sum). What is larger
than a block is left to its single layers.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from itertools import pairwise

from vqkit.graph.execute import Partition, partition
from vqkit.graph.ir import Graph, Node
from vqkit.graph.passes.match import activation_name
from vqkit.quantization.layer_kinds import ACTIVATIONS, QUANTIZED_AFTER
from vqkit.quantization.plan import Plan, Role

MOST_LAYERS = 6
"""Layers with weights in a block; what is read farther away is a connection between blocks."""
FOLLOWERS = ("FakeQuantize", "RoundToType", "BatchNormalization")
DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")


def find_units(graph: Graph, plan: Plan) -> list[Partition]:
    """The units of a graph, in order; what comes behind the last one's activation is in none.

    Args:
        graph: with fake-quantize layers inserted.
        plan: says which weights are quantized.

    Returns:
        Partitions that follow each other from the first node on, each with quantized weights.
    """
    heavy = {row.layer for row in plan.quantized if row.role is Role.WEIGHT}
    weighted = [node.layer in heavy for node in graph.nodes]
    if not any(weighted):
        return []
    end = max(i for i, has in enumerate(weighted) if has) + 1
    while end < len(graph.nodes) and _follows(graph, graph.nodes[end]):
        end += 1
    places = [i for i in range(1, end) if any(weighted[:i]) and not _follows(graph, graph.nodes[i])]
    single = set(_single(graph, weighted, places))
    cuts = [0]
    for i in [*(p for p in places if p in single), end]:
        if (any(weighted[cuts[-1] : i]) and any(weighted[i:end])) or i == end:
            cuts += _apart(cuts[-1], i, places, weighted) if sum(weighted[cuts[-1] : i]) > MOST_LAYERS else [i]
    return [partition(graph, a, b) for a, b in pairwise(_joined(graph, cuts, weighted))]


def _follows(graph: Graph, node: Node) -> bool:
    """Whether a node belongs to the layer in front of it."""
    layer = graph.layer_of(node)
    plain = layer.kind in ACTIVATIONS and (
        layer.kind != "Activation" or activation_name(layer) in (*QUANTIZED_AFTER, "relu6")
    )
    return plain or layer.kind in FOLLOWERS


def _single(graph: Graph, weighted: list[bool], places: Iterable[int]) -> list[int]:
    """The places that one value crosses, connections between blocks aside."""
    made = dict.fromkeys(graph.inputs.values(), -1) | {v: i for i, n in enumerate(graph.nodes) for v in n.outputs}
    last = {v: i for i, n in enumerate(graph.nodes) for v in n.inputs}
    near = [(made[v], i) for v, i in last.items() if sum(weighted[made[v] + 1 : i]) <= MOST_LAYERS]
    return [p for p in places if sum(a < p <= b for a, b in near) <= 1]


def _apart(begin: int, end: int, places: list[int], weighted: list[bool]) -> list[int]:
    """Ends of the single layers of what is larger than a block."""
    cuts = [begin]
    for i in [*(p for p in places if begin < p < end), end]:
        if any(weighted[cuts[-1] : i]) and (any(weighted[i:end]) or i == end):
            cuts.append(i)
    return cuts[1:]


def _joined(graph: Graph, cuts: list[int], weighted: list[bool]) -> list[int]:
    """The cuts that remain when the layers of a depthwise block are taken together."""
    layers = [[n for n, has in zip(graph.nodes[a:b], weighted[a:b], strict=True) if has] for a, b in pairwise(cuts)]
    kept, i = [0], 0
    while i < len(layers):
        size = 1
        if _is(graph, layers[i : i + 1], DEPTHWISE) and len(layers[i + 1 : i + 2]) == 1:
            size = 2
        elif _expands(graph, layers[i : i + 1]) and _is(graph, layers[i + 1 : i + 2], DEPTHWISE):
            size = min(3, len(layers) - i)
        i += size
        kept.append(cuts[i])
    return kept


def _is(graph: Graph, found: list[list[Node]], kinds: tuple[str, ...]) -> bool:
    return len(found) == 1 and len(found[0]) == 1 and graph.kind(found[0][0]) in kinds


def _expands(graph: Graph, found: list[list[Node]]) -> bool:
    """Whether it is a pointwise convolution to more channels."""
    if not _is(graph, found, ("Conv1D", "Conv2D")):
        return False
    kernel = graph.layer_of(found[0][0]).weights["kernel"].shape
    return set(kernel[:-2]) == {1} and kernel[-1] > kernel[-2]


def shown(unit: Partition, weighted: Container[str]) -> str:
    """A unit's name for people: its first and its last layer with weights.

    Args:
        unit: from `find_units`.
        weighted: names of layers with weights.
    """
    names = list(dict.fromkeys(n.layer for n in unit.nodes if n.layer in weighted))
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
