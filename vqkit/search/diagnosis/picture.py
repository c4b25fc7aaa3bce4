"""The picture of a diagnosis: what is wrong, and what each repair gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vqkit.plots.style import LIGHT, Theme, dress, figure, legend, note, png
from vqkit.plots.tensors import draw_channels, draw_histogram
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.search.diagnosis.causes import Kind, channel_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vqkit.search.diagnosis.causes import Cause
    from vqkit.search.diagnosis.repairs import Repair
    from vqkit.search.diagnosis.samples import Samples
    from vqkit.search.engine import Measured

SHOWN = 12
"""Repairs that are drawn."""


def picture(
    cause: Cause | None, samples: Samples, repairs: Sequence[Repair], before: Measured, *, theme: Theme = LIGHT
) -> Figure:
    """The cause on the left (a tensor on its grid, or the two sets of samples), the repairs on the right.

    Args:
        cause: what is wrong; None where nothing is.
        samples: what is known about them.
        repairs: measured, best first.
        before: what the strategy does.
        theme: `LIGHT` or `DARK`.
    """
    fig = figure(4.0, theme)
    left, right = fig.subplots(1, 2)
    if cause is not None and cause.row is not None:
        _draw_tensor(left, cause, theme)
    else:
        _draw_samples(left, samples, theme)
    _draw_repairs(right, repairs, before, theme)
    return fig


def png_of(cause: Cause | None, samples: Samples, repairs: Sequence[Repair], before: Measured) -> bytes:
    """The picture as a PNG file holds it."""
    return png(picture(cause, samples, repairs, before))


def _draw_tensor(ax: Axes, cause: Cause, theme: Theme) -> None:
    row, values, params = cause.row, cause.values, cause.params
    assert row is not None
    assert values is not None
    assert params is not None
    if cause.kind in (Kind.SPREAD, Kind.DEAD):
        draw_channels(ax, values, params, axis=channel_axis(row, values), theme=theme)
    else:
        draw_histogram(ax, values, fake_quantize_numpy(values, params), params, theme=theme)
    ax.set_title(row.name, loc="left", fontsize=11, color=theme.ink)


def _draw_samples(ax: Axes, seen: Samples, theme: Theme) -> None:
    dress(ax, theme, title="Samples", x=seen.feature, y="share of samples")
    edges = np.histogram_bin_edges(np.concatenate(seen.values), bins=30).tolist()
    for values, label, colour in zip(seen.values, ("calibration", "evaluation"), theme.colours, strict=False):
        share = np.full(len(values), 1 / len(values))
        ax.hist(values, bins=edges, weights=share, alpha=0.6, label=label, color=colour)
    legend(ax, theme)


def _draw_repairs(ax: Axes, repairs: Sequence[Repair], before: Measured, theme: Theme) -> None:
    measure = before.measure
    dress(ax, theme, title="Repairs", x=measure.axis, grid="x")
    shown = [(r.name, r.measured) for r in repairs[:SHOWN] if r.measured is not None]
    if not shown:
        note(ax, "no repair of the strategy was measured", theme)
        return
    for i, (_, m) in enumerate(reversed(shown)):
        low, high = m.evidence.interval
        ax.plot([measure.factor * low, measure.factor * high], [i, i], color=theme.colours[0], lw=1.5)
        ax.plot(measure.factor * m.value, i, "o", color=theme.colours[0])
    for value, label, style in ((before.value, "now", "--"), (before.float_value, "float", ":")):
        if np.isfinite(value):
            ax.axvline(measure.factor * value, color=theme.alarm, ls=style, lw=1.2, label=label)
    ax.set_yticks(range(len(shown)), [name for name, _ in reversed(shown)], fontsize=8)
    legend(ax, theme)
