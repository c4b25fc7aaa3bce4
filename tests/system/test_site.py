"""The documentation site builds without a warning, and holds the reference of names and keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vqkit

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", "-b", "html", "-d"]
    done = subprocess.run(
        [*command, str(tmp_path / "trees"), ".", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site/docs/_generated/api.html").read_text("utf-8")
    # The one module among the names is shown with its functions.
    wanted_ids = {f'id="vqkit.{n}"' for n in vqkit.__all__ if n not in ("__version__", "run_api")}
    wanted_ids |= {'id="vqkit.execution.run_api.score"', 'id="vqkit.execution.run_api.record"'}
    assert {i for i in wanted_ids if i not in api} == set()
    keys = (tmp_path / "site/docs/_generated/schema.html").read_text("utf-8")
    schema = json.loads((ROOT / "strategies/schema.json").read_text("utf-8"))
    wanted = {key for form in schema["$defs"].values() for key in form.get("properties", {})}
    assert wanted
    assert {k for k in wanted if k not in keys} == set()
    outside = [line for line in api.splitlines() if "https://" in line and "<script" in line]
    assert outside == []
