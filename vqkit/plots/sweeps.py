"""Figures about a sweep: which variant to choose, and which choice of it mattered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from vqkit.experiment import significance
from vqkit.plots.style import LIGHT, Theme, dress, figure, looks, note, outer_legend

if TYPE_CHECKING:
    import pandas as pd

_TICKS = (0.0, 0.5, 1, 2, 5, 10, 20, 50, 100)
_MAX_BARS = 40
_MAX_NAMED = 8
_MAX_LEVELS = 12
UNSET = "unset"


def _squash(points: Any) -> Any:
    """Percentage points on a scale that is linear near zero and logarithmic beyond one."""
    points = np.asarray(points, float)
    return np.sign(points) * np.log1p(np.abs(points))


def _points(squashed: Any) -> Any:
    return np.sign(squashed) * np.expm1(np.abs(squashed))


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    done = frame[(frame["status"] == "FINISHED") & frame["accuracy"].notna()].copy()
    done["points"] = 100 * (done["accuracy"] - done["float_accuracy"])
    return done


def _loss_axis(axis: Any, lost: float) -> None:
    """Ticks of a squashed axis of percentage points against float; `lost` is the largest loss shown."""
    ticks = sorted({s * t for t in _TICKS for s in (-1, 1) if t <= lost * 1.3})
    axis.set_major_locator(FixedLocator([float(_squash(t)) for t in ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{np.sign(v) * np.expm1(abs(v)):+.3g}" if v else "0")
    )


def leaderboard_bars(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """Accuracy of every variant against float, best at the top, failed ones named at the bottom.

    Args:
        frame: one row per run: name, status, strategy, accuracy, float_accuracy (fractions), size_bytes; as
            `vqkit.experiment.records.load_records` returns it.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with a bar per variant (the best 40); beside it the accuracy in per cent.
    """
    done = _finished(frame).sort_values(["points", "size_bytes"], ascending=[False, True]).head(_MAX_BARS)
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
    names = [_short(n) for n in (*done["name"], *failed["name"])]
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    _loss_axis(ax.xaxis, float(-done["points"].min()) if len(done) else 1.0)
    outer_legend(fig, ax, theme, loc="outside upper right", ncols=6)
    return fig


def _draw_bars(ax: Axes, done: pd.DataFrame, theme: Theme) -> None:
    for strategy, (colour, _) in looks(done["strategy"].astype(str), theme).items():
        at = np.flatnonzero(done["strategy"].astype(str) == strategy)
        ax.barh(at, _squash(done["points"].iloc[at]), color=colour, height=0.7, label=strategy)
    left = min(0.0, float(_squash(done["points"].min()))) if len(done) else 0.0
    right = max(0.0, float(_squash(done["points"].max()))) if len(done) else 0.0
    room = 0.14 * (right - left) or 0.1
    for i, (_, run) in enumerate(done.iterrows()):
        end = min(0.0, float(_squash(run["points"])))
        ax.text(
            end, i, f"{100 * run['accuracy']:.2f} % ", ha="right", va="center", fontsize=8, color=theme.ink
        )
    ax.axvline(0, color=theme.ink, lw=1)
    ax.set_xlim(left - room, right + 0.03 * (right - left))


def pareto(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """Accuracy against size: which variants nothing else beats, and what they cost.

    Args:
        frame: one row per run: name, status, strategy, accuracy, float_accuracy (fractions), size_bytes,
            float_size_bytes.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure: the front is filled, joined and numbered, with names beside the axes; dominated variants are
        hollow; failed ones are counted; the float model stands at its own size.
    """
    done = _finished(frame).sort_values(["size_bytes", "accuracy"], ascending=[True, False])
    fig = figure(4.6, theme)
    ax = fig.add_subplot()
    dress(ax, theme, title="Accuracy against size", x="size of weights (kB, log)", y="accuracy (%)")
    if done.empty:
        note(ax, "no variant has finished", theme)
        return fig
    on_front = significance.pareto(done["size_bytes"], done["accuracy"])
    reference = 100 * float(done["float_accuracy"].iloc[0])
    _accuracy_axis(ax, reference, 100 * float(done["accuracy"].min()), 100 * float(done["accuracy"].max()))
    _size_axis(ax)
    _draw_front(ax, done[on_front], theme)
    _draw_points(ax, done, on_front, theme)
    _draw_float(ax, done, reference, theme)
    failed = int((frame["status"] == "FAILED").sum())
    if failed:
        ax.plot([], [], marker="x", ls="", color=theme.alarm, label=f"{failed} failed (no accuracy)")
    outer_legend(fig, ax, theme, loc="outside right upper")
    return fig


def _accuracy_axis(ax: Axes, reference: float, low: float, high: float) -> None:
    ax.set_yscale(
        "function",
        functions=(
            lambda v: -_squash(reference - np.asarray(v)),
            lambda v: reference - _points(-v),
        ),
    )
    ticks = [reference - t for t in _TICKS if reference - t >= low - 5]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.1f}"))
    span = float(_squash(reference - low))
    ax.set_ylim(reference - np.expm1(span * 1.06 + 0.03), max(high, reference) + 0.12 * (1 + span))


def _draw_front(ax: Axes, front: pd.DataFrame, theme: Theme) -> None:
    x, y = front["size_bytes"] / 1e3, 100 * front["accuracy"]
    ax.step(x, y, where="post", color=theme.ink, lw=1.2, zorder=2)
    for i, name in enumerate(front["name"].head(_MAX_NAMED), start=1):
        ax.plot([], [], ls="", label=f"{i}  {_short(name, 40)}")
    for first, last in _clusters(np.log(x.to_numpy(float)), _squash(100 * front["float_accuracy"] - y)):
        text = str(first + 1) if first == last else f"{first + 1}–{last + 1}"
        at = (x.iloc[last], y.iloc[last])
        ax.annotate(text, at, xytext=(-4, 6), textcoords="offset points", ha="right", color=theme.ink)


def _clusters(x: np.ndarray, y: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of neighbours too close for a label each; x and y as drawn."""
    groups = [(0, 0)] if len(x) else []
    for i in range(1, len(x)):
        near = abs(x[i] - x[i - 1]) < 0.12 and abs(y[i] - y[i - 1]) < 0.25
        groups = [*groups[:-1], (groups[-1][0], i)] if near else [*groups, (i, i)]
    return groups


def _size_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _draw_points(ax: Axes, done: pd.DataFrame, on_front: np.ndarray, theme: Theme) -> None:
    strategies = done["strategy"].astype(str).to_numpy()
    for strategy, (colour, marker) in looks(strategies, theme).items():
        for mask, face in ((~on_front, "none"), (on_front, colour)):
            part = done[(strategies == strategy) & mask]
            ax.plot(
                part["size_bytes"] / 1e3,
                100 * part["accuracy"],
                ls="",
                marker=marker,
                ms=6,
                mfc=face,
                mec=colour,
            )
        ax.plot([], [], ls="", marker=marker, mfc=colour, mec=colour, label=strategy)
    ax.plot([], [], ls="", marker="o", mfc="none", mec=theme.ink, label="hollow: dominated")


def _draw_float(ax: Axes, done: pd.DataFrame, reference: float, theme: Theme) -> None:
    size = float(done["float_size_bytes"].iloc[0]) / 1e3
    ax.axhline(reference, color=theme.faint, ls="--", lw=1, zorder=1)
    ax.plot(
        [size], [reference], marker="*", ms=13, ls="", color=theme.alarm, label=f"float, {reference:.2f} %"
    )


def marginal_effects(frame: pd.DataFrame, *, theme: Theme = LIGHT) -> Figure:
    """What each choice did on its own: accuracy of all variants grouped by one factor at a time.

    Args:
        frame: one row per run; every column `strategy` or `override.*` with more than one value is a factor.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with one panel per factor; a dot is a variant, a bar the median of its level, and a thin line
        joins variants that differ in nothing else: its slope is the factor's effect.
    """
    done = _finished(frame)
    factors = _factors(done)
    columns = min(2, max(1, len(factors)))
    rows = max(1, -(-len(factors) // columns))
    fig = figure(0.6 + 2.9 * rows, theme)
    if not factors:
        ax = fig.add_subplot()
        dress(ax, theme, title="Effect of each choice")
        note(ax, "the variants differ in nothing that can be compared", theme)
        return fig
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, name in zip(grid, factors, strict=False):
        _draw_factor(ax, done, name, theme)
    for ax in grid[len(factors) :]:
        ax.set_visible(False)
    for ax in grid[::columns]:
        ax.set_ylabel("against float\n(percentage points)", color=theme.ink)
    _loss_axis(grid[0].yaxis, float(-done["points"].min()))
    return fig


def _factors(done: pd.DataFrame) -> list[str]:
    columns = ["strategy", *(c for c in done.columns if str(c).startswith("override."))]
    counts = {c: done[c].map(_level).nunique() for c in columns if c in done.columns}
    return [c for c, n in counts.items() if 1 < n <= _MAX_LEVELS]


def _level(value: Any) -> str:
    """One short word for a setting; unset means the strategy's own."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return UNSET
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value)) or "none"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _draw_factor(ax: Axes, done: pd.DataFrame, name: str, theme: Theme) -> None:
    dress(ax, theme, title=name.removeprefix("override."), grid="y")
    words = done[_factors(done)].map(_level)
    order = sorted(words[name].unique(), key=_level_order)
    at = words[name].map(order.index).to_numpy(float)
    height = _squash(done["points"].to_numpy(float))
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
        median = _squash(done.loc[at == i, "points"].median())
        ax.plot([i - 0.3, i + 0.3], [median, median], lw=2.5, color=theme.colours[1])
    tilt = {"rotation": 20, "ha": "right"} if sum(map(len, order)) > 45 else {}
    ax.set_xticks(range(len(order)), [_short(o, 16) for o in order], **tilt)  # type: ignore[arg-type]
    ax.set_xlim(-0.6, len(order) - 0.4)


def _alike(others: pd.DataFrame) -> list[np.ndarray]:
    """Row numbers of variants that agree in all of these columns, together."""
    keys = ["|".join(row) for row in others.itertuples(index=False)]
    return [np.flatnonzero([k == key for k in keys]) for key in dict.fromkeys(keys)]


def _level_order(level: str) -> tuple[int, float, str]:
    if level == UNSET:
        return (-1, 0.0, "")
    try:
        return (0, float(level), "")
    except ValueError:
        return (1, 0.0, level)


def _short(name: Any, width: int = 56) -> str:
    text = str(name)
    return text if len(text) <= width else text[: width // 2 - 1] + "…" + text[-(width // 2) :]
