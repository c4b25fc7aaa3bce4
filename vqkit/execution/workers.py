"""The worker pool: processes that execute notebooks one after another.

A worker reads jobs from its standard input, one JSON line each, and answers each with one line. The pipe is
also the lifeline: when the parent dies, however it dies, the pipe closes and the worker kills its kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqkit import environment
from vqkit.execution import attempt
from vqkit.execution.attempt import Job
from vqkit.execution.papermill import Failure
from vqkit.execution.warm import Kernel
from vqkit.files import writing
from vqkit.runs.store import RunRecord, Status, Store


class WorkerDiedError(Exception):
    """The worker process ended without answering."""


class Worker:
    """A worker process, seen from the parent.

    Args:
        log: file that takes what the worker and its kernels print.
        env: the whole environment.

    Raises:
        UnwritableError: the log cannot be written.
    """

    def __init__(self, log: Path, env: Mapping[str, str]) -> None:
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            f = open(log, "ab")  # noqa: SIM115
        with f:
            # A session of its own: Ctrl-C reaches the parent alone, which then ends its workers.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vqkit.execution.workers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=f,
                env=dict(env),
                start_new_session=True,
            )

    def run(self, job: Job) -> dict[str, Any]:
        """Hand a job over and wait for its record.

        Raises:
            WorkerDiedError: the process ended first.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write((json.dumps(job.to_json()) + "\n").encode())
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError) as e:
            raise WorkerDiedError(str(e)) from e
        if not line:
            raise WorkerDiedError(f"exit code {self._process.wait()}")
        return dict(json.loads(line))

    def end(self, *, patience: float = 10.0) -> None:
        """End the process and its kernel; safe to call from another thread, and twice."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """The worker process: answer jobs until the input closes."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # Whatever a library prints must not stand between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    kernel = Kernel()
    while True:
        answers.write(json.dumps(_answer(jobs.get(), kernel)) + "\n")
        answers.flush()


def _listen(jobs: queue.Queue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    _kill_children()
    os._exit(0)


def _kill_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _answer(line: str, kernel: Kernel) -> dict[str, Any]:
    from vqkit.execution import attempt

    try:
        job = Job(**json.loads(line))
        return attempt.run(job, kernel if job.warm else None).to_json()
    except Exception as e:
        return {"error": {"type": type(e).__name__, "message": str(e), "cell": None}}


@dataclass(frozen=True)
class RunOptions:
    """How a sweep runs; none of it changes a number.

    Attributes:
        jobs: variants at once; the cores are shared out.
        fail_fast: start nothing more after the first failure.
        retry_failed: run failed variants again.
        timeout: seconds for one variant; None means no limit.
        warm: keep a worker's kernel from one variant to the next; None does so for the shipped notebook alone.
        cluster: address of a Dask scheduler, or its file; None runs on this machine.
    """

    jobs: int = 1
    fail_fast: bool = False
    retry_failed: bool = False
    timeout: float | None = None
    warm: bool | None = None
    cluster: str | None = None


class WorkerSlot:
    """A slot of the worker pool: one worker process after another; every variant given to it gets an outcome.

    Args:
        runs: the store.
        log: file that takes what the workers print.
        jobs: workers that share this machine's cores.
        options: gives the time limit.

    Attributes:
        stopping: set before `end` where that is the user's wish.
    """

    def __init__(self, runs: Store, log: Path, jobs: int, options: RunOptions) -> None:
        self._runs, self._log, self._jobs, self._options = runs, log, jobs, options
        self._worker: Worker | None = None
        self.stopping = False

    def attempt(self, job: Job) -> RunRecord:
        """Run a variant; its record, however it ends."""
        if self._worker is None:
            self._worker = Worker(self._log, environment.for_workers(self._jobs))
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


class WorkerPool:
    """Worker pool: threads of this process, each with a slot of its own."""

    def __init__(self, runs: Store, logs: Path, options: RunOptions) -> None:
        self._runs, self._logs, self._options = runs, logs, options
        self._mine = threading.local()
        self._slots: list[WorkerSlot] = []
        self._stopping = False
        self._failed_once = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for slot in self._slots:
            slot.stopping = True
            slot.end()

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

    def _hand(self) -> WorkerSlot:
        if getattr(self._mine, "slot", None) is None:
            log = self._logs / f"worker-{len(self._slots)}.log"
            self._mine.slot = WorkerSlot(self._runs, log, self._options.jobs, self._options)
            self._slots.append(self._mine.slot)
        slot: WorkerSlot = self._mine.slot
        return slot


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


if __name__ == "__main__":
    main()
