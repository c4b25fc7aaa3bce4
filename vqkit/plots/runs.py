"""Figures of runs: against what they cost, and two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from vqkit import statistics
from vqkit.errors import RecordError, not_allowed
from vqkit.plots.style import LIGHT, Theme, dress, figure, looks, note, outer_legend
from vqkit.runs.records import measure_of, with_values
from vqkit.runs.store import LOST
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

TICKS = (0.0, 0.5, 1, 2, 5, 10, 20, 50, 100)
MAX_LEVELS = 12
UNSET = "unset"
_MARKED = "run/"


def squash(points: Any) -> Any:
    """Percentage points on a scale that is linear near zero and logarithmic beyond one."""
    points = np.asarray(points, float)
    return np.sign(points) * np.log1p(np.abs(points))


def unsquash(squashed: Any) -> Any:
    """The inverse of `squash`."""
    return np.sign(squashed) * np.expm1(np.abs(squashed))


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs with a value, and how much better than float they are as `points`, see `Measure.gain`."""
    frame = with_values(frame)
    done = frame[(frame["status"] == "FINISHED") & frame["value"].notna()].copy()
    measure = measure_of(done)
    done["points"] = measure.gain(done["value"], done["float_value"])
    return done


def lost(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that ended without a result."""
    return frame[frame["status"].isin(LOST)]


def loss_axis(axis: Any, loss: float) -> None:
    """Ticks of a squashed axis of percentage points against float.

    Args:
        axis: of matplotlib.
        loss: the largest loss shown, percentage points.
    """
    ticks = sorted({s * t for t in TICKS for s in (-1, 1) if t <= loss * 1.3})
    axis.set_major_locator(FixedLocator([float(squash(t)) for t in ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{np.sign(v) * np.expm1(abs(v)):+.3g}" if v else "0"))


def factors(done: pd.DataFrame, most: int = MAX_LEVELS) -> list[str]:
    """Columns in which the runs differ by choice: `strategy` and `override.*` with 2 to `most` values."""
    columns = ["strategy", *(c for c in done.columns if str(c).startswith("override."))]
    counts = {c: done[c].map(level).nunique() for c in columns if c in done.columns}
    return [c for c, n in counts.items() if 1 < n <= most]


def level(value: Any) -> str:
    """One short word for a setting; unset means the strategy's own."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return UNSET
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value)) or "none"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def level_order(word: str) -> tuple[int, float, str]:
    """Sorts settings: unset, then numbers, then words."""
    if word == UNSET:
        return (-1, 0.0, "")
    try:
        return (0, float(word), "")
    except ValueError:
        return (1, 0.0, word)


def short(name: Any, width: int = 56) -> str:
    """A name that fits; the middle of a long one is left out."""
    text = str(name)
    fits = text if len(text) <= width else text[: width // 2 - 1] + "…" + text[-(width // 2) :]
    # A dollar sign would start mathematics.
    return fits.replace("$", r"\$")


def key_of(run: pd.Series) -> str:
    """What identifies a run in a figure: its key, or its name where a table has no keys."""
    return str(run["key"] if "key" in run.index else run["name"])


def mark(line: Line2D, key: str) -> None:
    """Note on an artist which run it stands for; `places` finds it again."""
    line.set_gid(_MARKED + key)


def places(fig: Figure) -> dict[str, tuple[float, float]]:
    """Where the runs stand in a figure, for pictures that can be clicked.

    Args:
        fig: a figure of this package.

    Returns:
        Run key -> (from the left, from the top), as fractions of the picture; a line's place is its last
        point.
    """
    fig.draw_without_rendering()
    # The places are those of this layout; another one at saving would also cost as much again.
    fig.set_layout_engine("none")
    width, height = fig.bbox.width, fig.bbox.height
    found = {}
    for line in fig.findobj(Line2D):
        gid = line.get_gid()
        if gid and gid.startswith(_MARKED):
            ends = np.column_stack([np.asarray(v, float) for v in (line.get_xdata(), line.get_ydata())])
            x, y = line.get_transform().transform(ends)[-1]
            found[gid.removeprefix(_MARKED)] = (float(x / width), float(1 - y / height))
    return found


_MAX_NAMED = 8
_FLOAT_PAIR = 32 * 32


@dataclass(frozen=True)
class CostAxis:
    """What the metric is drawn against.

    Attributes:
        title: of the figure, behind the metric's name.
        label: of the axis.
        unit: what one unit of the axis holds.
        float_column: column that gives the float model's place.
        float_factor: the float model's cost is this times that column.
    """

    title: str
    label: str
    unit: float
    float_column: str
    float_factor: float = 1.0

    def title_of(self, measure: Measure) -> str:
        """Title of a figure of this metric against the cost."""
        return f"{measure.name[:1].upper()}{measure.name[1:]} {self.title}"


COSTS = {
    "size_bytes": CostAxis("against size", "size of weights (kB, log)", 1e3, "float_size_bytes"),
    "bit_operations": CostAxis(
        "against bit-operations",
        "bit-operations for one sample (millions, log)",
        1e6,
        "macs",
        _FLOAT_PAIR,
    ),
}


def pareto(frame: pd.DataFrame, *, cost: str = "size_bytes", theme: Theme = LIGHT, chosen: str = "") -> Figure:
    """The deciding metric against a cost: which variants nothing else beats, and what they cost.

    Args:
        frame: one row per run: name, status, strategy, the metric (see `records.with_values`), the cost's
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
    measure = measure_of(done)
    dress(ax, theme, title=what.title_of(measure), x=what.label, y=measure.axis)
    if done.empty:
        note(ax, _nothing(frame, cost), theme)
    else:
        order = done.assign(goodness=measure.sign * done["value"]).sort_values(
            [cost, "goodness"], ascending=[True, False]
        )
        _draw(ax, order, cost, theme, chosen)
    if len(failed):
        _draw_failed(axes[1], failed, theme, chosen)
        ax.plot([], [], marker="x", ls="", color=theme.alarm, label=f"{len(failed)} failed (no {measure.name})")
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
    measure = measure_of(done)
    x, y = done[cost].to_numpy(float) / what.unit, measure.factor * done["value"].to_numpy(float)
    on_front = statistics.pareto(x, measure.sign * y)
    low, high = _bounds(done, measure)
    reference = measure.factor * float(done["float_value"].iloc[0])
    if measure.unit == "percent" and measure.sign > 0:
        _percent_axis(ax, reference, float(low.min()), float(high.max()))
    elif measure.sign < 0:
        ax.invert_yaxis()
    _cost_axis(ax)
    _draw_float(ax, done, what, (reference, measure.text(reference / measure.factor)), theme)
    _draw_points(ax, done, x, y, on_front, theme)
    ax.vlines(x, low, high, color=theme.ink, lw=0.8, alpha=0.45, zorder=1.5)
    _draw_front(ax, done[on_front], x[on_front], y[on_front], theme)
    _point_out(ax, done, x, y, theme, chosen)


def _bounds(done: pd.DataFrame, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % intervals as drawn; the value itself where there is none."""
    y = done["value"].to_numpy(float)
    low, high = done["value_low"].to_numpy(float), done["value_high"].to_numpy(float)
    if measure == Measure():
        n = done["n_eval"].to_numpy(float) if "n_eval" in done.columns else np.full(len(y), np.nan)
        low, high = statistics.wilson(y, n)
    return measure.factor * np.where(np.isnan(low), y, low), measure.factor * np.where(np.isnan(high), y, high)


def _percent_axis(ax: Axes, reference: float, low: float, high: float) -> None:
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
    drop = squash(-front["points"].to_numpy(float))
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


def _draw_float(ax: Axes, done: pd.DataFrame, what: CostAxis, told: tuple[float, str], theme: Theme) -> None:
    reference, text = told
    ax.axhline(reference, color=theme.faint, ls="--", lw=1, zorder=1)
    if what.float_column not in done.columns or done[what.float_column].isna().all():
        return
    at = float(done[what.float_column].dropna().iloc[0]) * what.float_factor / what.unit
    look: dict[str, Any] = {"marker": "*", "ms": 13, "ls": "", "color": theme.alarm}
    ax.plot([at], [reference], label=f"float, {text}", **look)


def _point_out(ax: Axes, done: pd.DataFrame, x: np.ndarray, y: np.ndarray, theme: Theme, chosen: str) -> None:
    for i, (_, run) in enumerate(done.iterrows()):
        if chosen and key_of(run) == chosen:
            ax.plot([x[i]], [y[i]], ls="", marker="o", ms=14, mfc="none", mec=theme.ink, mew=2, zorder=4)
            ax.plot(
                [],
                [],
                ls="",
                marker="o",
                ms=10,
                mfc="none",
                mec=theme.ink,
                mew=2,
                label=f"chosen: {short(run['name'], 34)}",
            )


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


_MAX_ROWS = 60


def sqnr_difference(frame: pd.DataFrame, names: tuple[str, str] = ("A", "B"), *, theme: Theme = LIGHT) -> Figure:
    """How much less noise each tensor has in one run than in another, from input to output.

    Args:
        frame: layer, tensor, role, a_db, b_db, delta_db (dB, b minus a), in graph order, as
            `vqkit.comparison.difference.sqnr_difference` returns it.
        names: of the two runs.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with a bar per tensor; to the right the second run has less noise. Of more than 60 tensors
        the 60 with the largest difference are drawn. A tensor that one run leaves float is a cross.
    """
    rows = largest_differences(frame)
    fig = figure(1.6 + 0.19 * max(6, len(rows)), theme)
    ax = fig.add_subplot()
    title = "Signal-to-noise ratio by tensor" + (
        f": the {len(rows)} largest differences of {len(frame)}" if len(rows) < len(frame) else ""
    )
    dress(ax, theme, title=title, x="SQNR of B minus SQNR of A (dB; right: B has less noise)", grid="x")
    if rows.empty:
        note(ax, "one of the runs has recorded no signal-to-noise ratios", theme)
        return fig
    delta = rows["delta_db"].to_numpy(float)
    at = np.arange(len(rows))
    for better, name, colour, hatch in ((False, names[0], 1, "///"), (True, names[1], 0, "")):
        side = np.where((delta > 0) == better, delta, np.nan)
        ax.barh(
            at,
            side,
            color=theme.colours[colour],
            hatch=hatch,
            edgecolor=theme.page,
            height=0.75,
            label=f"{'B' if better else 'A'}: {short(name, 36)} has less noise",
        )
    one = np.flatnonzero(np.isnan(delta))
    if len(one):
        ax.plot(np.zeros(len(one)), one, ls="", marker="x", color=theme.ink, label="quantized in one run only")
    ax.axvline(0, color=theme.ink, lw=1)
    ax.set_yticks(at, [short(f"{r.layer}/{r.tensor} ({r.role})", 44) for r in rows.itertuples()], fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    outer_legend(fig, ax, theme, loc="outside upper right", ncols=3)
    return fig


def largest_differences(frame: pd.DataFrame) -> pd.DataFrame:
    """The tensors that a figure has room for, those with the largest differences, in their order."""
    if len(frame) <= _MAX_ROWS:
        return frame
    order = frame["delta_db"].abs().fillna(np.inf).to_numpy().argsort(kind="stable")[::-1]
    return frame.iloc[np.sort(order[:_MAX_ROWS])]
