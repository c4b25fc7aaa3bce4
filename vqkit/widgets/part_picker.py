"""`vq.pick_part`: which part of a model is quantized, chosen by clicking, shown before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from vqkit.comparison.page import message_html, page, scrolled, table
from vqkit.errors import StrategyError, VqkitError
from vqkit.evaluation.preview import Preview
from vqkit.graph.keras_io import lower
from vqkit.plots import DARK, LIGHT
from vqkit.plots.model import COLOURS, LayerBox, boxes, ink_on, paint, second_line, short, words_of
from vqkit.quantization.prepare import PreparedModel, as_strategy, graphs, planned
from vqkit.tables import arranged, next_order
from vqkit.widgets.elements import Action, SerialHandler, actions, mimebundle, picker, queue
from vqkit.widgets.explorer_view import plan_columns, plan_rows

if TYPE_CHECKING:
    from pathlib import Path

    import keras
    from numpy.typing import ArrayLike

    from vqkit.quantization.data import Data
    from vqkit.strategy import Strategy


WIDTH, HEIGHT, GAP_X, GAP_Y = 158, 34, 26, 16


def graph_svg(boxes: Sequence[LayerBox], *, colour: str, dark: bool = False) -> str:
    """The picture.

    Args:
        boxes: from `vqkit.plots.model.boxes`.
        colour: "partition", "bits" or "sqnr".
        dark: for a dark page.

    Returns:
        SVG text; each box has the layer's name as `data-key` and says all its colours say.
    """
    columns = 1 + max(b.place.column for b in boxes)
    rows = 1 + max(b.place.row for b in boxes)
    size = (columns * (WIDTH + GAP_X) + GAP_X, rows * (HEIGHT + GAP_Y) + GAP_Y)
    at = {b.name: _corner(b) for b in boxes}
    lines = "".join(_line(at[b.name], at[r]) for b in boxes for r in b.place.readers)
    drawn = "".join(_box(b, colour, dark) for b in boxes)
    return (
        "<div class='vq-scroll vq-graph'><svg role='listbox' aria-label='layers of the model' "
        f"width='{size[0]}' height='{size[1]}' viewBox='0 0 {size[0]} {size[1]}'>"
        f"<g fill='none' stroke='currentColor' stroke-opacity='0.5'>{lines}</g>{drawn}</svg></div>"
    )


def _corner(box: LayerBox) -> tuple[int, int]:
    return GAP_X + box.place.column * (WIDTH + GAP_X), GAP_Y // 2 + box.place.row * (HEIGHT + GAP_Y)


def _line(a: tuple[int, int], b: tuple[int, int]) -> str:
    (x, y), (u, v) = (a[0] + WIDTH // 2, a[1] + HEIGHT), (b[0] + WIDTH // 2, b[1])
    if x == u and v - y > HEIGHT:  # past the boxes between
        edge = x - WIDTH // 2
        side = edge - GAP_X // 2
        return f"<path d='M{edge} {y - 8} C{side} {y} {side} {v} {edge} {v + 8}'/>"
    if v < y:  # to the top of the next column
        out, into, half = x + WIDTH // 2, u - WIDTH // 2, HEIGHT // 2
        return f"<path d='M{out} {y - half} C{into - 13} {y} {out + 13} {v} {into} {v + half}'/>"
    return f"<path d='M{x} {y} L{u} {v}'/>"


def _box(box: LayerBox, colour: str, dark: bool) -> str:
    x, y = _corner(box)
    fill, _ = paint(box, colour, DARK if dark else LIGHT)
    ink = ink_on(fill)
    dash = " stroke-dasharray='4 3'" if box.part in ("float", "merged") else ""
    words = words_of(box, colour)
    tip = "; ".join([f"{box.name} ({box.place.kind}): {words}", *box.reasons])
    label = escape(tip, quote=True)
    middle = x + WIDTH // 2
    return (
        f"<g role='option' data-key='{escape(box.name, quote=True)}' aria-label='{label}'>"
        f"<title>{escape(tip)}</title>"
        f"<rect x='{x}' y='{y}' width='{WIDTH}' height='{HEIGHT}' rx='6' fill='{fill}' "
        f"stroke='currentColor'{dash}/>"
        f"<text x='{middle}' y='{y + 14}' text-anchor='middle' font-size='11' style='fill:{ink}'>"
        f"{escape(short(box.name))}</text>"
        f"<text x='{middle}' y='{y + 27}' text-anchor='middle' font-size='9.5' style='fill:{ink}'>"
        f"{escape(second_line(box, colour))}</text></g>"
    )


MODES = {"start here": "input_layers", "stop here": "output_layers", "leave float": "ignore_layers"}


def pick_part(
    model: keras.Model,
    strategy: Strategy | str | Path = "pof2s",
    data: Data | ArrayLike | None = None,
    *,
    file: str = "partial.json",
) -> PartPicker:
    """Choose where quantization starts, where it stops and what is left out, on a picture of the model.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        strategy: a `Strategy`, or the name or path of one, to start from.
        data: calibration inputs of shape (n, …), or a `Data`; without them there are no noise figures.
        file: the file that *Save strategy* proposes.

    Returns:
        The picker; show it by ending a cell with it. `picker.strategy` is the strategy with the choice made.

    Raises:
        ModelError, StrategyError: model and strategy do not fit.

    Example:
        >>> import keras, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])
        >>> vqkit.pick_part(model).strategy.name
        'pof2s'
    """
    return PartPicker(model, as_strategy(strategy), data, file)


class PartPicker:
    """The view made by `pick_part`."""

    def __init__(self, model: keras.Model, strategy: Strategy, data: Data | ArrayLike | None, file: str) -> None:
        self._graph, self._data = lower(model), data
        self._strategy, self._prepared = strategy, self._planned(strategy)
        self._ratios: dict[str, dict[str, float]] = {}
        self._order = ""
        self._turns = SerialHandler(lambda text: self._say(text, "error"))
        self._queue = queue(self._turns)
        self._picture = picker(self._queue, label="layers of the model; press Enter to apply the choice above")
        self._table = picker(self._queue, label="what becomes quantized, one tensor a row")
        self._message, self._summary, self._json = w.HTML(), w.HTML(), w.HTML()
        self._build(file)
        self._refresh()

    # --- for code beside the mouse ---

    @property
    def strategy(self) -> Any:
        """The strategy with the part that is chosen."""
        return self._strategy

    @property
    def plan(self) -> Any:
        """What the strategy does to each tensor."""
        return self._prepared.plan

    @property
    def boxes(self) -> list[LayerBox]:
        """What becomes of each layer of the model, for `plots.model_graph`."""
        ratios = self._noise() if self._colour.value == "sqnr" else {}
        return boxes(self._graph, self.plan, self._strategy, ratios)

    def toggle(self, key: str, layer: str) -> None:
        """Put a layer into one of the lists, or take it out.

        Args:
            key: "input_layers", "output_layers" or "ignore_layers".
            layer: name of a layer of the model.

        Raises:
            StrategyError: the choice leaves nothing that the strategy's other rules reach.
        """
        names = list(getattr(self._strategy, key))
        names = [n for n in names if n != layer] if layer in names else [*names, layer]
        self._use(self._strategy.with_kwargs(**{key: names}))

    def clear(self) -> None:
        """Quantize the whole model again."""
        self._use(self._strategy.with_kwargs(**{key: [] for key in MODES.values()}))

    def _use(self, strategy: Strategy) -> None:
        with self._turns:
            prepared = self._planned(strategy)
            self._strategy, self._prepared = strategy, prepared
            self._say("")
            self._refresh()

    def _planned(self, strategy: Strategy) -> PreparedModel:
        return planned(graphs(self._graph, strategy), strategy, False)

    def _noise(self) -> dict[str, float]:
        """Own noise of each tensor; the model runs once for each part that is looked at."""
        if self._data is None:
            raise StrategyError("noise needs calibration inputs: pick_part(model, strategy, data)")
        key = self._strategy.digest
        if key not in self._ratios:
            preview = Preview.of(self._prepared.graph, getattr(self._data, "x_calib", self._data))
            costs = preview.costs(self.plan.rows)
            self._ratios[key] = {name: cost.sqnr_db for name, cost in costs.items()}
        return self._ratios[key]

    # --- the page ---

    def _build(self, file: str) -> None:
        wide = {"description_width": "60px", "button_width": "100px"}
        self._mode = w.ToggleButtons(
            options=list(MODES.items()),
            description="Click to",
            style=wide,
            tooltips=["quantization starts here", "quantization stops here", "this layer stays float"],
        )
        self._colour = w.ToggleButtons(
            options=COLOURS,
            description="Colour",
            style=wide,
            tooltips=["what is quantized", "bits of the weights", "own SQNR, dB"],
        )
        clear = actions(self._queue, Action("Whole model", "forget the choice", lambda _: self.clear(), "eraser"))
        self._keep = actions(
            self._queue,
            Action("Save strategy", "write the JSON that is shown", self._save, "save"),
            field="File",
            field_tip="where Save strategy writes",
            value=file,
        )
        # Linked in the page: a click on a layer means what the buttons show when it is made.
        self._mode_link = w.jsdlink((self._mode, "index"), (self._picture, "mode"))
        turn = self._turns.taken
        self._colour.observe(turn(lambda change: self._recolour(change["old"])), "value")
        self._picture.on_activate(self._activate)
        self._picture.observe(turn(lambda _: self._draw()), "dark")
        self._table.on_sort(self._sort)
        row = w.Layout(flex_flow="row wrap", align_items="flex-start")
        tabs = w.Tab([self._table, self._json], titles=["Quantized", "Strategy JSON"])
        above = w.HBox([self._mode, self._colour, clear], layout=row)
        self.box = w.VBox([above, self._summary, self._picture, self._message, tabs, self._keep])
        self.box.add_class("vq-widget")
        self.box.add_class("vq-part")

    def _refresh(self) -> None:
        self._summary.value = self._summary_html()
        self._draw()
        self._table.html = self._table_html()
        self._json.value = self._json_html()

    def _draw(self) -> None:
        self._picture.html = graph_svg(self.boxes, colour=self._colour.value, dark=self._picture.dark)

    def _recolour(self, before: str) -> None:
        try:
            self._draw()
            self._say("")
        except VqkitError:
            self._colour.value = before
            raise

    def _sort(self, column: str) -> None:
        self._order = next_order(self._order, column)
        self._table.html = self._table_html()

    def _activate(self, layer: str) -> None:
        self.toggle([*MODES.values()][self._picture.mode], layer)

    def _save(self, file: str) -> None:
        from vqkit.widgets.explorer_state import write_strategy

        self._say(f"strategy written to {write_strategy(self._strategy, file)}", "done")

    def _say(self, text: str, kind: str = "") -> None:
        self._message.value = message_html(text, kind)

    def _summary_html(self) -> str:
        chosen = {words: getattr(self._strategy, key) for words, key in MODES.items()}
        said = "; ".join(f"{words}: {', '.join(names)}" for words, names in chosen.items() if names)
        line = f"{self.plan.summary()}. {said or 'The whole model is chosen.'}"
        return f"<div class='vq' role='status'>{escape(line)}</div>"

    def _table_html(self) -> str:
        columns = plan_columns(False)
        rows = [r for r in plan_rows(self.plan, {}, {}) if not r["class"]]
        shown = arranged(rows, columns, sorted_by=self._order)
        kept = [c for c in columns if c.key != "sqnr"]
        return table(shown, kept, sorted_by=self._order, label="what becomes quantized")

    def _json_html(self) -> str:
        text = json.dumps(self._strategy.dump(), indent=1, ensure_ascii=False)
        return f"<div class='vq'>{scrolled('Strategy JSON', text)}</div>"

    # --- where no kernel is ---

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return mimebundle(self.box, self._repr_html_(), self.plan.summary())

    def _repr_html_(self) -> str:
        """The same as a page without controls."""
        picture = graph_svg(self.boxes, colour=self._colour.value)
        return page(self._summary_html(), picture, self._table_html())
