"""One attempt at one variant, in a worker: record RUNNING, execute the notebook, record the outcome."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import environment
from vqkit.errors import RecordError
from vqkit.execution import papermill
from vqkit.execution.papermill import Failure
from vqkit.execution.run_api import ATTEMPT, RUN_DIR
from vqkit.files import lock, read_json, write_bytes, write_json
from vqkit.runs import store
from vqkit.runs.mlflow_tags import THRESHOLDS
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.sweeps.notebook import declared_parameters

if TYPE_CHECKING:
    from vqkit.execution.warm import Kernel

NOTEBOOK = "notebook.ipynb"
TRACEBACK = "traceback.txt"
ARTIFACTS = {
    "strategy": "strategy.json",
    "plan": "plan.json",
    "encodings": "encodings.json",
    "sqnr": "sqnr.json",
    "predictions": "predictions.npz",
    "samples": "samples.npz",
    "notebook": NOTEBOOK,
    "traceback": TRACEBACK,
    "thresholds": THRESHOLDS,
}


@dataclass(frozen=True)
class Job:
    """What a worker is told; JSON values only, because it crosses a pipe.

    Attributes:
        runs: the store's root.
        key, name, inputs: of the record.
        sweep: name of the sweep, None for a single run.
        notebook: path of the notebook to execute.
        parameters: for the notebook, without the run folder's.
        strategy: the whole strategy, kept beside the result.
        warm: whether the notebook runs in the worker's own kernel, which the next one finds warm.
    """

    runs: str
    key: str
    name: str
    inputs: Mapping[str, Any]
    sweep: str | None
    notebook: str
    parameters: Mapping[str, Any]
    strategy: Mapping[str, Any]
    warm: bool = False

    def to_json(self) -> dict[str, Any]:
        """The job as JSON values."""
        return asdict(self)


def run(job: Job, kernel: Kernel | None = None) -> RunRecord:
    """Make one variant's record, unless it is finished by the time its folder is free.

    Args:
        job: what to run.
        kernel: a warm one to run it in; None for a fresh one.

    Returns:
        The record, FINISHED or FAILED, as it stands on disk.
    """
    runs = Store(Path(job.runs))
    folder = runs.variant_dir(job.key)
    with lock(folder):
        return _done_before(runs, job.key) or _execute(runs, job, folder, kernel)


def _done_before(runs: Store, key: str) -> RunRecord | None:
    try:
        record = runs.record(key)
    except RecordError:
        return None
    if record is None or record.status is Status.FINISHED:
        return record
    return adopted(runs, record)


def adopted(runs: Store, record: RunRecord) -> RunRecord | None:
    """Finish the record of an attempt that was killed after its notebook had written everything.

    Only the holder of the run folder's lock may call it: then nobody else is at work there.

    Args:
        runs: the store.
        record: RUNNING or KILLED.

    Returns:
        The finished record, or None when the attempt has no complete result.
    """
    if record.status is Status.FAILED:
        return None
    try:
        # Before it has been saved once there is no notebook; older versions could leave half of one.
        read_json(runs.variant_dir(record.key) / NOTEBOOK)
    except RecordError:
        return None
    _clear_halves(runs.variant_dir(record.key))
    return completed(runs, record)


def completed(runs: Store, record: RunRecord) -> RunRecord | None:
    """Finish the record of a run whose result is written; like `adopted`, but no notebook need have made it.

    Args:
        runs: the store.
        record: RUNNING or KILLED.

    Returns:
        The finished record, or None where the result is not there or not whole.
    """
    try:
        found = _result(runs.variant_dir(record.key), record)
    except RecordError:
        return None
    ended = store.now(after=record.started)
    return _written(runs, record.with_(status=Status.FINISHED, ended=ended, **found))


def _execute(runs: Store, job: Job, folder: Path, kernel: Kernel | None) -> RunRecord:
    _clear(folder)
    write_json(folder / ARTIFACTS["strategy"], dict(job.strategy))
    record = RunRecord(
        job.key,
        job.name,
        Status.RUNNING,
        dict(job.inputs),
        job.sweep,
        started=store.now(),
        pid=os.getpid(),
        attempt=secrets.token_hex(8),
        environment={**environment.describe(), "kernel": _kind(kernel)},
    )
    runs.write(record)
    began = time.perf_counter()
    env = {ATTEMPT: record.attempt, RUN_DIR: str(folder)}
    try:
        declared = declared_parameters(job.notebook)
        places = {"run_dir": str(folder), "cache": str(runs.cache)}
        parameters = {**job.parameters, **{k: v for k, v in places.items() if k in declared}}
        failure = papermill.execute(job.notebook, folder / NOTEBOOK, parameters, env=env, kernel=kernel)
        found = _result(folder, record) if failure is None else {}
    except Exception as e:
        failure = Failure(type(e).__name__, str(e), None, f"{type(e).__name__}: {e}\n")
    if failure is not None:
        return _failed(runs, record, failure)
    found["metrics"]["seconds_total"] = time.perf_counter() - began
    ended = store.now(after=record.started)
    return _written(runs, record.with_(status=Status.FINISHED, ended=ended, **found))


def _kind(kernel: Kernel | None) -> str:
    """For the record: in what kernel, and how many variants had been through it before."""
    return f"warm, {kernel.served} before" if kernel is not None and kernel.served else "fresh"


def _clear(folder: Path) -> None:
    """What an earlier attempt left would be taken for this one's."""
    for name in (*ARTIFACTS.values(), store.RESULT):
        (folder / name).unlink(missing_ok=True)
    _clear_halves(folder)
    shutil.rmtree(folder / "plots", ignore_errors=True)


def _clear_halves(folder: Path) -> None:
    """Halves of files whose writer was killed."""
    for path in folder.glob(".*.*"):
        path.unlink(missing_ok=True)


def _result(folder: Path, record: RunRecord) -> dict[str, Any]:
    """What this attempt's notebook wrote of a record; nothing else proves that it reached its end."""
    path = folder / store.RESULT
    if not path.exists():
        raise RecordError(f"the notebook ended without recording a result for {record.key}")
    result = read_json(path)
    if not isinstance(result, dict) or not isinstance(result.get("metrics"), dict):
        raise RecordError(f"{path}: not a result: expected a JSON object with 'metrics'")
    if (result.get("key"), result.get("attempt")) != (record.key, record.attempt):
        raise RecordError(f"{path}: the result belongs to key {result.get('key')}, not to {record.key}")
    try:
        lists = {name: list(result.get(name, ())) for name in ("notes", "judged")}
        store.check_result(result["metrics"], lists["judged"])
    except (TypeError, ValueError) as e:
        raise RecordError(f"{path}: not a result: {e}") from e
    return {"metrics": dict(result["metrics"]), "coverage": str(result.get("coverage", "")), **lists}


def _failed(runs: Store, record: RunRecord, failure: Failure) -> RunRecord:
    folder = runs.variant_dir(record.key)
    write_bytes(folder / TRACEBACK, failure.traceback.encode())
    ended = store.now(after=record.started)
    return _written(runs, record.with_(status=Status.FAILED, error=failure.to_json(), ended=ended))


def _written(runs: Store, record: RunRecord) -> RunRecord:
    folder = runs.variant_dir(record.key)
    record = record.with_(artifacts={k: v for k, v in ARTIFACTS.items() if (folder / v).exists()})
    runs.write(record)
    return record


def closed(runs: Store, key: str, status: Status, failure: Failure) -> RunRecord | None:
    """Close the record of an attempt whose worker is gone.

    Args:
        runs: the store.
        key: of the run.
        status: KILLED (runs again next time) or FAILED.
        failure: why.

    Returns:
        The record; None when the attempt had not begun or another process is at work on it.
    """
    with lock(runs.variant_dir(key), wait=False) as held:
        record = runs.record(key) if held else None
        if record is None or record.status is not Status.RUNNING:
            return record
        ended = store.now(after=record.started)
        lost = record.with_(status=status, error=failure.to_json(), ended=ended)
        return adopted(runs, record) or _written(runs, lost)
