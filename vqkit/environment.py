"""Where a run happens: versions and machine for the record, variables for the processes that vqkit starts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from vqkit._version import __version__

RECORDED = ("tensorflow", "keras", "numpy")
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS")
# oneDNN may change results between machines and thread counts, so its switch is part of the record.
SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "TF_DETERMINISTIC_OPS", "CUDA_VISIBLE_DEVICES")


def describe() -> dict[str, Any]:
    """Versions, machine, threads and git state of this process, as a run record holds them."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in RECORDED},
        "vqkit": __version__,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": int(os.environ.get(THREADS[0], cores())),
        "switches": {name: os.environ[name] for name in SWITCHES if name in os.environ},
        "git": git_state(Path.cwd()),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the user's project and whether tracked files differ from it; None outside a repository."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def quiet() -> dict[str, str]:
    """Variables that silence start-up noise and telemetry."""
    return {"TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def load_tensorflow() -> None:
    """Import TensorFlow and Keras without the lines they print at start; no variable silences those."""
    if "keras" not in sys.modules:
        os.environ.update({k: v for k, v in quiet().items() if k not in os.environ})
        with held_back(2):
            import keras  # noqa: F401


@contextlib.contextmanager
def held_back(descriptor: int) -> Iterator[None]:
    """Keep what C code writes to a stream, which Python cannot redirect; show it only when the block fails.

    Args:
        descriptor: 1 for stdout, 2 for stderr.
    """
    with _elsewhere(descriptor) as (kept, saved):
        try:
            yield
        except BaseException:
            _flush(descriptor)
            kept.seek(0)
            os.write(saved, kept.read())
            raise


@contextlib.contextmanager
def silent(descriptor: int) -> Iterator[None]:
    """Drop what C code writes to a stream, where an error says the same.

    Args:
        descriptor: 1 for stdout, 2 for stderr.
    """
    with _elsewhere(descriptor):
        yield


@contextlib.contextmanager
def _elsewhere(descriptor: int) -> Iterator[tuple[IO[bytes], int]]:
    """A stream led into a temporary file; gives the file and where the stream led before."""
    _flush(descriptor)
    saved = os.dup(descriptor)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), descriptor)
        try:
            yield kept, saved
        finally:
            _flush(descriptor)
            os.dup2(saved, descriptor)
            os.close(saved)


def _flush(descriptor: int) -> None:
    """Empty Python's and C's buffers of a stream; what lies in them belongs to where it points now."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    ctypes.CDLL(None).fflush(None)


def cores() -> int:
    """Cores that this process may use: of the machine, less what an affinity or a container's quota takes."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return known
    return known if quota == "max" else max(1, min(known, round(int(quota) / int(period))))


def for_workers(jobs: int) -> dict[str, str]:
    """The whole environment of a worker and its kernels: quiet, cores shared out, this vqkit importable.

    Threads that the user has set already stay as they are.

    Args:
        jobs: how many workers run at once on this machine.
    """
    threads = {name: os.environ.get(name, str(_share(jobs))) for name in THREADS}
    return {**os.environ, **quiet(), **threads, **import_path()}


def _share(jobs: int) -> int:
    return max(1, cores() // jobs)


def sharing(jobs: int) -> str:
    """How many workers run on how many cores, for people."""
    workers = f"{jobs} workers at once" if jobs > 1 else "1 worker"
    own = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    if own:
        return f"{workers} on {cores()} cores; threads as set: {', '.join(own)}"
    share = _share(jobs)
    each = f"{share} of {cores()} cores" + (" each" if jobs > 1 else "")
    crowded = "; more workers than cores" if jobs > cores() else ""
    return f"{workers}, {each}{crowded}"


def import_path() -> dict[str, str]:
    """PYTHONPATH with which a checkout that is not installed is found from any folder; empty if installed."""
    home = str(Path(__file__).resolve().parents[1])
    if home in (*site.getsitepackages(), site.getusersitepackages()):
        return {}
    known = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([home, *map(os.path.abspath, known)]))}
