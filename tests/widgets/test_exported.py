"""An executed notebook turned into a page by `nbconvert --to html` shows each widget, not an empty place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat

from tests.support import records as make
from tests.support import zoo
from tests.widgets.test_sensitivity import found, recovered, summed
from vqkit.widgets.compare import compare
from vqkit.widgets.explorer import explore
from vqkit.widgets.part_picker import pick_part
from vqkit.widgets.sensitivity import SensitivityView
from vqkit.widgets.watch import watch

VIEW = "application/vnd.jupyter.widget-view+json"


def widgets(runs: Path, model: Any) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Each widget with what a reader of the page must find."""
    made = [
        make.record("pof2s", {"weight_bit": 8}),
        make.record("fs", {"weight_bit": 4}, accuracy=0.9),
        make.record("fsx", {"weight_bit": 99}, status="FAILED", name="broken"),
    ]
    for record in made:
        make.add(runs, record)
    make.sweep(runs, "shown", made)
    return {
        "explore": (explore(model, zoo.batch(model, 8)), ("own SQNR", "stem", "Strategy JSON", "<img")),
        "pick_part": (pick_part(model), ("<svg", "stem", "decided by")),
        "compare": (compare(runs, "shown"), ("fs weight_bit=4", "95 %", "broken", "data:image/png")),
        "watch": (watch("shown", runs), ("3 of 3 variants have ended", "broken", "<img")),
        "sensitivity": (
            SensitivityView(found(), recovered(), summed=summed()),
            ("all layers up to it", "dw", "<img"),
        ),
    }


def test_each_widget_is_there_without_a_kernel(tmp_path: Path, tiny: Any) -> None:
    shown = widgets(tmp_path / "runs", tiny("residual"))
    outputs = {name: widget._repr_mimebundle_() for name, (widget, _) in shown.items()}
    assert all(VIEW in bundle for bundle in outputs.values())
    cells = [
        nbformat.v4.new_code_cell(name, outputs=[nbformat.v4.new_output("display_data", bundle)])
        for name, bundle in outputs.items()
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "done.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", str(tmp_path / "done.ipynb")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    page = (tmp_path / "done.html").read_text("utf-8")
    parts = page.split("jp-Cell jp-CodeCell")[1:]
    assert len(parts) == len(shown)
    for (name, (_, words)), part in zip(shown.items(), parts, strict=True):
        missing = [word for word in words if word not in part]
        assert missing == [], f"{name}: not on the page"
        assert VIEW not in part, f"{name}: a place for a widget that no kernel will fill"
