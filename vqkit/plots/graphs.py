"""The model as a graph, coloured by what a plan does to each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from vqkit.errors import not_allowed
from vqkit.plots.style import LIGHT, Theme

if TYPE_CHECKING:
    from vqkit.flow.boxes import Box

COLOURS = ("partition", "bits", "sqnr")
MARKS = {"start": "▶ start", "stop": "■ stop", "ignored": "✕ ignored"}
_FULL_DB, _FULL_BITS = 60.0, 8.0
_CELL = (1.8, 0.42)  # inches


def paint(box: Box, colour: str, theme: Theme = LIGHT) -> tuple[str, str]:
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


def words_of(box: Box, colour: str) -> str:
    """The second line of a box: what its colour says, and what the user said about it."""
    return "  ".join([paint(box, colour)[1], *(MARKS[m] for m in box.marks)]).strip()


def second_line(box: Box, colour: str, length: int = 27) -> str:
    """Kind and words; the kind gives way where both do not fit."""
    words = words_of(box, colour)
    return f"{short(box.place.kind, max(6, length - len(words)))}  {words}"


def model_graph(
    boxes: Sequence[Box], *, colour: str = "partition", title: str = "", theme: Theme = LIGHT
) -> Figure:
    """The layers of a model as boxes, with lines from each to those that read it.

    Args:
        boxes: from `vqkit.flow.boxes.boxes`.
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
    fig.text(
        0.01, 1 - 0.25 / height, title or f"Layers by {named}", color=theme.ink, fontsize=11, va="center"
    )
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


def _draw(ax: Axes, box: Box, colour: str, theme: Theme) -> None:
    x, y = box.place.column, box.place.row
    fill, _ = paint(box, colour, theme)
    ink = ink_on(fill)
    dashed = "--" if box.part in ("float", "merged") else "-"
    style = "round,pad=0.02,rounding_size=0.06"
    shape = FancyBboxPatch((x - 0.45, y - 0.32), 0.9, 0.64, boxstyle=style, fc=fill, ec=theme.ink, lw=0.8,
                           ls=dashed, zorder=2)  # fmt: skip
    ax.add_patch(shape)
    words: dict[str, Any] = {"ha": "center", "va": "center", "color": ink, "zorder": 3}
    ax.text(x, y - 0.13, short(box.name), fontsize=7.5, **words)
    ax.text(x, y + 0.15, second_line(box, colour), fontsize=6.5, **words)


def short(text: str, length: int = 24) -> str:
    """Text that fits into a box."""
    return text if len(text) <= length else text[: length // 2 - 1] + "…" + text[-(length // 2) :]
