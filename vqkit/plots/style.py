"""The one look of all figures: size, colours, axes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 9.0  # inches: the text column of a notebook at 100 dots per inch
# Source: Okabe and Ito, Color Universal Design (2008), without black and in an order that starts with the
# most distinct pairs.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_BRIGHT = ("#56B4E9", "#E69F00", "#2BC49A", "#E79AC6", "#7C9BFF", "#FF8A4C")
MARKERS = ("o", "s", "D", "^", "P", "v")


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a figure.

    Attributes:
        page: background.
        ink: text and axes.
        faint: grid lines and whatever must stay behind the data.
        alarm: limits and failures.
        colours: one for each category, repeated when there are more categories.
    """

    page: str
    ink: str
    faint: str
    alarm: str
    colours: tuple[str, ...]


LIGHT = Theme(page="#ffffff", ink="#222222", faint="#d5d5d5", alarm="#B3261E", colours=_COLOURS)
DARK = Theme(page="#16181c", ink="#e6e6e6", faint="#41454d", alarm="#FF8A80", colours=_BRIGHT)


def figure(height: float, theme: Theme) -> Figure:
    """An empty figure of notebook width.

    Args:
        height: inches.
        theme: its page is the background.
    """
    return Figure(figsize=(WIDTH, height), dpi=100, facecolor=theme.page, layout="constrained")


def plain_figure(height: float, theme: Theme) -> tuple[Figure, Axes]:
    """A figure with one pair of axes whose margins are known; finding them takes a third of the drawing time.

    Args:
        height: inches.
        theme: its page is the background.
    """
    fig = Figure(figsize=(WIDTH, height), dpi=100, facecolor=theme.page)
    left, right, bottom, top = 0.9, 0.15, 0.5, 0.35  # inches: two lines of words below, one above
    fig.subplots_adjust(left / WIDTH, bottom / height, 1 - right / WIDTH, 1 - top / height)
    return fig, fig.add_subplot()


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes, at its own size and background.

    Args:
        figure: drawn once; `savefig` draws twice, the first time to find a layout that drawing finds anyway.
    """
    buffer = io.BytesIO()
    # Level 1 packs line drawings as small as the usual 6, and takes half the time.
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def dress(ax: Axes, theme: Theme, *, title: str = "", x: str = "", y: str = "", grid: str = "both") -> None:
    """Give axes their colours, words and grid.

    Args:
        ax: axes to change.
        theme: colours.
        title: above the axes, to the left.
        x: x label with its unit.
        y: y label with its unit.
        grid: "x", "y" or "both".
    """
    ax.set_facecolor(theme.page)
    ax.set_title(title, loc="left", fontsize=11, color=theme.ink)
    ax.set_xlabel(x, color=theme.ink)
    ax.set_ylabel(y, color=theme.ink)
    ax.tick_params(colors=theme.ink, which="both", labelsize=9)
    ax.grid(True, axis=grid, color=theme.faint, linewidth=0.6)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    for name, spine in ax.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(theme.ink)


def legend(ax: Axes, theme: Theme, **place: Any) -> None:
    """A legend inside the axes, in the theme's colours; none when nothing is labelled."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(**_legend_look(theme), **place)


def outer_legend(fig: Figure, ax: Axes, theme: Theme, **place: Any) -> None:
    """The legend of `ax` beside the axes, where it can cover nothing."""
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, **_legend_look(theme), **place)


def _legend_look(theme: Theme) -> dict[str, Any]:
    return {
        "labelcolor": theme.ink,
        "facecolor": theme.page,
        "edgecolor": theme.faint,
        "fontsize": 8.5,
    }


def looks(names: Iterable[str], theme: Theme) -> dict[str, tuple[str, str]]:
    """Colour and marker for each name, the same for the same set of names."""
    return {
        name: (theme.colours[i % len(theme.colours)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(sorted(set(names)))
    }


def note(ax: Axes, text: str, theme: Theme) -> None:
    """A line in the middle of axes that have nothing to show, so that empty is never silent."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=theme.ink, wrap=True)
