"""What came of a sweep, written where mlflow's users look for it: into the sweep's parent run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vqkit.comparison import report
from vqkit.comparison.leaderboard import Recommendation, leaderboard, recommend
from vqkit.runs.mlflow import Tracker
from vqkit.runs.records import load_records
from vqkit.runs.store import RunRecord, Store

BOARD = (
    "rank", "name", "status", "metric", "better", "value", "ci_low", "ci_high", "value_delta", "size_bytes",
    "bit_operations", "best", "tied", "test", "pareto", "group", "key",
)  # fmt: skip
"""Columns of `leaderboard.csv`."""


def publish(
    runs_dir: str | Path, sweep: str, *, tracking_uri: str | None = None, experiment: str | None = None
) -> Recommendation:
    """Write a sweep's result into its parent run: the best value, the best variant, leaderboard and report.

    Args:
        runs_dir: the folder of runs.
        sweep: the sweep's name; `sweeps/<name>/report.html` is copied, and written where it is not there.
        tracking_uri, experiment: as for `Tracker.open`.

    Returns:
        The recommended run, whose sentence is the parent's description.

    Raises:
        RecordError: no such sweep.
        TrackingError: the store refused.
    """
    page = Path(runs_dir) / "sweeps" / sweep / "report.html"
    if not page.is_file():
        report.write(runs_dir, page, sweep)
    board = leaderboard(load_records(runs_dir, sweep))
    advice = recommend(board)
    best = None
    if advice.row is not None:
        key = str(board[board["best"] & (board["group"] == advice.row["group"])]["key"].iloc[0])
        best = RunRecord.read(Store.at(runs_dir).variant_dir(key))
    with tempfile.TemporaryDirectory(prefix="vqkit-") as scratch:
        table = Path(scratch, "leaderboard.csv")
        board[[c for c in BOARD if c in board.columns]].to_csv(table, index=False)
        Tracker.open(tracking_uri, runs_dir=runs_dir, experiment=experiment).log_conclusion(
            sweep, advice.sentence, best, [table, page]
        )
    return advice
