"""The run folder: where records, sweeps and the cache lie; writing is such that a kill is harmless."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from vqkit.errors import RecordError

SCHEMA = 1
RECORD = "record.json"
RESULT = "result.json"
# `Path` makes one slash of the two.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")
LOCK = ".lock"


class UnwritableError(RecordError):
    """The machine refused to write: a read-only folder, a full disk."""


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
        """The record as `record.json` holds it."""
        return {"schema": SCHEMA, **asdict(self), "status": str(self.status)}

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str = "record") -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            RecordError: another schema, or a field is missing or unknown.
        """
        if value.get("schema") != SCHEMA:
            raise RecordError(f"{source}: schema {value.get('schema')!r} is not allowed. Allowed: {SCHEMA}")
        try:
            fields = {k: v for k, v in value.items() if k != "schema"}
            return cls(**{**fields, "status": Status(fields["status"])})
        except (KeyError, TypeError, ValueError) as e:
            raise RecordError(f"{source}: not a run record: {e}") from e


@dataclass(frozen=True)
class Store:
    """A `runs/` folder.

    Attributes:
        root: the folder, absolute; made when first written to.
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


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        RecordError: missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise RecordError(f"{path}: cannot be read: {e}") from e


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON by a temporary file and a rename, so that no reader ever sees half of it.

    Raises:
        UnwritableError: as `write_bytes`.
    """
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file by a temporary file beside it and a rename.

    Raises:
        UnwritableError: the folder is read-only, the disk is full, …; the file is as it was.
    """
    with writing(path):
        _write_bytes(Path(path), data)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the machine's refusal to write below a path into an error that says what to do."""
    try:
        yield
    except OSError as e:
        raise UnwritableError(
            f"{path}: cannot be written: {e.strerror or e}. What was recorded before is safe; make room or "
            "make the folder writable, and give the same command again"
        ) from e


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a folder for this process; the kernel frees it when the process dies, however it dies.

    Args:
        folder: made if missing; holds the file `.lock`.
        wait: block until it is free.

    Returns:
        As context value: whether the lock is held (always True when waiting).

    Raises:
        UnwritableError: the folder cannot be written.
    """
    import fcntl

    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refused must not be tried again when the file is closed.
            f = stack.enter_context(open(folder / LOCK, "a+b", buffering=0))
            try:
                fcntl.flock(f, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                held = False
            if held:
                f.truncate(0)
                f.write(f"{os.getpid()} {socket.gethostname()}".encode())
        yield held


def holder(folder: Path) -> tuple[int, str] | None:
    """Process and machine that took a folder's lock last; whether they still hold it, `locked` tells.

    Args:
        folder: what `lock` was given.
    """
    try:
        pid, _, host = (folder / LOCK).read_text("utf-8").partition(" ")
        return int(pid), host
    except (OSError, ValueError):
        return None


def locked(folder: Path) -> bool:
    """Whether somebody holds a folder's lock at this moment."""
    import fcntl

    try:
        with open(folder / LOCK, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def process_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    import psutil

    return pid > 0 and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
