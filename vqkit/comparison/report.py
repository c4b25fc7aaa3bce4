"""What a comparison shows, as HTML: the same in the live widget, in its static twin and in a file for a colleague."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vqkit import _version, plots, tables
from vqkit.comparison import leaderboard
from vqkit.comparison.columns import COLUMNS, LINKS, LOST_COLUMNS, Interval, columns_for
from vqkit.comparison.difference import Difference, difference
from vqkit.comparison.page import (
    cells,
    clickable,
    document,
    drawn,
    folded,
    listed,
    message_html,
    section,
    table,
)
from vqkit.comparison.runset import NOTEBOOK, TRACEBACK, Run, RunSet
from vqkit.comparison.samples import differing_html, worst_html
from vqkit.errors import RecordError, VqkitError
from vqkit.files import read_json, write_bytes
from vqkit.plots.runs import COSTS
from vqkit.runs.records import OVERRIDE, damaged, measure_of, rows_of, sqnr_rows
from vqkit.runs.store import LOST
from vqkit.tables import Measure, arranged, html_grid

if TYPE_CHECKING:
    import pandas as pd

_FILES = (("notebook", NOTEBOOK), ("strategy", "strategy.json"), ("plan", "plan.json"), ("traceback", TRACEBACK))
SQNR = "sqnr.json"
_NUMBERS = (
    "value",
    "value_delta",
    "size_bytes",
    "bit_operations",
    "sqnr_min_db",
    "sqnr_output_db",
    "seconds_total",
)


@dataclass
class View:
    """Everything that decides what is shown.

    Attributes:
        runs: what is compared.
        words: only runs whose row contains all of these.
        front_only: only runs that nothing beats.
        group: number of the group of comparable runs.
        cost: what the metric is drawn against.
        sorted_by: column of the leaderboard, "-" in front for descending.
        chosen: key of the chosen run.
        pair: keys of the two runs side by side.
        theme: of the figures; None for a file, which has them in both.
        beside: the folder that links to the runs' files start from; None for no links.
    """

    runs: RunSet
    words: str = ""
    front_only: bool = False
    group: int = 0
    cost: str = "size_bytes"
    sorted_by: str = ""
    chosen: str = ""
    pair: tuple[str, str] = ("", "")
    theme: plots.Theme | None = plots.LIGHT
    beside: Path | None = None
    _differences: dict[tuple[str, str], Difference] = field(default_factory=dict, repr=False)

    def groups(self) -> list[tuple[str, int]]:
        """Heading and number of each group of comparable runs."""
        frame = self.runs.frame
        finished = frame[frame["rank"].notna()]
        return [
            (f"{leaderboard.heading(m)} ({len(m)} runs)", int(m["group"].iloc[0])) for _, m in finished.groupby("group")
        ]

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

    def board(self, frame: pd.DataFrame | None = None) -> str:
        """The leaderboard.

        Args:
            frame: other rows than `shown`.
        """
        rows = arranged(_rows(self.shown() if frame is None else frame), COLUMNS, sorted_by=self.sorted_by)
        if not rows:
            return message_html("No run fits the filter.")
        best = leaderboard.recommend(self.runs.frame).row
        recommended = "" if best is None else best["key"]
        rows = [{**r, "marks": f"{r['marks']} recommended".strip()} if r["key"] == recommended else r for r in rows]
        how = {"sorted_by": self.sorted_by, "label": "Leaderboard", "chosen": self.chosen}
        columns = [
            c for c in columns_for(self.measure) if c.key != "bit_operations" or any(r[c.key] is not None for r in rows)
        ]
        if self.beside is None:
            return table(rows, columns, **how)
        rows = [{**r, "files": self.links(r["directory"])} for r in rows]
        return table(rows, [*columns, LINKS], values=True, **how)

    @property
    def measure(self) -> Measure:
        """What the group's runs are ranked by."""
        frame = self.runs.frame
        return measure_of(frame[(frame["group"] == self.group) & frame["rank"].notna()])

    def links(self, directory: str | None) -> dict[str, str]:
        """Addresses of a run's files, from the folder beside which the page stands."""
        if self.beside is None or directory is None:
            return {}
        folder = Path(directory).resolve()
        found = {text: folder / name for text, name in _FILES if (folder / name).is_file()}
        return {text: quote(os.path.relpath(path, self.beside)) for text, path in found.items()}

    def lost(self, limit: int) -> str:
        """Runs without a result, with the reason; "" where there are none.

        Args:
            limit: most rows.
        """
        rest, pending = leaderboard.without_result(self.runs.frame)
        rows = [{**r, "reason": _reason(r), "files": self.links(r["directory"])} for r in rows_of(rest.head(limit))]
        waiting = f"<p>{pending} variant(s) of the sweep have not run yet.</p>" if pending else ""
        board = f"<div class='vq-scroll'>{html_grid(rows, LOST_COLUMNS, look='lost')}</div>" if rows else ""
        return waiting + board

    def pareto(self) -> str:
        """Accuracy against the cost, with every run choosable."""
        shown, said = self.shown(), f"{COSTS[self.cost].title_of(self.measure)}; each mark is a run"
        if self.theme is None:
            return drawn(lambda theme: plots.pareto(shown, cost=self.cost, theme=theme), said, None)
        figure = plots.pareto(shown, cost=self.cost, theme=self.theme)
        return clickable(figure, _sayings(shown), said, chosen=self.chosen)

    def parallel(self) -> str:
        """Choices and accuracy, with every run choosable at the end of its line."""
        shown = self.shown()
        figure = plots.parallel_coordinates(shown, theme=self.theme or plots.LIGHT, chosen=self.chosen)
        return clickable(
            figure, _sayings(shown), f"Choices and {self.measure.name}; each line is a run", chosen=self.chosen
        )

    def bars(self) -> str:
        """Every run against float."""
        shown = self.shown()
        return drawn(
            lambda theme: plots.leaderboard_bars(shown, theme=theme),
            f"{self.measure.name.capitalize()} of every run against float",
            self.theme,
        )

    def effects(self) -> str:
        """What each choice did on its own."""
        shown, said = self.shown(), f"{self.measure.name.capitalize()} of the runs by each choice on its own"
        return drawn(lambda theme: plots.marginal_effects(shown, theme=theme), said, self.theme)

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

    def samples(self) -> str:
        """Where the chosen run goes wrong, sample by sample."""
        if not self.chosen:
            return message_html("Choose a run.")
        try:
            run = self.runs.run(self.chosen)
        except VqkitError as e:
            return message_html(str(e), "error")
        if run.folder is None or _known(run.row["value"]) is None:
            return message_html(f"{run.name} has no samples to show: its files were not kept, or it has no result.")
        return f"<h4>{escape(run.name)}</h4>" + worst_html(run.folder, self.theme)

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
    span = (float(frame["ci_low"].min()), float(frame["ci_high"].max()))
    return [_row(run, span) for run in rows_of(frame)]


def _row(run: Mapping[str, Any], span: tuple[float, float] = (0, 0)) -> dict[str, Any]:
    row = {name: _known(run.get(name)) for name in ("rank", *_NUMBERS)}
    bounded = _known(run["ci_low"]) is not None
    ended = "" if row["rank"] is not None else str(run["status"]).lower()
    return {
        **row,
        "key": run["key"],
        "name": run["name"],
        "measure": Measure.of(run),
        "interval": Interval(run["ci_low"], run["ci_high"], span, Measure.of(run)) if bounded else "",
        "marks": " ".join(leaderboard.marks(run)) or ended,
        "class": "quiet" if row["rank"] is None else "",
        "directory": run["directory"],
    }


def _known(value: Any) -> float | None:
    return None if not isinstance(value, int | float) or math.isnan(value) else float(value)


def _sayings(frame: pd.DataFrame) -> dict[str, str]:
    """One line about each run, for the marks of a picture."""
    return {str(r["key"]): _saying(r) for r in _rows(frame)}


def _saying(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return f"{row['name']}: {row['marks']}"
    interval = f" ({row['interval']})" if row["interval"] else ""
    size = f", {tables.size(row['size_bytes'])}" if row["size_bytes"] is not None else ""
    return f"{row['name']}: {row['measure'].text(row['value'])}{interval}{size} {row['marks']}".strip()


def _details(run: Run, theme: plots.Theme | None) -> Iterator[str]:
    row = _row(run.row)
    yield f"<h4>{escape(run.name)} <code>{escape(run.key)}</code></h4>"
    if row["value"] is None:
        yield message_html(
            f"{str(run.row['status']).lower()}: {_reason(run.row) or 'no result'}",
            "error" if str(run.row["status"]) in LOST else "",
        )
    else:
        yield f"<p>{escape(_saying(row))}</p>"
    yield cells(("what", "value"), [*_facts(run, row)])
    if run.folder is None:
        yield message_html("Its files were not kept.")
        return
    yield from _changes(run)
    document = run.json("strategy.json")
    if document is not None:
        yield folded("Strategy, as JSON", f"<pre>{escape(json.dumps(document, indent=1))}</pre>")
    yield folded("Noise by layer", _noise(run, theme), unfolded=theme is None) if run.file(SQNR) else ""
    if run.traceback:
        yield folded("Traceback", f"<pre>{escape(run.traceback[-20_000:])}</pre>", unfolded=True)


def _noise(run: Run, theme: plots.Theme | None) -> str:
    """Signal-to-noise ratio by layer: where the next improvement is to be found."""
    import pandas as pd

    path = Path(run.folder or "", SQNR)
    try:
        rows = pd.DataFrame(sqnr_rows(read_json(path), path))
    except RecordError as e:
        return message_html(str(e), "error")
    said = f"Signal-to-noise ratio of each tensor of {run.name}"
    return drawn(lambda t: plots.sqnr_by_layer(rows, theme=t), said, theme)


def _reason(run: Mapping[str, Any]) -> str:
    """Why a run has no result; "" where its record does not say."""
    if not isinstance(run.get("error"), str):
        return ""
    cell = _known(run.get("error_cell"))
    where = "" if cell is None else f"\nin notebook cell {cell:.0f}"
    return f"{run['error_type']}: {run['error']}{where}"


def _facts(run: Run, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "status", str(run.row["status"])
    if row["size_bytes"] is not None:
        yield "size", f"{tables.size(row['size_bytes'])} (float {tables.size(run.row['float_size_bytes'])})"
    if row["bit_operations"] is not None:
        yield "bit-operations for one sample", f"{row['bit_operations'] / 1e6:,.2f} million"
    if run.row.get("coverage"):
        yield "quantized", str(run.row["coverage"]).removeprefix("quantized: ")
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
        k.removeprefix(OVERRIDE): v
        for k, v in run.row.items()
        if str(k).startswith(OVERRIDE) and v is not None and v == v
    }
    rows = [(k, json.dumps(v, default=str)) for k, v in overrides.items()]
    base = f"strategy {run.row['strategy']}"
    yield f"<p>What it changes in {escape(base)}:</p>" + (cells(("key", "value"), rows) if rows else "nothing")


def _two(found: Difference, theme: plots.Theme | None) -> Iterator[str]:
    yield found._repr_html_()
    names = (str(found.a["name"]), str(found.b["name"]))
    if len(found.sqnr):
        said = f"Noise by tensor of {names[1]} against {names[0]}"
        yield drawn(lambda t: plots.sqnr_difference(found.sqnr, names, theme=t), said, theme)
    yield "<p><b>Samples on which they differ</b></p>"
    yield differing_html(found.a["directory"], found.b["directory"], theme)


def conclude(runs_dir: str | Path, sweep: str) -> str:
    """What a finished sweep tells: the leaderboard as text, and where its page with pictures lies.

    Args:
        runs_dir: the folder of runs.
        sweep: the sweep's name; its page is written to `sweeps/<name>/report.html`.

    Returns:
        Text for a terminal.
    """
    page = write(runs_dir, Path(runs_dir) / "sweeps" / sweep / "report.html", sweep)
    return f"{leaderboard.render(runs_dir, sweep)}\n\nThe same with pictures: {page}"


def write(
    runs_dir: str | Path,
    path: str | Path,
    sweep: str | None = None,
    *,
    where: Mapping[str, Any] | None = None,
    limit: int = 1000,
) -> Path:
    """Write the report of a folder of runs.

    Args:
        runs_dir: the folder of runs.
        path: the HTML file to write; links to notebooks and strategies are relative to it.
        sweep: only this sweep.
        where: as in `compare.load_records`.
        limit: most rows of each table.

    Returns:
        `path`.

    Raises:
        RecordError: no such folder, sweep or column.
    """
    runs = RunSet(str(runs_dir), sweep or "", where or {})
    runs.reload()
    view = View(runs, theme=None, beside=Path(path).parent.resolve())
    title = runs.title if sweep else f"Runs in {Path(runs_dir).name}"
    write_bytes(path, document(title, *_parts(view, title, limit), sortable=True).encode())
    return Path(path)


def _parts(view: View, title: str, limit: int) -> Iterator[str]:
    frame = view.runs.frame
    advice = leaderboard.recommend(frame)
    view.chosen = "" if advice.row is None else str(advice.row["key"])
    yield f"<header><h1>{escape(title)}</h1><p class='soft'>{escape(leaderboard.counts(frame))}</p></header>"
    yield f"<section aria-label='Recommendation'><p class='advice'>{escape(advice.sentence)}</p></section>"
    for i, (heading, number) in enumerate(view.groups()):
        view.group = number
        members = frame[(frame["group"] == number) & frame["rank"].notna()]
        hidden = max(0, len(members) - limit)
        yield section(
            heading,
            _FILTER if not i else "",
            view.board(members.head(limit)),
            _soft(f"… and {hidden} more, further down the ranking, left out of this page.") if hidden else "",
            _soft(_scale(members.head(limit))),
            _soft(leaderboard.legend(frame)) if not i else "",
            view.pareto(),
            view.bars(),
            view.effects(),
            level=2,
        )
    if not view.groups():
        yield "<p>No run has finished yet.</p>"
    if view.chosen:
        yield section("Inside the recommended run", view.details(), level=2)
    notes = leaderboard.notes(frame)[: leaderboard.MOST_NOTES]
    yield section("Noted", listed([f"{name}: {note}" for name, note in notes]), level=2)
    yield section("Damaged files", listed([f"{run}: {problem}" for run, problem in damaged(frame)]), level=2)
    yield section("Without a result", view.lost(limit), level=2)
    yield (
        f"<footer class='soft'>Written by vqkit {_version.__version__}. {escape(_provenance(frame))} The records under "
        f"{escape(view.runs.where)} are the source of every number here.</footer>"
    )


_FILTER = "<input class='filter' type='search' placeholder='Show runs whose name contains …' aria-label='Filter runs'>"


def _soft(text: str) -> str:
    return f"<p class='soft'>{escape(text)}</p>" if text else ""


def _scale(frame: pd.DataFrame) -> str:
    low, high = frame["ci_low"].min(), frame["ci_high"].max()
    if not low < high:
        return ""
    measure = measure_of(frame)
    return f"The bars show the 95 % interval of {_of(measure)}, from {measure.text(low)} to {measure.text(high)}."


def _of(measure: Measure) -> str:
    return "the accuracy" if measure.name == "accuracy" else measure.name


def _provenance(frame: pd.DataFrame) -> str:
    codes = sorted({str(code) for code in frame["code"].dropna()})
    return f"Code: {', '.join(codes[:4])}{' …' if len(codes) > 4 else ''}." if codes else ""
