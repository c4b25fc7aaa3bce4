"""Runs side by side: a leaderboard that knows what it cannot tell apart, and a recommendation.

Ranks are given among runs that measured the same thing: same model, same data, same calibration source.
Runs that calibrated on the float graph and runs that calibrated on the quantized one are shown in tables of
their own, never mixed into one order.
"""

from __future__ import annotations

import html
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit import statistics, tables
from vqkit.comparison.difference import Difference, difference
from vqkit.comparison.ranking import best_of, verdicts_on
from vqkit.errors import RecordError, not_allowed
from vqkit.runs.records import (
    Flips,
    damage_lines,
    flips,
    load_records,
    measure_of,
    rows_of,
    select,
    sentence,
    to_frame,
    with_values,
)
from vqkit.runs.store import Status, Store
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Difference",
    "Flips",
    "Leaderboard",
    "difference",
    "flips",
    "leaderboard",
    "load_records",
    "pair",
    "recommend",
    "render",
    "select",
    "sort_keys",
    "to_frame",
]

# Column -> whether small values come first.
_ASCENDING = {
    "value": False,
    "accuracy": False,
    "accuracy_delta": False,
    "size_bytes": True,
    "sqnr_output_db": False,
    "sqnr_min_db": False,
    "seconds_total": True,
    "name": True,
}
_GROUP = ("model_digest", "data_digest", "n_eval", "metric", "calibration")
# What was measured on a part of the evaluation images comes behind what was measured on all of them.
_PART = "eval_images"


def sort_keys() -> tuple[str, ...]:
    """Columns a leaderboard can be sorted by."""
    return tuple(_ASCENDING)


def leaderboard(frame: pd.DataFrame, sort: str = "value") -> pd.DataFrame:
    """Add to each run its place among comparable runs.

    Args:
        frame: runs as from `load_records`.
        sort: a column of `sort_keys`; the order inside each group.

    Returns:
        The frame, group by group, unfinished runs last, with the columns
        group (int), rank (1 for the first in its group, NaN for unfinished runs), ci_low, ci_high
        (95 % interval of the metric: Wilson's of accuracy, else the run's own), best (bool), tied (bool, cannot be
        told from the best, which is tied itself), test ("McNemar", "permutation" or "interval", by which that was
        decided), pareto (bool, the metric against size). Runs outside a sweep's constraints (`outside`, words) are
        ranked, and none of these three.

    Raises:
        RecordError: no such column to sort by.
    """
    if sort not in _ASCENDING:
        raise RecordError(not_allowed("sort", sort, sort_keys(), what="column"))
    table = with_values(frame).reset_index(drop=True)
    share = table["metric"] == "accuracy"
    low, high = statistics.wilson(table["value"].where(share), table["n_eval"])
    table["ci_low"], table["ci_high"] = (
        np.where(share, low, table["value_low"]),
        np.where(share, high, table["value_high"]),
    )
    ranked = (table["status"] == "FINISHED") & table["value"].notna() & (table["better"] != "")
    table["group"] = _groups(table)
    table = table.assign(rank=np.nan, best=False, tied=False, test="", pareto=False)
    table["outside"] = table["outside"].fillna("") if "outside" in table.columns else ""
    for _, members in table[ranked].groupby("group", sort=True):
        by = "value" if sort in ("value", "accuracy") else sort
        ascending = measure_of(members).sign < 0 if by == "value" else _ASCENDING[sort]
        _rank(table, members.sort_values(by, ascending=ascending, kind="stable"))
    return table.sort_values(["group", "rank"], kind="stable", na_position="last").reset_index(drop=True)


def _groups(table: pd.DataFrame) -> np.ndarray:
    """Number the groups of comparable runs: all images and final calibration first, then the largest."""
    keys = [tuple(map(str, values)) for values in table[[_PART, *_GROUP]].itertuples(index=False)]
    counts: dict[tuple[str, ...], int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    order = sorted(counts, key=lambda k: (k[0] != "None", k[-1] != "quantized", -counts[k], k))
    number = {key: i for i, key in enumerate(order)}
    return np.array([number[key] for key in keys], dtype=int)


def _rank(table: pd.DataFrame, members: pd.DataFrame) -> None:
    """Fill in the places of one group, whose rows come in the wanted order."""
    table.loc[members.index, "rank"] = np.arange(1, len(members) + 1, dtype=float)
    members = members[members["outside"] == ""]
    index = members.index
    if members.empty:
        return
    goodness = measure_of(members).sign * members["value"]
    table.loc[index, "pareto"] = statistics.pareto(members["size_bytes"], goodness)
    best = best_of(members)
    table.loc[best, "best"] = True
    verdicts = verdicts_on(members, best)
    table.loc[index, "tied"] = [tied for tied, _ in verdicts]
    table.loc[index, "test"] = [test for _, test in verdicts]


@dataclass(frozen=True)
class Recommendation:
    """A run and why it.

    Attributes:
        row: the run's row of the leaderboard.
        sentence: the reason, for a person.
    """

    row: pd.Series | None
    sentence: str

    def __iter__(self) -> Iterator[Any]:
        return iter((self.row, self.sentence))


def recommend(frame: pd.DataFrame) -> Recommendation:
    """Choose the smallest run that cannot be told from the best one.

    Args:
        frame: a leaderboard, or runs as from `load_records`.

    Returns:
        Row and sentence (it unpacks into both); the row is None when nothing has finished. Of several
        groups of comparable runs the first decides, and the sentence says so.
    """
    table = frame if "tied" in frame.columns else leaderboard(frame)
    finished = table[table["rank"].notna()]
    if finished.empty:
        return Recommendation(None, "No run has finished, so there is nothing to recommend.")
    group = finished[finished["group"] == finished["group"].iloc[0]]
    if not group["best"].any():
        first = group.iloc[0]
        return Recommendation(None, f"No run is inside the constraints; {first['name']}: {first['outside']}.")
    best = group[group["best"]].iloc[0]
    up = measure_of(group).sign < 0
    tied = group[group["tied"]].sort_values(["size_bytes", "value", "name"], ascending=[True, up, True])
    chosen = tied.iloc[0]
    others = len(finished) - len(group)
    parts = [_praise(chosen), _versus(chosen, best, len(tied)), _excluded(group), _scope(group, others)]
    return Recommendation(chosen, " ".join(p for p in parts if p))


def _praise(run: pd.Series) -> str:
    measure = Measure.of(dict(run))
    interval = f" (95 % interval {measure.plain(run['ci_low'])} to {measure.plain(run['ci_high'])})"
    value = f"{measure.text(run['value'])}{interval if run['ci_low'] == run['ci_low'] else ''}"
    ratio = run["float_size_bytes"] / run["size_bytes"] if run["size_bytes"] else float("nan")
    smaller = f", {ratio:.1f} times smaller than float" if ratio == ratio else ""
    delta = _against_float(measure, run["value_delta"])
    return f"Use {run['name']}: {measure.name} {value}{delta}, {tables.size(run['size_bytes'])}{smaller}."


def _against_float(measure: Measure, delta: float) -> str:
    if not _known(delta):
        return ""
    return f", {measure.distance(delta)} {'below' if delta < 0 else 'above'} float"


def _versus(chosen: pd.Series, best: pd.Series, tied: int) -> str:
    measure = Measure.of(dict(chosen))
    if tied == 1:
        return f"It is the {measure.best}, and no other run is statistically level with it."
    if chosen.name == best.name:
        return f"It is the {measure.best}, and the smallest of the {tied} runs that are statistically level."
    tests = {"McNemar": "paired McNemar test", "permutation": "paired permutation test"}
    how = tests.get(str(chosen["test"]), "overlapping intervals")
    return (
        f"The {measure.best}, {best['name']}, scores {measure.text(best['value'])} at "
        f"{tables.size(best['size_bytes'])}; that is no difference one can rely on ({how}, "
        f"{best['n_eval']:.0f} samples), and this is the smallest of the {tied} that are level."
    )


def _scope(group: pd.DataFrame, others: int) -> str:
    source = f"Ranked among the {len(group)} runs with calibration {group['calibration'].iloc[0]!r}"
    return f"{source}; {others} more differ in model, data or calibration and are apart." if others else ""


def _excluded(group: pd.DataFrame) -> str:
    n = int((group["outside"] != "").sum())
    return f"{n} of the {len(group)} runs are outside the constraints." if n else ""


def _known(value: float) -> bool:
    return bool(value == value)


def pair(frame: pd.DataFrame, run_a: str = "", run_b: str = "", *, by: str = "directory") -> tuple[str, str]:
    """The two runs worth putting side by side, for `difference`.

    Args:
        frame: a leaderboard.
        run_a: key, start of a key, name or folder; empty for the most accurate run.
        run_b: likewise; empty for the recommended run, or the last one where that is the first run itself.
        by: the column that names a run in the result, "directory" or "key".

    Returns:
        What was given, or values of that column.

    Raises:
        RecordError: fewer than two runs have finished, and not both were given.
    """
    if run_a and run_b:
        return run_a, run_b
    finished = frame[frame["rank"].notna()]
    group = finished[finished["group"] == finished["group"].min()].sort_values("rank")
    if len(group) < 2:
        raise RecordError(f"a comparison needs two finished runs; there are {len(group)}")
    first = run_a or str((group[group["best"]] if group["best"].any() else group)[by].iloc[0])
    recommended, _ = recommend(frame)
    others = [*([] if recommended is None else [recommended[by]]), *group[by][::-1]]
    return first, run_b or str(next(other for other in others if str(other) != first))


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard that can be printed, and shows itself in a notebook.

    Attributes:
        frame: result of `leaderboard`.
        title: what was compared.
        limit: most rows shown of each group.
    """

    frame: pd.DataFrame
    title: str = "Runs"
    limit: int | None = None

    def __str__(self) -> str:
        width = tables.terminal_width()
        parts = [f"{self.title}: {counts(self.frame)}"]
        for heading, header, rows, hidden in self.groups():
            parts += ["", heading, tables.text_table(header, rows, left=(1, len(header) - 1), width=width)]
            parts += [f"… and {hidden} more"] if hidden else []
        parts += ["", _wrapped(legend(self.frame)), "", _wrapped(recommend(self.frame).sentence)]
        rest = (*_told(self.frame), *_failures(self.frame), *damage_lines(self.frame))
        return "\n".join([*parts, *rest])

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(self.title)}</b>: {counts(self.frame)}</p>"]
        for heading, header, rows, hidden in self.groups():
            more = f"<p>… and {hidden} more</p>" if hidden else ""
            parts += [
                f"<p>{html.escape(heading)}</p>",
                tables.html_table(header, rows, left=(1, len(header) - 1)),
                more,
            ]
        rest = (*_told(self.frame), *_failures(self.frame), *damage_lines(self.frame))
        sentences = [legend(self.frame), recommend(self.frame).sentence, *rest]
        return "".join(parts + [f"<p>{html.escape(s)}</p>" for s in sentences if s])

    def groups(self) -> Iterator[tuple[str, tuple[str, ...], list[list[str]], int]]:
        """Heading, column titles, cells and number of rows left out, for each group of comparable runs."""
        finished = self.frame[self.frame["rank"].notna()]
        for _, members in finished.groupby("group", sort=True):
            shown = members if self.limit is None else members.head(self.limit)
            cells = [_cells(run) for run in rows_of(shown)]
            yield heading(members), header_of(measure_of(members)), cells, len(members) - len(shown)


MOST_NOTES = 20
"""Notes of runs that are shown below a leaderboard; their records hold all."""

HEADER = ("#", "run", "accuracy % (95 %)", "Δ float", "size", "min SQNR", "out SQNR", "time", "")
LEGEND = (
    "best: most accurate; level: not distinguishable from the best (McNemar on the same samples where both "
    "runs kept their predictions, else overlapping Wilson intervals); pareto: nothing is smaller and as "
    "accurate. Δ in points, SQNR in dB."
)
OTHER_LEGEND = (
    "best: best by the metric; level: not distinguishable from the best (permutation test on the same samples where "
    "both runs kept what each adds to the metric, else overlapping intervals); pareto: nothing is smaller and as good. "
    "SQNR in dB."
)


def header_of(measure: Measure) -> tuple[str, ...]:
    """Titles of a leaderboard's columns."""
    return (*HEADER[:2], f"{measure.label} (95 %)", *HEADER[3:])


def legend(frame: pd.DataFrame) -> str:
    """What the words of a leaderboard mean."""
    told = LEGEND if measure_of(frame) == Measure() else OTHER_LEGEND
    return f"{told} outside: it breaks a constraint of the sweep." if (frame["outside"] != "").any() else told


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100)


def _cells(run: Mapping[str, Any]) -> list[str]:
    measure = Measure.of(run)
    interval = f" ({measure.plain(run['ci_low'])}–{measure.plain(run['ci_high'])})"
    return [
        f"{run['rank']:.0f}",
        str(run["name"]),
        measure.plain(run["value"]) + (interval if _known(run["ci_low"]) else ""),
        measure.signed(run["value_delta"]),
        tables.size(run["size_bytes"]),
        tables.number(run["sqnr_min_db"]),
        tables.number(run["sqnr_output_db"]),
        tables.duration(run["seconds_total"]),
        " ".join(marks(run)),
    ]


def marks(run: Mapping[str, Any]) -> list[str]:
    """The words of the legend that a row of a leaderboard deserves."""
    level = "best" if run["best"] else "level" if run["tied"] else "outside" if run["outside"] else ""
    return [mark for mark in (level, "pareto" if run["pareto"] else "") if mark]


def heading(members: pd.DataFrame) -> str:
    """What the runs of one group have in common."""
    first = members.iloc[0]
    part = "a random choice of " if first[_PART] is not None else ""
    samples = f", {part}{first['n_eval']:.0f} samples" if _known(first["n_eval"]) else ""
    measure = Measure.of(dict(first))
    reference = f", float {measure.text(first['float_value'])}" if _known(first["float_value"]) else ""
    judged = "" if measure == Measure() else f"; by {measure.name}, {measure.better} is better"
    codes = members["code"].nunique()
    mixed = f"; from {codes} versions of the code" if codes > 1 else ""
    what = f"{first['model']} on {first['data']}{samples}{reference}{judged}"
    return f"{what}; calibration {first['calibration']}{mixed}"


def counts(frame: pd.DataFrame) -> str:
    """How many runs stand where, in words."""
    found = Counter(frame["status"])
    text = ", ".join(f"{n} {str(status).lower()}" for status, n in found.most_common())
    return text or "none"


def notes(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(run, note) of every finished run that has notes, such as tensors outside the range chosen for them.

    Args:
        frame: from `load_records` or `leaderboard`.
    """
    found = ((str(run["name"]), run.get("notes")) for run in rows_of(frame))
    return [(name, note) for name, told in found if isinstance(told, tuple) for note in told]


def _told(frame: pd.DataFrame) -> list[str]:
    """The first notes, for people."""
    found = notes(frame)
    lines = [f"  {name}: {note}" for name, note in found[:MOST_NOTES]]
    more = [f"  … and {len(found) - MOST_NOTES} more, in the runs' records"] if found[MOST_NOTES:] else []
    return ["", "Noted:", *lines, *more] if found else []


def _failures(frame: pd.DataFrame) -> list[str]:
    """One line for each run that has no result, with the reason."""
    rest, pending = without_result(frame)
    lines = [f"  {Status.PENDING:8} {pending} variant(s) of the sweep have not run yet"] if pending else []
    lines += [f"  {run['status']:8} {run['name']} [{run['key']}]{_reason(run)}" for run in rows_of(rest)]
    return ["", "Without a result:", *lines] if lines else []


def without_result(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Rows that ended without an accuracy or have not ended, and the number of those that never started."""
    rest = frame[frame["rank"].isna()]
    waiting = rest["status"] == Status.PENDING
    return rest[~waiting], int(waiting.sum())


def _reason(run: Mapping[str, Any]) -> str:
    if not isinstance(run["error"], str):
        return ""
    cell = f" (cell {run['error_cell']:.0f})" if isinstance(run["error_cell"], int | float) else ""
    said = " ".join(run["error"].split())
    return f": {run['error_type']}: {said if run['status'] == Status.BROKEN else tables.elide(said, 160)}{cell}"


def render(
    runs_dir: str | Path,
    sweep: str | None = None,
    *,
    sort: str = "value",
    where: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> str:
    """The leaderboard of a folder of runs as plain text, for the command line.

    Args:
        runs_dir: the folder of runs.
        sweep: only this sweep.
        sort: a column of `sort_keys`.
        where: as in `load_records`.
        limit: most rows of each group.

    Raises:
        RecordError: no such folder, sweep or column.
    """
    frame = leaderboard(load_records(runs_dir, sweep, where), sort)
    board = str(Leaderboard(frame, f"Sweep {sweep}" if sweep else f"Runs in {runs_dir}", limit))
    store = Store(Path(runs_dir))
    screened = sentence(store.sweep(sweep)) if sweep in store.sweeps() else ""
    return f"{board}\n\n{_wrapped(screened)}" if screened else board
