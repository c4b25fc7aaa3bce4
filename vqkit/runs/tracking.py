"""Records go to a tracking store beside a sweep or all at once, and runs of a store are read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vqkit.errors import RecordError, TrackingError
from vqkit.runs import mlflow
from vqkit.runs.mlflow import Tracker
from vqkit.runs.store import RECORD, RunRecord, Status, Store

PAUSE = 30.0
"""Seconds after a refusal in which the store is left alone."""


class Session:
    """Logs records to mlflow; what a store refused is logged when it answers again, at the latest at the end.

    Args:
        runs: where the records are.
        tracking_uri: any mlflow store; None for the one in the run folder.
        sweep: resolved sweep, None for a single run.
        say: takes one line for people.
        experiment: as for `Tracker.open`.

    Attributes:
        problem: why records are missing in the store; None while there are none.
    """

    def __init__(
        self,
        runs: Store,
        tracking_uri: str | None,
        sweep: dict[str, Any] | None,
        say: Callable[[str], None],
        experiment: str | None = None,
    ) -> None:
        self.problem: str | None = None
        self._runs, self._uri, self._sweep, self._say, self._experiment = runs, tracking_uri, sweep, say, experiment
        self._tracker: Any = None
        self._begun = False
        self._owed: dict[Path, None] = {}
        self._not_before = 0.0
        self._try(self._catch_up)

    def log(self, record: RunRecord) -> None:
        """Log one record, and those that the store refused before."""
        folder = self._runs.variant_dir(record.key)
        if (folder / RECORD).exists():
            self._owed[folder] = None
            if self.problem is None or time.monotonic() >= self._not_before:
                self._try(self._catch_up)

    def relist(self, sweep: dict[str, Any]) -> None:
        """Keep the sweep's file in its parent run as it is now."""
        self._sweep, self._begun = sweep, False
        self._try(self._catch_up)

    def close(self, *, interrupted: bool = False) -> None:
        """Close the sweep's parent run."""

        def end() -> None:
            self._catch_up()
            self._tracker.end_sweep("KILLED" if interrupted else "FINISHED")

        self._try(end)
        if self.problem is not None:
            self._say(f"the tracking store lacks records: {self.problem}")

    def _catch_up(self) -> None:
        if self._tracker is None:
            self._tracker = Tracker.open(self._uri, runs_dir=self._runs.root, experiment=self._experiment)
        if self._sweep is not None and not self._begun:
            self._tracker.start_sweep(self._sweep)
            self._begun = True
        broken: RecordError | None = None
        for folder in tuple(self._owed):
            try:
                self._tracker.log_variant(folder)
                del self._owed[folder]
            except RecordError as e:
                broken = e
        if broken is not None:
            raise broken

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (TrackingError, RecordError) as e:
            if self.problem is None:
                self._say(f"tracking paused, it is tried again: {e}")
            self.problem, self._not_before = str(e), time.monotonic() + PAUSE
        else:
            if self.problem is not None:
                self._say("the tracking store answers again, and has all records of this sweep")
            self.problem = None


class Reader(Tracker):
    """A tracking store that is only read."""

    @classmethod
    def at(cls, tracking_uri: str, *, experiment: str | None = None) -> Self:
        """Connect to a store that exists.

        Args:
            tracking_uri: `sqlite:///…` or `http://…`.
            experiment: as for `Tracker.open`.

        Returns:
            The reader; files that it fetches live until it is gone.

        Raises:
            TrackingError: there is no such database, or the store cannot be reached.
        """
        database = mlflow.sqlite_file(mlflow.absolute(tracking_uri, Path.cwd()))
        if database is not None and not os.path.isfile(database):
            raise TrackingError(f"{tracking_uri}: there is no database {database}")
        scratch = tempfile.mkdtemp(prefix="vqkit-")
        reader = cls.open(tracking_uri, runs_dir=scratch, experiment=experiment)
        reader._scratch = scratch
        weakref.finalize(reader, shutil.rmtree, scratch, ignore_errors=True)
        return reader

    def folder(self, run_id: str) -> Path:
        """A run's files as they lie in a run folder.

        Args:
            run_id: the store's own, `RunRecord.run_id`.

        Returns:
            A folder with `record.json`, `strategy.json` and whatever else was logged.

        Raises:
            TrackingError: the files cannot be fetched.
        """
        target = Path(self._scratch, run_id)
        if not target.is_dir():
            target.mkdir(parents=True)
            try:
                self._client.download_artifacts(run_id, "", str(target))
            except Exception as e:
                shutil.rmtree(target)
                raise TrackingError(f"{self.uri}: the files of run {run_id} cannot be fetched: {e}") from e
        return target

    @staticmethod
    def _experiment(client: Any, name: str, artifacts: Path | None) -> str:
        """Who only reads leaves the store as it is: where there is no experiment, there are no runs."""
        del artifacts
        found = client.get_experiment_by_name(name)
        return "" if found is None else mlflow.active_id(found, name)

    def _search(self, condition: str) -> Iterator[Any]:
        return super()._search(condition) if self.experiment_id else iter(())

    _scratch: str = ""


@dataclass(frozen=True)
class Rebuilt:
    """What `rebuild` did.

    Attributes:
        uri: the store.
        runs: run ids of all variants that are now in it.
        problems: one line per record that could not be read.
    """

    uri: str
    runs: tuple[str, ...]
    problems: tuple[str, ...]


def rebuild(runs_dir: str | Path, tracking_uri: str | None = None, *, experiment: str | None = None) -> Rebuilt:
    """Bring a store up to date with every record on disk; what is there already stays as it is.

    Args:
        runs_dir: the folder of runs.
        tracking_uri: as in `Tracker.open`.
        experiment: as for `Tracker.open`.

    Raises:
        TrackingError: the store refused.
    """
    tracker = Tracker.open(tracking_uri, runs_dir=runs_dir, experiment=experiment)
    store = Store(Path(runs_dir))
    records = store.records()
    problems = [str(r.error["message"]) for r in records if r.status is Status.BROKEN and r.error]
    sound = {r.key: r.directory for r in records if r.status is not Status.BROKEN and r.directory}
    logged: list[tuple[str, str]] = []

    def log(keys: Iterable[str]) -> None:
        for key in keys:
            try:
                logged.append((key, tracker.log_variant(sound[key])))
            except RecordError as e:
                problems.append(str(e))

    with tracker.bulk():
        for name in store.sweeps():
            try:
                sweep = {**store.sweep(name), "name": name}
            except RecordError as e:
                problems.append(str(e))
                continue
            tracker.start_sweep(sweep)
            log(dict.fromkeys(v["key"] for v in sweep.get("variants", []) if v["key"] in sound))
            tracker.end_sweep()
        listed = {key for key, _ in logged}
        log(key for key in sound if key not in listed)
    return Rebuilt(tracker.uri, tuple(run for _, run in logged), tuple(problems))
