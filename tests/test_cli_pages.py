"""`vqkit lab` and `vqkit dashboard`: what they would start, and that nothing of the user's is overwritten."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vqkit.cli import app, pages


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """Command lines and environments that would have taken this process's place."""
    found: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, env: found.append((command, env)))
    return found


def run(*args: str) -> Any:
    return CliRunner().invoke(app, [*args])


def test_lab_serves_a_copy_of_the_notebooks_to_this_machine_with_a_token(
    tmp_path: Path, started: Any
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "30_sweep.ipynb").write_text("my own")
    shown = run("lab", str(folder), "--port", "9111", "--no-browser")
    assert shown.exit_code == 0, shown.output
    ((command, env),) = started
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {
        "--ServerApp.ip=127.0.0.1",
        "--port=9111",
        "--no-browser",
        f"--ServerApp.root_dir={tmp_path}",
    } <= {*command}
    assert len(env["JUPYTER_TOKEN"]) >= 32
    assert env["JUPYTER_TOKEN"] not in " ".join(command)
    assert f"?token={env['JUPYTER_TOKEN']}" in shown.output
    assert (folder / "30_sweep.ipynb").read_text() == "my own"
    assert (folder / "00_start_here.ipynb").is_file()
    assert pages.copy_notebooks(folder) == []


def test_dashboard_serves_the_runs_to_this_machine(tmp_path: Path, started: Any) -> None:
    shown = run("dashboard", "--runs", str(tmp_path), "--no-browser")
    assert shown.exit_code == 0, shown.output
    ((command, env),) = started
    assert command[2] == "voila"
    assert Path(command[3]).name == "dashboard.ipynb"
    assert {"--Voila.ip=127.0.0.1", "--port=8866", "--no-browser"} <= {*command}
    assert env["VQKIT_RUNS"] == str(tmp_path)


@pytest.mark.parametrize("name", ["lab", "dashboard"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch, started: Any) -> None:
    monkeypatch.setattr(pages, "find_spec", lambda _: None)
    shown = run(name)
    assert "vqkit[lab]" in str(shown.exception)
    assert started == []
