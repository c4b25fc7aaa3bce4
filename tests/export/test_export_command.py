"""`vqkit export` of a model file and of a recorded run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqkit import digest, files
from vqkit.cli import Exit, app
from vqkit.cli.application import _guarded
from vqkit.errors import RecordError
from vqkit.execution.requantize import of_run
from vqkit.export.onnx import OnnxSession
from vqkit.quantization import quantize
from vqkit.runs import store
from vqkit.sweeps.source import load_data, load_model
from vqkit.sweeps.variant import Settings, build_strategy


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr("sys.argv", ["vqkit", *args])
    return _guarded(lambda: app(standalone_mode=False), debug=False)


def test_a_model_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = model.with_name("out.onnx")
    data = str(model.with_name("data.npz"))
    args = ["export", str(model), "weight_bit=4", "--data", data, "--runs", str(model.parent / "runs")]
    assert call(monkeypatch, *args, "-o", str(target), "--rounding", "qdq") == Exit.OK
    assert OnnxSession(target).inputs == ["image"]
    assert call(monkeypatch, *args, "-o", str(target), "--rounding", "exakt") == Exit.INVALID
    assert call(monkeypatch, *args, "--format", "onxx") == Exit.INVALID


@pytest.fixture
def run(model: Path) -> Path:
    """The folder of runs with one finished run, written as a run notebook does."""
    strategy, settings = build_strategy("pof2s", {"weight_bit": 4}), Settings()
    data = load_data({"npz": str(model.with_name("data.npz"))})
    inputs = {
        "model": {"ref": str(model), "digest": digest.of_file(model)},
        "data": {"ref": data.ref, "digest": data.digest},
        "strategy": {"base": "pof2s", "digest": strategy.digest},
        "overrides": {"weight_bit": 4},
        **{k: getattr(settings, k) for k in Settings.__dataclass_fields__},
        "code": "x",
    }
    runs = store.Store.at(model.parent / "runs")
    runs.write(store.RunRecord("abc123", "pof2s weight_bit=4", store.Status.FINISHED, inputs))
    folder = runs.variant_dir("abc123")
    files.write_json(folder / "strategy.json", strategy.dump(None, verbose=2))
    quantized = quantize(load_model(model), strategy, data.x_calib)
    files.write_json(folder / "encodings.json", {k: q.to_json() for k, q in quantized.encodings.items()})
    return runs.root


def test_a_run(run: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = model.with_name("run.json")
    assert call(monkeypatch, "export", "abc123", "--runs", str(run), "-o", str(target)) == Exit.OK
    written = json.loads(target.read_text("utf-8"))
    assert written["tensors"]["conv1/kernel"]["bit_width"] == 4
    args = ["export", "abc123", "weight_bit=8", "--runs", str(run), "-o", str(target)]
    assert call(monkeypatch, *args) == Exit.INVALID


def test_a_run_that_is_not_what_it_was(run: Path) -> None:
    path = store.Store.at(run).variant_dir("abc123") / "encodings.json"
    value = files.read_json(path)
    value["conv1/kernel"]["pos"] = 1.0
    files.write_json(path, value)
    with pytest.raises(RecordError, match="other encodings for 1 tensors, first conv1/kernel"):
        of_run("abc123", run)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["export", "net.h5"], "ModelError: format: none given"),
        (["export", "net.h5", "-o", "./net.h5"], "ModelError: --output: net.h5 is the float model itself"),
        (["export", "net.h5", "-f", "onnx"], "DataError: --data: none given"),
        (["recommend", "./model.keras", "-o", "."], "ModelError: --output: . holds the float model itself"),
    ],
)
def test_what_would_replace_the_model_or_lacks_data_is_refused(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *args) == Exit.INVALID
    assert message in capsys.readouterr().err


def test_the_default_name_is_not_the_model(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = model.read_bytes()
    monkeypatch.chdir(model.parent)
    args = ["--data", "data.npz", "--runs", str(tmp_path / "runs")]
    assert call(monkeypatch, "export", model.name, "-f", "keras", *args) == Exit.OK
    assert model.read_bytes() == before
    assert (model.parent / f"{model.stem}_quantized.keras").is_file()
    assert call(monkeypatch, "export", f"{model.stem}_quantized.keras", "-f", "onnx", *args) == Exit.INVALID
