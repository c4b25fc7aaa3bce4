"""The run folder: where records, sweeps and the cache lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from vqkit import digest
from vqkit.errors import RecordError
from vqkit.files import read_json, write_json

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
        error: type, message and cell of the failure.
        artifacts: name -> path relative to the run folder.
        environment: versions, threads and git state.
        notes: what a person should know of the result, such as tensors outside the range chosen for them.
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

    def with_(self, **changes: Any) -> RunRecord:
        """A copy with some attributes changed."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The record as `record.json` holds it, with a digest of its content."""
        content = {"schema": SCHEMA, **asdict(self), "status": str(self.status)}
        return {**content, "digest": digest.of_json(content)}

    @staticmethod
    def is_as_written(value: Mapping[str, Any]) -> bool:
        """Whether nobody has changed a record since `to_json` made it, as far as its digest tells.

        Args:
            value: the content of `record.json`; one of an older version has no digest, and counts as written.
        """
        content = {k: v for k, v in value.items() if k != "digest"}
        return value.get("digest", digest.of_json(content)) == digest.of_json(content)

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str = "record") -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            RecordError: another schema, or a field is missing or unknown.
        """
        if not isinstance(value, dict):
            raise RecordError(f"{source}: not a run record: expected a JSON object")
        if value.get("schema") != SCHEMA:
            raise RecordError(f"{source}: schema {value.get('schema')!r} is not allowed. Allowed: {SCHEMA}")
        try:
            fields = {k: v for k, v in value.items() if k not in ("schema", "digest")}
            made = cls(**{**fields, "status": Status(fields["status"])})
            for name in ("inputs", "metrics", "artifacts", "environment"):
                if not isinstance(getattr(made, name), dict):
                    raise TypeError(f"{name!r} is no JSON object")
            return made
        except (KeyError, TypeError, ValueError) as e:
            raise RecordError(f"{source}: not a run record: {e}") from e


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
        """
        path = self.variant_dir(record.key) / RECORD
        write_json(path, record.to_json())
        return path

    def record(self, key: str) -> RunRecord | None:
        """The record of one run, None when it never started.

        Raises:
            RecordError: broken, or it belongs to another key.
        """
        path = self.variant_dir(key) / RECORD
        if not path.exists():
            return None
        record = RunRecord.from_json(read_json(path), str(path))
        if record.key != key:
            raise RecordError(f"{path}: the record belongs to {record.key}, not to {key}")
        return record

    def records(self, sweep: str | None = None) -> list[RunRecord]:
        """All records, oldest first.

        Args:
            sweep: only the variants that this sweep lists, in its order.

        Raises:
            RecordError: a broken record, or no such sweep.
        """
        if sweep is not None:
            listed = (self.record(v["key"]) for v in self.sweep(sweep)["variants"])
            return [r for r in listed if r is not None]
        keys = sorted(p.parent.name for p in self.root.glob(f"variants/*/{RECORD}"))
        found = [r for r in map(self.record, keys) if r is not None]
        return sorted(found, key=lambda r: (r.started, r.key))

    def write_sweep(self, sweep: dict[str, Any]) -> Path:
        """Write a resolved sweep."""
        path = self.sweep_dir(sweep["name"]) / "sweep.json"
        write_json(path, {"schema": SCHEMA, **sweep})
        return path

    def sweep(self, name: str) -> dict[str, Any]:
        """A resolved sweep as it was last run.

        Raises:
            RecordError: there is none of that name.
        """
        path = self.sweep_dir(name) / "sweep.json"
        if not path.exists():
            raise RecordError(
                f"{self.root}: no sweep {name!r}. There are: {', '.join(self.sweeps()) or 'none'}"
            )
        value: dict[str, Any] = read_json(path)
        return value

    def sweeps(self) -> list[str]:
        """Names of the sweeps that were run here."""
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
