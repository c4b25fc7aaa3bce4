"""The notebook engine: parameters are strict, failures of every kind are seen, the kernel is this Python."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from vqkit.errors import NotebookError
from vqkit.execution import papermill
from vqkit.sweeps import notebook as notebook_module

HERE = Path(__file__).parents[1] / "support" / "notebooks"


def test_a_notebook_is_a_function_of_its_parameters(tmp_path):
    failure = papermill.execute(
        HERE / "adds.ipynb", tmp_path / "out.ipynb", {"x": 2, "y": 5, "text": "ü'\""}, env={"MARK": "m"}
    )
    assert failure is None
    assert (tmp_path / "sum.txt").read_text() == f"7 {sys.executable} m ü'\""
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert "injected-parameters" in executed.cells[2].metadata.tags


def test_the_kernel_is_this_python_whatever_kernelspec_is_installed(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert papermill.execute(HERE / "adds.ipynb", tmp_path / "o" / "out.ipynb", {}) is None
    assert sys.executable in (tmp_path / "o" / "sum.txt").read_text()


@pytest.mark.parametrize("name", ["fails", "exits", "dies"])
def test_failures_are_seen_and_the_notebook_is_kept(tmp_path, left_over, name):
    failure = papermill.execute(HERE / f"{name}.ipynb", tmp_path / "out.ipynb", {"x": 7})
    expected = {
        "fails": ("ValueError", "no luck with 7"),
        "exits": ("SystemExit", "3"),
        "dies": ("DeadKernelError", "Kernel died"),
    }[name]
    assert (failure.type, failure.message) == expected
    assert expected[0] in failure.traceback
    assert "\x1b" not in failure.traceback
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert not any("after" in str(c.get("outputs")) for c in executed.cells)
    if name == "fails":
        assert "no luck with" in executed.cells[failure.cell].source
    assert left_over() == []


def test_unknown_parameters_are_errors_before_anything_runs(tmp_path):
    with pytest.raises(NotebookError, match=r"parameter 'txt' is not allowed \(did you mean 'text'\?\)"):
        papermill.execute(HERE / "adds.ipynb", tmp_path / "out.ipynb", {"txt": 1})
    assert list(tmp_path.iterdir()) == []


def test_declared_parameters_include_annotated_ones():
    assert notebook_module.declared_parameters(HERE / "adds.ipynb") == {"x": "1", "y": "None", "text": "''"}
    with pytest.raises(NotebookError, match="0 code cells are tagged 'parameters'"):
        notebook_module.declared_parameters(HERE / "untagged.ipynb")


def test_the_digest_sees_sources_and_not_outputs(tmp_path):
    copy = Path(shutil.copy(HERE / "adds.ipynb", tmp_path))
    before = notebook_module.source_digest(copy)
    assert before == notebook_module.source_digest(HERE / "adds.ipynb")
    nb = nbformat.read(copy, as_version=4)
    nb.cells[2].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nb.cells[2].execution_count = 5
    nbformat.write(nb, copy)
    assert notebook_module.source_digest(copy) == before
    nb.cells[2].source += "\n"
    nbformat.write(nb, copy)
    assert notebook_module.source_digest(copy) != before
    copy.write_text("{}")
    with pytest.raises(NotebookError, match="cannot be read as a notebook"):
        notebook_module.source_digest(copy)
    with pytest.raises(NotebookError, match=r"'nothing\.ipynb' is not allowed"):
        notebook_module.find("nothing.ipynb")


@pytest.mark.parametrize("name", ["run_variant.ipynb", "compare_runs.ipynb"])
def test_the_names_before_the_numbers_are_still_found(name):
    assert notebook_module.find(name).name.endswith(f"0_{name}")
