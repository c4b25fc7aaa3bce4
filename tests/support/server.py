"""A real mlflow server on loopback, which can be killed and started again on the same port and database."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from vqkit.runs.mlflow import environment, ui_command


class Server:
    """A server with one worker, in a folder of its own.

    Args:
        folder: holds database, artifacts and log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = int(s.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, return when it answers."""
        command = [sys.executable, *ui_command(self.folder, port=self.port), "--workers", "1"]
        env = {**os.environ, **environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when it answers."""
        assert self.process is not None
        for _ in range(900):
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(f"{self.uri}/health", timeout=5),
            ):
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text())

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it with all its processes."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        self.process.wait(30)
        self.process = None


@contextlib.contextmanager
def mlflow_server(folder: Path, *, start: bool = True) -> Iterator[Server]:
    """A server that is gone afterwards."""
    made = Server(folder)
    try:
        if start:
            made.start()
        yield made
    finally:
        made.end()
