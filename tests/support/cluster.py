"""A real Dask scheduler and real worker processes on loopback, and their end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

QUIET = ("--no-dashboard",)


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[tuple[Path, list[subprocess.Popen]]]:
    """The scheduler's file and the worker processes, each with one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scheduler.json"
    with open(folder / "dask.log", "wb") as log:

        def start(*arguments: str) -> subprocess.Popen:
            command = [sys.executable, "-m", *arguments, *QUIET]
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

        scheduler = start(
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--scheduler-file",
            str(file),
        )
        worker_pool = []
        try:
            limit = time.monotonic() + 60
            while not file.is_file():
                assert scheduler.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.1)
            for _ in range(workers):
                worker_pool.append(
                    start(
                        "distributed.cli.dask_worker",
                        "--scheduler-file",
                        str(file),
                        "--host",
                        "127.0.0.1",
                        "--nthreads",
                        "1",
                        "--no-nanny",
                        "--local-directory",
                        str(folder),
                    )
                )
            _wait_for(str(json.loads(file.read_text())["address"]), workers)
            yield file, worker_pool
        finally:
            family = [p for one in (*worker_pool, scheduler) for p in _family(one.pid)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for one in (*worker_pool, scheduler):
                one.wait(10)


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        one = psutil.Process(pid)
        return [*one.children(recursive=True), one]
    return []


def _wait_for(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)
