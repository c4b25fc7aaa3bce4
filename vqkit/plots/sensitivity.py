"""Which layers suffer from few bits, and how the metric comes back when the worst ones are left float."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vqkit.errors import RecordError, not_allowed
from vqkit.plots.runs import loss_axis, short, squash
from vqkit.plots.style import LIGHT, Theme, dress, figure, note, outer_legend
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

_MAX_LAYERS = 40
_KINDS = {"weights": ("s", 0), "activations": ("o", 1), "both": ("D", 2)}
_NOISE = {"kl": ("KL divergence from float (nats)", -1.0), "sqnr_db": ("SQNR of the output (dB)", 1.0)}
"""Measure -> its name, and 1 where high values are good."""
_WORDS = {"only": "only this layer quantized", "all_but": "all quantized but this layer"}


def sensitivity_ranked(
    table: pd.DataFrame,
    float_value: float,
    *,
    mode: str = "only",
    bits: int | None = None,
    by: str = "kl",
    theme: Theme = LIGHT,
    measure: Measure | None = None,
) -> Figure:
    """Layers from the most to the least sensitive: the metric on the left, noise on the right.

    Args:
        table: columns layer, kind ("weights", "activations", "both"), bits, mode ("only", "all_but"),
            the metric, sqnr_db, kl (nats), as `vqkit.search.Sensitivity.table`.
        float_value: the metric of the float model on the same samples; of accuracy a fraction.
        mode: "only" this layer quantized, or "all_but" this layer.
        bits: width; the smallest by default.
        by: "kl", "sqnr_db" or the metric; what ranks, and for the first two what the right side shows.
        theme: `LIGHT` or `DARK`.
        measure: the metric; accuracy by default.

    Returns:
        A figure with a row per layer (the 40 most sensitive); marks by kind of tensor.

    Raises:
        RecordError: an unknown measure or mode.
    """
    measure = measure or Measure()
    signs = {name: sign for name, (_, sign) in _NOISE.items()} | {measure.column: float(measure.sign)}
    for name, given, allowed in (("by", by, signs), ("mode", mode, _WORDS)):
        if given not in allowed:
            raise RecordError(not_allowed(name, given, allowed))
    rows = table[table["mode"] == mode]
    width = bits if bits is not None or rows.empty else int(rows["bits"].min())
    rows = rows[rows["bits"] == width]
    layers = _ranked(rows, by, signs[by], mode)[:_MAX_LAYERS]
    fig = figure(1.7 + 0.21 * max(6, len(layers)), theme)
    if not layers:
        ax = fig.add_subplot()
        dress(ax, theme, title="Sensitivity")
        note(ax, f"nothing was asked with {_WORDS[mode]}", theme)
        return fig
    left, right = fig.subplots(1, 2, sharey=True)
    shown = by if by in _NOISE else "sqnr_db"
    words, shift = _against(measure, float_value)
    dress(left, theme, title=f"{_WORDS[mode]}, {width} bits", x=words)
    dress(right, theme, x=_NOISE[shown][0])
    rows = rows[rows["layer"].isin(layers)]
    points = shift(rows[measure.column].to_numpy(float))
    _draw(left, rows, squash(points), layers, theme)
    _draw(right, rows, rows[shown].to_numpy(float), layers, theme)
    left.axvline(0, color=theme.ink, lw=1)
    loss_axis(left.xaxis, max(1.0, float(-points.min()), float(points.max())))
    left.set_yticks(range(len(layers)), [short(name, 34) for name in layers], fontsize=8)
    left.set_ylim(len(layers) - 0.4, -0.6)
    outer_legend(fig, left, theme, loc="outside upper right", ncols=3)
    return fig


def _against(measure: Measure, float_value: float) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """What an axis shows, and from values to it: the gain against float, where that is a number to compare with."""
    if np.isfinite(float_value) and (float_value or measure.unit == "percent"):
        return measure.against, lambda values: measure.gain(values, float_value)
    return measure.axis, lambda values: measure.factor * values


def _ranked(rows: pd.DataFrame, by: str, sign: float, mode: str) -> list[str]:
    """Most sensitive first; a layer counts by the kind of tensor that says most.

    Quantized alone it does most harm; left float it helps most.
    """
    harm = -sign * rows[by]
    found = harm.groupby(rows["layer"], sort=False)
    order = -found.max() if mode == "only" else found.min()
    return [str(name) for name in order.sort_values(kind="stable").index]


def _draw(ax: Axes, rows: pd.DataFrame, x: np.ndarray, layers: list[str], theme: Theme) -> None:
    finite = x[np.isfinite(x)]
    edge = float(finite.max()) if finite.size else 0.0
    for kind, (marker, i) in _KINDS.items():
        mine = (rows["kind"] == kind).to_numpy()
        if mine.any():
            y = [layers.index(name) for name in rows["layer"][mine]]
            look: dict[str, Any] = {"ls": "", "marker": marker, "ms": 6, "color": theme.colours[i]}
            # What has no noise at all stands at the edge.
            ax.plot(np.where(np.isfinite(x[mine]), x[mine], edge), y, label=kind, **look)


_LINES: dict[str, dict[str, Any]] = {
    "only this layer": {"marker": "o", "ls": ""},
    "all but this layer": {"marker": "^", "ls": "", "mfc": "none"},
    "all layers up to this one": {"marker": "s", "ls": "-", "lw": 1.3},
}


def sensitivity_accumulated(
    table: pd.DataFrame,
    accumulated: pd.DataFrame,
    float_value: float,
    *,
    bits: int | None = None,
    theme: Theme = LIGHT,
    measure: Measure | None = None,
) -> Figure:
    """Each layer alone beside all layers up to it, from the input (top) to the output (bottom).

    Where the line jumps, one layer costs the metric; where it creeps, many small errors add up.

    Args:
        table: as for `sensitivity_ranked`; a layer counts by the kind of tensor that does most harm.
        accumulated: columns layer (the last one quantized), the metric, sqnr_db, as
            `vqkit.search.accumulated` returns it.
        float_value: the metric of the float model on the same samples; of accuracy a fraction.
        bits: width; the smallest in the table by default.
        theme: `LIGHT` or `DARK`.
        measure: the metric; accuracy by default.

    Returns:
        A figure: the metric on the left, SQNR of the output on the right.
    """
    measure = measure or Measure()
    layers = list(dict.fromkeys([*table["layer"], *accumulated["layer"]]))
    fig = figure(1.7 + 0.21 * max(6, min(len(layers), _MAX_LAYERS)), theme)
    if not layers or accumulated.empty:
        ax = fig.add_subplot()
        dress(ax, theme, title="Isolated and accumulated")
        note(ax, "nothing was accumulated", theme)
        return fig
    width = bits if bits is not None else int(table["bits"].min())
    left, right = fig.subplots(1, 2, sharey=True)
    label, shift = _against(measure, float_value)
    dress(
        left,
        theme,
        title=f"Isolated and accumulated, {width} bits",
        x=label,
    )
    dress(right, theme, x=_NOISE["sqnr_db"][0])
    rows = table[table["bits"] == width]
    series = {
        f"{words} layer": _worst(rows[rows["mode"] == mode], mode)
        for mode, words in (("only", "only this"), ("all_but", "all but this"))
    }
    series["all layers up to this one"] = accumulated
    lowest = 0.0
    for i, (words, data) in enumerate(series.items()):
        if len(data):
            y = [layers.index(name) for name in data["layer"]]
            points = shift(data[measure.column].to_numpy(float))
            lowest = min(lowest, float(points.min()))
            look = {"ms": 5.5, "color": theme.colours[i], **_LINES[words]}
            left.plot(squash(points), y, label=words, **look)
            noise = data["sqnr_db"].to_numpy(float)
            right.plot(np.where(np.isfinite(noise), noise, np.nan), y, **look)
    left.axvline(0, color=theme.ink, lw=1)
    loss_axis(left.xaxis, max(1.0, -lowest))
    step = -(-len(layers) // _MAX_LAYERS)
    left.set_yticks(range(0, len(layers), step), [short(n, 34) for n in layers[::step]], fontsize=8)
    left.set_ylim(len(layers) - 0.4, -0.6)
    outer_legend(fig, left, theme, loc="outside upper right", ncols=3)
    return fig


def _worst(rows: pd.DataFrame, mode: str) -> pd.DataFrame:
    """One row for each layer, by its kind of tensor that says most."""
    if rows.empty:
        return rows
    found = rows.groupby("layer", sort=False)["sqnr_db"]
    return rows.loc[found.idxmin() if mode == "only" else found.idxmax()]


def recovery_curve(
    table: pd.DataFrame, float_value: float, *, theme: Theme = LIGHT, measure: Measure | None = None
) -> Figure:
    """How the metric comes back as the most sensitive layers are left float, one after another.

    Args:
        table: columns left_float (number of layers left float), layer (the last of them), the metric,
            as `vqkit.search.recovery` returns it.
        float_value: the metric of the float model on the same samples; of accuracy a fraction.
        theme: `LIGHT` or `DARK`.
        measure: the metric; accuracy by default.

    Returns:
        A figure; where the line is steep a few layers cost the metric.
    """
    measure = measure or Measure()
    fig = figure(3.8, theme)
    ax = fig.add_subplot()
    dress(ax, theme, title="Recovery", x="most sensitive layers left float (count)", y=measure.axis)
    if table.empty:
        note(ax, "no recovery was asked for", theme)
        return fig
    x, y = table["left_float"].to_numpy(float), measure.factor * table[measure.column].to_numpy(float)
    ax.plot(x, y, marker="o", ms=5, lw=1.5, color=theme.colours[0], label="quantized")
    if np.isfinite(float_value):
        ax.axhline(measure.factor * float_value, color=theme.alarm, ls="--", lw=1.2, label="float")
    up = y > (y.min() + y.max()) / 2
    for at, (name, height, high) in enumerate(zip(table["layer"], y, up, strict=True)):
        if name:
            ax.annotate(
                f"+ {short(name, 24)}",
                (x[at], height),
                xytext=(4, -8 if high else 6),
                fontsize=8,
                textcoords="offset points",
                va="top" if high else "bottom",
                color=theme.ink,
                rotation=-30 if high else 30,
            )
    ax.margins(x=0.12, y=0.2)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    outer_legend(fig, ax, theme, loc="outside right upper")
    return fig
