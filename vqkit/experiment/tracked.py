"""Runs of an mlflow store, for comparison: records from its tags, files fetched when looked at."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from vqkit.errors import TrackingError
from vqkit.experiment import addresses
from vqkit.experiment.records import Record
from vqkit.experiment.track import EXPERIMENT, Tracker

_ID = "run_id"


class Reader(Tracker):
    """A tracking store that is only read."""

    @classmethod
    def at(cls, tracking_uri: str, *, experiment: str = EXPERIMENT) -> Self:
        """Connect to a store that exists.

        Args:
            tracking_uri: `sqlite:///…` or `http://…`.
            experiment: the experiment's name.

        Returns:
            The reader; files that it fetches live until it is gone.

        Raises:
            TrackingError: there is no such database, or the store cannot be reached.
        """
        database = addresses.sqlite_file(addresses.absolute(tracking_uri, Path.cwd()))
        if database is not None and not database.is_file():
            raise TrackingError(f"{tracking_uri}: there is no database {database}")
        scratch = tempfile.mkdtemp(prefix="vqkit-")
        reader = cls.open(tracking_uri, runs_dir=scratch, experiment=experiment)
        reader._scratch = scratch
        weakref.finalize(reader, shutil.rmtree, scratch, ignore_errors=True)
        return reader

    def folder(self, run_id: str) -> Path:
        """A run's files as they lie in a run folder.

        Args:
            run_id: the store's own, `run_id` of the records.

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
                target.rmdir()
                raise TrackingError(f"{self.uri}: the files of run {run_id} cannot be fetched: {e}") from e
        return target

    @staticmethod
    def _experiment(client: Any, name: str, artifacts: Path | None) -> str:
        """Who only reads leaves the store as it is: where there is no experiment, there are no runs."""
        if client.get_experiment_by_name(name) is None:
            return ""
        return Tracker._experiment(client, name, artifacts)

    def _search(self, condition: str) -> Iterator[Any]:
        return super()._search(condition) if self.experiment_id else iter(())

    def _record(self, run: Any) -> Record:
        return {**super()._record(run), _ID: str(run.info.run_id)}

    _scratch: str = ""
