"""Every format gives, in a fresh process, the outputs of the model it was written from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vqkit
from tests.support import zoo
from tests.support.exported import quantized
from vqkit.evaluation import predict
from vqkit.export.golden import dump_model

FILES = {"onnx": "m.onnx", "tflite": "m.tflite", "keras": "m.keras", "h5": "m.h5", "saved_model": "saved"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh process made of each export of "residual" and of the samples in x.npy."""
    folder = tmp_path_factory.mktemp("exports")
    q = quantized("residual")
    np.save(folder / "x.npy", zoo.batch(zoo.build("residual"), 16, seed=1))
    for name, file in FILES.items():
        vqkit.export(q, folder / file, name)
    script = Path(__file__).with_name("load_exports.py")
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", FILES)
def test_outputs_are_identical(folder: Path, name: str) -> None:
    here = predict(quantized("residual").model, np.load(folder / "x.npy"))
    np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), here)


def test_a_model_from_a_file_is_dumped_alike_there(folder: Path) -> None:
    dump_model(quantized("residual").model, [np.load(folder / "x.npy")[:2]], folder / "ours")
    files = sorted(p.relative_to(folder / "ours") for p in (folder / "ours").rglob("*") if p.is_file())
    assert len(files) > 20
    for file in files:
        assert (folder / "ours" / file).read_bytes() == (folder / "theirs" / file).read_bytes(), file


def test_encodings_say_what_was_decided(tmp_path: Path) -> None:
    q = quantized("residual")
    written = json.loads(vqkit.export(q, tmp_path / "e.json").read_text("utf-8"))
    assert set(written["tensors"]) == {r.name for r in q.plan.quantized}
    assert set(written["float_tensors"]) == {r.name for r in q.plan.float_rows}
    entry, params = written["tensors"]["conv1/kernel"], q.encodings["conv1/kernel"]
    assert entry["scale"] == 2.0 ** -entry["quantize_pos"] == float(params.scale)
    assert (entry["q_min"], entry["q_max"], entry["zero_point"]) == (-128, 127, 0)


def test_an_older_file_is_replaced_whole(tmp_path: Path) -> None:
    q = quantized("residual")
    for name, file in FILES.items():
        vqkit.export(q, tmp_path / file, name)
        vqkit.export(q, tmp_path / file, name)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES.values())


def test_integers_are_written(tmp_path: Path) -> None:
    q = quantized("residual")
    folder = vqkit.export(q, tmp_path / "ints", "ints", dataset=[zoo.batch(zoo.build("residual"), 1)])
    stored = np.fromfile(folder / "dump_results_weights" / "quant_conv1_kernel.bin", np.int8)
    from vqkit.export.lowering import lower

    kernel = next(s.constants["kernel"] for s in lower(q).steps if s.layer == "conv1")
    np.testing.assert_array_equal(stored, kernel.codes.ravel())


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "thesis" / "chapter.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    for path in (kept.parent, kept):
        with pytest.raises(vqkit.errors.ModelError, match="is no SavedModel folder"):
            vqkit.export(quantized("residual"), path, "saved_model")
    assert kept.read_text() == "years of work"


def test_nothing_is_said_about_the_format_that_was_asked_for(tmp_path: Path, capfd) -> None:
    vqkit.export(quantized("residual"), tmp_path / "m.h5")
    assert "HDF5" not in capfd.readouterr().err
