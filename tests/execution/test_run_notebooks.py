"""The shipped notebooks: clean in git, written to the rules, and running as they are."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from vqkit.execution import papermill
from vqkit.execution.runner import run_sweep
from vqkit.runs.store import Status, Store
from vqkit.sweeps import notebook as notebook_module
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep
from vqkit.sweeps.variant import Settings, Source, Variant

SHIPPED = (
    "00_start_here.ipynb",
    "10_explore_a_model.ipynb",
    "20_run_variant.ipynb",
    "30_sweep.ipynb",
    "40_compare_runs.ipynb",
    "50_partial_model.ipynb",
    "70_finetune.ipynb",
    "80_any_task.ipynb",
    "dashboard.ipynb",
)
LINES = 5
# As version 0.1.0 shipped it; users have copies.
FORMER = Path(__file__).parents[1] / "support" / "notebooks" / "run_variant_0_1.ipynb"


@pytest.fixture(params=SHIPPED)
def path(request) -> Path:
    return notebook_module.find(request.param)


def test_notebooks_are_stored_without_outputs_and_in_short_cells(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert nb.metadata.kernelspec.name == "python3"
    for cell in nb.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            parameters = "parameters" in cell.metadata.get("tags", [])
            assert parameters or len([x for x in cell.source.splitlines() if x]) <= LINES, cell.source
            assert "def " not in cell.source
    assert nb.cells[0].cell_type == "markdown"
    assert nb.cells[0].source.startswith("# ")


def test_the_run_notebook_declares_what_a_variant_hands_over():
    source = Source("m", "d")
    variant = Variant("n", "pof2s", {}, "s", source, source, Settings(eval_images=1), "c")
    for path in (notebook_module.find("20_run_variant.ipynb"), FORMER):
        declared = notebook_module.declared_parameters(path)
        assert set(declared) == {*variant.parameters(declared), "model", "run_dir", "cache"}


@pytest.mark.slow
def test_a_copy_of_an_earlier_run_notebook_finds_the_same(tmp_path, quickstart_model_path):
    """Settings were a parameter each then, and the notebook's helpers names of vqkit itself."""
    value = {"name": "s", "model": str(quickstart_model_path), "data": "digits", "batch_size": 50, "eval_images": 300}
    sweep = Sweep.from_dict({**value, "variants": [{"weight_bit": 4, "name": "v"}], "mode": "list"})
    found = []
    for path in (notebook_module.find("20_run_variant.ipynb"), FORMER):
        runs = Store.at(tmp_path / path.stem)
        resolved = resolve(sweep, runs.cache, notebook=path)
        (record,) = run_sweep(resolved, runs).ran
        assert record.status is Status.FINISHED, record.error
        found.append({k: v for k, v in record.metrics.items() if not k.startswith("seconds")})
    assert found[0] == found[1]
    assert resolve(sweep, runs.cache).planned[0].variant.settings == resolved.planned[0].variant.settings


@pytest.mark.slow
def test_start_here_runs(tmp_path):
    failure = papermill.execute(
        notebook_module.find("00_start_here.ipynb"),
        tmp_path / "out.ipynb",
        {"cache": str(tmp_path / "cache")},
    )
    assert failure is None, failure
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    printed = "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))
    accuracy = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines() if line[:1] in "fq"}
    assert accuracy["float"] > 0.95
    assert accuracy["quantized"] > accuracy["float"] - 0.05
    assert any("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))


@pytest.mark.slow
def test_finetune_runs_and_wins_accuracy_back(tmp_path, quickstart_model_path):
    parameters = {"cache": str(quickstart_model_path.parent)}
    failure = papermill.execute(notebook_module.find("70_finetune.ipynb"), tmp_path / "out.ipynb", parameters)
    assert failure is None, failure
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    printed = "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))
    found = dict(line.split() for line in printed.splitlines() if line[:5] in ("float", "plain", "train"))
    at = {name: float(value) for name, value in found.items()}
    assert at["trained"] > at["plain"] + (at["float"] - at["plain"]) / 2
    assert any("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
