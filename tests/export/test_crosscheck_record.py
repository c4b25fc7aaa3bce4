"""The cross-check's numbers join a run's metrics; the command checks what it wrote."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

import vqkit
from vqkit import digest, files
from vqkit.cli import Exit, app
from vqkit.cli.application import _guarded
from vqkit.execution import run_api
from vqkit.runs import store
from vqkit.sweeps.variant import Settings, build_strategy, key_of


def test_metrics_and_table_are_kept(model: Path) -> None:
    data = vqkit.load_data({"npz": str(model.with_name("data.npz"))})
    strategy, settings, net = build_strategy("pof2s", {}), Settings(), vqkit.load_model(model)
    used = vqkit.run_api.run_inputs(model, data, strategy, settings)
    inputs = {
        "model": {"ref": str(model), "digest": digest.of_file(model)},
        "data": {"ref": data.ref, "digest": data.digest},
        "strategy": {"base": "pof2s", "digest": strategy.digest},
        "overrides": {},
        **asdict(settings),
        "code": "x",
    }
    runs, key = store.Store.at(model.parent / "runs"), key_of(inputs)
    runs.write(store.RunRecord(key, "pof2s", store.Status.RUNNING, inputs))
    quantized = vqkit.quantize(net, strategy, data.x_calib)
    checked = vqkit.cross_check(quantized, data.x_eval, ["onnxruntime", "integer"])
    evaluated = vqkit.evaluate(quantized.model, data.x_eval, data.y_eval)
    scores = run_api.Scores({"accuracy": 0.5}, evaluated, data.y_eval, 0.1)
    found = run_api.record(
        runs.variant_dir(key),
        key,
        used,
        quantized=quantized,
        scores=scores,
        sqnr=vqkit.sqnr(quantized, data.x_eval),
        cross_check=checked,
    )
    assert found["integer_output_max"] == found["onnxruntime_output_max"] == 0
    kept = files.read_json(runs.variant_dir(key) / "cross_check.json")
    assert kept["bounds"] == {"onnxruntime": [0, 1.0], "integer": [0, 1.0]}
    assert len(kept["table"]) == len(checked.table)
    assert files.read_json(runs.variant_dir(key) / store.RESULT)["metrics"]["integer_output_within_1"] == 1


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr("sys.argv", ["vqkit", *args])
    return _guarded(lambda: app(standalone_mode=False), debug=False)


def test_the_command_checks(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(model.with_name("data.npz"))
    args = ["export", str(model), "--data", data, "--check", data, "--samples", "8"]
    target = ["-o", str(model.with_name("net.tflite")), "--runs", str(model.parent / "runs")]
    assert call(monkeypatch, *args, *target, "--lowest-weight", "keep") == Exit.OK
    out = capsys.readouterr().out
    assert "litert: output within 1 unit" in out
    assert "integer: output within 1 unit in 100.0000%" in out
    assert call(monkeypatch, *args, "-o", str(model.with_name("e.json"))) == Exit.INVALID
    assert "has no runtime to compare with" in capsys.readouterr().err
    assert not model.with_name("e.json").exists(), "refused before anything is written"


def test_the_command_checks_in_the_runtime_of_the_format(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = str(model.with_name("data.npz")), str(model.parent / "runs")
    args = [
        "export",
        str(model),
        "--data",
        data,
        "--check",
        data,
        "--samples",
        "4",
        "--runs",
        runs,
        "-s",
        "fsx",
    ]
    for name in ("net.onnx", "other.keras"):
        assert call(monkeypatch, *args, "-o", str(model.with_name(name))) == Exit.OK
    out = capsys.readouterr().out
    assert "onnxruntime: output within 1 unit" in out
    assert "integer: not compared: " in out
    assert "keras: output within 1 unit in 100.0000%, largest difference 0" in out
