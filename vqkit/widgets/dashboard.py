"""Compare and watch on one page, for `vqkit dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vqkit.errors import VqkitError
from vqkit.experiment.records import sweep_names
from vqkit.widgets.compare import compare
from vqkit.widgets.style import message_html
from vqkit.widgets.watch import Watch, watch

_ALL = "all runs"


def dashboard(runs: str | Path = "runs") -> Any:
    """A page with a choice of sweep, its comparison, and its progress while it runs.

    Args:
        runs: the folder of runs.

    Returns:
        An ipywidget.
    """
    import ipywidgets as w

    choice = w.Dropdown(description="Sweep", options=[(_ALL, ""), *((n, n) for n in sweep_names(runs))])
    again = w.Button(description="Look again", tooltip="Look for new sweeps and runs")
    place = w.VBox()
    shown: list[Watch] = []

    def show(_: Any = None) -> None:
        for old in shown:
            old.close()
        shown.clear()
        parts = [_part(lambda: compare(runs, choice.value).widget)]
        if choice.value:
            found = watch(choice.value, runs)
            shown.append(found)
            parts.append(_part(lambda: found.widget))
        place.children = [w.Tab(parts, titles=("Compare", "Watch")[: len(parts)])]

    def look(_: Any) -> None:
        now = choice.value
        choice.options = [(_ALL, ""), *((n, n) for n in sweep_names(runs))]
        choice.value = now
        show()

    choice.observe(show, "value")
    again.on_click(look)
    show()
    return w.VBox([w.HBox([choice, again]), place])


def _part(make: Any) -> Any:
    import ipywidgets as w

    try:
        return make()
    except VqkitError as e:
        return w.HTML(message_html(str(e), "error"))
