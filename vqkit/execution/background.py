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
from vqkit.errors import SweepError, VqkitError
from vqkit.files import holder, locked, process_alive, write_json
from vqkit.runs.store import LOST, RunRecord, Status, Store
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
        """The most accurate finished variant, of equals the smallest; None before one has finished."""
        done = [r for r in self.records if r.status is Status.FINISHED and "accuracy" in r.metrics]
        return max(done, default=None, key=lambda r: (r.metrics["accuracy"], -r.metrics.get("size_bytes", 0)))

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


REQUEST, LOG = "request.json", "sweep.log"


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
            0 when every variant has a result, 1 when one failed, 130 when it was cancelled.

        Raises:
            SweepError: it could not run; the message is the sweep's own.
            TimeoutError: it is still running.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired as e:
            raise TimeoutError(f"{self.name}: still running after {timeout} s") from e
        if code not in (0, 1, 130):
            raise SweepError(f"{self.name}: the sweep ended with code {code}: {self.log()[-2000:].strip()}")
        return code

    def log(self) -> str:
        """What the process said."""
        path = self.runs / "sweeps" / self.name / LOG
        return path.read_text("utf-8", errors="replace") if path.exists() else ""

    def cancel(self) -> None:
        """Ask it to stop; see `cancel`."""
        cancel(self.runs, self.name)


def start_sweep(
    sweep: Sweep | Mapping[str, Any] | str | Path,
    runs: str | Path = "runs",
    *,
    jobs: int = 1,
    retry_failed: bool = False,
    tracking_uri: str | None = None,
    track: bool = True,
) -> Running:
    """Run a sweep in a process of its own, so that a notebook stays usable.

    Args:
        sweep: a `Sweep`, its content, the path of a sweep file, or "quickstart".
        runs: the folder of runs.
        jobs: variants at once.
        retry_failed: run variants again that failed before.
        tracking_uri: mlflow store; the one in the folder of runs by default.
        track: log to mlflow.

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
    chosen, folder = _sweep(sweep), Store.at(runs)
    at = folder.sweep_dir(chosen.name)
    if runner(at) is not None:
        raise SweepError(f"{chosen.name}: process {runner(at)} is running this sweep in {folder.root}")
    data = absolute_data(chosen.spec.data, chosen.base_dir)
    request = {
        "spec": chosen.spec.model_dump(mode="json") | {"data": data},
        "base_dir": str(chosen.base_dir),
        "source": chosen.source,
        "runs": str(folder.root),
        "options": {"jobs": jobs, "retry_failed": retry_failed},
        "track": track,
        "tracking_uri": tracking_uri,
    }
    write_json(at / REQUEST, request)
    with open(at / LOG, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(at / REQUEST)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(chosen.name, folder.root, process)


def _sweep(sweep: Any) -> Sweep:
    if isinstance(sweep, Sweep):
        return sweep
    if isinstance(sweep, Mapping):
        return Sweep.from_dict(sweep)
    if str(sweep) == "quickstart":
        from vqkit.sweeps.quickstart import quickstart_sweep

        return Sweep.from_dict(quickstart_sweep(), source="quickstart")
    return Sweep.load(sweep)


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


def main(request: str) -> int:
    """The process: what `vqkit sweep` does, told by a file."""
    from vqkit.comparison import report
    from vqkit.execution.runner import RunOptions, run_sweep
    from vqkit.runs.tracking import Session
    from vqkit.sweeps.resolve import resolve

    # Started from a shell's background a process inherits that Ctrl-C means nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told = json.loads(Path(request).read_text("utf-8"))
    runs = Store.at(told["runs"])
    sweep = Sweep.from_dict(told["spec"], base_dir=told["base_dir"], source=told["source"])
    resolved = resolve(sweep, runs.cache)
    session = Session(runs, told["tracking_uri"], resolved.to_json(), print) if told["track"] else None
    outcome = run_sweep(resolved, runs, RunOptions(**told["options"]), notify=session.log if session else None)
    if session:
        for record in outcome.skipped:
            session.log(record)
        session.close(interrupted=outcome.interrupted)
    report.write(runs.root, runs.sweep_dir(sweep.name) / "report.html", sweep.name)
    return 130 if outcome.interrupted else int(bool(outcome.failed))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
    except VqkitError as e:
        print(f"{type(e).__name__}: {e}", flush=True)
        sys.exit(2)
