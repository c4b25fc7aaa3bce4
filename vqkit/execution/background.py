"""A sweep in a process of its own, and where it stands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from vqkit import tables
from vqkit.errors import SweepError
from vqkit.files import holder, locked, process_alive, read_text, write_json
from vqkit.runs.store import LOST, RunRecord, Status, Store
from vqkit.sweeps.quickstart import as_sweep
from vqkit.sweeps.source import absolute_data
from vqkit.sweeps.spec import Sweep

_ENDED = (Status.FINISHED, *LOST)


@dataclass(frozen=True)
class SweepProgress:
    """A sweep at one moment.

    Attributes:
        name: of the sweep.
        records: of its variants, in its order; PENDING where a variant has not started.
        pid: of the process that runs it; None when none on this machine does.
    """

    name: str
    records: tuple[RunRecord, ...]
    pid: int | None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many variants stand where."""
        return Counter(str(r.status) for r in self.records)

    @property
    def ended(self) -> int:
        """Variants that have an outcome."""
        return sum(self.counts.get(status, 0) for status in _ENDED)

    @property
    def best(self) -> RunRecord | None:
        """The best finished variant by the deciding metric, of equals the smallest; None before one has finished."""
        done = [(r.goodness, i, r) for i, r in enumerate(self.records) if r.status is Status.FINISHED and r.goodness]
        return max(done, default=(None, 0, None), key=lambda found: (found[0], -found[1]))[2]

    @property
    def running(self) -> tuple[RunRecord, ...]:
        """Variants that are at work; none when no process runs the sweep, whatever a record says."""
        return tuple(r for r in self.records if r.status is Status.RUNNING) if self.pid is not None else ()

    @property
    def lost(self) -> tuple[RunRecord, ...]:
        """Variants that ended without a result."""
        return tuple(r for r in self.records if r.status in LOST)

    @property
    def seconds_left(self) -> float | None:
        """Guess of the time to the end, from the variants that finished; None before one has."""
        known = [s for r in self.records if (s := r.metrics.get("seconds_total"))]
        if not known or self.pid is None:
            return None
        rest = len(self.records) - self.ended
        return median(known) * rest / max(1, len(self.running))

    def __str__(self) -> str:
        return f"{self.name}: {self.line()}"

    def line(self) -> str:
        """The standing in a line."""
        counts = self.counts
        names = (*_ENDED, Status.RUNNING, Status.PENDING)
        said = ", ".join(f"{counts[n]} {n.lower()}" for n in names if counts.get(n))
        left = self.seconds_left
        about = f"; about {tables.duration(left)} left" if left else ""
        state = f"running in process {self.pid}" if self.pid is not None else "not running"
        return f"{self.ended} of {len(self.records)} variants have ended ({said}); {state}{about}"


def standing(runs_dir: str | Path, name: str) -> SweepProgress:
    """Read where a sweep stands.

    Args:
        runs_dir: the folder of runs.
        name: of the sweep.

    Raises:
        RecordError: no such sweep.
    """
    store = Store(Path(runs_dir))
    pid = runner(store.sweep_dir(name)) if name in store.sweeps() else None
    return SweepProgress(name, tuple(store.records(name)), pid)


def runner(folder: Path) -> int | None:
    """The process of this machine that holds a sweep's folder, None when there is none.

    Args:
        folder: `runs/sweeps/<name>`.
    """
    said = holder(folder)
    if said is None or said[1] != socket.gethostname() or not process_alive(said[0]):
        return None
    # A process that was killed leaves its number behind, and another may have it by now.
    return said[0] if locked(folder) else None


def seconds_since(stamp: str) -> float:
    """Seconds from a record's time until now; none where the clock was set back meanwhile."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())


def error_of(record: RunRecord) -> str:
    """Why a variant has no result, in a line."""
    error = record.error or {}
    where = f" in cell {error['cell']}" if error.get("cell") is not None else ""
    return f"{error.get('type', record.status)}{where}: {error.get('message', '')}"


REQUEST, LOG = "request", "sweep.log"


ENDED = (0, 1, 3, 130)
"""Exit codes of a sweep that ran; with any other it could not."""


@dataclass(frozen=True, eq=False)
class Running:
    """A sweep that was started in the background.

    Attributes:
        name: of the sweep.
        runs: the folder of runs.
        process: what runs it.
    """

    name: str
    runs: Path
    process: subprocess.Popen[bytes]

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            0 when every variant has a result, 1 when one failed, 3 when the tracking store refused, 130 when it
            was cancelled: the exit codes of `vqkit sweep`.

        Raises:
            SweepError: it could not run; the message is the sweep's own.
            TimeoutError: it is still running.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired as e:
            raise TimeoutError(f"{self.name}: still running after {timeout} s") from e
        if code not in ENDED:
            raise SweepError(f"{self.name}: the sweep ended with code {code}: {self.log()[-2000:].strip()}")
        return code

    def log(self) -> str:
        """What the process said."""
        path = self.runs / "sweeps" / self.name / LOG
        return read_text(path) if path.exists() else ""

    def cancel(self) -> None:
        """Ask it to stop; see `cancel`."""
        cancel(self.runs, self.name)


def start_sweep(
    sweep: Sweep | Mapping[str, Any] | str | Path,
    runs: str | Path = "runs",
    *,
    jobs: int = 1,
    retry_failed: bool = False,
    warm: bool | None = None,
    tracking_uri: str | None = None,
    track: bool = True,
    experiment: str | None = None,
) -> Running:
    """Run a sweep in a process of its own, so that a notebook stays usable.

    Args:
        sweep: a `Sweep`, its content, the path of a sweep file, or "quickstart".
        runs: the folder of runs.
        jobs: variants at once.
        retry_failed: run variants again that failed before.
        warm: keep kernels warm between variants; None does so for the shipped notebook alone.
        tracking_uri: mlflow store; the one in the folder of runs by default.
        track: log to mlflow.
        experiment: of the store; the one that `MLFLOW_EXPERIMENT_NAME` names, else "vqkit", by default.

    Returns:
        The running sweep; `vqkit.watch` shows it. It goes on when this process ends.

    Raises:
        SweepError: the sweep is not valid, or is running already.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("net.keras")
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> np.savez("data.npz", x_calib=x, x_eval=x, y_eval=np.arange(16) % 3)
        >>> sweep = {"name": "bits", "model": "net.keras", "data": {"npz": "data.npz"}, "axes": {"weight_bit": [8]}}
        >>> running = vqkit.start_sweep(sweep, "runs", track=False)
        >>> outcome = running.wait()
        >>> [record.status.value for record in vqkit.Store.at("runs").records()]
        ['FINISHED']
    """
    chosen, folder = as_sweep(sweep), Store.at(runs)
    at = folder.sweep_dir(chosen.name)
    if runner(at) is not None:
        raise SweepError(f"{chosen.name}: process {runner(at)} is running this sweep in {folder.root}")
    tracking: dict[str, Any] = {"track": track, "tracking_uri": tracking_uri, "experiment": experiment}
    command = _command(chosen, folder, jobs=jobs, retry_failed=retry_failed, warm=warm, **tracking)
    with open(at / LOG, "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(chosen.name, folder.root, process)


def _command(
    sweep: Sweep,
    runs: Store,
    *,
    jobs: int = 1,
    retry_failed: bool = False,
    warm: bool | None = None,
    track: bool = True,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> list[str]:
    """The command line that runs a sweep; its content is written where the command finds it."""
    data = absolute_data(sweep.spec.data, sweep.base_dir)
    file = runs.sweep_dir(sweep.name) / REQUEST / f"{Path(sweep.source).stem}.json"
    write_json(file, {**sweep.spec.model_dump(mode="json"), "data": data})
    told = ["--runs", str(runs.root), "--relative-to", str(sweep.base_dir), "--jobs", str(jobs)]
    told += ["--retry-failed"] if retry_failed else []
    told += [] if warm is None else ["--warm" if warm else "--cold"]
    told += ["--tracking-uri", tracking_uri] if tracking_uri else []
    told += ["--experiment", experiment] if experiment else []
    told += [] if track else ["--no-track"]
    return [sys.executable, "-m", "vqkit.cli", "sweep", str(file), *told]


def cancel(runs_dir: str | Path, name: str, *, patience: float = 30.0) -> SweepProgress:
    """Stop a sweep that runs on this machine, as Ctrl-C would: what has finished stays.

    Args:
        runs_dir: the folder of runs.
        name: of the sweep.
        patience: seconds to wait for its end.

    Returns:
        Where the sweep stands afterwards.

    Raises:
        SweepError: it is not running here, or did not stop in time.
    """
    folder = Path(runs_dir, "sweeps", name)
    pid = runner(folder)
    if pid is None:
        raise SweepError(f"{name}: no process of this machine is running this sweep in {runs_dir}")
    if pid == os.getpid():
        raise SweepError(f"{name}: this very process is running the sweep; interrupt it instead")
    os.kill(pid, signal.SIGINT)
    end = time.monotonic() + patience
    while runner(folder) == pid:
        if time.monotonic() > end:
            raise SweepError(f"{name}: process {pid} was asked to stop and is still running")
        time.sleep(0.1)
    return standing(runs_dir, name)


def main(path: str) -> None:
    """Become `vqkit sweep` for a request that an earlier version wrote."""
    told = json.loads(Path(path).read_text("utf-8"))
    sweep = Sweep.from_dict(told["spec"], base_dir=told["base_dir"], source=told["source"])
    options = {"track": told["track"], "tracking_uri": told["tracking_uri"], **told["options"]}
    command = _command(sweep, Store.at(told["runs"]), **options)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1])
