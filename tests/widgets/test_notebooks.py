"""The notebooks with widgets run as they are, and an executed or exported one shows plain HTML."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from vqkit.execution import papermill
from vqkit.sweeps import notebook as notebook_module

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("10_explore_a_model.ipynb", ("own SQNR", "data:image/png;base64,", "block1_dw")),
        ("50_partial_model.ipynb", ("<svg", "block2_dw", "merged")),
    ],
)
def test_executed_and_exported(name: str, words: tuple[str, ...], tmp_path: Path, quickstart_model_path: Path) -> None:
    from nbconvert import HTMLExporter

    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(quickstart_model_path, cache)
    done = tmp_path / "done.ipynb"
    failure = papermill.execute(notebook_module.find(name), done, {"cache": str(cache)})
    assert failure is None, failure
    nb = nbformat.read(done, as_version=4)
    outputs: list[Any] = [o for c in nb.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    (twin,) = [o["data"] for o in outputs if VIEW in o.get("data", {})]
    assert all(word in twin["text/html"] for word in words[:2])
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(nb)
    assert all(word in html for word in words)
