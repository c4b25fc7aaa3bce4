"""A lot of everything, smaller than in `benchmarks/load.py`: what is counted here is not timed."""

from __future__ import annotations

import pytest

from benchmarks import load
from vqkit.comparison import ranking
from vqkit.comparison.leaderboard import leaderboard, load_records
from vqkit.runs import records


def test_many_variants_are_planned_resumed_and_listed(tmp_path):
    found = load.plan(tmp_path, 60)
    assert found["variants"] == 60
    assert found["table_lines"] >= 60
    assert found["memory_grew_mb"] < 50


def test_predictions_are_read_only_where_they_can_decide(tmp_path, monkeypatch):
    load.recorded(tmp_path, 300)
    frame = load_records(tmp_path)
    read = []
    monkeypatch.setattr(ranking, "correct", lambda d: read.append(d) or records.correct(d))
    board = leaderboard(frame)
    assert 0 < len(read) < 150
    # The same verdicts as from reading all of them.
    monkeypatch.setattr(ranking, "_apart_from", lambda _: 2.0)
    whole = leaderboard(frame)
    assert len(read) > 300
    assert board["tied"].tolist() == whole["tied"].tolist()
    assert board["rank"].tolist() == whole["rank"].tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_writers_at_once_lose_none(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "WRITERS", 3)
    found = load.writers(tmp_path, 2)
    assert (found["failed"], found["found"], found["double"], found["misfiled"]) == (0, 6, 0, 0)
