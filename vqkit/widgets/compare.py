"""`vq.compare(...)`: recorded runs side by side, to look at and to choose from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from vqkit import plots
from vqkit.comparison import leaderboard as comparison
from vqkit.comparison.page import message_html, page, section
from vqkit.comparison.report import View
from vqkit.comparison.runset import Run, RunSet
from vqkit.errors import RecordError, VqkitError
from vqkit.plots.runs import COSTS
from vqkit.tables import next_order
from vqkit.widgets.elements import Action, SerialHandler, actions, mimebundle, picker, queue

_TABS = ("Against cost", "Choices", "Effects", "Two runs", "Samples")


def compare(runs: str | Path = "runs", sweep: str = "", *, where: Mapping[str, Any] | None = None) -> Compare:
    """Compare recorded runs in a notebook: leaderboard, pictures that can be clicked, two runs side by side.

    Args:
        runs: a folder of runs, or the address of an mlflow store (`sqlite:///…`, `http://…`).
        sweep: only this sweep's runs.
        where: column -> wanted value or list of values, e.g. {"weight_bit": [4, 8]}.

    Returns:
        A widget; in an executed or exported notebook it is a static page.

    Raises:
        RecordError: no such folder, sweep or column.
        TrackingError: the store cannot be read.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("net.keras")
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> np.savez("data.npz", x_calib=x, x_eval=x, y_eval=np.arange(16) % 3)
        >>> sweep = {"name": "bits", "model": "net.keras", "data": {"npz": "data.npz"}, "axes": {"weight_bit": [8]}}
        >>> outcome = vqkit.run_sweep(vqkit.Sweep.from_dict(sweep), vqkit.Store.at("runs"))
        >>> comparison = vqkit.compare("runs")  # the last line of a cell shows it
    """
    found = RunSet(str(runs), sweep, dict(where or {}))
    found.reload()
    return Compare(found)


class Compare:
    """Runs side by side; a thin widget over `View`.

    Args:
        runs: what is compared.

    Attributes:
        view: what is shown; change it and call `show`.
    """

    def __init__(self, runs: RunSet) -> None:
        self.view = View(runs)
        self._turns = SerialHandler(self._fail)
        best, _ = comparison.recommend(runs.frame)
        self.view.chosen = "" if best is None else str(best["key"])
        with contextlib.suppress(RecordError):  # fewer than two runs have finished
            self.view.pair = comparison.pair(runs.frame, by="key")

    @property
    def run(self) -> Run:
        """The chosen run: `.row`, `.folder`, `.notebook`, `.strategy`.

        Raises:
            RecordError: nothing is chosen.
        """
        return self.view.runs.run(self.view.chosen)

    def html(self) -> str:
        """Everything as one static page."""
        view = self.view
        parts = [view.summary(), view.board()]
        parts += [section(_TABS[0], view.pareto()), section(_TABS[1], view.parallel())]
        parts += [section(_TABS[2], view.effects()), section("The chosen run", view.details())]
        return page(*parts, section(_TABS[3], view.two()), section(_TABS[4], view.samples()))

    def __str__(self) -> str:
        return str(comparison.Leaderboard(self.view.runs.frame, self.view.runs.title))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return mimebundle(self.widget, self.html(), str(self))

    def pair(self, a: str = "", b: str = "") -> tuple[Run, Run]:
        """Two runs worth putting side by side.

        Args:
            a: key or name; empty for the most accurate run.
            b: likewise; empty for the recommended one, or the last one where that is `a` itself.

        Returns:
            The two runs with their files.

        Raises:
            RecordError: there is no such run, or fewer than two have finished.
        """
        chosen = (a or self.view.pair[0], b or self.view.pair[1])
        if not all(chosen):
            raise RecordError(f"{self.view.runs.title}: a comparison needs two finished runs")
        return self.view.runs.run(chosen[0]), self.view.runs.run(chosen[1])

    def choose(self, key: str) -> None:
        """Make a run the chosen one.

        Args:
            key: its key or name.
        """
        with self._turns:
            self.view.chosen = self.view.runs.run(key).key
            self.show()

    @cached_property
    def widget(self) -> Any:
        """The ipywidget; made on first use."""
        self._build()
        self.show()
        return self._box

    def show(self) -> None:
        """Draw again what is visible."""
        view = self.view
        self._summary.value = page(view.summary())
        self._board.html = view.board()
        self._details.value = page(view.details())
        self._show_tab()
        self._links()
        for shown in (self._board, self._pareto, self._parallel):
            shown.chosen = view.chosen

    def _build(self) -> None:
        import ipywidgets as w

        # Each its own: a shared layout would hide all three with one.
        wide = [w.Layout(width="36em", max_width="100%") for _ in range(3)]
        label = {"description_width": "initial"}
        self._summary, self._details = w.HTML(), w.HTML()
        line = queue(self._turns)
        self._board = picker(line, label="Leaderboard")
        metric = self.view.measure.name
        self._pareto = picker(line, label=f"{metric.capitalize() if metric == 'accuracy' else metric} against cost")
        self._parallel = picker(line, label=f"Choices and {metric}")
        self._effects, self._two, self._samples = w.HTML(), w.HTML(), w.HTML()
        self._words = w.Text(description="Filter", placeholder="words, e.g. fs 4", continuous_update=False)
        self._front = w.Checkbox(description="Pareto front only", indent=False)
        self._cost = w.Dropdown(
            description="Cost",
            options=[("size", "size_bytes"), ("bit-operations", "bit_operations")],
            value=self.view.cost,
        )
        assert {v for _, v in self._cost.options} == set(COSTS)
        self._group = w.Dropdown(description="Comparable runs", style=label, layout=wide[0])
        self._reload = actions(line, Action("Read again", "Read the records again", lambda _: self._again()))
        self._a = w.Dropdown(description="Run A", layout=wide[1])
        self._b = w.Dropdown(description="Run B", layout=wide[2])
        self._as_a, self._as_b = self._chosen_as(line, "A", self._a), self._chosen_as(line, "B", self._b)
        self._link = w.Output()
        self._fill_options()
        two = w.VBox([w.HBox([self._a, self._as_a]), w.HBox([self._b, self._as_b]), self._two])
        shown = [w.VBox([self._cost, self._pareto]), self._parallel, self._effects, two, self._samples]
        self._tab = w.Tab(shown, titles=_TABS)
        controls = w.HBox([self._words, self._front, self._reload], layout=w.Layout(flex_flow="row wrap"))
        self._box = w.VBox([self._summary, controls, self._group, self._board, self._tab, self._details, self._link])
        self._box.add_class("vq-widget")
        self._box.add_class("vq-compare")
        self._listen()

    def _chosen_as(self, line: Any, side: str, control: Any) -> Any:
        def put(_: str) -> None:
            control.value = self.view.chosen

        return actions(line, Action(f"Chosen run as {side}", f"Put the chosen run on side {side}", put))

    def _listen(self) -> None:
        turn = self._turns.taken
        for control, name in (
            (self._words, "words"),
            (self._front, "front_only"),
            (self._group, "group"),
            (self._cost, "cost"),
        ):
            control.observe(turn(lambda change, n=name: self._set(n, change["new"])), "value")
        self._tab.observe(turn(lambda _: self._show_tab()), "selected_index")
        for shown in (self._board, self._pareto, self._parallel):
            shown.observe(turn(lambda change: self._chosen(change["new"])), "chosen")
            shown.observe(turn(lambda change: self._themed(change["new"])), "dark")
        self._board.on_sort(self._sort)
        for side in (self._a, self._b):
            side.observe(turn(lambda _: self._paired()), "value")

    def _set(self, name: str, value: Any) -> None:
        if value is not None and value != getattr(self.view, name):
            setattr(self.view, name, value)
            self.show()

    def _fill_options(self) -> None:
        groups = self.view.groups()
        self._group.options = groups
        self._group.layout.display = None if len(groups) > 1 else "none"
        frame = self.view.runs.frame
        ranked = frame[frame["rank"].notna()]
        options = [(f"{r['name']} [{r['key'][:6]}]", str(r["key"])) for r in ranked.to_dict("records")]
        for side, control in enumerate((self._a, self._b)):
            control.options = options
            if self.view.pair[side]:
                control.value = self.view.pair[side]

    def _show_tab(self) -> None:
        draw: tuple[Callable[[], None], ...] = (
            self._draw_pareto,
            self._draw_parallel,
            self._draw_effects,
            self._draw_two,
            self._draw_samples,
        )
        draw[self._tab.selected_index or 0]()

    def _draw_pareto(self) -> None:
        self._pareto.html = self.view.pareto()

    def _draw_parallel(self) -> None:
        self._parallel.html = self.view.parallel()

    def _draw_effects(self) -> None:
        self._effects.value = page(self.view.effects())

    def _draw_two(self) -> None:
        self._two.value = page(self.view.two())

    def _draw_samples(self) -> None:
        self._samples.value = page(self.view.samples())

    def _chosen(self, key: str) -> None:
        if key and key != self.view.chosen:
            self.view.chosen = key
            self._details.value = page(self.view.details())
            self._links()
            for shown in (self._board, self._pareto, self._parallel):
                shown.chosen = key
            if self._tab.selected_index in (1, 4):
                self._show_tab()

    def _links(self) -> None:
        """The chosen run's notebook as a link that JupyterLab opens."""
        import os
        from html import escape
        from urllib.parse import quote

        link = ""
        try:
            notebook = self.run.notebook
        except VqkitError:
            notebook = None
        if notebook is not None:
            href = escape(quote(os.path.relpath(notebook)), quote=True)
            link = f"<a href='{href}'>Open the executed notebook of {escape(self.run.name)}</a>"
        data = {"text/html": link, "text/plain": str(notebook or "")}
        self._link.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},) if link else ()

    def _themed(self, dark: bool) -> None:
        theme = plots.DARK if dark else plots.LIGHT
        if theme is not self.view.theme:
            self.view.theme = theme
            self.show()

    def _sort(self, column: str) -> None:
        self.view.sorted_by = next_order(self.view.sorted_by, column)
        self._board.html = self.view.board()

    def _paired(self) -> None:
        pair = (self._a.value or "", self._b.value or "")
        if pair != self.view.pair:
            self.view.pair = pair
            self._draw_two()

    def _again(self) -> None:
        self.view.runs.reload()
        self._fill_options()
        self.show()

    def _fail(self, text: str) -> None:
        self._summary.value = page(message_html(text, "error"))
