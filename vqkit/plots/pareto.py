"""Accuracy against what it costs: which runs nothing else beats, with everything else kept in sight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from vqkit.errors import RecordError, not_allowed
from vqkit.experiment import significance
from vqkit.plots.points import TICKS, finished, key_of, lost, mark, short, squash, unsquash
from vqkit.plots.style import LIGHT, Theme, dress, figure, looks, note, outer_legend

if TYPE_CHECKING:
    import pandas as pd

_MAX_NAMED = 8
_FLOAT_PAIR = 32 * 32


@dataclass(frozen=True)
class Cost:
    """What accuracy is drawn against.

    Attributes:
        title, label: of the figure and its axis.
        unit: what one unit of the axis holds.
        float_column: column that gives the float model's place.
        float_factor: the float model's cost is this times that column.
    """

    title: str
    label: str
    unit: float
    float_column: str
    float_factor: float = 1.0


COSTS = {
    "size_bytes": Cost("Accuracy against size", "size of weights (kB, log)", 1e3, "float_size_bytes"),
    "bit_operations": Cost(
        "Accuracy against bit-operations", "bit-operations for one sample (millions, log)", 1e6, "macs",
        _FLOAT_PAIR,
    ),
}  # fmt: skip


def pareto(
    frame: pd.DataFrame, *, cost: str = "size_bytes", theme: Theme = LIGHT, chosen: str = ""
) -> Figure:
    """Accuracy against a cost: which variants nothing else beats, and what they cost.

    Args:
        frame: one row per run: name, status, strategy, accuracy, float_accuracy (fractions), the cost's
            column and the one that places the float model; n_eval gives 95 % intervals, key lets `places`
            find the runs.
        cost: "size_bytes" (bytes; float at float_size_bytes) or "bit_operations" (per sample; float at
            1024 x macs).
        theme: `LIGHT` or `DARK`.
        chosen: key of a run to point out.

    Returns:
        A figure: the front is filled, joined and numbered, with names beside the axes; dominated variants are
        hollow; failed ones stand in a strip of their own; the float model stands at its own cost.

    Raises:
        RecordError: no such cost.
    """
    if cost not in COSTS:
        raise RecordError(not_allowed("pareto", cost, COSTS, what="cost"))
    what = COSTS[cost]
    done, failed = _with_cost(finished(frame), cost), lost(frame)
    fig = figure(5.0 if len(failed) else 4.6, theme)
    axes = fig.subplots(2, 1, height_ratios=[14, 1]) if len(failed) else [fig.add_subplot()]
    ax = axes[0]
    dress(ax, theme, title=what.title, x=what.label, y="accuracy (%)")
    if done.empty:
        note(ax, _nothing(frame, cost), theme)
    else:
        _draw(ax, done.sort_values([cost, "accuracy"], ascending=[True, False]), cost, theme, chosen)
    if len(failed):
        _draw_failed(axes[1], failed, theme, chosen)
        ax.plot([], [], marker="x", ls="", color=theme.alarm, label=f"{len(failed)} failed (no accuracy)")
    if len(failed) or not done.empty:
        outer_legend(fig, ax, theme, loc="outside right upper")
    return fig


def _with_cost(done: pd.DataFrame, cost: str) -> pd.DataFrame:
    return done[done[cost].notna() & (done[cost] > 0)] if cost in done.columns else done.head(0)


def _nothing(frame: pd.DataFrame, cost: str) -> str:
    if finished(frame).empty:
        return "no variant has finished"
    return f"no finished variant has recorded {cost}; variants that run from now on do"


def _draw(ax: Axes, done: pd.DataFrame, cost: str, theme: Theme, chosen: str) -> None:
    what = COSTS[cost]
    x, y = done[cost].to_numpy(float) / what.unit, 100 * done["accuracy"].to_numpy(float)
    on_front = significance.pareto(x, y)
    low, high = _bounds(done)
    reference = 100 * float(done["float_accuracy"].iloc[0])
    _accuracy_axis(ax, reference, float(low.min()), float(high.max()))
    _cost_axis(ax)
    _draw_float(ax, done, what, reference, theme)
    _draw_points(ax, done, x, y, on_front, theme)
    ax.vlines(x, low, high, color=theme.ink, lw=0.8, alpha=0.45, zorder=1.5)
    _draw_front(ax, done[on_front], x[on_front], y[on_front], theme)
    _point_out(ax, done, x, y, theme, chosen)


def _bounds(done: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % intervals in per cent; the accuracy itself where the samples are not counted."""
    y = done["accuracy"].to_numpy(float)
    n = done["n_eval"].to_numpy(float) if "n_eval" in done.columns else np.full(len(y), np.nan)
    low, high = significance.wilson(y, n)
    return 100 * np.where(np.isnan(low), y, low), 100 * np.where(np.isnan(high), y, high)


def _accuracy_axis(ax: Axes, reference: float, low: float, high: float) -> None:
    ax.set_yscale(
        "function",
        functions=(
            lambda v: -squash(reference - np.asarray(v)),
            lambda v: reference - unsquash(-v),
        ),
    )
    ticks = [reference - t for t in TICKS if reference - t >= low - 5]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.1f}"))
    span = float(squash(reference - low))
    ax.set_ylim(reference - np.expm1(span * 1.06 + 0.03), max(high, reference) + 0.12 * (1 + span))


def _cost_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _draw_front(ax: Axes, front: pd.DataFrame, x: np.ndarray, y: np.ndarray, theme: Theme) -> None:
    ax.step(x, y, where="post", color=theme.ink, lw=1.2, zorder=2)
    for i, name in enumerate(front["name"].head(_MAX_NAMED), start=1):
        ax.plot([], [], ls="", label=f"{i}  {short(name, 40)}")
    drop = squash(100 * front["float_accuracy"].to_numpy(float) - y)
    for first, last in clusters(np.log(x), drop):
        text = str(first + 1) if first == last else f"{first + 1}–{last + 1}"
        at = (x[last], y[last])
        ax.annotate(text, at, xytext=(-8, 8), textcoords="offset points", ha="right", color=theme.ink)


def clusters(x: np.ndarray, y: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of neighbours too close for a label each; x and y as drawn."""
    groups = [(0, 0)] if len(x) else []
    for i in range(1, len(x)):
        near = abs(x[i] - x[i - 1]) < 0.12 and abs(y[i] - y[i - 1]) < 0.25
        groups = [*groups[:-1], (groups[-1][0], i)] if near else [*groups, (i, i)]
    return groups


def _draw_points(
    ax: Axes, done: pd.DataFrame, x: np.ndarray, y: np.ndarray, on_front: np.ndarray, theme: Theme
) -> None:
    look = looks(done["strategy"].astype(str), theme)
    for i, (_, run) in enumerate(done.iterrows()):
        colour, marker = look[str(run["strategy"])]
        face = colour if on_front[i] else theme.page
        style: dict[str, Any] = {"ls": "", "marker": marker, "ms": 6, "mfc": face, "mec": colour}
        (line,) = ax.plot([x[i]], [y[i]], zorder=3 if on_front[i] else 2.5, **style)
        mark(line, key_of(run))
    for strategy, (colour, marker) in look.items():
        ax.plot([], [], ls="", marker=marker, mfc=colour, mec=colour, label=strategy)
    ax.plot([], [], ls="", marker="o", mfc="none", mec=theme.ink, label="hollow: dominated")


def _draw_float(ax: Axes, done: pd.DataFrame, what: Cost, reference: float, theme: Theme) -> None:
    ax.axhline(reference, color=theme.faint, ls="--", lw=1, zorder=1)
    if what.float_column not in done.columns or done[what.float_column].isna().all():
        return
    at = float(done[what.float_column].dropna().iloc[0]) * what.float_factor / what.unit
    look: dict[str, Any] = {"marker": "*", "ms": 13, "ls": "", "color": theme.alarm}
    ax.plot([at], [reference], label=f"float, {reference:.2f} %", **look)


def _point_out(ax: Axes, done: pd.DataFrame, x: np.ndarray, y: np.ndarray, theme: Theme, chosen: str) -> None:
    for i, (_, run) in enumerate(done.iterrows()):
        if chosen and key_of(run) == chosen:
            ax.plot([x[i]], [y[i]], ls="", marker="o", ms=14, mfc="none", mec=theme.ink, mew=2, zorder=4)
            ax.plot([], [], ls="", marker="o", ms=10, mfc="none", mec=theme.ink, mew=2,
                    label=f"chosen: {short(run['name'], 34)}")  # fmt: skip


def _draw_failed(ax: Axes, failed: pd.DataFrame, theme: Theme, chosen: str) -> None:
    ax.set_facecolor(theme.page)
    for spine in ax.spines.values():
        spine.set_color(theme.faint)
    ax.set_xlim(-0.5, max(12, len(failed)) - 0.5)
    ax.set_ylim(-1, 1)
    ax.set_xticks([])
    ax.set_yticks([0], ["failed"], color=theme.alarm, fontsize=9)
    ax.tick_params(length=0)
    for i, (_, run) in enumerate(failed.iterrows()):
        (line,) = ax.plot([i], [0], marker="x", ls="", color=theme.alarm)
        mark(line, key_of(run))
        if chosen and key_of(run) == chosen:
            ax.plot([i], [0], ls="", marker="o", ms=14, mfc="none", mec=theme.ink, mew=2)
