"""Figures of evaluation samples: as pictures or series, which classes are taken for which, and what is left over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqkit.plots.runs import short
from vqkit.plots.style import LIGHT, Theme, dress, figure, note
from vqkit.runs.records import rows_of

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = 8
_SERIES_COLUMNS = 4
_MOST_CLASSES = 60
_MOST_CHANNELS = 4


def flipped_samples(
    table: pd.DataFrame, images: Sequence[np.ndarray], *, classes: Sequence[str] = (), theme: Theme = LIGHT
) -> Figure:
    """The samples on which two runs answer differently, as pictures.

    Args:
        table: sample, label, a, b (class numbers), right ("A", "B" or "neither"), as
            `vqkit.comparison.samples.flipped_samples` returns it.
        images: one for each row of `table`, shape (height, width), (height, width, 1) or (…, 3), any range.
        classes: name of each class; numbers by default.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure with up to eight pictures in a row; above each its number, label and both answers, the
        right one marked with a tick.
    """
    name = (lambda i: short(classes[i], 10)) if classes else str

    def answers(row: Mapping[str, Any]) -> str:
        sides = [f"{side} {name(row[key])} {'✓' if row[key] == row['label'] else '✗'}" for side, key in ("Aa", "Bb")]
        return "\n".join([f"#{row['sample']}: {name(row['label'])}", *sides])

    return samples(
        images,
        [answers(row) for row in rows_of(table)],
        theme=theme,
        nothing="the two runs answer alike on every sample",
    )


def samples(
    inputs: Sequence[np.ndarray], captions: Sequence[str], *, theme: Theme = LIGHT, nothing: str = "no sample"
) -> Figure:
    """Samples with words above each: pictures, or series as lines.

    Args:
        inputs: pictures of shape (height, width), (height, width, 1) or (…, 3), or series of shape (steps,) or
            (steps, channels), of any range; all of one kind.
        captions: one for each; line breaks count.
        theme: `LIGHT` or `DARK`.
        nothing: what to say where there is no sample.

    Returns:
        A figure with up to eight pictures, or four series, in a row.
    """
    count = min(len(inputs), len(captions))
    if not count:
        fig = figure(1.2, theme)
        ax = fig.add_subplot()
        ax.set_axis_off()
        note(ax, nothing, theme)
        return fig
    columns = _COLUMNS if is_picture(np.shape(inputs[0])) else _SERIES_COLUMNS
    rows = -(-count // columns)
    fig = figure(0.3 + 1.6 * rows, theme)
    grid = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax, sample, words in zip(grid, inputs, captions, strict=False):
        _draw(ax, np.asarray(sample, np.float64), theme)
        ax.set_title(words, fontsize=8, color=theme.ink)
    for ax in grid[count:]:
        ax.set_visible(False)
    return fig


def is_picture(shape: Sequence[int]) -> bool:
    """Whether an array of this shape can be shown as a picture."""
    grey = len(shape) == 2 and shape[1] > _MOST_CHANNELS
    return min(shape[:2], default=0) > 1 and (grey or (len(shape) == 3 and shape[2] in (1, 3)))


def is_series(shape: Sequence[int]) -> bool:
    """Whether an array of this shape can be drawn as lines over its first axis."""
    return len(shape) in (1, 2) and shape[0] > 1 and (len(shape) == 1 or shape[1] <= _MOST_CHANNELS)


def _draw(ax: Axes, sample: np.ndarray, theme: Theme) -> None:
    if not is_picture(sample.shape):
        for i, line in enumerate(sample.reshape(len(sample), -1).T):
            ax.plot(line, color=theme.colours[i % len(theme.colours)], linewidth=1)
        dress(ax, theme)
        return
    shown = np.squeeze(sample)
    low, high = float(shown.min()), float(shown.max())
    ax.imshow((shown - low) / ((high - low) or 1.0), cmap="gray", interpolation="nearest", vmin=0, vmax=1)
    ax.set_axis_off()


def confusion(
    predicted: np.ndarray, labels: np.ndarray, *, classes: Sequence[str] = (), theme: Theme = LIGHT
) -> Figure:
    """Which class is taken for which: rows are what is right, columns what was answered.

    Args:
        predicted: class numbers, shape (n,).
        labels: likewise, what is right.
        classes: name of each class; numbers by default.
        theme: `LIGHT` or `DARK`.

    Returns:
        A figure; the diagonal is left out, so that colour shows mistakes alone. With many classes those with the
        most mistakes are drawn.
    """
    present = np.unique(np.concatenate([labels, predicted]))
    wrong = labels != predicted
    mistakes = np.array([np.sum(wrong & ((labels == c) | (predicted == c))) for c in present])
    shown = np.sort(present[np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES]])
    place = {int(c): i for i, c in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)), int)
    for right, answer in zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True):
        if right in place and answer in place:
            counts[place[right], place[answer]] += 1
    fig = figure(1.4 + 0.28 * min(max(len(shown), 6), 24), theme)
    ax = fig.add_subplot()
    left_out = (
        f" ({len(shown)} of {len(present)} classes, those with the most mistakes)" if len(shown) < len(present) else ""
    )
    dress(
        ax,
        theme,
        title=f"{int(wrong.sum())} mistakes of {len(labels)}{left_out}",
        x="class answered",
        y="class that is right",
    )
    ax.grid(False)
    image = ax.imshow(counts, cmap="Blues" if theme is LIGHT else "magma", vmin=0, vmax=max(1, counts.max()))
    names = [short(classes[c], 12) if classes else str(c) for c in shown]
    step = -(-len(shown) * 2 // _MOST_CLASSES)
    ax.set_xticks(range(0, len(shown), step), names[::step], rotation=90 if classes else 0, fontsize=8)
    ax.set_yticks(range(0, len(shown), step), names[::step], fontsize=8)
    if step == 1:
        for i, j in np.argwhere(counts):
            bright = (counts[i, j] > counts.max() / 2) == (theme is LIGHT)
            ax.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color="w" if bright else "k")
    bar = fig.colorbar(image, ax=ax, shrink=0.8)
    bar.ax.tick_params(colors=theme.ink, labelsize=8)
    bar.set_label("samples", color=theme.ink)
    return fig


def residuals(outputs: np.ndarray, labels: np.ndarray, *, theme: Theme = LIGHT) -> Figure:
    """What a regression leaves over: output minus label against the label, and how it is spread.

    Args:
        outputs: of the model, shape (n, …).
        labels: of the same shape, or of as many values.
        theme: `LIGHT` or `DARK`.
    """
    x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (labels, outputs))
    fig = figure(3.2, theme)
    left, right = fig.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    for i in range(x.shape[1]):
        colour = theme.colours[i % len(theme.colours)]
        left.plot(x[:, i], y[:, i] - x[:, i], ".", color=colour, markersize=4, alpha=0.6)
    right.hist((y - x).ravel(), bins=40, orientation="horizontal", color=theme.colours[0])
    dress(left, theme, title="Residuals", x="label", y="output - label")
    dress(right, theme, x="values", grid="x")
    for ax in (left, right):
        ax.axhline(0, color=theme.ink, linewidth=0.8)
    return fig
