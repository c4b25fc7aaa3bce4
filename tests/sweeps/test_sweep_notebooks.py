"""The notebooks about sweeps, one after another on real data: run a small sweep, then compare its runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from vqkit.execution import papermill
from vqkit.runs import records
from vqkit.sweeps import notebook as notebook_module

ROOT = Path(__file__).resolve().parents[2]
# The tests also run where vqkit is not installed.
HERE = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def executed(name: str, target: Path, **parameters: Any) -> tuple[str, list[dict[str, Any]]]:
    """Text of the executed notebook and its outputs; it must reach its end without a warning."""
    failure = papermill.execute(notebook_module.find(name), target, parameters, env=HERE)
    assert failure is None, failure
    shown = target.read_text()
    outputs = [o for cell in json.loads(shown)["cells"] for o in cell.get("outputs", [])]
    assert not any(o["output_type"] == "stream" and o["name"] == "stderr" for o in outputs)
    return shown, outputs


def html(outputs: list[dict[str, Any]]) -> list[str]:
    """The static twins of what the notebook shows."""
    return ["".join(o.get("data", {}).get("text/html", "")) for o in outputs]


@pytest.mark.slow
def test_a_sweep_is_run_and_compared(tmp_path: Path, quickstart_model_path: Path) -> None:
    pytest.importorskip("anywidget")
    runs = tmp_path / "runs"
    (runs / "cache").mkdir(parents=True)
    shutil.copy(quickstart_model_path, runs / "cache")
    _, outputs = executed(
        "30_sweep.ipynb", tmp_path / "30.ipynb", runs_dir=str(runs), strategies=["fs"], weight_bits=[8, 4]
    )
    pages = html(outputs)
    assert any("2 of 2 variants have ended (2 finished); not running" in page for page in pages)
    assert any("<table" in page and "fs weight_bit=8" in page for page in pages)
    board = records.load_records(runs, "first_sweep").set_index("override.weight_bit")
    done = board["bit_operations"]
    assert done[8] == 64 * board.loc[8, "macs"] == 2 * done[4] > 0
    shown, outputs = executed("40_compare_runs.ipynb", tmp_path / "40.ipynb", runs_dir=str(runs), sweep="first_sweep")
    (bench,) = [page for page in html(outputs) if "vq-mark" in page]
    for words in ("Leaderboard", "Use fs weight_bit=", "fs weight_bit=4", "samples are answered differently"):
        assert words in bench
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 1
    assert any(
        "alt='Samples that two runs answer differently" in page and "vq-mark" not in page for page in html(outputs)
    )
    assert "Strategy: 1 difference(s)" in shown
