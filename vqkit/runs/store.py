"""The runs folder: `RunRecord`, one variant's run, and `Store`, where records, sweeps and the cache lie.

This is the only reader of `record.json` and `sweep.json`. Whoever lists runs gets a record for each of them: one that
cannot be read comes as BROKEN with what is wrong, one that a sweep lists and that has not begun as PENDING.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from vqkit import digest
from vqkit.errors import RecordError, not_allowed
from vqkit.files import read_json, write_json
from vqkit.tables import Measure

SCHEMA = 1
RECORD = "record.json"
RESULT = "result.json"
# `Path` makes one slash of the two.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")


class Status(StrEnum):
    """Where a run stands; a finished or failed run never changes unless it is run again."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    # These two stand in no file.
    BROKEN = "BROKEN"
    """The record cannot be read; its `error` says why."""
    PENDING = "PENDING"
    """A sweep lists the variant, and it has not begun."""


LOST = (Status.FAILED, Status.KILLED, Status.BROKEN)
"""How a run ends that has no result."""
_NEVER_WRITTEN = (Status.BROKEN, Status.PENDING)


@dataclass(frozen=True)
class RunRecord:
    """One variant's run: the truth that mlflow and every table are made from.

    Attributes:
        key: digest of `inputs`; also the folder's name.
        name: strategy and overrides, for people.
        status: where the run stands.
        inputs: everything that decides the result, with digests (see `variant.Variant.inputs`).
        sweep: name of the sweep that ran it; None for a single run.
        started, ended: ISO 8601 in UTC.
        pid: the process that drives the notebook.
        attempt: random token of this attempt; a result of another attempt is not taken.
        metrics: numbers by name; empty until finished.
        error: type, message and cell of the failure; of a BROKEN record what is wrong with the file.
        artifacts: name -> path relative to the run folder.
        environment: versions, threads and git state.
        notes: what a person should know of the result, such as tensors outside the range chosen for them.
        judged: the metrics, the deciding one first: name, better and unit of each; empty where it is accuracy.
        coverage: a line that says how much is quantized, and why the rest is not; "" in records of before.
        directory: the run's folder, None where it is not at hand. This and what follows stand in no file.
        run_id: what an mlflow store calls the run; "" where it was not read from one.
        written: the content of the file that it was read from; empty where it was made otherwise.
    """

    key: str
    name: str
    status: Status
    inputs: dict[str, Any]
    sweep: str | None = None
    started: str = ""
    ended: str | None = None
    pid: int = 0
    attempt: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    artifacts: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    judged: list[dict[str, Any]] = field(default_factory=list)
    coverage: str = ""
    directory: Path | None = field(default=None, compare=False, repr=False)
    run_id: str = field(default="", compare=False, repr=False)
    written: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def with_(self, **changes: Any) -> RunRecord:
        """A copy with some attributes changed."""
        return replace(self, written={}, **changes)

    @property
    def measure(self) -> Measure:
        """The metric that decides."""
        return Measure.of(self.judged[0]) if self.judged else Measure()

    @property
    def goodness(self) -> tuple[float, float] | None:
        """What is greater for a better run, of equals for the smaller one; None where nothing was measured."""
        value = self.metrics.get(self.measure.name)
        return None if value is None else (self.measure.sign * value, -self.metrics.get("size_bytes", 0))

    def to_json(self) -> dict[str, Any]:
        """The record as `record.json` holds it, with a digest of its content."""
        kept = {name: getattr(self, name) for name in _KEPT}
        content = {"schema": SCHEMA, **kept, "status": str(self.status)}
        return {**content, "digest": digest.of_json(content)}

    @property
    def is_as_written(self) -> bool:
        """Whether nobody has changed the file since `to_json` made it, as far as its digest tells.

        One of an older version has no digest, and counts as written.
        """
        said = self.written.get("digest")
        content = {k: v for k, v in self.written.items() if k != "digest"}
        try:
            return said is None or bool(said == digest.of_json(content))
        except ValueError:  # Infinity, which no file with a digest was written with.
            return False

    @classmethod
    def read(cls, directory: str | Path) -> RunRecord:
        """The record in a run's folder.

        Raises:
            RecordError: there is none, or it cannot be read; see `from_json`.
        """
        path = Path(directory, RECORD)
        return replace(cls.from_json(read_json(path), str(path)), directory=Path(directory))

    @classmethod
    def from_json(cls, value: Any, source: str = "record") -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            RecordError: another schema, or a field is missing, unknown or of another type.
        """
        if not isinstance(value, dict):
            raise RecordError(f"{source}: not a run record: expected a JSON object")
        if value.get("schema") != SCHEMA:
            raise RecordError(f"{source}: schema {value.get('schema')!r} is not allowed. Allowed: {SCHEMA}")
        try:
            given = {k: v for k, v in value.items() if k not in ("schema", "digest")}
            _check_types(given)
            return cls(**{**given, "status": _status(given["status"])}, written=value)
        except (KeyError, TypeError, ValueError) as e:
            raise RecordError(f"{source}: not a run record: {e}") from e

    @classmethod
    def broken(cls, directory: Path, why: str, key: str = "") -> RunRecord:
        """What stands in a list for a record that cannot be read.

        Args:
            directory: the run's folder.
            why: what is wrong, in a sentence.
            key: of the run; the folder's name where it is not given.
        """
        error = {"type": "RecordError", "message": why, "cell": None}
        key = key or directory.name
        return cls(key, key, Status.BROKEN, {}, error=error, directory=directory)


_KEPT = tuple(f.name for f in fields(RunRecord) if f.compare)
_ROUNDED = 1e-6
# Signal without noise is infinite; names of these metrics begin so.
_LOSSLESS = "sqnr"
# Names of metrics that count something begin so.
_COUNTED = ("seconds", "size_bytes", "float_size_bytes", "macs", "bit_operations", "quantized_tens", "float_tens")
_TYPES = {
    **dict.fromkeys(("key", "name", "started", "attempt", "coverage"), (str,)),
    **dict.fromkeys(("inputs", "metrics", "artifacts", "environment"), (dict,)),
    **dict.fromkeys(("sweep", "ended"), (str, type(None))),
    "error": (dict, type(None)),
    "notes": (list,),
    "judged": (list,),
}


def _check_types(given: Mapping[str, Any]) -> None:
    for name in given.keys() - {*_KEPT}:
        raise TypeError(f"unknown field {name!r}")
    for name, kinds in _TYPES.items():
        if name in given and not isinstance(given[name], kinds):
            allowed = "JSON object" if dict in kinds else "list" if list in kinds else "text"
            raise TypeError(f"{name!r} is no {allowed}")
    for stamp in (given.get("started"), given.get("ended")):
        if stamp:
            datetime.fromisoformat(stamp)
    for name, value in given.get("artifacts", {}).items():
        if not isinstance(value, str):
            raise TypeError(f"artifact {name!r} is no text")
    check_result(given.get("metrics", {}), given.get("judged", []))


def check_result(metrics: Mapping[str, Any], judged: Sequence[Any]) -> None:
    """Raise for numbers that nothing can have measured.

    Args:
        metrics: of a record or a result.
        judged: likewise.

    Raises:
        TypeError: `judged` are no metrics with names.
        ValueError: a metric is no finite number, a share outside 0 to 1, or a negative count.
    """
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in judged):
        raise TypeError("'judged' is no list of metrics with names")
    measure = Measure.of(judged[0]) if judged else Measure()
    for name, value in metrics.items():
        if value is None:
            continue
        if value == math.inf and name.startswith(_LOSSLESS):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise ValueError(f"metric {name!r} is {value!r}, which is no finite number")
        share = measure == Measure() and name in ("accuracy", "float_accuracy")
        if share and not -_ROUNDED <= value <= 1 + _ROUNDED:
            raise ValueError(f"metric {name!r} is {value!r}, which is no share between 0 and 1")
        if value < 0 and name.startswith(_COUNTED):
            raise ValueError(f"metric {name!r} is {value!r}, which is less than nothing")


def _status(text: str) -> Status:
    status = Status(text)
    if status in _NEVER_WRITTEN:
        raise ValueError(f"{text!r} is not a valid Status of a file")
    return status


@dataclass(frozen=True)
class Store:
    """A `runs/` folder.

    Attributes:
        root: the folder, absolute; made when first written to.

    Example:
        >>> import vqkit
        >>> vqkit.Store.at("runs").sweeps()
        []
    """

    root: Path

    @classmethod
    def at(cls, path: str | Path = "runs") -> Store:
        """The store in a folder, whatever the working directory becomes later.

        Raises:
            RecordError: the address of an object store; locks and atomic renames do not exist there.
        """
        if _ADDRESS.match(str(path)):
            raise RecordError(
                f"runs: {str(path)!r} is an address, not a folder. Allowed: a folder on a file system, for a "
                "cluster one that all machines share; copy finished runs with fsspec, see docs/distributed.md"
            )
        return cls(Path(path).absolute())

    @property
    def cache(self) -> Path:
        """Results shared between runs, addressed by content."""
        return self.root / "cache"

    def variant_dir(self, key: str) -> Path:
        """Folder of one run."""
        return self.root / "variants" / key

    def sweep_dir(self, name: str) -> Path:
        """Folder of one sweep."""
        return self.root / "sweeps" / name

    def write(self, record: RunRecord) -> Path:
        """Write a record in one step: a reader sees the old one or the new one.

        Returns:
            Path of `record.json`.

        Raises:
            RecordError: the record stands for one that cannot be read, or has not begun.
        """
        if record.status in _NEVER_WRITTEN:
            raise RecordError(f"{record.key}: a {record.status} record is never written")
        path = self.variant_dir(record.key) / RECORD
        write_json(path, record.to_json())
        return path

    def record(self, key: str) -> RunRecord | None:
        """The record of one run, None when it never started.

        Raises:
            RecordError: broken, or it belongs to another key.
        """
        folder = self.variant_dir(key)
        if not (folder / RECORD).exists():
            return None
        record = RunRecord.read(folder)
        if record.key != key:
            raise RecordError(f"{folder / RECORD}: the record belongs to {record.key}, not to {key}")
        return record

    def records(self, sweep: str | None = None) -> list[RunRecord]:
        """A record for every run, in the order of their keys; nothing is raised for one that cannot be read.

        Args:
            sweep: only the variants that this sweep lists, in its order and under its names. Variants are shared
                by all sweeps that contain them; one that has not begun comes as PENDING.

        Raises:
            RecordError: no such sweep, or its file is damaged.
        """
        if sweep is None:
            folder = self.root / "variants"
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            # A folder without a record has only been claimed by a run that is about to start.
            return [self._found(name) for name in names if self._begun(name)]
        if sweep not in self.sweeps():
            mine = [r for r in self.records() if r.sweep == sweep]
            if mine:
                return mine
        entries: dict[str, Mapping[str, Any]] = {}
        for entry in self.sweep(sweep).get("variants", []):
            entries.setdefault(entry["key"], entry)
        return [self._listed(entry, sweep) for entry in entries.values()]

    def _begun(self, key: str) -> bool:
        return any(os.path.lexists(self.variant_dir(key) / name) for name in (RECORD, RESULT))

    def _found(self, key: str) -> RunRecord:
        folder = self.variant_dir(key)
        try:
            return RunRecord.read(folder)
        except RecordError as e:
            return RunRecord.broken(folder, str(e))

    def _listed(self, entry: Mapping[str, Any], sweep: str) -> RunRecord:
        key, name = entry["key"], entry.get("name")
        if self._begun(key):
            found = self._found(key)
            return replace(found, name=name or found.name, sweep=sweep)
        inputs = {"overrides": entry.get("overrides", {}), "strategy": {"base": entry.get("base")}}
        return RunRecord(key, name or key, Status.PENDING, inputs, sweep, directory=self.variant_dir(key))

    def find(self, given: str) -> Path:
        """The folder of the run that a person means by a key, the start of a key, or a variant's name.

        Raises:
            RecordError: nothing or more than one thing fits.
        """
        exact = self.variant_dir(given)
        if re.fullmatch(r"[0-9a-f]{16,}", given) and (exact / RECORD).is_file():
            return exact
        records = self.records()
        fits = [r for r in records if given in (r.key, r.name)]
        fits = fits or [r for r in records if r.key.startswith(given)]
        if len(fits) == 1 and fits[0].directory is not None:
            return fits[0].directory
        if fits:
            keys = ", ".join(r.key for r in fits[:6])
            raise RecordError(f"{given!r} means {len(fits)} runs: {keys}. Give a key")
        known = [name for r in records for name in (r.name, r.key)]
        raise RecordError(not_allowed(str(self.root), given, known, what="run"))

    def write_sweep(self, sweep: dict[str, Any]) -> Path:
        """Write a resolved sweep."""
        path = self.sweep_dir(sweep["name"]) / "sweep.json"
        write_json(path, {"schema": SCHEMA, **sweep})
        return path

    def sweep(self, name: str) -> dict[str, Any]:
        """A resolved sweep as it was last run.

        Raises:
            RecordError: there is none of that name, or the file is no resolved sweep.
        """
        path = self.sweep_dir(name) / "sweep.json"
        if not os.path.lexists(path):
            raise RecordError(not_allowed(str(self.root), name, self.sweeps(), what="sweep"))
        found = read_json(path)
        variants = found.get("variants") if isinstance(found, dict) else None
        if not isinstance(variants, list) or not all(
            isinstance(v, dict) and isinstance(v.get("key"), str) for v in variants
        ):
            raise RecordError(f"{path}: not a resolved sweep: expected a JSON object whose 'variants' have keys")
        value: dict[str, Any] = found
        return value

    def sweeps(self) -> list[str]:
        """Names of the sweeps that were run here, sorted."""
        return sorted(p.parent.name for p in self.root.glob("sweeps/*/sweep.json"))


def now(*, after: str = "") -> str:
    """This moment as the records write it.

    Args:
        after: a moment before which nothing can have ended, even where the clock was set back meanwhile.
    """
    moment = datetime.now(UTC)
    if after:
        moment = max(moment, datetime.fromisoformat(after))
    return moment.isoformat(timespec="milliseconds")
