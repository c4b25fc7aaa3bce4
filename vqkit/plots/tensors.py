"""Figures of one quantized model's tensors and of one quantizer's choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from vqkit.plots.style import LIGHT, MARKERS, Theme, dress, figure, legend, note, outer_legend, plain_figure

if TYPE_CHECKING:
    import pandas as pd

    from vqkit.primitives.qparams import QParams

_ROLES = {
    "activation": ("o", "-"),
    "input": ("D", ""),
    "weight": ("s", ""),
    "bias": ("^", ""),
    "output": ("*", ""),
}
_ROW_INCHES = 0.21
_MAX_LABELS = 60
_FINE_BINS = 120
_MAX_GRID_LINES = 40


def sqnr_by_layer(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """Signal-to-quantization-noise ratio of each tensor, layers from input (top) to output (bottom).

    Six decibels more are half the error, one bit of resolution.

    Args:
        frame: columns layer, tensor, role, order, sqnr_db, as `vqkit.evaluation.noise.sqnr` returns them.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure whose height follows the number of layers; tensors without any error stand at the right edge.
    """
    # A record on disk has null where the ratio is infinite.
    rows = frame.fillna({"sqnr_db": np.inf}).sort_values("order")
    layers = list(dict.fromkeys(rows["layer"]))
    fig = figure(1.4 + _ROW_INCHES * max(6, min(len(layers), _MAX_LABELS)), theme)
    ax = fig.add_subplot()
    dress(ax, theme, title="Quantization error by layer", x="SQNR against float (dB, more is better)")
    if not layers:
        note(ax, "no tensor was quantized", theme)
        return fig
    low, high = _span(rows["sqnr_db"].to_numpy(float))
    for i, (role, (marker, line)) in enumerate(_ROLES.items()):
        part = rows[rows["role"] == role]
        if len(part):
            x = np.clip(part["sqnr_db"].to_numpy(float), low, high)
            y = [layers.index(name) for name in part["layer"]]
            ax.plot(x, y, marker=marker, ls=line, lw=1, ms=5, color=theme.colours[i], label=role)
    if np.isposinf(rows["sqnr_db"].to_numpy(float)).any():
        ax.axvline(high, color=theme.faint, ls=":", label="no error at all")
    _name_layers(ax, layers)
    _mark_worst(ax, rows, layers, low, theme)
    outer_legend(fig, ax, theme, loc="outside upper right", ncols=6)
    return fig


def _span(values: np.ndarray) -> tuple[float, float]:
    """Where tensors stand whose ratio is infinite: nothing but noise to the left, no noise to the right."""
    finite = values[np.isfinite(values)]
    return (float(finite.min() - 6), float(finite.max() + 6)) if finite.size else (0.0, 100.0)


def _name_layers(ax: Axes, layers: list[str]) -> None:
    step = -(-len(layers) // _MAX_LABELS)
    ax.set_yticks(range(0, len(layers), step), layers[::step])
    ax.set_ylim(len(layers) - 0.4, -0.6)


def _mark_worst(ax: Axes, rows: pd.DataFrame, layers: list[str], low: float, theme: Theme) -> None:
    worst = rows.iloc[int(rows["sqnr_db"].argmin())]
    ratio, y = float(worst["sqnr_db"]), layers.index(worst["layer"])
    x = max(low, ratio)
    ax.plot([x], [y], marker="o", ms=11, mfc="none", mec=theme.alarm, mew=1.5, ls="")
    ax.annotate(
        f"worst {worst['role']}: {ratio:.1f} dB",
        (x, y),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        color=theme.alarm,
        fontsize=9,
        bbox={"fc": theme.page, "ec": "none", "pad": 1, "alpha": 0.8},
    )


def tensor_histogram(
    float_values: np.ndarray,
    quantized_values: np.ndarray,
    qparams: QParams,
    title: str = "",
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Distribution of a tensor before and after quantization, with its grid and its limits.

    Args:
        float_values: any shape.
        quantized_values: the same tensor after quantization, any shape, in real units (not codes).
        qparams: its grid; per-channel grids are drawn as the band their limits span.
        title: usually the tensor's name.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with density on a log axis: values piled up at a limit show as a spike there.
    """
    fig, ax = plain_figure(3.6, theme)
    draw_histogram(ax, float_values, quantized_values, qparams, title, theme=theme)
    return fig


def draw_histogram(
    ax: Axes,
    float_values: np.ndarray,
    quantized_values: np.ndarray,
    qparams: QParams,
    title: str = "",
    *,
    theme: Theme = LIGHT,
) -> None:
    """`tensor_histogram` on given axes."""
    before, after = (np.asarray(v, np.float64).ravel() for v in (float_values, quantized_values))
    dress(ax, theme, title=title, x="value", y="density (log)", grid="y")
    if not before.size or not np.isfinite(before).all():
        note(ax, "no values" if not before.size else "the tensor holds NaN or Inf", theme)
        return
    step, low, high = _limits(qparams)
    bins, cells = histogram_edges(np.concatenate([before, after]), step)
    if step.size == 1:
        _draw_grid(ax, float(step[0]), low[0], high[0], bins[[0, -1]], theme)
    # One outline for each instead of a patch for each bin: ten times faster to draw.
    below = _density(before, bins), _density(after, cells)
    ax.stairs(below[0], bins, fill=True, color=theme.colours[0], alpha=0.45, label="float")
    ax.stairs(below[1], cells, color=theme.colours[1], lw=1.5, label="quantized")
    log_axis(ax)
    low_end, top = 0.5 * min(d[d > 0].min() for d in below), max(d.max() for d in below)
    ax.set_ylim(low_end, top * max(1.5, (top / low_end) ** 0.25))  # room for the legend above the bars
    _draw_limits(ax, low, high, theme)
    ax.set_xlim(*_view(bins, low, high))
    ax.set_title(_facts(before, qparams, step, low, high), loc="right", fontsize=9, color=theme.ink)
    # In the middle: the limits stand at the sides.
    legend(ax, theme, loc="upper center", ncols=3)


def log_axis(ax: Axes) -> None:
    """A log y axis with few, plain labels; the usual ones are typeset as formulas, which is slow."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, edges, density=True)[0]


def _limits(qparams: QParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, lowest and highest representable value, one per channel, flat."""
    spec: Any = qparams.spec
    scale, zero = np.broadcast_arrays(np.asarray(qparams.scale, float), np.asarray(qparams.zero_point, float))
    scale, zero = scale.ravel(), zero.ravel()
    return scale, (spec.q_min - zero) * scale, (spec.q_max - zero) * scale


def histogram_edges(values: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins for the float values, and bins aligned with the grid's cells for the quantized ones.

    Bins that are not whole cells (or whole parts of one) would show a comb that is not in the data.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    if step.size > 1:
        even = np.linspace(low, high, _FINE_BINS + 1)
        return even, even
    cell = float(step[0]) * max(1, int(np.ceil((high - low) / float(step[0]) / _FINE_BINS)))
    start, stop = np.floor(low / cell + 0.5), np.ceil(high / cell + 0.5)
    cells = (np.arange(start, stop + 1) - 0.5) * cell
    split = max(1, int(_FINE_BINS / max(1, len(cells) - 1)))
    return np.linspace(cells[0], cells[-1], (len(cells) - 1) * split + 1), cells


def _draw_grid(ax: Axes, step: float, low: float, high: float, view: np.ndarray, theme: Theme) -> None:
    first, last = max(low, float(view[0])), min(high, float(view[1]))
    count = int((last - first) / step) + 1
    if 0 < count <= _MAX_GRID_LINES:
        values = low + step * np.arange(np.ceil((first - low) / step), (last - low) / step + 0.5)
        across = ax.get_xaxis_transform()
        ax.vlines(values, 0, 1, transform=across, color=theme.faint, lw=0.8, zorder=0)


def _draw_limits(ax: Axes, low: np.ndarray, high: np.ndarray, theme: Theme) -> None:
    label = "limits of the grid" if low.size == 1 else "limits, all channels"
    for values in (low, high):
        if values.min() == values.max():
            ax.axvline(values[0], color=theme.alarm, ls="--", lw=1.2, label=label)
        else:
            ax.axvspan(values.min(), values.max(), color=theme.alarm, alpha=0.12, lw=0, label=label)
        label = ""


def _view(bins: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """The data, and the limits too unless they lie far out and would squeeze the data."""
    left, right = float(bins[0]), float(bins[-1])
    room = right - left
    left, right = min(left, max(low.min(), left - room)), max(right, min(high.max(), right + room))
    margin = 0.03 * (right - left)
    return left - margin, right + margin


def _facts(values: np.ndarray, qparams: QParams, step: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    bits = f"{qparams.spec.bit_width} bit"
    if step.size > 1:
        return f"{bits}, {step.size} channels, step {step.min():.3g} to {step.max():.3g}"
    half = step[0] / 2
    clipped = np.mean((values < low[0] - half) | (values > high[0] + half))
    return f"{bits}, step {step[0]:.3g}, {100 * clipped:.2g} % clipped"


_MAX_CHANNELS = 512


def error_by_scale(curve: Any, *, theme: Theme = LIGHT) -> Figure:
    """How a tensor's error depends on its scale, with the choice of each method.

    Args:
        curve: a `vqkit.evaluation.preview.Curve`.
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
    after: np.ndarray,
    qparams: QParams,
    before: np.ndarray | None = None,
    *,
    axis: int = -1,
    theme: Theme = LIGHT,
) -> Figure:
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


def draw_channels(
    ax: Axes,
    after: np.ndarray,
    qparams: QParams,
    before: np.ndarray | None = None,
    *,
    axis: int = -1,
    theme: Theme = LIGHT,
) -> None:
    """`channel_ranges` on given axes."""
    dress(ax, theme, title="Channel ranges", x="channel", y="largest |x| (log)", grid="y")
    reach = _reach(after, axis)
    if reach.size == 0 or not np.isfinite(reach).all() or not reach.any():
        note(ax, "no values" if reach.size == 0 else "all channels are zero or not finite", theme)
        return
    x = np.arange(min(reach.size, _MAX_CHANNELS))
    look: dict[str, Any] = {"ls": "", "zorder": 3}
    if before is not None:
        ax.plot(
            x,
            _shown(_reach(before, axis))[x],
            marker="o",
            mfc="none",
            mec=theme.colours[1],
            label="before equalization",
            ms=5,
            **look,
        )
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
    shaped = [
        np.broadcast_to(a, channels) if a.size in (1, channels) else np.full(channels, a.max()) for a in (high, scale)
    ]
    return _shown(shaped[0]), _shown(shaped[1])


def tensor_panels(
    values: np.ndarray,
    quantized: np.ndarray,
    qparams: QParams,
    curve: Any = None,
    *,
    title: str = "",
    before: np.ndarray | None = None,
    axis: int = -1,
    theme: Theme = LIGHT,
) -> Figure:
    """One tensor at a glance: its histogram on the grid, its error over the scale, its channels' ranges.

    Args:
        values: the float tensor, any shape.
        quantized: the same on the grid.
        qparams: the grid.
        curve: from `vqkit.evaluation.preview.error_curve`; None leaves that panel out.
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
