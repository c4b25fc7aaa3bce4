"""A strategy is read, checked and resolved without TensorFlow; the shipped folder is complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from vqkit.files import resource_dir
from vqkit.strategy import Strategy
from vqkit.strategy.vocabulary import ALIASES, NAMES, ORIGINALS

HEAVY = ("tensorflow", "keras", "pandas", "matplotlib", "mlflow", "papermill")


def test_nothing_heavy_is_imported(root: Path) -> None:
    code = (
        "import sys; from vqkit.strategy import Strategy; from vqkit.strategy import vocabulary as diff, "
        "explain, json_schema as schema;"
        "s = Strategy.builtin('fsx').with_kwargs(weight_bit=4); s.layer_rule('Conv2D'); s.digest;"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_shipped_folder() -> None:
    folder = resource_dir("strategies")
    assert {p.stem for p in folder.glob("*.json")} == {*NAMES, "schema"}
    readme = (folder / "README.md").read_text()
    for name in (*NAMES, *ALIASES):
        assert f"`{name}`" in readme


def test_shipped_files_are_the_original_dumps(root: Path) -> None:
    for name in ORIGINALS:
        shipped = json.loads((resource_dir("strategies") / f"{name}.json").read_text())
        golden = json.loads((root / "tests" / "golden" / "strategy" / f"{name}_v2_default.json").read_text())
        assert json.dumps(shipped) == json.dumps(golden)
        assert Strategy.load(resource_dir("strategies") / f"{name}.json") == Strategy.builtin(name)
