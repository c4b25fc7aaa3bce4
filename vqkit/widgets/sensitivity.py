"""`vq.sensitivity(...)`: which layers suffer from few bits, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import plots, tables
from vqkit.comparison.page import figure_html, message_html, page, table
from vqkit.runs.records import rows_of
from vqkit.search import Engine, Sensitivity, accumulated, recovery
from vqkit.search.layer_sensitivity import sensitivity as ask
from vqkit.tables import Column, Measure, arranged, escaped, next_order
from vqkit.widgets.elements import SerialHandler, mimebundle, picker, queue

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from vqkit.quantization.data import Data
    from vqkit.strategy import Strategy

_NOISE = {"KL divergence (no labels)": "kl", "output SQNR (no labels)": "sqnr_db"}
_MODES = {"only this layer quantized": "only", "all quantized but this layer": "all_but"}


def _number(form: Any) -> Any:
    return lambda value: escaped(form(value))


def columns_for(measure: Measure) -> tuple[Column, ...]:
    """Columns of the table.

    Args:
        measure: the metric.
    """
    return (
        Column("layer", "layer"),
        Column("kind", "tensors"),
        Column("bits", "bits", numeric=True),
        Column("mode", "question"),
        Column(measure.column, measure.label, _number(measure.plain), numeric=True),
        Column("delta", "Δ float", _number(measure.signed), numeric=True),
        Column("sqnr_db", "SQNR dB", _number(tables.number), numeric=True),
        Column("kl", "KL nats", _number(lambda v: tables.number(v, 4)), numeric=True),
    )


def sensitivity(
    model: keras.Model,
    data: Data,
    strategy: Strategy | str = "pof2s",
    *,
    bits: Sequence[int] = (8, 6, 4),
    modes: Sequence[str] = ("only",),
    images: int | None = 1000,
    settings: Any = None,
    cache: str | Path | None = None,
    metrics: Sequence[Any] | None = None,
    progress: bool = True,
) -> SensitivityView:
    """Ask every layer what few bits do to the model, and show the answers.

    Args:
        model: a built Keras model; it is not changed.
        data: calibration samples and labelled ones.
        strategy: the quantizers and passes around which is asked.
        bits: widths.
        modes: of "only" (this layer quantized, all else float) and "all_but" (all quantized but this layer;
            each such question quantizes the model once).
        images: evaluation samples, from the first; None means all.
        settings: as for a sweep.
        cache: folder where answers are kept.
        metrics: what `vqkit.evaluate` takes, the deciding one first; by default those of the task.
        progress: show a progress bar.

    Returns:
        A widget with `.found` (the answers), `.summed` (layers quantized one after another, in graph order)
        and `.recovered` (the metric by number of layers left float).

    Raises:
        DataError: an unknown mode, or no bits.
        StrategyError: the strategy does not fit the model.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> view = vqkit.sensitivity(model, vqkit.Data("normal", x, x, np.arange(16) % 3), bits=(4,), progress=False)
        >>> type(view).__name__
        'SensitivityView'
    """
    engine = Engine(model, data, settings=settings, cache=cache, images=images, metrics=metrics)
    found = ask(model, data, strategy, bits=bits, modes=modes, engine=engine, progress=progress)
    again = recovery(found, engine, strategy) if "only" in modes else None
    return SensitivityView(found, again, summed=accumulated(found, engine, strategy))


@dataclass
class SensitivityView:
    """Answers of all layers; a thin widget.

    Attributes:
        found: the answers.
        recovered: the metric by number of layers left float; None where it was not asked.
        summed: all layers up to each one quantized; None where it was not asked.
        by, mode, bits: what is ranked; by "" means what tells the layers apart, bits None the smallest.
        sorted_by: column of the table, "-" in front for descending.
        theme: of the figures.
    """

    found: Sensitivity
    recovered: pd.DataFrame | None = None
    by: str = ""
    mode: str = "only"
    bits: int | None = None
    sorted_by: str = ""
    theme: plots.Theme = plots.LIGHT
    summed: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        self.by = self.by or self.found.by
        asked = [r["mode"] for r in self.found.rows]
        self.mode = self.mode if self.mode in asked or not asked else asked[0]

    @property
    def _name(self) -> str:
        """The metric at the beginning of a sentence."""
        return self.found.measure.name.capitalize()

    def summary(self) -> str:
        """What was asked, in a sentence."""
        f = self.found
        return (
            f"<p>Sensitivity around <b>{escape(f.strategy)}</b>: float {escape(f.measure.name)} "
            f"{f.measure.text(f.float_value)} on {f.n} samples.</p>"
        )

    def board(self) -> str:
        """The answers of the chosen question, most sensitive first."""
        ranked = self.found.ranked(self.by, mode=self.mode, bits=self.bits)
        reference, name = self.found.float_value, self.found.measure.column
        columns = columns_for(self.found.measure)
        rows = [{**r, "key": f"{r['layer']} {r['kind']}", "delta": r[name] - reference} for r in rows_of(ranked)]
        shown = arranged(rows, columns, sorted_by=self.sorted_by)
        return table(shown, columns, sorted_by=self.sorted_by, label="Sensitivity of each layer")

    def picture(self) -> str:
        """Layers from the most to the least sensitive."""
        figure = plots.sensitivity_ranked(
            self.found.table,
            self.found.float_value,
            mode=self.mode,
            bits=self.bits,
            by=self.by,
            theme=self.theme,
            measure=self.found.measure,
        )
        return figure_html(figure, f"{self._name} and noise by layer, most sensitive first")

    def sums(self) -> str:
        """Each layer alone beside all layers up to it, at the smallest width."""
        if self.summed is None:
            return ""
        figure = plots.sensitivity_accumulated(
            self.found.table, self.summed, self.found.float_value, theme=self.theme, measure=self.found.measure
        )
        return figure_html(figure, f"{self._name} and SQNR of each layer alone and of all layers up to it")

    def curve(self) -> str:
        """How the metric comes back."""
        if self.recovered is None:
            return ""
        figure = plots.recovery_curve(
            self.recovered, self.found.float_value, theme=self.theme, measure=self.found.measure
        )
        return figure_html(figure, f"{self._name} by the number of most sensitive layers that are left float")

    def html(self) -> str:
        """Everything as one static page."""
        return page(self.summary(), self.board(), self.picture(), self.sums(), self.curve())

    def __str__(self) -> str:
        return str(self.found)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return mimebundle(self.widget, self.html(), str(self))

    @cached_property
    def widget(self) -> Any:
        """The ipywidget; made on first use."""
        import ipywidgets as w

        asked = {r["mode"] for r in self.found.rows}
        modes = [(words, mode) for words, mode in _MODES.items() if mode in asked]
        measures = [*_NOISE.items(), (self.found.measure.name, self.found.measure.column)]
        widths = sorted({int(r["bits"]) for r in self.found.rows})
        self._head, self._figure, self._sums, self._curve = (w.HTML() for _ in range(4))
        self._head.value = page(self.summary())
        handlers = SerialHandler(lambda text: setattr(self._head, "value", page(message_html(text, "error"))))
        self._board = picker(queue(handlers), label="Sensitivity of each layer")
        wide = {"style": {"description_width": "initial"}}
        self._by = w.Dropdown(description="Rank by", options=measures, value=self.by, **wide)
        self._mode = w.Dropdown(description="Question", options=modes, value=self.mode, **wide)
        self._bits = w.Dropdown(description="Bits", options=widths, value=self.bits or widths[0])
        for control, name in ((self._by, "by"), (self._mode, "mode"), (self._bits, "bits")):
            control.observe(handlers.taken(lambda change, n=name: self._set(n, change["new"])), "value")
        self._board.on_sort(lambda column: self._set("sorted_by", next_order(self.sorted_by, column)))
        self._board.observe(
            handlers.taken(lambda c: self._set("theme", plots.DARK if c["new"] else plots.LIGHT)), "dark"
        )
        controls = w.HBox([self._by, self._mode, self._bits], layout=w.Layout(flex_flow="row wrap"))
        box = w.VBox([self._head, controls, self._board, self._figure, self._sums, self._curve])
        box.add_class("vq-widget")
        box.add_class("vq-sensitivity")
        self.show()
        return box

    def show(self) -> None:
        """Draw again."""
        self._board.html = self.board()
        self._figure.value = page(self.picture())
        self._sums.value, self._curve.value = page(self.sums()), page(self.curve())

    def _set(self, name: str, value: Any) -> None:
        if value is not None and value != getattr(self, name):
            setattr(self, name, value)
            self.show()
