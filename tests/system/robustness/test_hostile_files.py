"""Files made to do harm are refused with their reason, before memory is taken; see `hostile`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import vqkit as vq
from tests.system.robustness import spoiled
from vqkit.errors import DataError, ModelError
from vqkit.models import load_model

ROOT = Path(__file__).resolve().parents[3]
MOST = 300  # MB


def test_each_kind_of_harm_in_each_kind_of_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.robustness.hostile", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(rows) > 100
    wrong = [r for r in rows if r[2] not in ("ModelError", "DataError") or r[1] not in r[3] or r[4] > MOST]
    assert not wrong, json.dumps(wrong, indent=1)


def large(path: Path, *, zeros: bool) -> None:
    """80 MB of weights, as Keras writes them."""
    kernel = np.zeros((5000, 4000), "f4") if zeros else np.random.default_rng(0).random((5000, 4000), "f4")
    model = keras.Sequential([keras.Input((5000,)), keras.layers.Dense(4000, name="d", use_bias=False)])
    model.layers[0].set_weights([kernel])
    model.save(path)


def test_a_large_model_loads(tmp_path):
    large(tmp_path / "m.keras", zeros=False)
    assert load_model(tmp_path / "m.keras").count_params() == 20_000_000


def test_the_option_trusts_a_file_that_says_more(tmp_path, monkeypatch):
    large(tmp_path / "m.keras", zeros=True)
    with (
        zipfile.ZipFile(tmp_path / "m.keras") as sound,
        zipfile.ZipFile(tmp_path / "small.keras", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in sound.namelist():
            small.writestr(name, sound.read(name))
    with pytest.raises(ModelError, match=r"claims 80 MB, the file has .* set VQKIT_FILE_MEMORY"):
        load_model(tmp_path / "small.keras")
    monkeypatch.setenv("VQKIT_FILE_MEMORY", "2e8")
    assert load_model(tmp_path / "small.keras").count_params() == 20_000_000
    monkeypatch.setenv("VQKIT_FILE_MEMORY", "much")
    with pytest.raises(ModelError, match="VQKIT_FILE_MEMORY='much' in the environment: give a number"):
        load_model(tmp_path / "small.keras")


def test_data_that_compress_well_load(tmp_path, monkeypatch):
    x = np.zeros((64, 32, 32, 3), "f4")
    np.savez_compressed(tmp_path / "d.npz", x_calib=x, x_eval=x, y_eval=np.zeros(64, int))
    assert vq.load_data({"npz": str(tmp_path / "d.npz")}).x_calib.shape == x.shape
    monkeypatch.setenv("VQKIT_FILE_MEMORY", "1e6")
    (tmp_path / "e.npz").write_bytes((tmp_path / "d.npz").read_bytes())
    with pytest.raises(DataError, match="its content, unpacked, claims 1.57 MB".replace(".", "[.]")):
        vq.load_data({"npz": str(tmp_path / "e.npz")})


@pytest.mark.parametrize(
    "name", ["m.keras", "m.h5", "saved/variables/variables.index", "images/a/1.png", "m.json", "m.npz"]
)
def test_a_pipe_is_told_and_not_waited_for(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    (path.parent / "beside.png").write_bytes(b"")
    saved, images = tmp_path / "saved", tmp_path / "images"
    saved.mkdir(exist_ok=True)
    (saved / "saved_model.pb").write_bytes(b"")
    asked = {
        ".index": lambda: load_model(saved),
        ".png": lambda: vq.load_data({"folder": str(images), "image_size": [4, 4]}),
        ".json": lambda: vq.Strategy.load(path),
        ".npz": lambda: vq.load_data({"npz": str(path)}),
    }.get(path.suffix, lambda: load_model(path))
    with spoiled.at_most(30), pytest.raises(vq.VqkitError, match=r"is a pipe|no such file"):
        asked()


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.json", "m.npz", "saved"])
def test_a_link_to_itself_is_told(tmp_path, name):
    path = tmp_path / name
    path.symlink_to(path)
    asked = {".json": lambda: vq.Strategy.load(path), ".npz": lambda: vq.load_data({"npz": str(path)})}
    with pytest.raises(vq.VqkitError, match=r"no such file|cannot be read"):
        asked.get(path.suffix, lambda: load_model(path))()
