"""Who runs a sweep's variants: worker processes of this machine, each driven by a thread that outlives it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from vqkit.experiment import attempt, environment
from vqkit.experiment.attempt import Job
from vqkit.experiment.notebook import Failure
from vqkit.experiment.store import RunRecord, Status, Store
from vqkit.experiment.warm.kernel import Limits
from vqkit.experiment.worker import Worker, WorkerDiedError


@dataclass(frozen=True)
class Options:
    """How a sweep runs; none of it changes a number.

    Attributes:
        jobs: variants at once; the cores are shared out.
        fail_fast: start nothing more after the first failure.
        retry_failed: run failed variants again.
        timeout: seconds for one variant; None means no limit.
        warm: when a worker's kernel is ended between variants; None starts a fresh kernel for each.
        cluster: address of a Dask scheduler, or its file; None runs on this machine.
    """

    jobs: int = 1
    fail_fast: bool = False
    retry_failed: bool = False
    timeout: float | None = None
    warm: Limits | None = field(default_factory=Limits)
    cluster: str | None = None


class Hand:
    """One worker process after another: whatever happens to one, its variant gets an outcome.

    Args:
        runs: the store.
        log: file that takes what the workers print.
        jobs: workers that share this machine's cores.
        options: time limit and warmth.

    Attributes:
        stopping: set before `end` where that is the user's wish.
    """

    def __init__(self, runs: Store, log: Path, jobs: int, options: Options) -> None:
        self._runs, self._log, self._jobs, self._options = runs, log, jobs, options
        self._worker: Worker | None = None
        self.stopping = False

    def attempt(self, job: Job) -> RunRecord:
        """Run a variant; its record, however it ends."""
        if self._worker is None:
            self._worker = Worker(self._log, environment.for_workers(self._jobs), self._options.warm)
        worker = self._worker
        late = threading.Event()

        def give_up() -> None:
            late.set()
            worker.end(patience=1.0)

        try:
            with _alarm(self._options.timeout, give_up):
                answer = worker.run(job)
        except WorkerDiedError as e:
            self._worker = None
            worker.end()
            return self._lost(job, e, late.is_set())
        if "key" not in answer:
            return unrecorded(job, Failure(**answer["error"]))
        return RunRecord.from_json(answer)

    def end(self) -> None:
        """End the worker and its kernel."""
        worker = self._worker
        if worker is not None:
            worker.end()

    def _lost(self, job: Job, error: Exception, late: bool) -> RunRecord:
        if late:
            status, failure = Status.FAILED, Failure("Timeout", f"no result after {self._options.timeout} s")
        elif self.stopping:
            status, failure = Status.KILLED, Failure("Interrupted", "the sweep was interrupted")
        else:
            status, failure = (
                Status.KILLED,
                Failure("WorkerDied", f"the process running the notebook died: {error}"),
            )
        return attempt.closed(self._runs, job.key, status, failure) or unrecorded(job, failure)


class Crew:
    """Threads of this process, each with a hand of its own."""

    def __init__(self, runs: Store, logs: Path, options: Options) -> None:
        self._runs, self._logs, self._options = runs, logs, options
        self._mine = threading.local()
        self._hands: list[Hand] = []
        self._stopping = False
        self._failed_once = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for hand in self._hands:
            hand.stopping = True
            hand.end()

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
        record = self._hand().attempt(job)
        # Decided here, before this thread takes its next job.
        self._failed_once |= self._options.fail_fast and record.status is not Status.FINISHED
        return record

    def _hand(self) -> Hand:
        if getattr(self._mine, "hand", None) is None:
            log = self._logs / f"worker-{len(self._hands)}.log"
            self._mine.hand = Hand(self._runs, log, self._options.jobs, self._options)
            self._hands.append(self._mine.hand)
        hand: Hand = self._mine.hand
        return hand


def unrecorded(job: Job, failure: Failure) -> RunRecord:
    """What is told about a variant that has no record on disk."""
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
