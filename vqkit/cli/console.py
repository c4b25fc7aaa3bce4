"""What a sweep says while it runs: the table of variants, one line per outcome, a bar with the time left."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from vqkit import tables
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.sweeps.resolve import Planned
from vqkit.tables import Measure

MARKS = {Status.FINISHED: "done  ", Status.FAILED: "FAILED", Status.KILLED: "KILLED"}


def step_table(steps: Sequence[Planned]) -> str:
    """Every variant with its key, what it changes, and whether it will run.

    Args:
        steps: from `runner.steps`.

    Returns:
        Lines of text.
    """
    rows = [
        [str(i), s.variant.name, s.variant.key, "run" if s.runs else "skip", s.reason]
        for i, s in enumerate(steps, start=1)
    ]
    return tables.text_table(["#", "variant", "key", "", "why"], rows, left=(1, 2, 3, 4), widest=60)


def forecast(steps: Sequence[Planned], jobs: int) -> str:
    """How many variants run and how long it may take, going by those that have finished.

    Args:
        steps: from `runner.steps`.
        jobs: variants at once.

    Returns:
        One line.
    """
    to_run = sum(s.runs for s in steps)
    seconds = [s.record.metrics.get("seconds_total") for s in steps if s.record is not None]
    known = [s for s in seconds if s]
    counts = f"{len(steps)} variants: {to_run} to run, {len(steps) - to_run} to skip"
    if not known or not to_run:
        return counts
    return f"{counts}; about {_minutes(median(known) * to_run / jobs)} with -j {jobs}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def outcome_line(record: RunRecord, runs: Store) -> str:
    """One variant's outcome in one line, and one for each note; a failure says where its notebook is."""
    head = f"{MARKS.get(record.status, record.status)}  {record.name}"
    if record.status is Status.FINISHED:
        measure = record.measure
        value, delta = (record.metrics.get(name) for name in (measure.name, f"{measure.name}_delta"))
        told = "" if value is None or delta is None else f"  {_value(measure, value)} ({measure.difference(delta)})"
        notes = "".join(f"\n        {note}" for note in (record.coverage, *record.notes) if note)
        return f"{head}{told}  {record.metrics.get('seconds_total', 0):.1f} s{notes}"
    error = record.error or {}
    where = f" in cell {error['cell']}" if error.get("cell") is not None else ""
    message = " ".join(str(error.get("message", "")).split())
    return f"{head}: {error.get('type')}{where}: {message}\n        {runs.variant_dir(record.key)}"


BAD = 0.01
"""Share of the float model's value that a run may lose before it is told what to do."""


def what_to_do(record: RunRecord | None, runs: Path) -> str:
    """What to do about a bad run, in one line with the command; "" where it is none.

    Args:
        record: of the run.
        runs: folder of the runs, as the user named it.
    """
    if record is None or record.status is not Status.FINISHED:
        return ""
    measure, found = record.measure, record.metrics
    value, float_value = (found.get(name, math.nan) for name in (measure.name, f"float_{measure.name}"))
    low, high = (found.get(f"{measure.name}_{end}", value) for end in ("low", "high"))
    lost = measure.drop(value, float_value)
    # More than chance: the float model's value lies outside the run's interval.
    if not (lost > BAD * abs(float_value) and not low <= float_value <= high):
        return ""
    where = "" if str(runs) == "runs" else f" --runs {shlex.quote(str(runs))}"
    return (
        f"{measure.distance(lost)} worse than float. vqkit diagnose {record.key}{where} finds why, and what repairs it"
    )


def _value(measure: Measure, value: float) -> str:
    return f"{value:.4f}" if measure == Measure() else f"{measure.name} {measure.text(value)}"


class Progress:
    """A bar over the variants that run, with the time left; lines appear above it.

    Args:
        name: of the sweep.
        runs: for the paths of failures.
    """

    def __init__(self, name: str, runs: Store) -> None:
        self._name, self._runs = name, runs
        self._best: RunRecord | None = None
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, told: str, variants: int) -> None:
        """Announce a round of so many variants; its accuracies are measured on the same images."""
        from tqdm import tqdm

        self.__exit__()
        if told:
            self.say(told)
        self._best = None
        self._bar = tqdm(total=variants, desc=self._name, unit="variant", disable=None if variants else True)
        self._bar.refresh()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        from tqdm import tqdm

        tqdm.write(line)

    def show(self, record: RunRecord) -> None:
        """Tell one outcome and move the bar."""
        self.say(outcome_line(record, self._runs))
        mine, best = record.goodness, None if self._best is None else self._best.goodness
        if mine is not None and (best is None or mine[0] > best[0]):
            self._best = record
            value = _value(record.measure, record.metrics[record.measure.name])
            self._bar.set_postfix_str(f"best {value}", refresh=False)
        self._bar.update()
