"""What figures about runs share: finished runs, an axis of percentage points, words for settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

if TYPE_CHECKING:
    import pandas as pd

TICKS = (0.0, 0.5, 1, 2, 5, 10, 20, 50, 100)
LOST = ("FAILED", "KILLED", "BROKEN")
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
    """The runs with an accuracy, and their distance to float as `points` (percentage points)."""
    done = frame[(frame["status"] == "FINISHED") & frame["accuracy"].notna()].copy()
    done["points"] = 100 * (done["accuracy"] - done["float_accuracy"])
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
    axis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{np.sign(v) * np.expm1(abs(v)):+.3g}" if v else "0")
    )


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
