"""Workers: processes that execute notebooks one after another, and end when the one that started them ends.

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
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqkit import files
from vqkit.experiment.attempt import Job
from vqkit.experiment.warm.kernel import Kernel, Limits


class WorkerDiedError(Exception):
    """The worker process ended without answering."""


class Worker:
    """A worker process, seen from the parent.

    Args:
        log: file that takes what the worker and its kernels print.
        env: the whole environment.
        warm: keep a kernel from one variant to the next, within these limits; None starts a fresh one each.

    Raises:
        UnwritableError: the log cannot be written.
    """

    def __init__(self, log: Path, env: Mapping[str, str], warm: Limits | None = None) -> None:
        command = [sys.executable, "-m", "vqkit.experiment.worker"]
        if warm is not None:
            command.append(json.dumps(asdict(warm)))
        with files.writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            f = open(log, "ab")  # noqa: SIM115
        with f:
            # A session of its own: Ctrl-C reaches the parent alone, which then ends its workers.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=f, env=dict(env),
                start_new_session=True,
            )  # fmt: skip

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
    kernel = Kernel(Limits(**json.loads(sys.argv[1]))) if len(sys.argv) > 1 else None
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


def _answer(line: str, kernel: Kernel | None) -> dict[str, Any]:
    from vqkit.experiment import attempt

    try:
        return attempt.run(Job(**json.loads(line)), kernel).to_json()
    except Exception as e:
        return {"error": {"type": type(e).__name__, "message": str(e), "cell": None}}


if __name__ == "__main__":
    main()
