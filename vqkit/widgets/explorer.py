"""`vq.explore`: the bench. A plan as a table, one tensor in pictures, controls that change the strategy."""

from __future__ import annotations

import json
import threading
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from vqkit.comparison.page import cells, message_html, page, scrolled, table
from vqkit.errors import StrategyError, not_allowed
from vqkit.quantization.plan import Row
from vqkit.strategy.scope import Scope
from vqkit.sweeps.variant import Settings
from vqkit.tables import arranged, next_order
from vqkit.widgets.elements import Action, EvaluationJob, SerialHandler, actions, mimebundle, picker, queue
from vqkit.widgets.explorer_state import Exploration, narrower
from vqkit.widgets.explorer_view import (
    control_rows,
    controls,
    measured_ratios,
    plan_columns,
    plan_rows,
    provenance,
    tensor_picture,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import keras
    from numpy.typing import ArrayLike

    from vqkit.quantization.data import Data
    from vqkit.strategy import Strategy


def explore(
    model: keras.Model | str | Path,
    data: Data | ArrayLike | str | Mapping[str, Any],
    strategy: Strategy | str | Path = "pof2s",
    *,
    settings: Settings | None = None,
    samples: int = 32,
    runs: str = "runs",
    tracking_uri: str | None = None,
    file: str = "explored.json",
) -> Explorer:
    """Open the bench: see what a strategy does to each tensor, change it, and see what the change costs.

    Args:
        model: a built functional or Sequential Keras model, or the path of one; it is not changed.
        data: a `Data`, a description that `load_data` takes, or calibration inputs of shape (n, …) alone.
        strategy: a `Strategy`, or the name or path of one, to start from.
        settings: how *Evaluate* calibrates; `vqkit.Settings()` by default.
        samples: how many calibration samples the preview keeps values of.
        runs: the folder that *Track* writes runs to.
        tracking_uri: the mlflow store that *Track* logs to; by default the one in `runs`.
        file: the file that *Save strategy* proposes.

    Returns:
        The bench; show it by ending a cell with it. `bench.strategy` is the strategy in use.

    Raises:
        ModelError, StrategyError, DataError: model, strategy and data do not fit.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])
        >>> images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
        >>> vqkit.explore(model, images).strategy.name
        'pof2s'
    """
    bench = Exploration(model, data, strategy, settings=settings, samples=samples)
    return Explorer(bench, runs=runs, tracking_uri=tracking_uri, file=file)


class Explorer:
    """The view of a `Exploration`; made by `explore`."""

    def __init__(self, work: Exploration, *, runs: str, tracking_uri: str | None, file: str) -> None:
        self.work, self._runs, self._uri = work, runs, tracking_uri
        self._order = ""
        self._kept_away: tuple[str, Scope, str, Any] | None = None
        self._turns = SerialHandler(lambda text: self._say(text, "error"))
        self._message, self._summary = w.HTML(), w.HTML()
        self._picture, self._why, self._json = w.HTML(), w.HTML(), w.HTML()
        self._queue = queue(self._turns)
        self._table = picker(self._queue, label="plan of the model, one tensor a row", chosen=self._worst())
        self._controls = controls(self._queue, self._set, self._table)
        self._build(file)
        self._refresh()

    # --- for code beside the mouse ---

    @property
    def strategy(self) -> Strategy:
        """The strategy in use; set it to put another one on the bench."""
        return self.work.strategy

    @strategy.setter
    def strategy(self, strategy: Strategy | str | Path) -> None:
        from vqkit.quantization.prepare import as_strategy

        with self._turns:
            self.work.use(as_strategy(strategy))
            self._kept_away = None
            self._refresh()

    @property
    def plan(self) -> Any:
        """What the strategy in use does to each tensor."""
        return self.work.plan

    @property
    def chosen(self) -> Row | None:
        """The row that is looked at."""
        return self._row(self._table.chosen)

    @chosen.setter
    def chosen(self, name: str) -> None:
        row = self._row(name)
        if row is None:
            raise StrategyError(self._no_row("chosen", name))
        with self._turns:
            self._table.chosen = row.name

    def _row(self, name: str) -> Row | None:
        return next((r for r in self.plan.rows if r.name == name), None)

    def _no_row(self, where: str, name: str) -> str:
        return not_allowed(where, name, [r.name for r in self.plan.rows], what="tensor")

    def look(self, name: str) -> Any:
        """What the pictures of a tensor are drawn from.

        Args:
            name: `<layer>/<tensor>`, a row of the plan.

        Returns:
            Values, grid, error curve; None where the tensor stays float.

        Raises:
            StrategyError: the plan has no such row.
        """
        row = self._row(name)
        if row is None:
            raise StrategyError(self._no_row("look", name))
        return self.work.look(row)

    # --- the page ---

    def _build(self, file: str) -> None:
        self._filter = w.Text(
            description="Filter",
            placeholder="words in any column",
            continuous_update=True,
            layout=w.Layout(width="330px"),
            tooltip="rows that hold all these words",
        )
        self._steps = actions(
            self._queue,
            Action("Undo", "take the last change back", self._step(self.work.undo), "undo"),
            Action("Redo", "take the undone change again", self._step(self.work.redo), "repeat"),
            Action(
                "Replace narrower rules",
                "let the last change hold where narrower rules kept it away",
                self._replace,
                "level-up",
            ),
        )
        self._job = EvaluationJob(self._queue, self._evaluation, self._ran)
        self._keep = actions(
            self._queue,
            Action("Save strategy", "write the JSON that is shown", self._save, "save"),
            Action("Track", "keep the evaluated strategy as a run", self._track, "database"),
            field="File",
            field_tip="where Save strategy writes",
            value=file,
        )
        self._filter.observe(self._turns.taken(self._draw_table), "value")
        self._table.observe(self._turns.taken(self._look), ["chosen", "dark"])
        self._table.on_sort(self._sort)
        tabs = w.Tab([self._picture, self._why, self._json], titles=["Pictures", "Who decided", "Strategy JSON"])
        left = w.VBox(
            [w.HBox([self._filter, self._steps], layout=_wrap()), self._table],
            layout=w.Layout(flex="1 1 640px", min_width="0"),
        )
        right = w.VBox([self._controls, tabs], layout=w.Layout(flex="1 1 520px", min_width="0"))
        below = w.HBox([self._job.box, self._keep], layout=_wrap())
        self.box = w.VBox([self._summary, w.HBox([left, right], layout=_wrap()), self._message, below])
        self.box.add_class("vq-widget")
        self.box.add_class("vq-bench")

    def _refresh(self) -> None:
        """Show the present state; each part is sent only where it differs from what is shown."""
        work = self.work
        self._summary.value = self._summary_html()
        self._draw_table()
        self._controls.rows = control_rows(work.plan)
        self._enable()
        self._json.value = _json_html(work.state)
        self._look()

    def _enable(self) -> None:
        can = {
            "undo": self.work.can_undo,
            "redo": self.work.can_redo,
            "replace-narrower-rules": self._kept_away is not None,
        }
        self._steps.disabled = [key for key, able in can.items() if not able]

    def _draw_table(self, _: Any = None) -> None:
        self._table.html = self._table_html()

    def _table_html(self) -> str:
        measured = measured_ratios(self.work.trial)
        columns = plan_columns(bool(measured))
        rows = plan_rows(self.plan, self.work.state.costs, measured)
        shown = arranged(rows, columns, sorted_by=self._order, words=self._filter.value)
        return table(shown, columns, sorted_by=self._order, label="plan")

    def _look(self, _: Any = None) -> None:
        row = self.chosen
        self._why.value = _why_html(row)
        self._picture.value = tensor_picture(self.work, row, dark=self._table.dark)

    def _summary_html(self) -> str:
        changes = self.work.state.changes
        count = f"{len(changes)} change{'s' if len(changes) > 1 else ''}"
        words = f"{count} to {self.work.strategy.base}" if changes else "as built in"
        result = told(self.work.trial)
        line = f"{self.plan.summary()}, {words}. {'Evaluated: ' + result if result else 'Not evaluated.'}"
        return f"<div class='vq' role='status'>{escape(line)}</div>"

    # --- what a person does ---

    def _set(self, name: str, scope: Scope, param: str, value: Any) -> None:
        row = self._row(name)
        if row is None:
            raise StrategyError(f"{name} is no tensor of the plan any more; nothing was changed")
        kept = param != "left_float" and narrower(self.plan, row, param, value, scope)
        self._kept_away = (name, scope, param, value) if kept else None
        try:
            changed = self.work.set(row, param, value, scope)
        except StrategyError:
            self._enable()
            raise
        self._say(_said(changed, self.work, row, param, value, scope))
        self._refresh()

    def _replace(self, _: str) -> None:
        if self._kept_away is None:
            return
        (name, scope, param, value), self._kept_away = self._kept_away, None
        row = self._row(name)
        if row is None:
            raise StrategyError(f"{name} is no tensor of the plan any more; nothing was changed")
        changed = self.work.set(row, param, value, scope, replace=True)
        self._say(_said(changed, self.work, row, param, value, scope))
        self._refresh()

    def _step(self, step: Any) -> Any:
        def do(_: str) -> None:
            if step():
                self._kept_away = None
                self._say("")
                self._refresh()

        return do

    def _sort(self, column: str) -> None:
        self._order = next_order(self._order, column)
        self._draw_table()

    def _save(self, file: str) -> None:
        self._say(f"strategy written to {self.work.save(file)}", "done")

    def _track(self, _: str) -> None:
        key = self.work.track(self._runs, tracking_uri=self._uri)
        self._say(f"run {key} kept in {self._runs} and logged", "done")

    def _evaluation(self) -> Any:
        """The evaluation of the strategy that is shown when the button is pressed."""
        strategy = self.work.strategy

        def run(tell: Any, cancelled: threading.Event) -> str:
            return told(self.work.evaluate(tell, cancelled, strategy=strategy))

        return run

    def _ran(self, text: str, kind: str) -> None:
        with self._turns:
            self._say(text, kind)
            self._refresh()

    def _say(self, text: str, kind: str = "") -> None:
        self._message.value = message_html(text, kind)

    def _worst(self) -> str:
        """What to look at first: the tensor with the lowest ratio."""
        costs = self.work.state.costs
        first = self.plan.rows[0].name if self.plan.rows else ""
        return min(costs, key=lambda name: costs[name].sqnr_db, default=first)

    # --- where no kernel is ---

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return mimebundle(self.box, self._repr_html_(), self.plan.summary())

    def _repr_html_(self) -> str:
        """The same as a page without controls: table, pictures of the chosen tensor, JSON."""
        json_part = f"<details><summary>Strategy JSON</summary>{_json_html(self.work.state)}</details>"
        picture = tensor_picture(self.work, self.chosen, dark=False)
        return page(self._summary_html(), self._table_html(), picture, json_part)


def _wrap() -> Any:
    return w.Layout(flex_flow="row wrap", align_items="flex-start")


def _json_html(state: Any) -> str:
    strategy = state.strategy
    text = json.dumps(strategy.dump(), indent=1, ensure_ascii=False)
    changes = "".join(f"<li>{escape(k)} = {escape(repr(v))}</li>" for k, v in state.changes.items())
    said = f"<p>Changed from {escape(strategy.base)}:</p><ul>{changes}</ul>" if changes else ""
    return f"<div class='vq'>{said}{scrolled('Strategy JSON', text)}</div>"


def _why_html(row: Row | None) -> str:
    if row is None:
        return message_html("choose a row")
    _, words, _ = provenance(row)
    said = [[p, str(_value(row, p)), source, pointer] for p, (source, pointer) in row.origins.items()]
    header = ("parameter", "value", "said by", "at")
    rules = f"<div class='vq-scroll'>{cells(header, said)}</div>" if said else ""
    behind = f"The user's layers behind it: {', '.join(row.origin)}." if row.origin else ""
    reason = f"{row.reason}. " if row.reason else ""
    return f"<div class='vq'><p>{escape(f'{row.name}: {words}. {reason}{behind}')}</p>{rules}</div>"


def _said(changed: list[Row], work: Exploration, row: Row, param: str, value: Any, scope: Scope) -> str:
    """What a change reached, and what it did not."""
    few = f"{changed[0].name} changed" if changed else f"nothing changed: {row.name} already is so"
    words = f"{len(changed)} tensors changed" if len(changed) > 1 else few
    kept = [] if param == "left_float" else narrower(work.plan, row, param, value, scope)
    if kept:
        name, where = kept[0]
        words += (
            f"; narrower rules decide for {len(kept)}, such as {where} for {name}: Replace narrower rules"
            " takes them out"
        )
    gone = [where.rpartition("/")[2] for where in work.dropped]
    return words + (f"; {', '.join(gone)} taken out, it decided nothing any more" if gone else "")


def _value(row: Row, param: str) -> Any:
    value = getattr(row.spec, param, "")
    return getattr(value, "name", value)
