"""A comparison as HTML, and figures whose runs can be chosen."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from matplotlib.colors import to_rgb

from vqkit import plots, tables
from vqkit.comparison import leaderboard
from vqkit.comparison.difference import Difference, difference
from vqkit.comparison.runset import Run, RunSet, flipped_samples, sample_images
from vqkit.errors import RecordError, VqkitError
from vqkit.plots.runs import COSTS, LOST, places
from vqkit.plots.style import png
from vqkit.runs.damage import damaged
from vqkit.runs.records import rows_of, sqnr_rows
from vqkit.widgets.table import Column, arranged, figure_html, message_html, table, text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_RADIUS = 9
_LOOK = (
    ".vq-mark{fill:transparent;stroke:transparent;stroke-width:2.5;cursor:pointer}"
    ".vq-mark:hover{stroke:currentColor;stroke-dasharray:3 3}"
    ".vq-mark:focus-visible{outline:none;stroke:currentColor;stroke-dasharray:3 3}"
    ".vq-mark[aria-selected=true]{stroke:currentColor;stroke-dasharray:none}"
)


def clickable(figure: Figure, names: Mapping[str, str], alt: str, *, chosen: str = "") -> str:
    """A figure as HTML for a picker; without one it is a picture with a tip on each mark.

    Args:
        figure: of `vqkit.plots`, with runs marked.
        names: run key -> what to say about it, in a line; runs without one cannot be chosen.
        alt: what the figure shows, in a sentence.
        chosen: key of the run to mark.

    Returns:
        SVG; arrow keys walk from left to right.
    """
    width, height = figure.bbox.width, figure.bbox.height
    marks = sorted(places(figure).items(), key=lambda item: item[1])
    data = base64.b64encode(png(figure)).decode()
    ink = "#e6e6e6" if _dark(figure) else "#222222"
    return (
        f"<svg class='vq-figure' role='listbox' aria-label='{escape(alt, quote=True)}' style='color:{ink}' "
        f"width='{width:.0f}' viewBox='0 0 {width:.0f} {height:.0f}'><style>{_LOOK}</style>"
        f"<image href='data:image/png;base64,{data}' width='{width:.0f}' height='{height:.0f}'/>"
        + "".join(_mark(key, names[key], x * width, y * height, key == chosen) for key, (x, y) in marks if key in names)
        + "</svg>"
    )


def _mark(key: str, words: str, x: float, y: float, here: bool) -> str:
    said, named = escape(words, quote=True), escape(key, quote=True)
    return (
        f"<circle class='vq-mark' role='option' data-key='{named}' cx='{x:.1f}' cy='{y:.1f}' r='{_RADIUS}' "
        f"aria-label='{said}' aria-selected='{str(here).lower()}'><title>{said}</title></circle>"
    )


def _dark(figure: Figure) -> bool:
    return sum(to_rgb(figure.get_facecolor())) < 1.5


_SHOWN_FLIPS = 24
_NUMBERS = ("accuracy", "ci_low", "accuracy_delta", "size_bytes", "bit_operations", "sqnr_min_db",
            "sqnr_output_db", "seconds_total")  # fmt: skip


def _number(form: Any) -> Any:
    return lambda value: text(form(value)) if value is not None else "–"


def _operations(value: float) -> str:
    return f"{value / 1e6:.3g}" if value == value else "–"


COLUMNS = (
    Column("rank", "#", _number(lambda v: f"{v:.0f}"), numeric=True),
    Column("name", "run"),
    Column("accuracy", "accuracy %", _number(tables.percent), numeric=True),
    Column("interval", "95 %"),
    Column("accuracy_delta", "Δ float", _number(tables.signed_points), numeric=True),
    Column("size_bytes", "size", _number(tables.size), numeric=True),
    Column("bit_operations", "bit-ops, million", _number(_operations), numeric=True),
    Column("sqnr_min_db", "min SQNR dB", _number(tables.number), numeric=True),
    Column("seconds_total", "time", _number(tables.duration), numeric=True),
    Column("marks", "standing"),
)


@dataclass
class View:
    """Everything that decides what is shown.

    Attributes:
        runs: what is compared.
        words: only runs whose row contains all of these.
        front_only: only runs that nothing beats.
        group: number of the group of comparable runs.
        cost: what accuracy is drawn against.
        sorted_by: column of the leaderboard, "-" in front for descending.
        chosen: key of the chosen run.
        pair: keys of the two runs side by side.
        theme: of the figures.
    """

    runs: RunSet
    words: str = ""
    front_only: bool = False
    group: int = 0
    cost: str = "size_bytes"
    sorted_by: str = ""
    chosen: str = ""
    pair: tuple[str, str] = ("", "")
    theme: plots.Theme = plots.LIGHT
    _differences: dict[tuple[str, str], Difference] = field(default_factory=dict, repr=False)

    def groups(self) -> dict[str, int]:
        """Heading -> number of each group of comparable runs."""
        frame = self.runs.frame
        finished = frame[frame["rank"].notna()]
        return {
            f"{leaderboard.heading(m)} ({len(m)} runs)": int(m["group"].iloc[0]) for _, m in finished.groupby("group")
        }

    def shown(self) -> pd.DataFrame:
        """The group's runs that the filter leaves, and those without a result."""
        frame = self.runs.frame
        frame = frame[((frame["group"] == self.group) & frame["rank"].notna()) | frame["rank"].isna()]
        if self.front_only:
            frame = frame[frame["pareto"].astype(bool)]
        kept = [r["key"] for r in arranged(_rows(frame), COLUMNS, words=self.words)]
        return frame[frame["key"].isin(kept)]

    def summary(self) -> str:
        """What is compared, how many of it are shown, and what to take."""
        counts, shown = leaderboard.counts(self.runs.frame), len(self.shown())
        advice = leaderboard.recommend(self.runs.frame).sentence
        told = damaged(self.runs.frame, broken=True)
        problems = "; ".join(f"{run}: {problem}" for run, problem in told)
        wrong = message_html(f"Damaged files: {problems}", "error") if problems else ""
        return (
            f"<p><b>{escape(self.runs.title)}</b>: {escape(counts)}; {shown} shown.</p><p>{escape(advice)}</p>{wrong}"
        )

    def board(self) -> str:
        """The leaderboard."""
        rows = arranged(_rows(self.shown()), COLUMNS, sorted_by=self.sorted_by)
        if not rows:
            return message_html("No run fits the filter.")
        return table(rows, COLUMNS, sorted_by=self.sorted_by, label="Leaderboard", chosen=self.chosen)

    def pareto(self) -> str:
        """Accuracy against the cost, with every run choosable."""
        shown = self.shown()
        figure = plots.pareto(shown, cost=self.cost, theme=self.theme)
        return clickable(figure, _sayings(shown), f"{COSTS[self.cost].title}; each mark is a run", chosen=self.chosen)

    def parallel(self) -> str:
        """Choices and accuracy, with every run choosable at the end of its line."""
        shown = self.shown()
        figure = plots.parallel_coordinates(shown, theme=self.theme, chosen=self.chosen)
        return clickable(figure, _sayings(shown), "Choices and accuracy; each line is a run", chosen=self.chosen)

    def effects(self) -> str:
        """What each choice did on its own."""
        figure = plots.marginal_effects(self.shown(), theme=self.theme)
        return figure_html(figure, "Accuracy of the runs by each choice on its own")

    def details(self) -> str:
        """The chosen run: numbers, what it changes, its strategy, its notebook, or why it failed."""
        if not self.chosen:
            return message_html("Choose a run in the table or in a picture.")
        try:
            return "".join(_details(self.runs.run(self.chosen), self.theme))
        except VqkitError as e:
            return message_html(str(e), "error")

    def difference(self) -> Difference | None:
        """The two runs side by side; None before both are chosen.

        Raises:
            VqkitError: one of them cannot be read.
        """
        a, b = self.pair
        if not a or not b:
            return None
        if self.pair not in self._differences:
            runs = [self.runs.run(key) for key in self.pair]
            self._differences[self.pair] = difference(*(r.folder or r.key for r in runs))
        return self._differences[self.pair]

    def two(self) -> str:
        """Strategy, noise and answers of two runs."""
        try:
            found = self.difference()
            if found is None:
                return message_html("Choose two runs, A and B.")
            return "".join(_two(found, self.theme))
        except VqkitError as e:
            return message_html(str(e), "error")


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [_row(run) for run in rows_of(frame)]


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: _known(run.get(name)) for name in ("rank", *_NUMBERS)}
    interval = "" if row["ci_low"] is None else f"{tables.percent(run['ci_low'])}–{tables.percent(run['ci_high'])}"
    ended = "" if row["rank"] is not None else str(run["status"]).lower()
    marks = " ".join(leaderboard.marks(run)) or ended
    return {
        **row,
        "key": run["key"],
        "name": run["name"],
        "interval": interval,
        "marks": marks,
        "quiet": row["rank"] is None,
    }


def _known(value: Any) -> float | None:
    return None if not isinstance(value, int | float) or math.isnan(value) else float(value)


def _sayings(frame: pd.DataFrame) -> dict[str, str]:
    """One line about each run, for the marks of a picture."""
    return {str(r["key"]): _saying(r) for r in _rows(frame)}


def _saying(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return f"{row['name']}: {row['marks']}"
    interval = f" ({row['interval']})" if row["interval"] else ""
    size = f", {tables.size(row['size_bytes'])}" if row["size_bytes"] is not None else ""
    return f"{row['name']}: {tables.percent(row['accuracy'])} %{interval}{size} {row['marks']}".strip()


def _details(run: Run, theme: plots.Theme) -> Iterator[str]:
    row = _row(run.row)
    yield f"<h4>{escape(run.name)} <code>{escape(run.key)}</code></h4>"
    if row["accuracy"] is None:
        yield message_html(_reason(run), "error" if str(run.row["status"]) in LOST else "")
    else:
        yield f"<p>{escape(_saying(row))}</p>"
    yield _cells(("what", "value"), [*_facts(run, row)])
    if run.folder is None:
        yield message_html("Its files were not kept.")
        return
    yield from _changes(run)
    document = run.json("strategy.json")
    if document is not None:
        yield _folded("Strategy, as JSON", f"<pre>{escape(json.dumps(document, indent=1))}</pre>")
    sqnr = run.json("sqnr.json")
    if sqnr:
        import pandas as pd

        try:
            rows = pd.DataFrame(sqnr_rows(sqnr, f"sqnr.json of {run.name}"))
        except RecordError as e:
            yield message_html(str(e), "error")
        else:
            figure = plots.sqnr_by_layer(rows, theme=theme)
            said = f"Signal-to-noise ratio by tensor of {run.name}"
            yield _folded("Noise by layer", figure_html(figure, said))
    if run.traceback:
        yield _folded("Traceback", f"<pre>{escape(run.traceback[-20_000:])}</pre>", unfolded=True)


def _reason(run: Run) -> str:
    error = run.row.get("error")
    if not isinstance(error, str):
        return f"{str(run.row['status']).lower()}: no result"
    cell = _known(run.row.get("error_cell"))
    where = "" if cell is None else f" (in cell {cell:.0f} of its notebook)"
    return f"{str(run.row['status']).lower()}: {run.row['error_type']}: {error}{where}"


def _facts(run: Run, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "status", str(run.row["status"])
    if row["size_bytes"] is not None:
        yield "size", f"{tables.size(row['size_bytes'])} (float {tables.size(run.row['float_size_bytes'])})"
    if row["bit_operations"] is not None:
        yield "bit-operations for one sample", f"{row['bit_operations'] / 1e6:,.2f} million"
    yield "calibration", str(run.row["calibration"])
    yield (
        "data",
        f"{run.row['data']}, {run.row['n_calib']:.0f} to calibrate, {run.row['n_eval']:.0f} to evaluate",
    )
    if run.row.get("damaged"):
        yield "damaged files", str(run.row["damaged"])
    if run.folder is not None:
        yield "folder", str(run.folder)
    if run.notebook is not None:
        yield "notebook", str(run.notebook)


def _changes(run: Run) -> Iterator[str]:
    overrides = {
        k.removeprefix("override."): v
        for k, v in run.row.items()
        if str(k).startswith("override.") and v is not None and v == v
    }
    cells = [(k, json.dumps(v, default=str)) for k, v in overrides.items()]
    base = f"strategy {run.row['strategy']}"
    yield f"<p>What it changes in {escape(base)}:</p>" + (_cells(("key", "value"), cells) if cells else "nothing")


def _cells(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tables.html_table(header, rows, left=range(len(header)))


def _folded(title: str, body: str, *, unfolded: bool = False) -> str:
    return f"<details{' open' if unfolded else ''}><summary>{escape(title)}</summary>{body}</details>"


def _two(found: Difference, theme: plots.Theme) -> Iterator[str]:
    yield found._repr_html_()
    names = (str(found.a["name"]), str(found.b["name"]))
    if len(found.sqnr):
        figure = plots.sqnr_difference(found.sqnr, names, theme=theme)
        yield figure_html(figure, f"Noise by tensor of {names[1]} against {names[0]}")
    yield "<p><b>Samples that flipped</b></p>"
    yield _flipped(found, theme)


def _flipped(found: Difference, theme: plots.Theme) -> str:
    folders = [found.a["directory"], found.b["directory"]]
    try:
        samples = flipped_samples(*folders)
    except VqkitError as e:
        return message_html(str(e))
    counts = samples["right"].value_counts()
    kinds = {"A": "only A is right", "B": "only B is right", "neither": "both are wrong"}
    said = ", ".join(f"{counts.get(who, 0)} where {what}" for who, what in kinds.items())
    few = samples.head(_SHOWN_FLIPS)
    parts = [f"<p>{len(samples)} samples are answered differently: {said}.</p>"]
    try:
        images = sample_images(folders[0], few["sample"])
        figure = plots.flipped_samples(few, images, theme=theme)
        parts.append(figure_html(figure, "Samples that two runs answer differently, with both answers"))
    except VqkitError as e:
        parts += [
            message_html(f"No pictures: {e}"),
            _cells([*few.columns], few.astype(str).to_numpy().tolist()),
        ]
    return "".join(parts)
