"""Chosen runs with their files."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit.comparison import leaderboard
from vqkit.errors import RecordError, not_allowed
from vqkit.files import read_json, read_text
from vqkit.runs.records import load_records, rows_of, select, to_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from vqkit.strategy import Strategy

NOTEBOOK, TRACEBACK = "notebook.ipynb", "traceback.txt"


@dataclass(frozen=True)
class Run:
    """One run that was chosen.

    Attributes:
        row: its row of the leaderboard.
        folder: its files; None where none were kept.
    """

    row: Mapping[str, Any]
    folder: Path | None

    @property
    def key(self) -> str:
        """Its key."""
        return str(self.row["key"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.row["name"])

    @property
    def notebook(self) -> Path | None:
        """The executed notebook; None where none was kept."""
        return self.file(NOTEBOOK)

    @property
    def traceback(self) -> str:
        """Why it failed, as Python told it; "" where nothing was kept."""
        path = self.file(TRACEBACK)
        return read_text(path) if path else ""

    @property
    def strategy(self) -> Strategy:
        """The whole strategy that it ran with.

        Raises:
            RecordError: it kept none.
        """
        from vqkit.strategy import Strategy

        path = self.file("strategy.json")
        if path is None:
            raise RecordError(f"run {self.name} [{self.key}] kept no strategy.json")
        return Strategy.load(path)

    def file(self, name: str) -> Path | None:
        """The path of one of its files, None where it kept none of that name."""
        path = None if self.folder is None else self.folder / name
        return path if path is not None and path.is_file() else None

    def json(self, name: str) -> Any:
        """The content of one of its JSON files; None where it is missing or broken."""
        path = self.file(name)
        try:
            return None if path is None else read_json(path)
        except RecordError:
            return None


@dataclass
class RunSet:
    """Runs with their places among each other.

    Attributes:
        where: the folder of runs, or the address of a tracking store.
        sweep: only this sweep's runs; "" for all.
        filters: column -> wanted value or values.
    """

    where: str
    sweep: str = ""
    filters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What is compared, for a heading."""
        return f"Sweep {self.sweep}" if self.sweep else f"Runs in {self.where}"

    @property
    def frame(self) -> pd.DataFrame:
        """The leaderboard (see `compare.leaderboard`)."""
        if "frame" not in self._cache:
            self.reload()
        return self._cache["frame"]

    def reload(self) -> None:
        """Read the records again."""
        if self._remote:
            records = self._reader.records(self.sweep or None)
            self._cache["ids"] = {r.key: r.run_id for r in records}
            frame = select(to_frame(records), self.filters)
        else:
            frame = load_records(self.where, self.sweep or None, self.filters)
        self._cache["frame"] = leaderboard.leaderboard(frame)

    def run(self, key: str) -> Run:
        """One of the runs with its files, which are fetched from a tracking store on demand.

        Args:
            key: of the run, or its name.

        Raises:
            RecordError: there is none.
            TrackingError: its files cannot be fetched.
        """
        rows = self.frame[(self.frame["key"] == key) | (self.frame["name"] == key)]
        if rows.empty:
            raise RecordError(not_allowed(self.title, key, [*self.frame["name"], *self.frame["key"]], what="run"))
        row = rows_of(rows)[0]
        folder = Path(row["directory"]) if isinstance(row["directory"], str) else None
        if folder is None and self._remote:
            folder = self._reader.folder(self._cache["ids"][row["key"]])
        return Run(row, folder if folder is not None and folder.is_dir() else None)

    @property
    def _remote(self) -> bool:
        return "://" in self.where

    @cached_property
    def _reader(self) -> Any:
        from vqkit.runs.tracking import Reader

        return Reader.at(self.where)

    @cached_property
    def _cache(self) -> dict[str, Any]:
        return {}
