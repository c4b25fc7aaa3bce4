"""Figures of a sweep: which choice mattered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqkit.plots.runs import (
    factors,
    finished,
    key_of,
    level,
    level_order,
    loss_axis,
    lost,
    mark,
    short,
    squash,
)
from vqkit.plots.style import LIGHT, Theme, dress, figure, looks, note, outer_legend
from vqkit.runs.records import measure_of
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

_MAX_BARS = 40


def leaderboard_bars(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """Every variant against float by the deciding metric, best at the top, failed ones named at the bottom.

    Args:
        frame: one row per run: name, status, strategy, the metric, size_bytes; as
            `vqkit.runs.records.load_records` returns it.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with a bar per variant (the best 40); beside it the value.
    """
    done = finished(frame).sort_values(["points", "size_bytes"], ascending=[False, True]).head(_MAX_BARS)
    failed = frame[frame["status"] == "FAILED"]
    fig = figure(1.5 + 0.23 * max(4, len(done) + len(failed)), theme)
    ax = fig.add_subplot()
    dress(ax, theme, title="Leaderboard", x=measure_of(done).against, grid="x")
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
    measure = measure_of(done)
    for i, (_, run) in enumerate(done.iterrows()):
        end = min(0.0, float(squash(run["points"])))
        ax.text(end, i, f"{measure.text(run['value'])} ", ha="right", va="center", fontsize=8, color=theme.ink)
    ax.axvline(0, color=theme.ink, lw=1)
    ax.set_xlim(left - room, right + 0.03 * (right - left))


def marginal_effects(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """What each choice did on its own: the metric of all variants grouped by one factor at a time.

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
    label = measure_of(done).against.removeprefix(f"{measure_of(done).name} ").replace(" (", "\n(")
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, name in zip(grid, choices, strict=False):
        _draw_factor(ax, done, name, theme)
    for ax in grid[len(choices) :]:
        ax.set_visible(False)
    for ax in grid[::columns]:
        ax.set_ylabel(label, color=theme.ink)
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


_MAX_AXES = 8
_NO_RESULT = -0.12
_SPREAD = 0.45


def parallel_coordinates(frame: pd.DataFrame, *, theme: Theme = LIGHT, chosen: str = "") -> Figure:
    """Which choices go with which outcome: one upright axis for each key, the last one for the metric.

    Args:
        frame: one row per run; every column `strategy` or `override.*` with more than one value is an axis.
        theme: `LIGHT` or `DARK`.
        chosen: key of a run to point out.

    Returns:
        A figure. A line is a run; it is coloured by the value it ends at. Runs that failed are dashed and
        end below the last axis.
    """
    fig = figure(4.6, theme)
    ax = fig.add_subplot()
    ax.set_title(f"Choices and {measure_of(frame).name}", loc="left", fontsize=11, color=theme.ink)
    runs = _ordered(frame)
    names = factors(runs)[:_MAX_AXES] if len(runs) else []
    _bare(ax, theme)
    if not names:
        note(ax, "the variants differ in nothing that can be compared", theme)
        return fig
    loss = max(0.5, float(np.nanmax(-runs["points"].to_numpy(float), initial=0.5)))
    heights = np.column_stack(
        [*(_level_heights(ax, runs, n, i, theme) for i, n in enumerate(names)), _gain_heights(runs, loss)]
    )
    _draw_lines(ax, runs, heights, theme, chosen)
    _gain_axis(ax, len(names), loss, bool(runs["points"].isna().any()), theme, measure_of(runs))
    if ax.get_legend_handles_labels()[1]:
        outer_legend(fig, ax, theme, loc="outside lower right", ncols=3)
    return fig


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs with a result, worst first so that the best lie on top, and those that failed."""
    import pandas as pd

    parts = [finished(frame).sort_values("points"), lost(frame).assign(points=np.nan)]
    return pd.concat([p for p in parts if len(p)] or parts, ignore_index=True)


def _bare(ax: Axes, theme: Theme) -> None:
    ax.set_facecolor(theme.page)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])


def _level_heights(ax: Axes, runs: pd.DataFrame, name: str, at: int, theme: Theme) -> np.ndarray:
    """Draw the axis of one choice; returns each run's height, spread inside its level so that lines part."""
    words = runs[name].map(level)
    order = sorted(words.unique(), key=level_order)
    step = 1 / max(1, len(order) - 1) if len(order) > 1 else 1.0
    ax.plot([at, at], [-0.04, 1.04], color=theme.faint, lw=1, zorder=1)
    ax.text(at, 1.1, short(name.removeprefix("override."), 18), ha="center", color=theme.ink, fontsize=9)
    box = {"fc": theme.page, "ec": "none", "alpha": 0.75, "pad": 0.8}
    for i, word in enumerate(order):
        ax.text(
            at - 0.03,
            i * step,
            short(word, 14),
            ha="right",
            va="center",
            color=theme.ink,
            fontsize=8.5,
            bbox=box,
            zorder=5,
        )
    shift = np.zeros(len(runs))
    for word in order:
        mine = np.flatnonzero(words == word)
        shift[mine] = (np.arange(len(mine)) + 0.5) / len(mine) - 0.5
    return words.map(order.index).to_numpy(float) * step + _SPREAD * min(step, 0.25) * shift


def _gain_heights(runs: pd.DataFrame, loss: float) -> np.ndarray:
    bottom, top = _ends(loss)
    height = (squash(runs["points"].to_numpy(float)) - bottom) / (top - bottom)
    return np.where(np.isnan(height), _NO_RESULT, np.clip(height, 0, 1))


def _ends(loss: float) -> tuple[float, float]:
    return float(squash(-loss)), float(squash(min(0.5, 0.1 * loss)))


def _draw_lines(ax: Axes, runs: pd.DataFrame, heights: np.ndarray, theme: Theme, chosen: str) -> None:
    dark = sum(int(theme.page[i : i + 2], 16) for i in (1, 3, 5)) < 3 * 128
    span = (0.3, 1.0) if dark else (0.0, 0.85)
    at = np.arange(heights.shape[1])
    for (_, run), line in zip(runs.iterrows(), heights, strict=True):
        here = chosen != "" and key_of(run) == chosen
        failed = bool(np.isnan(run["points"]))
        colour: Any = colormaps["cividis"](span[0] + (span[1] - span[0]) * max(line[-1], 0.0))
        (drawn,) = ax.plot(
            at,
            line,
            color=theme.ink if here else theme.alarm if failed else colour,
            lw=3 if here else 1.1,
            ls="--" if failed else "-",
            alpha=1 if here else 0.8,
            zorder=4 if here else 2,
            label=f"chosen: {short(run['name'], 40)}" if here else None,
        )
        mark(drawn, key_of(run))


def _gain_axis(ax: Axes, at: int, loss: float, failed: bool, theme: Theme, measure: Measure) -> None:
    bottom, top = _ends(loss)
    ax.plot([at, at], [0, 1], color=theme.ink, lw=1.2, zorder=3)
    ax.text(
        at,
        1.1,
        measure.against.replace(" (", "\n("),
        ha="center",
        va="bottom",
        color=theme.ink,
        fontsize=9,
    )
    for tick in (0.0, 0.5, 1, 2, 5, 10, 20, 50, 100):
        height = (float(squash(-tick)) - bottom) / (top - bottom)
        if height >= -0.01:
            text = f"−{tick:g}" if tick else "0"
            ax.text(at + 0.04, height, text, va="center", color=theme.ink, fontsize=8.5)
            ax.plot([at, at + 0.025], [height, height], color=theme.ink, lw=1)
    if failed:
        ax.text(at + 0.04, _NO_RESULT, "failed", va="center", color=theme.alarm, fontsize=8.5)
        ax.plot([], [], ls="--", color=theme.alarm, label=f"failed (no {measure.name})")
    ax.set_xlim(-0.75, at + 0.4)
    ax.set_ylim(_NO_RESULT - 0.06, 1.28)
