"""The layers of a model as a picture: which run on the device, which do not, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqkit.plots.style import LIGHT, WIDTH, Theme

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


def _places(rows: Sequence[Any], reads: Mapping[str, Iterable[str]]) -> dict[str, tuple[int, int]]:
    """Column and line of each layer: below what it reads, on the line of the longest way from an input."""
    places: dict[str, tuple[int, int]] = {}
    for row in rows:
        before = [places[r] for r in reads.get(row.layer, ()) if r in places]
        x, y = min((x for x, _ in before), default=0), 1 + max((y for _, y in before), default=-1)
        while (x, y) in places.values():
            x += 1
        places[row.layer] = (x, y)
    return places


def _box(ax: Axes, place: tuple[int, int], row: Any, width: int, theme: Theme) -> None:
    on_device = row.device != "CPU"
    x, y = place
    colour = theme.colours[0] if on_device else theme.colours[1]
    label = f"{row.layer}  ({row.kind})" + (f"  #{row.partition}" if row.partition else f"  {row.device}")
    ax.text(
        x, y, label, ha="center", va="center", fontsize=8, color=theme.ink, zorder=3,
        bbox={"boxstyle": "round,pad=0.35", "facecolor": theme.page, "edgecolor": colour,
              "linewidth": 1.4, "linestyle": "-" if on_device else "--"},
    )  # fmt: skip
    if row.reason:
        words = row.reason if len(row.reason) <= _WRAP else row.reason[: _WRAP - 1] + "…"
        ax.text(width - 0.45, y, words, ha="left", va="center", fontsize=8, color=theme.ink)


def _arrows(
    ax: Axes, places: Mapping[str, tuple[int, int]], layer: str, reads: Iterable[str], theme: Theme
) -> None:
    for before in reads:
        if before in places:
            ax.annotate(
                "", xy=places[layer], xytext=places[before], zorder=1,
                arrowprops={"arrowstyle": "-|>", "color": theme.ink, "linewidth": 0.7, "shrinkA": 8,
                            "shrinkB": 9, "alpha": 0.6},
            )  # fmt: skip
