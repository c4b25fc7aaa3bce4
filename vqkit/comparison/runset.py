"""Chosen runs with their files and samples."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit import plots
from vqkit.comparison import leaderboard
from vqkit.comparison.page import cells, drawn, message_html
from vqkit.errors import DataError, RecordError, VqkitError, not_allowed
from vqkit.runs.records import answers, load_records, rows_of, select, to_frame
from vqkit.runs.store import RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from vqkit.strategy import Strategy

NOTEBOOK, TRACEBACK = "notebook.ipynb", "traceback.txt"
_SHOWN_FLIPS = 24


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
        return path.read_text("utf-8", errors="replace") if path else ""

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
            return None if path is None else json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
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


def flipped_samples(run_a: str | Path, run_b: str | Path) -> pd.DataFrame:
    """Every sample on which two runs answer differently.

    Args:
        run_a, run_b: run directories; both evaluated on the same samples.

    Returns:
        Columns sample (position in the evaluation data), label, a, b (class numbers) and right ("A", "B",
        "neither"); those that one of the runs has right come first.

    Raises:
        RecordError: predictions are missing, or the runs were evaluated on different samples.
    """
    import pandas as pd

    (a, labels), (b, others) = answers(run_a), answers(run_b)
    if not np.array_equal(labels, others):
        raise RecordError(f"{run_a} and {run_b} were evaluated on different samples")
    at = np.flatnonzero(a != b)
    right = np.where(a[at] == labels[at], "A", np.where(b[at] == labels[at], "B", "neither"))
    table = pd.DataFrame({"sample": at, "label": labels[at], "a": a[at], "b": b[at], "right": right})
    return table.sort_values(["right", "sample"], kind="stable", ignore_index=True)


def sample_images(run_dir: str | Path, samples: Any) -> list[np.ndarray]:
    """Evaluation samples of a run as pictures; the data are loaded again from where the record says.

    Args:
        run_dir: `runs/variants/<key>`.
        samples: positions in the evaluation data.

    Returns:
        Arrays of shape (height, width, 1 or 3) or (height, width).

    Raises:
        DataError: the data cannot be loaded, are others than the run used, or are no pictures.
    """
    from vqkit.sweeps.source import load_data

    said = RunRecord.read(run_dir).inputs.get("data", {})
    data = load_data(said.get("ref"))
    if data.digest != said.get("digest"):
        raise DataError(
            f"{data.name}: the data have digest {data.digest}, the run used {said.get('digest')}; "
            "their pictures would be of other samples"
        )
    x = data.x_eval
    if not isinstance(x, np.ndarray) or not _is_picture(x.shape[1:]):
        shape = getattr(x, "shape", type(x).__name__)
        raise DataError(f"{data.name}: samples of shape {shape} are no pictures")
    return [x[i] for i in samples]


def _is_picture(shape: tuple[int, ...]) -> bool:
    return min(shape[:2], default=0) > 1 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def flipped_html(run_a: str | Path, run_b: str | Path, theme: plots.Theme | None) -> str:
    """The samples on which two runs answer differently: how many, and the first of them as pictures.

    Args:
        run_a, run_b: run directories.
        theme: of the pictures; see `page.drawn`.
    """
    try:
        samples = flipped_samples(run_a, run_b)
    except VqkitError as e:
        return message_html(str(e))
    counts = samples["right"].value_counts()
    kinds = {"A": "only A is right", "B": "only B is right", "neither": "both are wrong"}
    said = ", ".join(f"{counts.get(who, 0)} where {what}" for who, what in kinds.items())
    few = samples.head(_SHOWN_FLIPS)
    parts = [f"<p>{len(samples)} samples are answered differently: {said}.</p>"]
    try:
        images = sample_images(run_a, few["sample"])
        said = "Samples that two runs answer differently, with both answers"
        parts.append(drawn(lambda t: plots.flipped_samples(few, images, theme=t), said, theme))
    except VqkitError as e:
        parts += [
            message_html(f"No pictures: {e}"),
            cells([*few.columns], few.astype(str).to_numpy().tolist()),
        ]
    return "".join(parts)
