"""Figures about one quantizer's choice: error over its scale, the ranges of its channels, all at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vqkit.plots.style import LIGHT, MARKERS, Theme, dress, figure, legend, note
from vqkit.plots.tensors import draw_histogram, log_axis

if TYPE_CHECKING:
    from vqkit.primitives.qparams import QParams

_MAX_CHANNELS = 512


def error_by_scale(curve: Any, *, theme: Theme = LIGHT) -> Figure:
    """How a tensor's error depends on its scale, with the choice of each method.

    Args:
        curve: a `vqkit.flow.curve.Curve`.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure; the peak is the least error, the ringed mark the method in use.
    """
    fig = figure(3.2, theme)
    draw_error(fig.add_subplot(), curve, theme=theme)
    return fig


def draw_error(ax: Axes, curve: Any, *, theme: Theme = LIGHT) -> None:
    """`error_by_scale` on given axes."""
    dress(ax, theme, title="Error over the scale", x=curve.x_label, y="SQNR (dB, more is better)")
    finite = np.isfinite(curve.sqnr_db)
    best = curve.sqnr_db[finite].max(initial=0.0) + 10  # where "no error" is drawn
    heights = np.where(curve.sqnr_db == np.inf, best, curve.sqnr_db)
    shown = np.isfinite(heights)
    ax.plot(curve.x[shown], heights[shown], color=theme.ink, lw=1.2, marker=".", ms=4)
    for i, (method, (x, y)) in enumerate(curve.picks.items()):
        words = method.lower().replace("_", " ") + (": no error" if y == np.inf else f": {y:.1f}")
        looks: dict[str, Any] = {"marker": MARKERS[i], "color": theme.colours[i], "ls": "", "ms": 7}
        place = [x], [min(y, best)]
        ax.plot(*place, label=words, **looks)
        if method == curve.chosen:
            ring: dict[str, Any] = {
                "marker": "o",
                "ms": 14,
                "mfc": "none",
                "mec": theme.alarm,
                "mew": 1.5,
                "ls": "",
            }
            ax.plot(*place, **ring)
            ax.plot([], [], label="in use", **{**ring, "ms": 8})
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.75 * (high - low))  # room for the legend above the curve
    legend(ax, theme, loc="upper center", ncols=2, columnspacing=0.8, handletextpad=0.2, handlelength=1.4)


def channel_ranges(
    after: np.ndarray, qparams: QParams, before: np.ndarray | None = None, *, axis: int = -1,
    theme: Theme = LIGHT,
) -> Figure:  # fmt: skip
    """The reach of each channel of a tensor beside the grid's limit, before and after equalization.

    A channel far below the limit of a scale that all share is left with few codes; equalization evens the
    channels out, a scale for each channel follows them.

    Args:
        after: the tensor as it is quantized, any shape.
        qparams: its grid.
        before: the same before equalization; None where there was none.
        axis: of the channels.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with |x| on a log axis.
    """
    fig = figure(3.2, theme)
    draw_channels(fig.add_subplot(), after, qparams, before, axis=axis, theme=theme)
    return fig


def draw_channels(ax: Axes, after: np.ndarray, qparams: QParams, before: np.ndarray | None = None, *,
                  axis: int = -1, theme: Theme = LIGHT) -> None:  # fmt: skip
    """`channel_ranges` on given axes."""
    dress(ax, theme, title="Channel ranges", x="channel", y="largest |x| (log)", grid="y")
    reach = _reach(after, axis)
    if reach.size == 0 or not np.isfinite(reach).all() or not reach.any():
        note(ax, "no values" if reach.size == 0 else "all channels are zero or not finite", theme)
        return
    x = np.arange(min(reach.size, _MAX_CHANNELS))
    look: dict[str, Any] = {"ls": "", "zorder": 3}
    if before is not None:
        ax.plot(x, _shown(_reach(before, axis))[x], marker="o", mfc="none", mec=theme.colours[1],
                label="before equalization", ms=5, **look)  # fmt: skip
    words = "as quantized" if before is None else "after equalization"
    ax.plot(x, _shown(reach)[x], marker="s", color=theme.colours[0], ms=3, label=words, **look)
    limit, step = _limit_and_step(qparams, reach.size)
    for values, style, label in ((limit, "--", "largest code"), (step, ":", "one step (scale)")):
        ax.step(x, values[x], where="mid", color=theme.alarm, ls=style, lw=1.2, label=label)
    log_axis(ax)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
    if reach.size > _MAX_CHANNELS:
        ax.set_xlabel(f"channel (the first {_MAX_CHANNELS} of {reach.size})", color=theme.ink)
    legend(ax, theme, loc="upper center", ncols=2, columnspacing=1.0, handletextpad=0.4)


def _reach(values: np.ndarray, axis: int) -> np.ndarray:
    """Largest magnitude of each channel."""
    if values.ndim == 0 or values.size == 0:
        return np.abs(values.reshape(-1))
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    return np.asarray(np.abs(rows).max(axis=0))


def _shown(reach: np.ndarray) -> np.ndarray:
    """A log axis has no zero: dead channels are left out."""
    return np.where(reach > 0, reach, np.nan)


def _limit_and_step(qparams: QParams, channels: int) -> tuple[np.ndarray, np.ndarray]:
    scale, zero = np.asarray(qparams.scale, float).ravel(), np.asarray(qparams.zero_point, float).ravel()
    high = np.maximum(np.abs(qparams.spec.q_max - zero), np.abs(qparams.spec.q_min - zero)) * scale
    shaped = [np.broadcast_to(a, channels) if a.size in (1, channels) else np.full(channels, a.max())
              for a in (high, scale)]  # fmt: skip
    return _shown(shaped[0]), _shown(shaped[1])


def tensor_panels(
    values: np.ndarray, quantized: np.ndarray, qparams: QParams, curve: Any = None, *, title: str = "",
    before: np.ndarray | None = None, axis: int = -1, theme: Theme = LIGHT,
) -> Figure:  # fmt: skip
    """One tensor at a glance: its histogram on the grid, its error over the scale, its channels' ranges.

    Args:
        values: the float tensor, any shape.
        quantized: the same on the grid.
        qparams: the grid.
        curve: from `vqkit.flow.curve.error_curve`; None leaves that panel out.
        title: usually the tensor's name.
        before: the tensor before equalization, if that changed it.
        axis: of the channels.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure laid out by hand: it is redrawn whenever a control moves.
    """
    fig = Figure(figsize=(7.6, 5.4), dpi=100, facecolor=theme.page)
    draw_histogram(fig.add_axes((0.085, 0.595, 0.9, 0.345)), values, quantized, qparams, title, theme=theme)
    if curve is not None:
        draw_error(fig.add_axes((0.085, 0.1, 0.385, 0.345)), curve, theme=theme)
    left = 0.59 if curve is not None else 0.085
    place = (left, 0.1, 0.985 - left, 0.345)
    draw_channels(fig.add_axes(place), values, qparams, before, axis=axis, theme=theme)
    for ax in fig.axes:
        _pin(ax)
    return fig


def _pin(ax: Axes) -> None:
    """Words at fixed places: matplotlib otherwise measures all tick labels again to place them."""
    for loc, size in (("left", 11), ("right", 9)):
        if words := ax.get_title(loc=loc):  # type: ignore[arg-type]
            ink = ax.xaxis.label.get_color()
            ax.set_title(words, loc=loc, y=1.02, fontsize=size, color=ink)  # type: ignore[arg-type]
    ax.xaxis.set_label_coords(0.5, -0.15)
    ax.yaxis.set_label_coords(-0.06 / ax.get_position().width, 0.5)
