"""Faults, done for real to a small sweep: each function hurts it once and checks what is left behind.

Each raises AssertionError when something was lost, doubled or falsified. The tests do each once;
`benchmarks/faults.py` does each several times, at other moments, and counts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.cluster import dask_cluster
from tests.support.server import mlflow_server
from tests.system.robustness.scene import QUIET, ROOT, Scene, variants, wait_for
from vqkit.runs.store import Status

Fault = Callable[[Path, int], str]
KERNEL, WORKER = "ipykernel", "vqkit.execution.workers"


def kernel_killed(folder: Path, turn: int) -> str:
    """`kill -9` of the kernel while a variant runs."""
    _below_killed(folder, turn, KERNEL, ("FAILED", "DeadKernelError"), retry_failed=True)
    return "its variant is FAILED, the others finish; `--retry-failed` repairs"


def worker_killed(folder: Path, turn: int) -> str:
    """`kill -9` of a worker while a variant runs."""
    _below_killed(folder, turn, WORKER, ("KILLED", "WorkerDied"))
    return "its variant is KILLED, the others finish; the same command repairs"


def _below_killed(folder: Path, turn: int, word: str, ends: tuple[str, str], **repair: bool) -> None:
    scene = Scene(folder, track=False)
    wanted = variants("ab", 0.0)
    # It is held until it has been hurt.
    wanted[turn % 2]["do"] = "await"
    sweep = scene.start(wanted)
    wait_for(lambda: len(scene.begun()) > turn % 2)
    sweep.kill(word)
    (scene.runs.root / "go").touch()
    code, told = sweep.end()
    scene.check(whole=False)
    lost = [r for r in scene.runs.records() if r.status is not Status.FINISHED]
    assert (code, [(str(r.status), r.error["type"]) for r in lost]) == (1, [ends]), told
    scene.repaired(wanted, **repair)


def parent_killed(folder: Path, turn: int) -> str:
    """`kill -9` of the sweep's own process, twice, with two workers and a store."""
    scene = Scene(folder)
    wanted = variants("abcd", 0.4)
    for ends in (1 + turn % 2, 3):
        sweep = scene.start(wanted, jobs=2)
        wait_for(lambda n=ends: len(scene.ended()) >= n)
        sweep.kill()
        scene.check(whole=False)
    scene.repaired(wanted, jobs=2)
    return "workers and kernels end; the same command runs the rest, nothing twice"


def terminated(folder: Path, turn: int) -> str:
    """SIGTERM to the sweep's own process while a variant runs."""
    scene = Scene(folder)
    wanted = variants("abc", 0.4)
    wanted[turn % 2]["do"] = "await"
    sweep = scene.start(wanted, jobs=1 + turn % 2)
    wait_for(lambda: len(scene.begun()) > turn % 2)
    sweep.process.terminate()
    code, told = sweep.end()
    assert code == 130, (code, told)
    scene.check(whole=False)
    lost = [r.status for r in scene.runs.records() if r.status is not Status.FINISHED]
    assert lost == [Status.KILLED] * len(lost) != [], lost
    (scene.runs.root / "go").touch()
    scene.repaired(wanted)
    return "exit code 130, its variant is KILLED, as with Ctrl-C; the same command repairs"


def parent_killed_after_the_result(folder: Path, turn: int) -> str:  # noqa: ARG001
    """`kill -9` of the sweep's own process between a variant's result and its record."""
    scene = Scene(folder, track=False)
    wanted = [{"name": "a", "do": "linger"}]
    sweep = scene.start(wanted)
    wait_for(scene.ended)
    sweep.kill()
    (record,) = scene.runs.records()
    assert record.status is Status.RUNNING
    # A kill in the middle of a write leaves this.
    (scene.runs.variant_dir(record.key) / ".notebook.ipynb.half").write_text("{")
    scene.repaired(wanted)
    return "the result is taken over, the variant does not run again"


def torn_notebook(folder: Path, turn: int) -> str:
    """As before, and the executed notebook is torn, as a kill could leave it in older versions."""
    scene = Scene(folder, track=False)
    wanted = [{"name": "a", "do": "linger"}]
    sweep = scene.start(wanted)
    wait_for(scene.ended)
    sweep.kill()
    (record,) = scene.runs.records()
    notebook = scene.runs.variant_dir(record.key) / "notebook.ipynb"
    whole = notebook.read_bytes()
    notebook.write_bytes(whole[: len(whole) * (turn % 4) // 4])
    # It must run once more: the diary begins anew, and there is no second kill to linger for.
    (scene.runs.root / "diary.txt").unlink()
    (scene.runs.root / "hurry").touch()
    scene.repaired(wanted)
    return "the variant runs again"


def server_killed(folder: Path, turn: int) -> str:
    """`kill -9` of the mlflow server while a sweep logs to it; it comes back while the sweep still runs."""
    with mlflow_server(folder / "server") as server:
        scene = Scene(folder, uri=server.uri)
        wanted = [*variants("ab", 1.0), {"name": "c", "do": "await"}]
        sweep = scene.start(wanted)
        wait_for(lambda: len(scene.ended()) >= turn % 2)
        server.end(signal.SIGKILL)
        wait_for(lambda: "tracking paused" in sweep.told())
        server.start()
        (scene.runs.root / "go").touch()
        code, told = sweep.end()
        assert "tracking paused" in told
        assert (code, "has all records of this sweep" in told) == (0, True), told
        scene.check(whole=True)
    return "what was refused is logged when it answers again; no further command is needed"


def server_gone(folder: Path, turn: int) -> str:  # noqa: ARG001
    """No tracking server from the start to the end of a sweep; it is there for the next command."""
    with mlflow_server(folder / "server", start=False) as server:
        scene = Scene(folder, uri=server.uri)
        wanted = variants("ab")
        code, told = scene.run(wanted)
        assert (code, "vqkit track" in told, "records are safe" in told) == (3, True, True), told
        assert [r.status for r in scene.runs.records()] == [Status.FINISHED] * 2
        server.start()
        scene.repaired(wanted)
    return "exit code 3, the records are on disk; the same command, or `vqkit track`, logs them"


def dask_worker_killed(folder: Path, turn: int) -> str:
    """`kill -9` of one of two Dask workers."""
    scene = Scene(folder, track=False)
    wanted = variants("abcd", 0.6)
    with dask_cluster(folder / "dask") as (file, workers):
        sweep = scene.start(wanted, cluster=str(file))
        wait_for(lambda: len(scene.ended()) > turn % 2)
        workers[turn % 2].kill()
        code, told = sweep.end()
        assert code == 0, told
        scene.check(whole=True)
        # What the dead worker had begun was begun again, and nothing else.
        assert len(scene.begun()) <= len(wanted) + 1
        left = psutil.Process(workers[1 - turn % 2].pid).children()
        assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []
        told = scene.repaired(wanted, cluster=str(file))
    return "the other worker takes its variant over; the sweep ends well"


def disk_full(folder: Path, turn: int) -> str:
    """A disk that is full but for some KB, while a sweep and its store are written."""
    free = (0, 8, 40, 120)[turn % 4]
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        sys.executable,
        "-m",
        "tests.system.robustness.full_disk",
        str(folder),
        str(free),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **QUIET})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return "no result is claimed that is not on disk; with room again the same command repairs"


def can_fill_a_disk() -> bool:
    """Whether this user may mount a small disk in a name space of his own."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def read_only_runs(folder: Path, turn: int) -> str:
    """`runs/` becomes read-only: before the sweep starts, or while it runs."""
    scene = Scene(folder)
    wanted = variants("abc", 0.6)
    before = _without_privileges()
    if turn % 2 == 0:
        scene.run(wanted[:1])
        with _read_only(scene.runs.root):
            code, told = scene.run(wanted, before=before)
        assert (code, "cannot be written" in told) == (2, True), told
        assert scene.ended() == ["a"]
    else:
        sweep = scene.start(wanted, before=before)
        wait_for(lambda: "b" in scene.begun())
        with _read_only(scene.runs.root):
            code, told = sweep.end()
        assert (code, "cannot be written" in told or "ermission denied" in told) == (1, True), told
    scene.check(whole=False)
    scene.repaired(wanted, retry_failed=True)
    return "refused with the path and the reason; made writable, the same command repairs"


def _without_privileges() -> list[str]:
    """Root may write anywhere; without its capabilities it may not."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@contextmanager
def _read_only(root: Path) -> Iterator[None]:
    paths = [root, *root.rglob("*")]
    modes = {p: p.stat().st_mode for p in paths}
    for p in paths:
        p.chmod(modes[p] & ~0o222)
    try:
        yield
    finally:
        for p, mode in modes.items():
            p.chmod(mode)


def clock_set(folder: Path, turn: int) -> str:
    """The clock is set a day back and years ahead while a sweep runs."""
    scene = Scene(folder)
    jumps = (-86_400, 315_360_000) if turn % 2 == 0 else (315_360_000, -86_400)
    offset = folder / "offset"
    offset.write_text("0")
    path = os.pathsep.join([str(Path(__file__).parent / "clock"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    wanted = variants("abcd", 0.5)
    sweep = scene.start(wanted, env={"PYTHONPATH": path, "VQKIT_TEST_CLOCK": str(offset)})
    for n, seconds in enumerate(jumps):
        wait_for(lambda n=n: len(scene.begun()) > n)
        offset.write_text(str(seconds))
    code, told = sweep.end()
    assert code == 0, told
    scene.check(whole=True)
    started = {r.name: r.started[:4] for r in scene.runs.records()}
    assert len(set(started.values())) > 1, started
    scene.repaired(wanted)
    return "no run ends before it began; nothing is run or logged again"


def two_at_once(folder: Path, turn: int) -> str:  # noqa: ARG001
    """Two sweeps that share variants, and one of them once more, at once in one folder and one new store."""
    scene = Scene(folder)
    shared = variants("abcd", 0.5)
    shared[0]["do"] = "await"
    first = scene.start(shared[:3], name="s")
    second = scene.start(shared[1:], name="t")
    wait_for(lambda: "a" in scene.begun())
    code, told = scene.run(shared[:3], name="s")
    assert (code, "another process is running this sweep" in told) == (2, True), told
    (scene.runs.root / "go").touch()
    codes = [sweep.end() for sweep in (first, second)]
    assert [code for code, _ in codes] == [0, 0], codes
    scene.check(whole=True)
    assert sorted(scene.begun()) == list("abcd")
    return "shared variants run once; the second start of one sweep is refused"


FAULTS: dict[str, Fault] = {
    f.__name__: f
    for f in (
        kernel_killed,
        worker_killed,
        parent_killed,
        terminated,
        parent_killed_after_the_result,
        torn_notebook,
        server_killed,
        server_gone,
        dask_worker_killed,
        disk_full,
        read_only_runs,
        clock_set,
        two_at_once,
    )
}
