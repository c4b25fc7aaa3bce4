"""A sweep on an existing Dask cluster; the only module that imports distributed.

Dask carries jobs to its workers and records back, and nothing else. On each of its threads a vqkit worker
runs the notebooks, exactly as on one machine, and writes to the same `runs/`. A Dask worker that dies takes
its vqkit worker with it; Dask gives the job to another, which finds on disk what was done.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vqkit.errors import SweepError, missing_package
from vqkit.execution import attempt
from vqkit.execution.attempt import Job
from vqkit.execution.papermill import Failure
from vqkit.execution.workers import RunOptions, WorkerSlot, unrecorded
from vqkit.files import write_bytes
from vqkit.runs.store import RunRecord, Status, Store

_CONNECT_SECONDS = 15
_TOKEN = ".shared"


@dataclass(frozen=True)
class WorkerTerms:
    """What each Dask worker is told; plain values, because they travel.

    Attributes:
        sweep: token of this run of the sweep.
        root: the store's folder.
        logs: folder for the workers' logs.
        timeout: of `RunOptions`.
        crowd: host -> threads of Dask workers on it, which share its cores.
    """

    sweep: str
    root: str
    logs: str
    timeout: float | None
    crowd: Mapping[str, int]


class DaskPool:
    """The workers of a Dask cluster, seen from the process that started the sweep.

    Args:
        runs: the store, in a folder that all workers see under the same path.
        logs: folder for the workers' logs.
        options: how to run; `cluster` says where.

    Raises:
        SweepError: no scheduler there, no worker, or a worker that would not compute the same.
    """

    def __init__(self, runs: Store, logs: Path, options: RunOptions) -> None:
        self._runs, self._options = runs, options
        self._client = connect(str(options.cluster))
        self._terms = WorkerTerms(
            uuid.uuid4().hex,
            str(runs.root),
            str(logs),
            options.timeout,
            _crowd(self._client),
        )

    def __enter__(self) -> DaskPool:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._client.run(_dismiss, self._terms.sweep, on_error="ignore")
        finally:
            self._client.close()

    def work(self, jobs: list[Job]) -> Iterator[RunRecord]:
        """Records as their jobs end, however they end."""
        from distributed import as_completed

        if jobs:
            self._check(jobs[0])
        told = {self._submit(job): job for job in jobs}
        for future in as_completed(list(told), loop=self._client.loop):
            record = self._record(told[future], future)
            if record is not None:
                yield record
            if self._options.fail_fast and record is not None and record.status is not Status.FINISHED:
                self._client.cancel([f for f in told if not f.done()])

    def _submit(self, job: Job) -> Any:
        key = f"vqkit-{job.key}-{self._terms.sweep}"
        return self._client.submit(_task, job.to_json(), asdict(self._terms), key=key, pure=False)

    def _record(self, job: Job, future: Any) -> RunRecord | None:
        if future.cancelled():
            return None
        error = future.exception()
        if error is None:
            return RunRecord.from_json(future.result())
        died = type(error).__name__ == "KilledWorker"
        failure = Failure("WorkerDied" if died else type(error).__name__, str(error))
        status = Status.KILLED if died else Status.FAILED
        return attempt.closed(self._runs, job.key, status, failure) or unrecorded(job, failure)

    def _check(self, job: Job) -> None:
        """Raise unless every worker sees the same files and would compute the same numbers."""
        token = self._terms.sweep.encode()
        write_bytes(self._runs.root / _TOKEN, token)
        mine = sight(job.notebook, str(job.parameters["model"]), self._terms.root)
        for address, found in self._client.run(
            sight, job.notebook, str(job.parameters["model"]), self._terms.root, on_error="return"
        ).items():
            for what, value in mine.items():
                theirs = found.get(what) if isinstance(found, dict) else repr(found)
                if theirs != value:
                    raise SweepError(
                        f"Dask worker {address}: {what} is {theirs!r}, here it is {value!r}. "
                        f"{_ADVICE.get(what, _INSTALL)}"
                    )


_INSTALL = "Every worker needs the same vqkit[dask], TensorFlow, Keras and numpy"
_SHARE = "runs/, model, data and notebook must be on a file system that all workers see under the same paths"
_ADVICE = {"the run folder": _SHARE, "the model": _SHARE, "the notebook": _SHARE}


def connect(address: str) -> Any:
    """A client of a running cluster.

    Args:
        address: `tcp://host:port`, `tls://…`, or the path of a scheduler file.

    Raises:
        SweepError: `distributed` is not installed, nobody answers, or there is no worker.
    """
    try:
        from distributed import Client
    except ImportError as e:
        raise SweepError(f"--dask: {missing_package('distributed', 'dask')}") from e
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        client = Client(**where, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as e:
        raise SweepError(f"--dask {address}: no Dask scheduler answers there: {e}") from e
    if not client.scheduler_info()["workers"]:
        client.close()
        raise SweepError(f"--dask {address}: the cluster has no workers; start some with `dask worker`")
    return client


def size(address: str) -> str:
    """How many workers a cluster has, for people."""
    client = connect(address)
    try:
        crowd = _crowd(client)
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
    finally:
        client.close()
    n = sum(crowd.values())
    return f"{workers} Dask workers on {len(crowd)} hosts, {n} variants at once; each host's cores are shared"


def _crowd(client: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        found[worker["host"]] = found.get(worker["host"], 0) + int(worker["nthreads"])
    return found


def sight(notebook: str, model: str, root: str) -> dict[str, Any]:
    """What a process sees of a sweep's files, and what it would compute with; equal on all workers."""
    from vqkit import digest
    from vqkit.sweeps.notebook import source_digest
    from vqkit.sweeps.variant import code_digest

    def of(path: Path) -> str | None:
        return digest.of_file(path) if path.exists() else None

    code = code_digest(source_digest(notebook)) if Path(notebook).is_file() else None
    found = {"the run folder": of(Path(root, _TOKEN)), "the model": of(Path(model)), "the notebook": code}
    return {**found, "the code": code}


# --- in the Dask workers ---

_slots: dict[str, list[WorkerSlot]] = {}
_mine = threading.local()


def _task(job: dict[str, Any], terms: dict[str, Any]) -> dict[str, Any]:
    """Run one variant on this thread's own vqkit worker."""
    return _hand(WorkerTerms(**terms)).attempt(Job(**job)).to_json()


def _hand(terms: WorkerTerms) -> WorkerSlot:
    if getattr(_mine, "sweep", None) != terms.sweep:
        from distributed import get_worker

        worker = get_worker()
        name = worker.address.rpartition("/")[2].replace(":", "-")
        log = Path(terms.logs, f"worker-{name}-{threading.get_ident() % 10_000}.log")
        jobs = terms.crowd.get(worker.ip, worker.state.nthreads)
        options = RunOptions(timeout=terms.timeout)
        _mine.sweep = terms.sweep
        _mine.slot = WorkerSlot(Store(Path(terms.root)), log, jobs, options)
        _slots.setdefault(terms.sweep, []).append(_mine.slot)
    slot: WorkerSlot = _mine.slot
    return slot


def _dismiss(sweep: str) -> int:
    """End a sweep's vqkit workers in this Dask worker; also those that are busy."""
    slots = _slots.pop(sweep, [])
    for slot in slots:
        slot.stopping = True
        slot.end()
    return os.getpid()
