"""Run a sweep: skip what is finished, spread the rest over workers, record every outcome, keep going."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqkit.errors import RecordError, SweepError
from vqkit.experiment import attempt, environment, store
from vqkit.experiment.attempt import Job
from vqkit.experiment.notebook import Failure
from vqkit.experiment.store import RunRecord, Status, Store
from vqkit.experiment.validate import Planned, Resolved, resolve
from vqkit.experiment.worker import Worker, WorkerDiedError

Notify = Callable[[RunRecord], None]


@dataclass(frozen=True)
class Options:
    """How a sweep runs; none of it changes a number.

    Attributes:
        jobs: variants at once; the cores are shared out.
        fail_fast: start nothing more after the first failure.
        retry_failed: run failed variants again.
        timeout: seconds for one variant; None means no limit.
    """

    jobs: int = 1
    fail_fast: bool = False
    retry_failed: bool = False
    timeout: float | None = None


@dataclass(frozen=True)
class Step:
    """What will be done about one variant, and why.

    Attributes:
        planned: the variant.
        runs: whether it will run.
        reason: for people.
        record: what is on disk.
    """

    planned: Planned
    runs: bool
    reason: str
    record: RunRecord | None = None


@dataclass
class Outcome:
    """What came of a sweep.

    Attributes:
        ran: records of this call, in order of completion.
        skipped: records of earlier calls.
        interrupted: whether Ctrl-C ended it.
    """

    ran: list[RunRecord] = field(default_factory=list)
    skipped: list[RunRecord] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[RunRecord]:
        """Variants without a result, now or before."""
        return [r for r in (*self.skipped, *self.ran) if r.status is not Status.FINISHED]


def steps(resolved: Resolved, runs: Store, *, retry_failed: bool = False) -> list[Step]:
    """Decide for each variant whether it runs.

    Args:
        resolved: a sweep that fits its model and data.
        runs: where the records are.
        retry_failed: run failed variants again.

    Returns:
        One step per variant, in the sweep's order.
    """
    return [_step(p, runs, retry_failed) for p in resolved.planned]


def _step(planned: Planned, runs: Store, retry_failed: bool) -> Step:
    if planned.same_as:
        return Step(planned, False, f"does the same as {planned.same_as!r}")
    try:
        record = runs.record(planned.variant.key)
    except RecordError:
        return Step(planned, True, "its record is broken")
    if record is None:
        return Step(planned, True, "new")
    if record.status is Status.FINISHED:
        return Step(planned, False, "finished", record)
    if record.status is Status.FAILED and not retry_failed:
        return Step(planned, False, "failed before; --retry-failed runs it again", record)
    return Step(planned, True, f"was {record.status}", record)


def run_sweep(
    sweep: Any, runs: Store, options: Options | None = None, *, notebook: str | Path | None = None,
    notify: Notify | None = None,
) -> Outcome:  # fmt: skip
    """Validate a sweep, then run what is not finished.

    Args:
        sweep: a `Sweep`, or a `Resolved` one.
        runs: where records go.
        options: how to run.
        notebook: runs instead of `20_run_variant.ipynb`.
        notify: called in this thread with each record as it is finished or failed.

    Returns:
        The records.

    Raises:
        SweepError: some variant cannot run, or another process is running this sweep. Nothing was started.
    """
    resolved = sweep if isinstance(sweep, Resolved) else resolve(sweep, runs.cache, notebook=notebook)
    options = options or Options()
    name = resolved.sweep.name
    with store.lock(runs.sweep_dir(name), wait=False) as held:
        if not held:
            raise SweepError(f"{name}: another process is running this sweep in {runs.root}")
        runs.write_sweep(resolved.to_json())
        return _run(resolved, name, runs, options, notify)


def run_single(
    resolved: Resolved, runs: Store, options: Options | None = None, *, notify: Notify | None = None
) -> Outcome:
    """Run a variant that belongs to no sweep.

    Args:
        resolved: from a sweep of one variant; its name is not used.
        runs: where the record goes.
        options: how to run.
        notify: called with the record.

    Returns:
        The record, run or found.
    """
    return _run(resolved, None, runs, options or Options(), notify)


def _run(
    resolved: Resolved, sweep: str | None, runs: Store, options: Options, notify: Notify | None
) -> Outcome:
    todo = steps(resolved, runs, retry_failed=options.retry_failed)
    outcome = Outcome(skipped=[s.record for s in todo if not s.runs and s.record is not None])
    jobs = [_job(s.planned, resolved, runs, sweep) for s in todo if s.runs]
    with _Crew(runs, runs.root / "logs" if sweep is None else runs.sweep_dir(sweep), options) as crew:
        try:
            for record in crew.work(jobs):
                outcome.ran.append(record)
                if notify is not None:
                    notify(record)
        except KeyboardInterrupt:
            outcome.interrupted = True
    return outcome


def _job(planned: Planned, resolved: Resolved, runs: Store, sweep: str | None) -> Job:
    v = planned.variant
    parameters = {**v.parameters(), "model": str(resolved.model_file)}
    return Job(
        str(runs.root), v.key, v.name, v.inputs(), sweep, str(resolved.notebook), parameters, planned.strategy
    )


def default_jobs() -> int:
    """As many variants at once as cores and memory allow; a kernel with TensorFlow takes 1 to 2 GB."""
    import os

    import psutil

    return max(1, min(os.cpu_count() or 1, psutil.virtual_memory().available // (2 << 30), 8))


class _Crew:
    """Threads of this process, each with a worker process of its own."""

    def __init__(self, runs: Store, logs: Path, options: Options) -> None:
        self._runs, self._logs, self._options = runs, logs, options
        self._mine = threading.local()
        self._workers: list[Worker] = []
        self._stopping = False
        self._failed_once = False

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.end()

    def work(self, jobs: list[Job]) -> Iterator[RunRecord]:
        """Records as their jobs end, however they end."""
        with ThreadPoolExecutor(max(1, min(self._options.jobs, len(jobs)))) as pool:
            pending: set[Future[RunRecord | None]] = {pool.submit(self._run, job) for job in jobs}
            try:
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (r for r in (f.result() for f in done) if r is not None)
            except BaseException:
                # Before the pool waits for its threads: they wait for the workers.
                pool.shutdown(wait=False, cancel_futures=True)
                self.__exit__()
                raise

    def _run(self, job: Job) -> RunRecord | None:
        if self._stopping or self._failed_once:
            return None
        record = self._attempt(job)
        # Decided here, before this thread takes its next job.
        self._failed_once |= self._options.fail_fast and record.status is not Status.FINISHED
        return record

    def _attempt(self, job: Job) -> RunRecord:
        worker = self._worker()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            worker.end(patience=1.0)

        try:
            with _alarm(self._options.timeout, give_up):
                answer = worker.run(job)
        except WorkerDiedError as e:
            self._mine.worker = None
            worker.end()
            return self._lost(job, e, late.is_set())
        if "key" not in answer:
            return _unrecorded(job, Failure(**answer["error"]))
        return RunRecord.from_json(answer)

    def _worker(self) -> Worker:
        if getattr(self._mine, "worker", None) is None:
            log = self._logs / f"worker-{len(self._workers)}.log"
            self._mine.worker = Worker(log, environment.for_workers(self._options.jobs))
            self._workers.append(self._mine.worker)
        worker: Worker = self._mine.worker
        return worker

    def _lost(self, job: Job, error: Exception, late: bool) -> RunRecord:
        if late:
            status, failure = Status.FAILED, Failure("Timeout", f"no result after {self._options.timeout} s")
        elif self._stopping:
            status, failure = Status.KILLED, Failure("Interrupted", "the sweep was interrupted")
        else:
            status, failure = (
                Status.KILLED,
                Failure("WorkerDied", f"the process running the notebook died: {error}"),
            )
        return attempt.closed(self._runs, job.key, status, failure) or _unrecorded(job, failure)


def _unrecorded(job: Job, failure: Failure) -> RunRecord:
    return RunRecord(job.key, job.name, Status.FAILED, dict(job.inputs), job.sweep, error=failure.to_json())


@contextlib.contextmanager
def _alarm(seconds: float | None, action: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, action) if seconds is not None else None
    if timer is not None:
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
