"""`vqkit sensitivity`, `mixed` and `recommend`, from files to files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.search.test_sensitivity import data_for
from vqkit.cli import Exit, main
from vqkit.strategy import Strategy


@pytest.fixture
def files(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that name a model, its data and a folder for runs."""
    model = tiny("conv_bn_relu")
    model.save(tmp_path / "net.keras")
    data = data_for(model, 60)
    np.savez(tmp_path / "data.npz", x_calib=data.x_calib, x_eval=data.x_eval, y_eval=data.y_eval)
    monkeypatch.chdir(tmp_path)
    return ["net.keras", "--data", "data.npz", "--runs", "runs", "--calibration", "float"]


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr("sys.argv", ["vqkit", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or Exit.OK)


@pytest.mark.slow
def test_a_process_prints_its_answer_and_nothing_of_tensorflow(files) -> None:
    command = [sys.executable, "-m", "vqkit.cli", "sensitivity", *files, "--bits", "8,4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    rows = json.loads(done.stdout)["rows"]
    assert {r["bits"] for r in rows} == {8, 4}
    assert {r["kind"] for r in rows} == {"weights", "activations"}


def test_a_front_becomes_strategy_files(files, monkeypatch, tmp_path, capfd) -> None:
    args = [*files, "--bits", "8,4", "--points", "2", "--uniform", "8", "--max-size", "90%", "-o", "front"]
    assert call(monkeypatch, "mixed", *args) == Exit.OK
    out = capfd.readouterr().out
    assert "uniform-8" in out
    assert "Highs" not in out
    written = sorted(tmp_path.glob("front/*.json"))
    assert written
    assert all(Strategy.load(p).dump()["quantize_registry_config"]["layer_config"] for p in written)
    assert call(monkeypatch, "mixed", *files, "--bits", "eight") == Exit.INVALID


@pytest.mark.slow
def test_a_recommendation_is_files_and_a_run(files, monkeypatch, tmp_path, capfd) -> None:
    args = [*files, "--minutes", "0.01", "-s", "pof2s", "--no-track", "-o", "best", "-f", "encodings"]
    assert call(monkeypatch, "recommend", *args) == Exit.OK
    out = capfd.readouterr().out
    assert "whole model: pof2s" in out
    assert "whole model: fsx" not in out
    assert "\nUse " in out
    assert {p.name for p in tmp_path.glob("best/*")} == {
        "strategy.json",
        "model.keras",
        "report.html",
        "model.json",
    }
    key = out.split("run: ")[1].split()[0]
    assert json.loads((tmp_path / "runs" / "variants" / key / "record.json").read_text())["status"] == "FINISHED"


def test_a_misspelt_format_ends_before_the_search(files, monkeypatch, tmp_path, capfd) -> None:
    assert call(monkeypatch, "recommend", *files, "-f", "onxx") == Exit.INVALID
    assert "'onnx'" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_bounds_that_nothing_fits_say_what_is_nearest(files, monkeypatch, capfd) -> None:
    args = [*files, "--minutes", "0.01", "--max-size", "10", "-s", "fsx", "--no-track"]
    assert call(monkeypatch, "recommend", *args) == Exit.SOME_FAILED
    assert "fits the bounds" in capfd.readouterr().out
