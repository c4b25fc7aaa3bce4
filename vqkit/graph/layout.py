"""Where each node of a graph stands in a picture: depth downwards, branches side by side, in columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vqkit.graph.ir import Graph


@dataclass(frozen=True)
class Place:
    """A node in the picture.

    Attributes:
        name: of the node, or of a model input.
        kind: class of its layer; "InputLayer" for inputs.
        column, row: cells from the top left.
        readers: names of the nodes that read it.
    """

    name: str
    kind: str
    column: int
    row: int
    readers: tuple[str, ...]


def layout(graph: Graph, rows: int | None = None) -> list[Place]:
    """Lay a graph out.

    Args:
        graph: any.
        rows: cells in a column before the next one begins; by default such that the picture is about as
            wide as high for boxes four times as wide as high.

    Returns:
        Inputs first, then nodes in graph order. A cell holds at most one node.
    """
    sources = {name: (value,) for name, value in graph.inputs.items()}
    reads = {
        **dict.fromkeys(sources, ()),
        **{n.name: tuple(dict.fromkeys(n.inputs)) for n in graph.nodes},
    }
    makes = {**sources, **{n.name: n.outputs for n in graph.nodes}}
    maker = {value: name for name, values in makes.items() for value in values}
    depth, lane = _depths_and_lanes(reads, maker)
    width = max(lane.values(), default=0) + 1
    fold = rows or max(6, math.ceil(2 * math.sqrt(width * (max(depth.values(), default=0) + 1))))
    readers: dict[str, list[str]] = {name: [] for name in reads}
    for name, values in reads.items():
        for value in values:
            readers[maker[value]].append(name)
    kinds = {n.name: graph.kind(n) for n in graph.nodes}
    columns = {name: depth[name] // fold * width + lane[name] for name in reads}
    return [
        Place(n, kinds.get(n, "InputLayer"), columns[n], depth[n] % fold, tuple(readers[n])) for n in reads
    ]


def _depths_and_lanes(
    reads: dict[str, tuple[int, ...]], maker: dict[int, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """A node stands below all it reads, under the first of them where that lane is free."""
    depth: dict[str, int] = {}
    lane: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    for name, values in reads.items():
        above = [maker[v] for v in values]
        depth[name] = 1 + max((depth[a] for a in above), default=-1)
        wanted = lane[above[0]] if above else 0
        free = (k for k in (wanted, *range(len(reads))) if (depth[name], k) not in taken)
        lane[name] = next(free)
        taken.add((depth[name], lane[name]))
    return depth, lane
