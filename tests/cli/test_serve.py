"""`vqkit lab` and `vqkit dashboard`: what they would start, and that nothing of the user's is overwritten."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vqkit.cli import app, browser, serve


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """Command lines and environments that would have taken this process's place."""
    found: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, env: found.append((command, env)))
    return found


def run(*args: str) -> Any:
    return CliRunner().invoke(app, [*args])


def test_lab_serves_a_copy_of_the_notebooks_to_this_machine_with_a_token(tmp_path: Path, started: Any) -> None:
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
    assert serve.copy_notebooks(folder) == []


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
    monkeypatch.setattr(serve, "find_spec", lambda _: None)
    shown = run(name)
    assert "vqkit[lab]" in str(shown.exception)
    assert started == []


def test_the_page_is_opened_once_the_server_answers_and_its_token_is_on_no_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(browser.webbrowser, "open", lambda address: opened.append(address) or True)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        threading.Timer(0.3, server.listen).start()
        assert browser.open_when_it_answers("http://page/?token=t", "127.0.0.1", port)
    assert opened == ["http://page/?token=t"]
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert not browser.open_when_it_answers("http://page/", "127.0.0.1", port)
    assert opened == ["http://page/?token=t"]
    began: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: began.append((command, env)))
    browser.start("http://page/?token=t", "127.0.0.1", port)
    ((command, env),) = began
    assert command[1:3] == ["-m", "vqkit.cli.browser"]
    assert "token" not in " ".join(command)
    assert env[browser.ADDRESS] == "http://page/?token=t"
