"""Tracking beside a sweep: the parent logs each record, and a store that refuses never costs a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vqkit.errors import TrackingError
from vqkit.experiment.store import RunRecord, Store


class Session:
    """Logs records to mlflow until the store refuses; from then on only the records on disk grow.

    Args:
        runs: where the records are.
        tracking_uri: any mlflow store; None for the one in the run folder.
        sweep: resolved sweep, None for a single run.
        say: takes one line for people.

    Attributes:
        problem: why tracking stopped; None while it works.
    """

    def __init__(
        self, runs: Store, tracking_uri: str | None, sweep: dict[str, Any] | None, say: Callable[[str], None]
    ) -> None:
        self.problem: str | None = None
        self._runs, self._say = runs, say
        self._tracker: Any = None
        self._try(lambda: self._open(tracking_uri, sweep))

    def log(self, record: RunRecord) -> None:
        """Log one record; does nothing after a refusal."""
        folder = self._runs.variant_dir(record.key)
        if (folder / "record.json").exists():
            self._try(lambda: self._tracker.log_variant(folder))

    def relist(self, sweep: dict[str, Any]) -> None:
        """Keep the sweep's file in its parent run as it is now."""
        self._try(lambda: self._tracker.start_sweep(sweep))

    def close(self, *, interrupted: bool = False) -> None:
        """Close the sweep's parent run."""
        self._try(lambda: self._tracker.end_sweep("KILLED" if interrupted else "FINISHED"))

    def _open(self, tracking_uri: str | None, sweep: dict[str, Any] | None) -> None:
        from vqkit.experiment.track import Tracker

        self._tracker = Tracker.open(tracking_uri, runs_dir=self._runs.root)
        if sweep is not None:
            self._tracker.start_sweep(sweep)

    def _try(self, action: Callable[[], object]) -> None:
        if self.problem is None:
            try:
                action()
            except TrackingError as e:
                self.problem = str(e)
                self._say(f"tracking stopped: {e}")
