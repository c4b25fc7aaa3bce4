"""A sweep in the background: its standing, its panel, and that it stops when asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vqkit as vq
from tests.support import records as make
from tests.support.hand import part, press, told
from vqkit import files
from vqkit.errors import RecordError, SweepError
from vqkit.execution import background
from vqkit.execution import background as progress
from vqkit.execution.background import standing

EVIL = "<script>alert(1)</script>"


def until(check: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.1)


def going(runs: Path) -> None:
    """A sweep with two finished variants, a failed one, one at work and one to come."""
    made = [
        make.record("pof2s", accuracy=0.95),
        make.record("fs", accuracy=0.97),
        make.record("fsx", {"weight_bit": 99}, status="FAILED"),
        make.record("fs", {"weight_bit": 5}, status="RUNNING", name=EVIL),
    ]
    for m in made:
        make.add(runs, m)
    make.sweep(runs, "s", [*made, make.record("fs", {"weight_bit": 6})])


def test_the_standing_counts_and_names_the_best(tmp_path: Path) -> None:
    going(tmp_path)
    now = standing(tmp_path, "s")
    assert now.counts == {"FINISHED": 2, "FAILED": 1, "RUNNING": 1, "PENDING": 1}
    assert now.ended == 3
    assert now.best is not None
    assert now.best.name == "fs"
    assert now.pid is None
    assert now.running == ()
    assert "3 of 5 variants have ended" in str(now)
    assert "not running" in str(now)


def test_who_holds_the_folder_runs_the_sweep(tmp_path: Path) -> None:
    going(tmp_path)
    folder = tmp_path / "sweeps" / "s"
    with files.lock(folder):
        now = standing(tmp_path, "s")
        assert now.pid == os.getpid()
        assert len(now.running) == 1
        assert now.seconds_left == pytest.approx(2 * 6.25)
        with pytest.raises(SweepError, match="this very process"):
            background.cancel(tmp_path, "s")
    assert progress.runner(folder) is None
    with pytest.raises(SweepError, match="no process of this machine"):
        background.cancel(tmp_path, "s")


def test_a_number_left_behind_by_a_killed_process_means_nothing(tmp_path: Path) -> None:
    import socket

    (tmp_path / ".lock").write_text(f"{os.getppid()} {socket.gethostname()}")
    assert progress.runner(tmp_path) is None
    (tmp_path / ".lock").write_text("")
    assert progress.runner(tmp_path) is None


def test_the_page_shows_progress_best_and_tracebacks(tmp_path: Path) -> None:
    going(tmp_path)
    with files.lock(tmp_path / "sweeps" / "s"):
        html = vq.watch("s", tmp_path).html()
    for words in (
        "3 of 5 variants",
        "Best so far: <b>fs</b>",
        "97.00 %",
        "Traceback: StrategyError",
        "At work",
    ):
        assert words in html
    assert "<script" not in html
    with pytest.raises(RecordError, match="sweep 't' is not allowed"):
        vq.watch("t", tmp_path)


def test_the_widget_of_a_sweep_at_rest_offers_no_cancel(tmp_path: Path) -> None:
    going(tmp_path)
    panel = vq.watch("s", tmp_path)
    assert panel.widget.children
    assert part(panel.widget, "Cancel the sweep").disabled == ["cancel-the-sweep"]
    bar = part(panel.widget, "3 of 5")
    assert (bar.value, bar.max) == (3, 5)
    panel.cancel()
    assert "no process of this machine" in told(panel.widget)


def sweep_of(bits: list[int]) -> dict[str, object]:
    return {
        "name": "small",
        "model": "quickstart",
        "data": "digits",
        "strategy": "fs",
        "axes": {"weight_bit": bits},
    }


def test_a_sweep_that_cannot_run_says_so(tmp_path: Path) -> None:
    running = vq.start_sweep({**sweep_of([4]), "model": "missing.keras"}, tmp_path, track=False)
    with pytest.raises(SweepError, match=r"missing\.keras"):
        running.wait(120)
    panel = vq.watch(running)
    assert "could not start" in panel.html()
    assert "missing.keras" in str(panel)


def test_a_request_of_an_earlier_version_becomes_the_command(tmp_path: Path) -> None:
    """Its relative paths start where the sweep file lay, and its name is that of the sweep file."""
    spec = {**sweep_of([4]), "strategy": "own.json"}
    told = {"spec": spec, "base_dir": str(tmp_path), "source": "mine.yaml", "runs": str(tmp_path / "runs")}
    request = tmp_path / "request.json"
    request.write_text(json.dumps({**told, "options": {"jobs": 1}, "track": False, "tracking_uri": None}))
    command = [sys.executable, "-m", "vqkit.execution.background", str(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "mine.json: 1 of 1 variants cannot run" in done.stderr
    assert "'own.json' is not allowed" in done.stderr


@pytest.mark.slow
def test_a_running_sweep_is_watched_and_cancelled(tmp_path: Path, quickstart_model_path: Path) -> None:
    import shutil

    (tmp_path / "cache").mkdir()
    shutil.copy(quickstart_model_path, tmp_path / "cache")
    running = vq.start_sweep(sweep_of([8, 7, 6, 5, 4, 3]), tmp_path, track=False)
    panel = vq.watch(running, interval=0.2)
    assert panel.widget.children
    until(lambda: (now := panel.standing()) is not None and now.counts.get("FINISHED", 0) >= 1, 300)
    with pytest.raises(SweepError, match="is running this sweep"):
        vq.start_sweep(sweep_of([8]), tmp_path)
    until(lambda: "Best so far: <b>fs weight_bit=" in told(panel.widget))
    press(part(panel.widget, "Cancel the sweep"), "cancel-the-sweep")
    assert running.wait(120) == 130
    until(lambda: bool(part(panel.widget, "Cancel the sweep").disabled))
    now = standing(tmp_path, "small")
    assert now.counts["FINISHED"] >= 1
    assert now.ended < 6
    assert now.pid is None
