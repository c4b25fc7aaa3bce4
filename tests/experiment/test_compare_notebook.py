"""The comparison notebook runs on any folder of runs and is told by its parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.experiment import records as make
from vqkit.experiment import notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "40_compare_runs.ipynb"
HERE = {"PYTHONPATH": str(ROOT)}  # the tests also run where vqkit is not installed


@pytest.mark.slow
def test_the_notebook_tells_the_sweep(tmp_path):
    make.example(tmp_path)
    done = tmp_path / "done.ipynb"
    failure = notebook.execute(NOTEBOOK, done, {"runs_dir": str(tmp_path), "sweep": "quick"}, env=HERE)
    assert failure is None, failure
    shown = done.read_text()
    outputs = [o for cell in json.loads(shown)["cells"] for o in cell.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    assert "Use fs weight_bit=4 weight_per_channel=true" in shown
    assert "Strategy: 2 difference(s)" in shown or "kinds" in shown
    assert not any(o["output_type"] == "stream" and o["name"] == "stderr" for o in outputs)


def test_the_notebook_is_short_cells_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert max(len(cell["source"]) for cell in code) <= 5
    assert code[0]["metadata"]["tags"] == ["parameters"]
