"""Figures of thresholds over steps, and of a metric over calibration images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from vqkit.plots.runs import short
from vqkit.plots.style import LIGHT, MARKERS, Theme, dress, figure, looks, note, outer_legend
from vqkit.runs.records import measure_of, with_values

if TYPE_CHECKING:
    import pandas as pd

NAMED = 6


def thresholds(log: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """Each tensor's log2 threshold over the training steps, counted from where it started.

    The tensors that moved most are in colour; a marker stands where a tensor's grid went to another position.

    Args:
        log: a table of `ThresholdLog`: step, tensor, log2_threshold, position.
        theme: colours.

    Returns:
        A matplotlib figure.
    """
    fig = figure(4.2, theme)
    ax = fig.add_subplot()
    dress(ax, theme, title="Trained thresholds", x="step", y="change of log2 threshold (octaves)")
    if log.empty:
        note(ax, "no threshold was recorded", theme)
        return fig
    table = log.pivot(index="step", columns="tensor", values="log2_threshold")
    moved = table - table.iloc[0]
    most = moved.iloc[-1].abs().sort_values(ascending=False)
    named = [name for name, by in most.items() if by > 0][:NAMED]
    positions = log.pivot(index="step", columns="tensor", values="position")
    style = looks(map(str, named), theme)
    for name in moved.columns.difference(named):
        ax.plot(moved.index, moved[name], color=theme.faint, linewidth=0.8)
    for label in named:
        colour, marker = style[str(label)]
        crossed = positions[label].diff().fillna(0) != 0
        ax.plot(
            moved.index,
            moved[label],
            color=colour,
            linewidth=1.4,
            label=str(label),
            marker=marker,
            markevery=[i for i, c in enumerate(crossed) if c],
            markersize=6,
        )
    ax.axhline(0, color=theme.ink, linewidth=0.8)
    if named:
        outer_legend(fig, ax, theme, loc="outside right upper")
    return fig


_MAX_TENSORS = 6


def calibration_curve(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """The metric and ranges against the number of calibration images, with the spread over subsets.

    Args:
        frame: columns n_images, subset, metric, better, unit, value and float_value (or accuracy and float_accuracy,
            fractions), tensor, low and high (real units), one row for each tensor, number and subset, as
            `vqkit.comparison.calibration_study.calibration_study` returns it.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with the metric above and the ranges of the six tensors that vary most below; a line is the
        median over subsets, a band goes from the smallest to the largest.
    """
    fig = figure(7.2, theme)
    top, below = fig.subplots(2, 1, sharex=True)
    frame = with_values(frame)
    measure = measure_of(frame)
    dress(top, theme, title=f"{measure.name.capitalize()} and the number of calibration images", y=measure.axis)
    dress(
        below,
        theme,
        title="Ranges of the tensors that vary most",
        x="calibration images (log)",
        y="width of the range\n(% of that with all images)",
    )
    if frame.empty:
        note(top, "nothing was calibrated", theme)
        return fig
    runs = frame.drop_duplicates(["n_images", "subset"])
    _band(top, runs["n_images"], measure.factor * runs["value"], "quantized", 0, theme)
    top.axhline(measure.factor * float(runs["float_value"].iloc[0]), color=theme.alarm, ls="--", lw=1.2, label="float")
    outer_legend(fig, top, theme, loc="outside right upper")
    for i, (name, part) in enumerate(_relative(frame)):
        _band(below, part["n_images"], part["relative"], short(name, 30), i, theme)
    outer_legend(fig, below, theme, loc="outside right lower")
    _image_axis(below, sorted(frame["n_images"].unique()))
    return fig


def _band(ax: Axes, counts: pd.Series, values: pd.Series, label: str, i: int, theme: Theme) -> None:
    grouped = values.groupby(counts.to_numpy())
    middle, low, high = grouped.median(), grouped.min(), grouped.max()
    colour = theme.colours[i % len(theme.colours)]
    ax.fill_between(middle.index, low, high, color=colour, alpha=0.22, lw=0)
    ax.plot(middle.index, middle, color=colour, marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.5, label=label)


def _relative(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The tensors whose range depends most on the images, each with its width in per cent of the last one."""
    found = []
    for name, part in frame.groupby("tensor", sort=False):
        width = part["high"] - part["low"]
        final = float(width[part["n_images"] == part["n_images"].max()].median())
        if final > 0 and np.isfinite(final):
            found.append((str(name), part.assign(relative=100 * width / final)))
    found.sort(key=lambda item: -float(item[1]["relative"].max() - item[1]["relative"].min()))
    return found[:_MAX_TENSORS]


def _image_axis(ax: Axes, counts: list[int]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([float(n) for n in counts]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
