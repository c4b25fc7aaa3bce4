"""Figures of the model as boxes: by plan, by device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from vqkit.errors import not_allowed
from vqkit.graph.ir import Graph
from vqkit.plots.style import LIGHT, WIDTH, Theme
from vqkit.quantization.plan import FloatRow, Plan, QuantizedRow, Role, Row

if TYPE_CHECKING:
    from vqkit.strategy import Strategy
    from vqkit.targets import InspectedLayer


COLOURS = ("partition", "bits", "sqnr")
MARKS = {"start": "▶ start", "stop": "■ stop", "ignored": "✕ ignored"}
_FULL_DB, _FULL_BITS = 60.0, 8.0
_CELL = (1.8, 0.42)  # inches


def paint(box: LayerBox, colour: str, theme: Theme = LIGHT) -> tuple[str, str]:
    """The fill of a box and the words that say the same.

    Args:
        box: a layer.
        colour: "partition", "bits" or "sqnr".
        theme: gives the page for what is not quantized.

    Returns:
        Hexadecimal colour, words.

    Raises:
        ValueError: another colour.
    """
    if colour not in COLOURS:
        raise ValueError(not_allowed("colour", colour, COLOURS))
    if colour == "partition" or box.part in ("float", "merged"):
        fill = {"quantized": theme.colours[4], "partly": theme.colours[1]}.get(box.part, theme.page)
        return to_hex(fill), box.part
    if colour == "bits":
        share = None if box.bits is None else min(box.bits, _FULL_BITS) / _FULL_BITS
        return _shade(share, theme), "" if box.bits is None else f"{box.bits} bit"
    if box.sqnr_db is None:
        return theme.page, box.part
    words = "no error" if box.sqnr_db == math.inf else f"{box.sqnr_db:.0f} dB"
    return _shade(min(max(box.sqnr_db, 0.0), _FULL_DB) / _FULL_DB, theme), words


def _shade(share: float | None, theme: Theme) -> str:
    """Cividis: the same order for every kind of colour vision, and in grey."""
    return theme.page if share is None else to_hex(colormaps["cividis"](0.15 + 0.85 * share))


def ink_on(fill: str) -> str:
    """Black or white, whichever reads better on a fill."""
    r, g, b = to_rgb(fill)
    return "#000000" if 0.299 * r + 0.587 * g + 0.114 * b > 0.45 else "#ffffff"


def words_of(box: LayerBox, colour: str) -> str:
    """The second line of a box: what its colour says, and what the user said about it."""
    return "  ".join([paint(box, colour)[1], *(MARKS[m] for m in box.marks)]).strip()


def second_line(box: LayerBox, colour: str, length: int = 27) -> str:
    """Kind and words; the kind gives way where both do not fit."""
    words = words_of(box, colour)
    return f"{short(box.place.kind, max(6, length - len(words)))}  {words}"


def model_graph(
    boxes: Sequence[LayerBox], *, colour: str = "partition", title: str = "", theme: Theme = LIGHT
) -> Figure:
    """The layers of a model as boxes, with lines from each to those that read it.

    Args:
        boxes: from `vqkit.plots.model.boxes`.
        colour: "partition" (what is quantized), "bits", or "sqnr" (dB).
        title: above the picture.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure; columns are read from left to right, each from top to bottom.
    """
    columns = 1 + max(b.place.column for b in boxes)
    rows = 1 + max(b.place.row for b in boxes)
    width, height = max(4.0, columns * _CELL[0]), rows * _CELL[1] + 0.5
    fig = Figure(figsize=(width, height), dpi=100, facecolor=theme.page)
    ax = fig.add_axes((0, 0, 1, (height - 0.4) / height))
    ax.set_axis_off()
    ax.set_xlim(-0.5, columns - 0.5)
    ax.set_ylim(rows - 0.4, -0.6)
    named = {"partition": "what is quantized", "bits": "bits of the weights", "sqnr": "own SQNR (dB)"}[colour]
    fig.text(0.01, 1 - 0.25 / height, title or f"Layers by {named}", color=theme.ink, fontsize=11, va="center")
    at = {b.name: (b.place.column, b.place.row) for b in boxes}
    for box in boxes:
        for reader in box.place.readers:
            path = _path(at[box.name], at[reader])
            ax.add_patch(PathPatch(path, fc="none", ec=theme.ink, lw=0.7, alpha=0.6, zorder=1))
    for box in boxes:
        _draw(ax, box, colour, theme)
    return fig


def _path(start: tuple[int, int], end: tuple[int, int]) -> Path:
    """Straight down to the next box; past other boxes in the gap between the columns."""
    (x, y), (u, v) = start, end
    if v > y and (v - y == 1 or x != u):
        return Path([(x, y + 0.32), (u, v - 0.32)])
    side = -0.5 if x == u else 0.5
    points = [(x + 0.9 * side, y), (x + 1.08 * side, y), (u - 0.54, v), (u - 0.45, v)]
    return Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])


def _draw(ax: Axes, box: LayerBox, colour: str, theme: Theme) -> None:
    x, y = box.place.column, box.place.row
    fill, _ = paint(box, colour, theme)
    ink = ink_on(fill)
    dashed = "--" if box.part in ("float", "merged") else "-"
    style = "round,pad=0.02,rounding_size=0.06"
    shape = FancyBboxPatch(
        (x - 0.45, y - 0.32), 0.9, 0.64, boxstyle=style, fc=fill, ec=theme.ink, lw=0.8, ls=dashed, zorder=2
    )
    ax.add_patch(shape)
    words: dict[str, Any] = {"ha": "center", "va": "center", "color": ink, "zorder": 3}
    ax.text(x, y - 0.13, short(box.name), fontsize=7.5, **words)
    ax.text(x, y + 0.15, second_line(box, colour), fontsize=6.5, **words)


def short(text: str, length: int = 24) -> str:
    """Text that fits into a box."""
    return text if len(text) <= length else text[: length // 2 - 1] + "…" + text[-(length // 2) :]


_ROW_INCHES, _MIN_INCHES = 0.42, 2.0
_COLUMN_INCHES, _REASON_INCHES = 2.8, 3.6
_WRAP = 46


def partition_graph(
    rows: Sequence[Any], reads: Mapping[str, Iterable[str]], *, title: str = "", theme: Theme = LIGHT
) -> Figure:
    """One box for each layer, input at the top; the reason stands beside what the device does not run.

    Args:
        rows: of an `Inspection`, in graph order: layer, kind, device, partition, reason.
        reads: layer -> the layers whose outputs it reads.
        title: above the figure.
        theme: `LIGHT` or `DARK`.

    Returns:
        The figure; its height grows with the depth of the model.
    """
    places = _places(rows, reads)
    depth = 1 + max((y for _, y in places.values()), default=0)
    width = 1 + max((x for x, _ in places.values()), default=0)
    fig = Figure(
        figsize=(
            max(WIDTH, _COLUMN_INCHES * width + _REASON_INCHES),
            max(_MIN_INCHES, _ROW_INCHES * depth + 0.6),
        ),
        dpi=100,
        facecolor=theme.page,
        layout="constrained",
    )
    ax = fig.add_subplot()
    ax.set_facecolor(theme.page)
    ax.set_axis_off()
    ax.set_title(title, loc="left", fontsize=10, color=theme.ink)
    ax.set_xlim(-0.5, width - 0.5 + _REASON_INCHES / _COLUMN_INCHES)
    ax.set_ylim(depth - 0.4, -0.6)
    for row in rows:
        _arrows(ax, places, row.layer, reads.get(row.layer, ()), theme)
        _box(ax, places[row.layer], row, width, theme)
    return fig


def _places(rows: Sequence[InspectedLayer], reads: Mapping[str, Iterable[str]]) -> dict[str, tuple[int, int]]:
    """Column and line of each layer: below what it reads, on the line of the longest way from an input."""
    places: dict[str, tuple[int, int]] = {}
    for row in rows:
        before = [places[r] for r in reads.get(row.layer, ()) if r in places]
        x, y = min((x for x, _ in before), default=0), 1 + max((y for _, y in before), default=-1)
        while (x, y) in places.values():
            x += 1
        places[row.layer] = (x, y)
    return places


def _box(ax: Axes, place: tuple[int, int], row: InspectedLayer, width: int, theme: Theme) -> None:
    on_device = row.device != "CPU"
    x, y = place
    colour = theme.colours[0] if on_device else theme.colours[1]
    label = f"{row.layer}  ({row.kind})" + (f"  #{row.partition}" if row.partition else f"  {row.device}")
    ax.text(
        x,
        y,
        label,
        ha="center",
        va="center",
        fontsize=8,
        color=theme.ink,
        zorder=3,
        bbox={
            "boxstyle": "round,pad=0.35",
            "facecolor": theme.page,
            "edgecolor": colour,
            "linewidth": 1.4,
            "linestyle": "-" if on_device else "--",
        },
    )
    if row.reason:
        words = row.reason if len(row.reason) <= _WRAP else row.reason[: _WRAP - 1] + "…"
        ax.text(width - 0.45, y, words, ha="left", va="center", fontsize=8, color=theme.ink)


def _arrows(ax: Axes, places: Mapping[str, tuple[int, int]], layer: str, reads: Iterable[str], theme: Theme) -> None:
    for before in reads:
        if before in places:
            ax.annotate(
                "",
                xy=places[layer],
                xytext=places[before],
                zorder=1,
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": theme.ink,
                    "linewidth": 0.7,
                    "shrinkA": 8,
                    "shrinkB": 9,
                    "alpha": 0.6,
                },
            )


@dataclass(frozen=True)
class NodePosition:
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


def layout(graph: Graph, rows: int | None = None) -> list[NodePosition]:
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
    return [NodePosition(n, kinds.get(n, "InputLayer"), columns[n], depth[n] % fold, tuple(readers[n])) for n in reads]


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


@dataclass(frozen=True)
class LayerBox:
    """One layer of the user's model.

    Attributes:
        place: where it stands.
        part: "quantized", "partly", "float", or "merged" where it has no quantizer of its own: folded into a
            neighbour, quantized together with what follows, or only moving values.
        bits: fewest bits among its quantized weights, else among its values; None when float.
        sqnr_db: lowest ratio among its tensors; None when unknown.
        reasons: why tensors stay float, in words.
        marks: what the user said about it: "start", "stop", "ignored".
    """

    place: NodePosition
    part: str
    bits: int | None = None
    sqnr_db: float | None = None
    reasons: tuple[str, ...] = ()
    marks: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.place.name


def boxes(
    model: Graph, plan: Plan, strategy: Strategy | None = None, ratios: Mapping[str, float] | None = None
) -> list[LayerBox]:
    """What a plan does to each layer of a model.

    Args:
        model: the user's model, lowered and not rewritten.
        plan: made from it.
        strategy: gives the marks; None for none.
        ratios: plan row name -> dB.

    Returns:
        One box for each input and each call of a layer, in graph order.
    """
    rows: dict[str, list[Row]] = {}
    for row in plan.rows:
        for name in row.origin or (row.layer,):
            rows.setdefault(name, []).append(row)
    said = (
        {}
        if strategy is None
        else {
            "start": strategy.input_layers,
            "stop": strategy.output_layers,
            "ignored": strategy.ignore_layers,
        }
    )
    layers = {n.name: n.layer for n in model.nodes}
    return [_plan_box(p, rows.get(layers.get(p.name, p.name), []), said, ratios or {}) for p in layout(model)]


def _plan_box(
    place: NodePosition, rows: Sequence[Row], said: Mapping[str, Sequence[str]], ratios: Mapping[str, float]
) -> LayerBox:
    quantized = [r for r in rows if isinstance(r, QuantizedRow)]
    # A value that is quantized behind the activation that follows is no part that stayed float.
    left = [r for r in rows if isinstance(r, FloatRow) and not r.reason.startswith(("quantized after", "moves values"))]
    part = "partly" if quantized and left else "quantized" if quantized else "float" if left else "merged"
    widths = [r.spec.bit_width for r in quantized if r.role is Role.WEIGHT]
    widths = widths or [r.spec.bit_width for r in quantized]
    known = [ratios[r.name] for r in quantized if r.name in ratios]
    marks = tuple(mark for mark, names in said.items() if place.name in names)
    reasons = tuple(dict.fromkeys(r.reason for r in left if r.reason))
    return LayerBox(place, part, min(widths, default=None), min(known, default=None), reasons, marks)
