"""Figures about a sweep: which variant to choose, and which choice of it mattered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqkit.plots.points import factors, finished, level, level_order, loss_axis, short, squash
from vqkit.plots.style import LIGHT, Theme, dress, figure, looks, note, outer_legend

if TYPE_CHECKING:
    import pandas as pd

_MAX_BARS = 40


def leaderboard_bars(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """Accuracy of every variant against float, best at the top, failed ones named at the bottom.

    Args:
        frame: one row per run: name, status, strategy, accuracy, float_accuracy (fractions), size_bytes; as
            `vqkit.experiment.records.load_records` returns it.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with a bar per variant (the best 40); beside it the accuracy in per cent.
    """
    done = finished(frame).sort_values(["points", "size_bytes"], ascending=[False, True]).head(_MAX_BARS)
    failed = frame[frame["status"] == "FAILED"]
    fig = figure(1.5 + 0.23 * max(4, len(done) + len(failed)), theme)
    ax = fig.add_subplot()
    dress(ax, theme, title="Leaderboard", x="accuracy against float (percentage points)", grid="x")
    if done.empty and failed.empty:
        note(ax, "no variant has finished", theme)
        return fig
    _draw_bars(ax, done, theme)
    for i in range(len(done), len(done) + len(failed)):
        ax.text(0, i, "failed ", ha="right", va="center", color=theme.alarm, fontsize=8)
        ax.plot([0], [i], marker="x", color=theme.alarm, clip_on=False)
    names = [short(n) for n in (*done["name"], *failed["name"])]
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    loss_axis(ax.xaxis, float(-done["points"].min()) if len(done) else 1.0)
    outer_legend(fig, ax, theme, loc="outside upper right", ncols=6)
    return fig


def _draw_bars(ax: Axes, done: pd.DataFrame, theme: Theme) -> None:
    for strategy, (colour, _) in looks(done["strategy"].astype(str), theme).items():
        at = np.flatnonzero(done["strategy"].astype(str) == strategy)
        ax.barh(at, squash(done["points"].iloc[at]), color=colour, height=0.7, label=strategy)
    left = min(0.0, float(squash(done["points"].min()))) if len(done) else 0.0
    right = max(0.0, float(squash(done["points"].max()))) if len(done) else 0.0
    room = 0.14 * (right - left) or 0.1
    for i, (_, run) in enumerate(done.iterrows()):
        end = min(0.0, float(squash(run["points"])))
        ax.text(
            end, i, f"{100 * run['accuracy']:.2f} % ", ha="right", va="center", fontsize=8, color=theme.ink
        )
    ax.axvline(0, color=theme.ink, lw=1)
    ax.set_xlim(left - room, right + 0.03 * (right - left))


def marginal_effects(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """What each choice did on its own: accuracy of all variants grouped by one factor at a time.

    Args:
        frame: one row per run; every column `strategy` or `override.*` with more than one value is a factor.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with one panel per factor; a dot is a variant, a bar the median of its level, and a thin line
        joins variants that differ in nothing else: its slope is the factor's effect.
    """
    done = finished(frame)
    choices = factors(done)
    columns = min(2, max(1, len(choices)))
    rows = max(1, -(-len(choices) // columns))
    fig = figure(0.6 + 2.9 * rows, theme)
    if not choices:
        ax = fig.add_subplot()
        dress(ax, theme, title="Effect of each choice")
        note(ax, "the variants differ in nothing that can be compared", theme)
        return fig
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, name in zip(grid, choices, strict=False):
        _draw_factor(ax, done, name, theme)
    for ax in grid[len(choices) :]:
        ax.set_visible(False)
    for ax in grid[::columns]:
        ax.set_ylabel("against float\n(percentage points)", color=theme.ink)
    loss_axis(grid[0].yaxis, float(-done["points"].min()))
    return fig


def _draw_factor(ax: Axes, done: pd.DataFrame, name: str, theme: Theme) -> None:
    dress(ax, theme, title=name.removeprefix("override."), grid="y")
    words = done[factors(done)].map(level)
    order = sorted(words[name].unique(), key=level_order)
    at = words[name].map(order.index).to_numpy(float)
    height = squash(done["points"].to_numpy(float))
    for group in _alike(words.drop(columns=name)):
        shift = 0.3 * (group[0] + 0.5) / len(done) - 0.15
        line = group[np.argsort(at[group])]
        ax.plot(
            at[line] + shift,
            height[line],
            marker="o",
            ms=4,
            lw=0.7,
            alpha=0.55,
            color=theme.colours[0],
            mew=0,
        )
    for i in range(len(order)):
        median = squash(done.loc[at == i, "points"].median())
        ax.plot([i - 0.3, i + 0.3], [median, median], lw=2.5, color=theme.colours[1])
    tilt = {"rotation": 20, "ha": "right"} if sum(map(len, order)) > 45 else {}
    ax.set_xticks(range(len(order)), [short(o, 16) for o in order], **tilt)  # type: ignore[arg-type]
    ax.set_xlim(-0.6, len(order) - 0.4)


def _alike(others: pd.DataFrame) -> list[np.ndarray]:
    """Row numbers of variants that agree in all of these columns, together."""
    keys = ["|".join(row) for row in others.itertuples(index=False)]
    return [np.flatnonzero([k == key for k in keys]) for key in dict.fromkeys(keys)]
