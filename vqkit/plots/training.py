"""How trained thresholds moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from vqkit.plots.style import LIGHT, Theme, dress, figure, looks, note, outer_legend

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
        ax.plot(moved.index, moved[label], color=colour, linewidth=1.4, label=str(label), marker=marker,
                markevery=[i for i, c in enumerate(crossed) if c], markersize=6)  # fmt: skip
    ax.axhline(0, color=theme.ink, linewidth=0.8)
    if named:
        outer_legend(fig, ax, theme, loc="outside right upper")
    return fig
