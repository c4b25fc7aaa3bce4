"""Where a sweep stands, read from its records, whichever process runs it."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from vqkit import files
from vqkit.experiment import tables
from vqkit.experiment.records import PENDING, Record, of_sweep, read_sweep

_ENDED = ("FINISHED", "FAILED", "KILLED", "BROKEN")


@dataclass(frozen=True)
class Standing:
    """A sweep at one moment.

    Attributes:
        name: of the sweep.
        records: of its variants, in its order; PENDING where a variant has not started.
        pid: of the process that runs it; None when none on this machine does.
    """

    name: str
    records: tuple[Record, ...]
    pid: int | None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many variants stand where."""
        return Counter(str(r["status"]) for r in self.records)

    @property
    def ended(self) -> int:
        """Variants that have an outcome."""
        return sum(self.counts.get(status, 0) for status in _ENDED)

    @property
    def best(self) -> Record | None:
        """The most accurate finished variant, of equals the smallest; None before one has finished."""
        done = [r for r in self.records if r["status"] == "FINISHED" and "accuracy" in r["metrics"]]
        return max(
            done, default=None, key=lambda r: (r["metrics"]["accuracy"], -r["metrics"].get("size_bytes", 0))
        )

    @property
    def running(self) -> tuple[Record, ...]:
        """Variants that are at work; none when no process runs the sweep, whatever a record says."""
        return tuple(r for r in self.records if r["status"] == "RUNNING") if self.pid is not None else ()

    @property
    def lost(self) -> tuple[Record, ...]:
        """Variants that ended without a result."""
        return tuple(r for r in self.records if r["status"] in _ENDED[1:])

    @property
    def seconds_left(self) -> float | None:
        """Guess of the time to the end, from the variants that finished; None before one has."""
        known = [s for r in self.records if (s := (r.get("metrics") or {}).get("seconds_total"))]
        if not known or self.pid is None:
            return None
        rest = len(self.records) - self.ended
        return median(known) * rest / max(1, len(self.running))

    def __str__(self) -> str:
        return f"{self.name}: {self.line()}"

    def line(self) -> str:
        """The standing in a line."""
        counts = self.counts
        names = ("FINISHED", "FAILED", "KILLED", "BROKEN", "RUNNING", PENDING)
        said = ", ".join(f"{counts[n]} {n.lower()}" for n in names if counts.get(n))
        left = self.seconds_left
        about = f"; about {tables.duration(left)} left" if left else ""
        state = f"running in process {self.pid}" if self.pid is not None else "not running"
        return f"{self.ended} of {len(self.records)} variants have ended ({said}); {state}{about}"


def standing(runs_dir: str | Path, name: str) -> Standing:
    """Read where a sweep stands.

    Args:
        runs_dir: the folder of runs.
        name: of the sweep.

    Raises:
        RecordError: no such sweep.
    """
    records = of_sweep(runs_dir, name)
    if read_sweep(runs_dir, name) is None:
        return Standing(name, tuple(records), None)
    return Standing(name, tuple(records), runner(Path(runs_dir, "sweeps", name)))


def runner(folder: Path) -> int | None:
    """The process of this machine that holds a sweep's folder, None when there is none.

    Args:
        folder: `runs/sweeps/<name>`.
    """
    said = files.holder(folder)
    if said is None or said[1] != socket.gethostname() or not files.process_alive(said[0]):
        return None
    # A process that was killed leaves its number behind, and another may have it by now.
    return said[0] if files.locked(folder) else None


def seconds_since(stamp: str) -> float:
    """Seconds from a record's time until now; none where the clock was set back meanwhile."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())


def error_of(record: Record) -> str:
    """Why a variant has no result, in a line."""
    error: Any = record.get("error") or {}
    where = f" in cell {error['cell']}" if error.get("cell") is not None else ""
    return f"{error.get('type', record['status'])}{where}: {error.get('message', '')}"
