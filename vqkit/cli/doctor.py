"""Commands that prove: doctor, whether this machine can work; reproduce, whether a run can be repeated."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer

from vqkit.cli.application import Exit, Runs, Timeout, app
from vqkit.environment import quiet


@app.command()
def doctor(runs: Runs = Path("runs")) -> None:
    """Try everything that a sweep needs on this machine, and say what to mend."""

    findings = examine(runs)
    typer.echo(report(findings))
    raise typer.Exit(Exit.INVALID if any(f.verdict == "bad" for f in findings) else Exit.OK)


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(help="Key, start of a key, or name of a finished run.")],
    into: Annotated[Path | None, typer.Option(help="Folder for the repetition; default: RUNS/reproduced.")] = None,
    timeout: Timeout = None,
    runs: Runs = Path("runs"),
) -> None:
    """Run a recorded run again, with nothing cached, and compare to the last bit."""
    from vqkit.comparison.reproduce import reproduce as repeat

    found = repeat(runs, run, into=into, timeout=timeout)
    typer.echo(str(found))
    raise typer.Exit(Exit.OK if found.same else Exit.SOME_FAILED)


Verdict = Literal["ok", "warn", "bad"]
GIB = 2**30
LEAST_DISK, LEAST_MEMORY = 2 * GIB, 2 * GIB
EXTRAS = {
    "onnx": ("onnx", "ONNX files and their check in ONNX Runtime"),
    "tflite": ("ai-edge-litert", "TFLite files and their check in LiteRT"),
    "dask": ("distributed", "sweeps on a cluster"),
    "search": ("optuna", "search under a budget"),
    "lab": ("jupyterlab", "vqkit lab and vqkit dashboard"),
}
# 0.1 + 0.2 in float32, and a kernel that only works when TensorFlow's native code loads.
_TENSORFLOW = (
    "import tensorflow as tf, keras; "
    "y = tf.quantization.fake_quant_with_min_max_args([0.3], -1.0, 1.0); "
    "assert abs(float(y[0]) - 0.3) < 0.01; "
    "assert keras.backend.backend() == 'tensorflow', keras.backend.backend(); "
    "print(tf.__version__, keras.__version__)"
)


@dataclass(frozen=True)
class HealthCheck:
    """One thing that was looked at.

    Attributes:
        what: its name.
        verdict: "ok"; "warn": works, with a limit; "bad": vqkit will not work.
        found: what was seen.
        advice: what to do; "" where nothing is to be done.
    """

    what: str
    verdict: Verdict
    found: str
    advice: str = ""

    def __str__(self) -> str:
        more = f"\n       -> {self.advice}" if self.advice else ""
        return f"{self.verdict:4s}  {self.what}: {self.found}{more}"


def examine(runs_dir: str | Path) -> list[HealthCheck]:
    """Look at everything a sweep needs, by using it.

    Args:
        runs_dir: folder that runs will be written to; it is not created.

    Returns:
        What was found, in the order in which a sweep needs it.
    """
    return [
        *_python(),
        *_packages(),
        _tensorflow(),
        _operations(),
        _kernel(),
        _folder(Path(runs_dir)),
        _database(),
        _loopback(),
        _memory(),
        _threads(),
        *_extras(),
    ]


def _python() -> Iterator[HealthCheck]:
    found = f"{platform.python_version()} on {platform.platform(terse=True)}, {sys.prefix}"
    if sys.prefix == sys.base_prefix:
        yield HealthCheck("Python", "warn", found, "outside a virtual environment packages may clash")
    else:
        yield HealthCheck("Python", "ok", found)


def _packages() -> Iterator[HealthCheck]:
    """Every requirement of the installed vqkit that is not met."""
    from packaging.requirements import Requirement

    try:
        wanted = metadata.requires("vqkit") or []
    except metadata.PackageNotFoundError:
        yield HealthCheck("packages", "warn", "vqkit is run from a folder, not installed", "pip install -e .")
        return
    unmet = []
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = _version(requirement.name)
        if have is None or not requirement.specifier.contains(have, prereleases=True):
            unmet.append(f"{requirement} (found {have or 'none'})")
    if unmet:
        advice = "pip install -c constraints.txt -e . in a fresh environment"
        yield HealthCheck("packages", "bad", "; ".join(unmet), advice)
    else:
        yield HealthCheck("packages", "ok", f"the {len(wanted)} requirements of vqkit are met or optional")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **quiet()},
    )


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _tensorflow() -> HealthCheck:
    done = _run(_TENSORFLOW)
    if done.returncode == 0:
        return HealthCheck("TensorFlow", "ok", f"computes; TensorFlow and Keras {done.stdout.strip()}")
    last = _last_words(done)
    if done.returncode == -4:
        last, advice = "illegal instruction", "this processor lacks AVX; use another machine"
    elif "backend" in done.stderr or os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        advice = "set KERAS_BACKEND=tensorflow"
    else:
        advice = "pip install --force-reinstall tensorflow in a fresh environment"
    return HealthCheck("TensorFlow", "bad", last, advice)


def _operations() -> HealthCheck:
    """Whether vqkit's own operations can be had, which give the same numbers in less time."""
    done = _run(
        "from vqkit.primitives.native import native\nfound = native(); print(found.library is not None, found.told)\n"
    )
    have, _, told = (done.stdout.strip().splitlines() or ["False "])[-1].partition(" ")
    if have == "True":
        return HealthCheck("own operations", "ok", told)
    why = told or _last_words(done)
    advice = "everything works, evaluation takes a tenth longer; they need a C++ compiler such as g++"
    return HealthCheck("own operations", "warn", why, advice)


def _kernel() -> HealthCheck:
    """A notebook kernel of this interpreter starts and answers."""
    done = _run(
        "from jupyter_client.manager import KernelManager as M\n"
        f"m = M(transport='ipc'); m.kernel_spec.argv[0] = {sys.executable!r}\n"
        "m.start_kernel(); c = m.client(); c.start_channels()\n"
        "try: c.wait_for_ready(timeout=120)\n"
        "finally: c.stop_channels(); m.shutdown_kernel(now=True)\n"
    )
    if done.returncode == 0:
        return HealthCheck("notebook kernel", "ok", "starts and answers")
    last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return HealthCheck("notebook kernel", "bad", last, "pip install --force-reinstall ipykernel")


def _folder(runs: Path) -> HealthCheck:
    there = runs.resolve()
    while not os.path.exists(there):
        there = there.parent
    if not there.is_dir():
        return HealthCheck("run folder", "bad", f"{there} is a file", "choose another folder with --runs")
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            pass
    except OSError as error:
        what = f"{there} cannot be written: {error.strerror}"
        return HealthCheck("run folder", "bad", what, "choose another folder with --runs")
    free = shutil.disk_usage(there).free
    found = f"{there} can be written, {free / GIB:.1f} GiB free"
    if free < LEAST_DISK:
        return HealthCheck("run folder", "warn", found, "a run takes some megabytes; make room before a sweep")
    return HealthCheck("run folder", "ok", found)


def _database() -> HealthCheck:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with sqlite3.connect(Path(folder, "a.db")) as connection:
                connection.execute("create table t (x)")
        except sqlite3.Error as error:
            return HealthCheck("sqlite", "bad", str(error), "mlflow's default store needs sqlite and file locks")
    return HealthCheck("sqlite", "ok", sqlite3.sqlite_version)


def _loopback() -> HealthCheck:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
    except OSError as error:
        what = str(error.strerror)
        return HealthCheck("loopback", "warn", what, "vqkit ui, lab and dashboard need a port on 127.0.0.1")
    return HealthCheck("loopback", "ok", f"127.0.0.1 can be bound (tried port {port})")


def _memory() -> HealthCheck:
    free = psutil.virtual_memory().available
    if free < LEAST_MEMORY:
        advice = "each worker of a sweep takes about 1 GiB and the model; use -j 1"
        return HealthCheck("memory", "warn", f"{free / GIB:.1f} GiB available", advice)
    return HealthCheck("memory", "ok", f"{free / GIB:.1f} GiB available")


def _threads() -> HealthCheck:
    cores = os.cpu_count() or 1
    limited = {k: v for k, v in os.environ.items() if k.startswith(("OMP_NUM", "TF_NUM")) and v}
    if limited:
        words = ", ".join(f"{k}={v}" for k, v in limited.items())
        return HealthCheck("cores", "warn", f"{cores}, but {words}", "unset them unless they are meant")
    return HealthCheck("cores", "ok", str(cores))


def _extras() -> Iterator[HealthCheck]:
    for extra, (package, gives) in EXTRAS.items():
        have = _version(package)
        if have is None:
            yield HealthCheck(f"extra {extra}", "ok", f"not installed ({gives}): pip install 'vqkit[{extra}]'")
        else:
            yield HealthCheck(f"extra {extra}", "ok", f"{package} {have}")


def report(findings: list[HealthCheck]) -> str:
    """All findings, a line or two each, and the sum."""
    bad, warned = (sum(f.verdict == v for f in findings) for v in ("bad", "warn"))
    end = "vqkit can work here" if not bad else f"{bad} of {len(findings)} must be mended first"
    return "\n".join([*map(str, findings), f"{end}; {warned} warnings"])
