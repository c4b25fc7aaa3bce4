"""A small sweep in processes that can be hurt, and the check by machine of what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.pretend import diary
from vqkit.runs.store import Status, Store

ROOT = Path(__file__).resolve().parents[3]
FILES = ("strategy", "plan", "encodings", "sqnr", "notebook")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


def variants(names: str, sleep: float = 0.3) -> list[dict[str, Any]]:
    """One variant for each letter; what it does besides sleeping is nothing."""
    return [{"name": n, "sleep": sleep} for n in names]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return when something is so; fail when it does not become so."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "what was waited for did not happen"
        time.sleep(0.02)


class Scene:
    """A folder with `runs/` in it, and sweeps over it.

    Args:
        folder: where; made if missing.
        track: index the records in mlflow as well.
        uri: of its store; None for the one in `runs/`.
    """

    def __init__(self, folder: Path, *, track: bool = True, uri: str | None = None) -> None:
        self.folder, self.track, self.uri = folder, track, uri
        folder.mkdir(parents=True, exist_ok=True)
        self.runs = Store.at(folder / "runs")
        self._sweeps: dict[str, list[str]] = {}
        self._started = 0

    def start(
        self,
        wanted: Sequence[Mapping[str, Any]],
        *,
        name: str = "s",
        jobs: int = 1,
        retry_failed: bool = False,
        cluster: str | None = None,
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Running:
        """Start a sweep in a process of its own; `before` are words in front of its command."""
        self._sweeps[name] = sorted(str(v["name"]) for v in wanted)
        told = {
            "variants": list(wanted),
            "name": name,
            "jobs": jobs,
            "retry_failed": retry_failed,
            "cluster": cluster,
            "uri": self.uri,
            "track": self.track,
        }
        self._started += 1
        log = self.folder / f"output-{self._started}.txt"
        command = [
            *before,
            sys.executable,
            "-m",
            "tests.system.robustness.sweeping",
            str(self.folder),
            json.dumps(told),
        ]
        with open(log, "wb") as f:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=f,
                stderr=subprocess.STDOUT,
                env={**os.environ, **QUIET, **(env or {})},
                start_new_session=True,
            )
        return Running(process, log)

    def run(self, wanted: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, str]:
        """Run a sweep to its end: exit code and what it printed."""
        return self.start(wanted, **options).end()

    def repaired(self, wanted: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The next command ends well, and then nothing is lost or doubled; returns what it printed."""
        code, told = self.run(wanted, **options)
        assert code == 0, (code, told)
        self.check(whole=True)
        return told

    def ended(self) -> list[str]:
        """Names of variants in the order in which their notebooks reached the end."""
        return [line.removeprefix("end ") for line in diary(self.runs.root) if line.startswith("end ")]

    def begun(self) -> list[str]:
        """Names of variants in the order in which their notebooks began."""
        return [line.removeprefix("begin ") for line in diary(self.runs.root) if line.startswith("begin ")]

    def check(self, *, whole: bool) -> None:
        """Nothing is recorded that is not so; with `whole`, everything is recorded, once.

        Raises:
            AssertionError: a record cannot be read, a finished one lacks a file, a run is double or misfiled.
        """
        records = self.runs.records()
        for record in records:
            if record.status is Status.FINISHED:
                self._check_finished(record)
        assert max(Counter(self.ended()).values(), default=1) == 1, self.ended()
        if self.track and (self.uri or (self.runs.root / "mlflow.db").is_file()):
            self._check_store({r.key: r for r in records}, whole=whole)
        if whole:
            names = sorted({n for names in self._sweeps.values() for n in names})
            assert sorted(r.name for r in records) == names
            assert {r.status for r in records} == {Status.FINISHED}
            assert sorted(self.ended()) == names
            for sweep, listed in self._sweeps.items():
                assert sorted(r.name for r in self.runs.records(sweep)) == listed
            halves = list(self.runs.root.glob("variants/*/.*.*"))
            assert halves == []

    def _check_finished(self, record: Any) -> None:
        folder = self.runs.variant_dir(record.key)
        assert set(record.artifacts) == set(FILES), record.artifacts
        for name in record.artifacts.values():
            json.loads((folder / name).read_text("utf-8"))
        assert json.loads((folder / "plan.json").read_text())["of"] == record.name
        assert record.metrics["accuracy"] == 0.5
        assert record.ended is not None
        assert record.started <= record.ended

    def _check_store(self, records: Mapping[str, Any], *, whole: bool) -> None:
        found = store_runs(self.runs.root, self.uri)
        seen = Counter((run["sweep"], run["kind"], run["key"]) for run in found)
        assert max(seen.values(), default=1) == 1, seen
        assert {run["experiment"] for run in found} <= {"vqkit"}
        for run in found:
            if run["status"] == "FINISHED" and run["kind"] == "variant":
                record = records[run["key"]]
                assert record.status is Status.FINISHED
                # The mark comes after the status; a kill in between leaves it to the next command.
                assert run["complete"] or not whole
                assert set(run["files"]) == {*record.artifacts.values(), "record.json"}
                assert run["accuracy"] == record.metrics["accuracy"]
        if whole:
            done = {(r["sweep"], records[r["key"]].name) for r in found if r["kind"] == "variant"}
            assert done == {(sweep, n) for sweep, names in self._sweeps.items() for n in names}
            assert {r["status"] for r in found} == {"FINISHED"}


class Running:
    """A sweep's process.

    Args:
        process: of `tests.system.robustness.sweeping`.
        log: takes what it prints.
    """

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self._log = process, log

    def family(self, word: str = "") -> list[psutil.Process]:
        """Processes below it, those whose command line holds a word."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [p for p in found if word in _command(p)]

    def kill(self, word: str = "") -> None:
        """`kill -9` of the process below it whose command line holds the word, or of the sweep itself."""
        if not word:
            below = self.family()
            self.process.kill()
            self.process.wait()
            wait_for(lambda: not any(_lives(p) for p in below), 30)
            return
        wait_for(lambda: self.family(word))
        self.family(word)[0].kill()

    def told(self) -> str:
        """What it has printed so far."""
        return self._log.read_text("utf-8", "replace")

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """Wait for its end: exit code and what it printed. Nothing of it is left."""
        below = self.family()
        code = self.process.wait(seconds)
        wait_for(lambda: not any(_lives(p) for p in below), 30)
        told = self.told()
        assert code in (0, 1, 2, 3, 130), (code, told)
        return code, told


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def store_runs(runs: Path, uri: str | None) -> list[dict[str, Any]]:
    """Every active run of every experiment in a tracking store, read with mlflow's own client."""
    from vqkit.runs.mlflow import Tracker, store_errors
    from vqkit.runs.mlflow_tags import Tag

    tracker = Tracker.open(uri, runs_dir=runs)
    client = tracker._client
    with store_errors(tracker.uri, runs, "check"):
        named = {e.experiment_id: e.name for e in client.search_experiments()}
        runs_found = client.search_runs(list(named), max_results=1000)
        return [
            {
                "experiment": named[r.info.experiment_id],
                "status": r.info.status,
                "kind": r.data.tags.get(Tag.KIND),
                "key": r.data.tags.get(Tag.KEY),
                "sweep": r.data.tags.get(Tag.SWEEP),
                "complete": Tag.COMPLETE in r.data.tags,
                "accuracy": r.data.metrics.get("accuracy"),
                "files": [a.path for a in client.list_artifacts(r.info.run_id)],
            }
            for r in runs_found
        ]
