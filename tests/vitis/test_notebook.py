"""The notebook that ports a script of the original runs from top to bottom."""

from __future__ import annotations

import nbformat
import pytest

from vqkit.execution import papermill
from vqkit.sweeps import notebook as notebook_module

NAME = "60_port_a_vitis_script.ipynb"


@pytest.mark.slow
def test_the_porting_notebook_runs(tmp_path, quickstart_model_path):
    given = {"work": str(tmp_path / "work"), "cache": str(quickstart_model_path.parent)}
    failure = papermill.execute(notebook_module.find(NAME), tmp_path / "out.ipynb", given)
    assert failure is None, failure
    outputs = [o for c in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells for o in c.get("outputs", [])]
    printed = "".join(o.get("text", "") for o in outputs)
    accuracy = dict(line.rsplit(" ", 1) for line in printed.splitlines() if line.startswith(("float ", "per ")))
    assert float(accuracy["float"]) > 0.95
    assert float(accuracy["per channel"]) > 0.5
    assert "on the DPU" in printed
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert (tmp_path / "work" / "model.png").is_file()
    assert (tmp_path / "work" / "dump_results" / "dump.json").is_file()
