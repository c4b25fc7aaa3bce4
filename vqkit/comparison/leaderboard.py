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
from vqkit.errors import RecordError, not_allowed
from vqkit.runs.records import (
    Flips,
    correct,
    counted,
    damage_lines,
    flips,
    load_records,
    rows_of,
    select,
    sentence,
    to_frame,
)
from vqkit.runs.store import Status, Store

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

ALPHA = 1 - statistics.CONFIDENCE


def best_of(members: pd.DataFrame) -> Any:
    """Label of the most accurate run; of equally accurate ones the smallest.

    Args:
        members: comparable runs.
    """
    order = members.sort_values(["accuracy", "size_bytes", "name"], ascending=[False, True, True])
    return order.index[0]


def verdicts_on(members: pd.DataFrame, best: Any) -> list[tuple[bool, str]]:
    """Whether chance could explain that a run came behind the best, and by which test that was decided.

    Predictions are read only of runs for which they can make a difference.

    Args:
        members: comparable runs, with `ci_low` and `ci_high`.
        best: from `best_of`.

    Returns:
        In the order of the runs: tied, and "McNemar", "interval", or "" for the best itself.
    """
    first = {str(k): v for k, v in members.loc[best].items()}
    apart = _apart_from(first)
    answers = None
    result = []
    for label, run in zip(members.index, rows_of(members), strict=True):
        if label == best:
            result.append((True, ""))
            continue
        overlap = not run["ci_high"] < first["ci_low"]
        if not overlap and first["accuracy"] - run["accuracy"] >= apart:
            result.append((False, "interval"))
            continue
        answers = correct(first["directory"]) if answers is None else answers
        flips: Flips | None = counted(answers, correct(run["directory"]))
        if flips is None:
            result.append((overlap, "interval"))
        else:
            result.append((flips.p_value > ALPHA, "McNemar"))
    return result


def _apart_from(best: Mapping[str, Any]) -> float:
    """How much less accurate a run must be for no paired test to call it level, however the answers lie.

    The test is least sure where the two disagree most: where the other run is right on all samples that the
    best one has wrong.
    """
    n = best["n_eval"]
    if n != n or not n:
        return 0.0
    wrong = round((1 - best["accuracy"]) * n)
    low, high = 0, int(n) + 1
    while low < high:
        middle = (low + high) // 2
        if statistics.mcnemar(wrong + middle, wrong) <= ALPHA:
            high = middle
        else:
            low = middle + 1
    # One more, because accuracies are rounded.
    return (low + 1) / n


# Column -> whether small values come first.
_ASCENDING = {
    "accuracy": False,
    "accuracy_delta": False,
    "size_bytes": True,
    "sqnr_output_db": False,
    "sqnr_min_db": False,
    "seconds_total": True,
    "name": True,
}
_GROUP = ("model_digest", "data_digest", "n_eval", "calibration")
# What was measured on a part of the evaluation images comes behind what was measured on all of them.
_PART = "eval_images"


def sort_keys() -> tuple[str, ...]:
    """Columns a leaderboard can be sorted by."""
    return tuple(_ASCENDING)


def leaderboard(frame: pd.DataFrame, sort: str = "accuracy") -> pd.DataFrame:
    """Add to each run its place among comparable runs.

    Args:
        frame: runs as from `load_records`.
        sort: a column of `sort_keys`; the order inside each group.

    Returns:
        The frame, group by group, unfinished runs last, with the columns
        group (int), rank (1 for the first in its group, NaN for unfinished runs), ci_low, ci_high
        (Wilson bounds of accuracy), best (bool), tied (bool, cannot be told from the best, which is tied
        itself), test ("McNemar" or "interval", by which that was decided), pareto (bool, accuracy against
        size).

    Raises:
        RecordError: no such column to sort by.
    """
    if sort not in _ASCENDING:
        raise RecordError(not_allowed("sort", sort, sort_keys(), what="column"))
    table = frame.copy().reset_index(drop=True)
    low, high = statistics.wilson(table["accuracy"], table["n_eval"])
    table["ci_low"], table["ci_high"] = low, high
    ranked = (table["status"] == "FINISHED") & table["accuracy"].notna()
    table["group"] = _groups(table)
    table = table.assign(rank=np.nan, best=False, tied=False, test="", pareto=False)
    for _, members in table[ranked].groupby("group", sort=True):
        _rank(table, members.sort_values(sort, ascending=_ASCENDING[sort], kind="stable"))
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
    index = members.index
    table.loc[index, "rank"] = np.arange(1, len(index) + 1, dtype=float)
    table.loc[index, "pareto"] = statistics.pareto(members["size_bytes"], members["accuracy"])
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
    """Choose the smallest run that cannot be told from the most accurate one.

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
    best = group[group["best"]].iloc[0]
    tied = group[group["tied"]].sort_values(["size_bytes", "accuracy", "name"], ascending=[True, False, True])
    chosen = tied.iloc[0]
    others = len(finished) - len(group)
    parts = [_praise(chosen), _versus(chosen, best, len(tied)), _scope(group, others)]
    return Recommendation(chosen, " ".join(p for p in parts if p))


def _praise(run: pd.Series) -> str:
    interval = f" (95 % interval {tables.percent(run['ci_low'])} to {tables.percent(run['ci_high'])})"
    accuracy = f"{tables.percent(run['accuracy'])} %{interval if run['ci_low'] == run['ci_low'] else ''}"
    ratio = run["float_size_bytes"] / run["size_bytes"] if run["size_bytes"] else float("nan")
    smaller = f", {ratio:.1f} times smaller than float" if ratio == ratio else ""
    delta = _against_float(run["accuracy_delta"])
    return f"Use {run['name']}: accuracy {accuracy}{delta}, {tables.size(run['size_bytes'])}{smaller}."


def _against_float(delta: float) -> str:
    if not _known(delta):
        return ""
    return f", {abs(100 * delta):.2f} points {'below' if delta < 0 else 'above'} float"


def _versus(chosen: pd.Series, best: pd.Series, tied: int) -> str:
    if tied == 1:
        return "It is the most accurate, and no other run is statistically level with it."
    if chosen.name == best.name:
        return f"It is the most accurate, and the smallest of the {tied} runs that are statistically level."
    how = "paired McNemar test" if chosen["test"] == "McNemar" else "overlapping intervals"
    return (
        f"The most accurate, {best['name']}, scores {tables.percent(best['accuracy'])} % at "
        f"{tables.size(best['size_bytes'])}; that is no difference one can rely on ({how}, "
        f"{best['n_eval']:.0f} samples), and this is the smallest of the {tied} that are level."
    )


def _scope(group: pd.DataFrame, others: int) -> str:
    source = f"Ranked among the {len(group)} runs with calibration {group['calibration'].iloc[0]!r}"
    return f"{source}; {others} more differ in model, data or calibration and are apart." if others else ""


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
    first = run_a or str(group[group["best"]][by].iloc[0])
    recommended, _ = recommend(frame)
    others = [recommended[by], *group[by][::-1]]
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
        parts += ["", _wrapped(LEGEND), "", _wrapped(recommend(self.frame).sentence)]
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
        sentences = [LEGEND, recommend(self.frame).sentence, *rest]
        return "".join(parts + [f"<p>{html.escape(s)}</p>" for s in sentences if s])

    def groups(self) -> Iterator[tuple[str, tuple[str, ...], list[list[str]], int]]:
        """Heading, column titles, cells and number of rows left out, for each group of comparable runs."""
        finished = self.frame[self.frame["rank"].notna()]
        for _, members in finished.groupby("group", sort=True):
            shown = members if self.limit is None else members.head(self.limit)
            cells = [_cells(run) for run in rows_of(shown)]
            yield heading(members), HEADER, cells, len(members) - len(shown)


MOST_NOTES = 20
"""Notes of runs that are shown below a leaderboard; their records hold all."""

HEADER = ("#", "run", "accuracy % (95 %)", "Δ float", "size", "min SQNR", "out SQNR", "time", "")
LEGEND = (
    "best: most accurate; level: not distinguishable from the best (McNemar on the same samples where both "
    "runs kept their predictions, else overlapping Wilson intervals); pareto: nothing is smaller and as "
    "accurate. Δ in points, SQNR in dB."
)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100)


def _cells(run: Mapping[str, Any]) -> list[str]:
    interval = f" ({tables.percent(run['ci_low'])}–{tables.percent(run['ci_high'])})"
    return [
        f"{run['rank']:.0f}",
        str(run["name"]),
        tables.percent(run["accuracy"]) + (interval if _known(run["ci_low"]) else ""),
        tables.signed_points(run["accuracy_delta"]),
        tables.size(run["size_bytes"]),
        tables.number(run["sqnr_min_db"]),
        tables.number(run["sqnr_output_db"]),
        tables.duration(run["seconds_total"]),
        " ".join(marks(run)),
    ]


def marks(run: Mapping[str, Any]) -> list[str]:
    """The words of the legend that a row of a leaderboard deserves."""
    level = "best" if run["best"] else "level" if run["tied"] else ""
    return [mark for mark in (level, "pareto" if run["pareto"] else "") if mark]


def heading(members: pd.DataFrame) -> str:
    """What the runs of one group have in common."""
    first = members.iloc[0]
    part = "a random choice of " if first[_PART] is not None else ""
    samples = f", {part}{first['n_eval']:.0f} samples" if _known(first["n_eval"]) else ""
    float_accuracy = f", float {tables.percent(first['float_accuracy'])} %" if _known(first["float_accuracy"]) else ""
    codes = members["code"].nunique()
    mixed = f"; from {codes} versions of the code" if codes > 1 else ""
    what = f"{first['model']} on {first['data']}{samples}{float_accuracy}"
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
    sort: str = "accuracy",
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
