"""Two runs side by side: where in the network they differ, and on which samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqkit.plots.points import short
from vqkit.plots.style import LIGHT, Theme, dress, figure, note, outer_legend

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROWS = 60
_COLUMNS = 8


def sqnr_difference(
    frame: pd.DataFrame, names: tuple[str, str] = ("A", "B"), *, theme: Theme = LIGHT
) -> Figure:
    """How much less noise each tensor has in one run than in another, from input to output.

    Args:
        frame: layer, tensor, role, a_db, b_db, delta_db (dB, b minus a), in graph order, as
            `vqkit.experiment.difference.sqnr_difference` returns it.
        names: of the two runs.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with a bar per tensor; to the right the second run has less noise. Of more than 60 tensors
        the 60 with the largest difference are drawn. A tensor that one run leaves float is a cross.
    """
    rows = _largest(frame)
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
        ax.barh(at, side, color=theme.colours[colour], hatch=hatch, edgecolor=theme.page, height=0.75,
                label=f"{'B' if better else 'A'}: {short(name, 36)} has less noise")  # fmt: skip
    one = np.flatnonzero(np.isnan(delta))
    if len(one):
        ax.plot(
            np.zeros(len(one)), one, ls="", marker="x", color=theme.ink, label="quantized in one run only"
        )
    ax.axvline(0, color=theme.ink, lw=1)
    ax.set_yticks(at, [short(f"{r.layer}/{r.tensor} ({r.role})", 44) for r in rows.itertuples()], fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    outer_legend(fig, ax, theme, loc="outside upper right", ncols=3)
    return fig


def _largest(frame: pd.DataFrame) -> pd.DataFrame:
    if len(frame) <= _MAX_ROWS:
        return frame
    order = frame["delta_db"].abs().fillna(np.inf).to_numpy().argsort(kind="stable")[::-1]
    return frame.iloc[np.sort(order[:_MAX_ROWS])]


def flipped_samples(
    table: pd.DataFrame, images: Sequence[np.ndarray], *, classes: Sequence[str] = (), theme: Theme = LIGHT
) -> Figure:
    """The samples on which two runs answer differently, as pictures.

    Args:
        table: sample, label, a, b (class numbers), right ("A", "B" or "neither"), as
            `vqkit.experiment.flipped.flipped_samples` returns it.
        images: one for each row of `table`, shape (height, width), (height, width, 1) or (…, 3), any range.
        classes: name of each class; numbers by default.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with up to eight pictures in a row; above each its number, label and both answers, the
        right one marked with a tick.
    """
    count = len(table)
    rows = max(1, -(-count // _COLUMNS))
    fig = figure(0.3 + 1.6 * rows, theme)
    if not count:
        ax = fig.add_subplot()
        ax.set_axis_off()
        note(ax, "the two runs answer alike on every sample", theme)
        return fig
    grid = fig.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for ax, row, image in zip(grid, table.itertuples(), images, strict=False):
        _draw_sample(ax, row, image, classes, theme)
    for ax in grid[count:]:
        ax.set_visible(False)
    return fig


def _draw_sample(ax: Axes, row: Any, image: np.ndarray, classes: Sequence[str], theme: Theme) -> None:
    shown = np.squeeze(np.asarray(image, np.float64))
    low, high = float(shown.min()), float(shown.max())
    ax.imshow((shown - low) / ((high - low) or 1.0), cmap="gray", interpolation="nearest", vmin=0, vmax=1)
    ax.set_axis_off()
    name = (lambda i: short(classes[i], 10)) if classes else str
    answers = [f"{side} {name(answer)}{' ✓' if answer == row.label else ' ✗'}"
               for side, answer in (("A", row.a), ("B", row.b))]  # fmt: skip
    ax.set_title(f"#{row.sample}: {name(row.label)}\n{answers[0]}\n{answers[1]}", fontsize=8, color=theme.ink)
