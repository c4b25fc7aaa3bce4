"""Data and models named in a sweep file: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vqkit.errors import DataError, ModelError
from vqkit.quantization.data import Data
from vqkit.sweeps.source import absolute_data, load_data, load_model, model_path

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
X = np.arange(24, dtype=np.uint8).reshape(6, 4)


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "set.npz", x=X, y=np.arange(6), other=X[:, :2])
    (tmp_path / "code.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy as np\n"
        "@dataclass(frozen=True)\nclass Case:\n"
        "    x_calib: np.ndarray\n    x_eval: np.ndarray\n    y_eval: np.ndarray\n"
        "def load(n=3):\n    x = np.ones((n, 2))\n    return Case(x, 2 * x, np.arange(n))\n"
        "def mapping():\n"
        "    return dict(x_calib=np.ones((2, 2)), x_eval=np.ones((2, 2)), y_eval=np.zeros(2, int))\n"
        "def broken():\n    raise RuntimeError('no disk')\n"
        "def part():\n    return {'x_eval': 1}\n"
    )
    return tmp_path


NPZ = {"npz": "set.npz", "x_calib": "x", "x_eval": "x", "y_eval": "y"}


def test_npz_is_cut_scaled_and_has_an_identity(folder):
    data = load_data({**NPZ, "n_calib": 2, "n_eval": 5, "scale": 0.5, "offset": -1}, folder)
    np.testing.assert_array_equal(data.x_calib, X[:2].astype("float32") * 0.5 - 1)
    np.testing.assert_array_equal(data.x_eval, X[:5].astype("float32") * 0.5 - 1)
    np.testing.assert_array_equal(data.y_eval, np.arange(5))
    assert data.x_calib.dtype == np.float32
    assert (data.n_calib, data.n_eval) == (2, 5)
    assert data.y_calib is None
    labelled = load_data({**NPZ, "n_calib": 2, "y_calib": "y"}, folder)
    np.testing.assert_array_equal(labelled.y_calib, [0, 1])
    assert labelled.digest != load_data({**NPZ, "n_calib": 2}, folder).digest
    again = load_data({**NPZ, "n_calib": 2, "n_eval": 5, "scale": 0.5, "offset": -1}, folder)
    assert again.digest == data.digest
    assert load_data({**NPZ, "n_calib": 3, "n_eval": 5, "scale": 0.5, "offset": -1}, folder).digest != data.digest


def test_text_means_what_it_means_on_the_command_line(folder):
    np.savez(folder / "named.npz", x_calib=X, x_eval=X, y_eval=np.arange(6))
    whole = load_data({"npz": "named.npz"}, folder)
    assert load_data("named.npz", folder).digest == whole.digest
    assert absolute_data("named.npz", folder) == absolute_data({"npz": "named.npz"}, folder)
    assert load_data("code.py:load", folder).n_eval == 3
    with pytest.raises(DataError, match=r"'named\.npy' is not allowed"):
        load_data("named.npy", folder)


def test_npz_with_two_inputs(folder):
    data = load_data({**NPZ, "x_calib": ["x", "other"], "x_eval": ["x", "other"]}, folder)
    np.testing.assert_array_equal(data.x_eval[1], X[:, :2].astype("float32"))


def test_loaders_return_objects_or_mappings(folder):
    data = load_data({"loader": "code.py:load", "args": {"n": 4}}, folder)
    np.testing.assert_array_equal(data.x_eval, np.full((4, 2), 2, np.float32))
    assert data.ref["loader"] == f"{folder.resolve()}/code.py:load"
    assert load_data({"loader": "code.py:mapping"}, folder).n_eval == 2


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("digit", r"'digit' is not allowed \(did you mean"),
        ({"file": "x"}, "is not allowed"),
        ({**NPZ, "n_calibb": 3}, r"key 'n_calibb' is not allowed \(did you mean 'n_calib'\?\)"),
        ({**NPZ, "n_eval": 0}, "data/n_eval: Input should be greater than or equal to 1, given 0"),
        ({**NPZ, "npz": "none.npz"}, "no such file"),
        ({**NPZ, "x_eval": "xx"}, r"there is no array 'xx' \(did you mean 'x'\?\). It holds"),
        (
            {**NPZ, "y_eval": "y", "n_eval": 3, "x_eval": "x", "offset": float("inf")},
            "data/offset: Input should be a finite number, given inf",
        ),
        ({"loader": "code.py:load", "args": {"m": float("nan")}}, "data: nan is no JSON value"),
        ({"loader": "code.py"}, "data/loader: "),
        ({"loader": "code.py:laod"}, r"function 'laod' is not allowed \(did you mean 'load'\?\)"),
        ({"loader": "code.py:load", "args": {"m": 1}}, "failed with TypeError"),
        ({"loader": "code.py:broken"}, "RuntimeError: no disk"),
        ({"loader": "code.py:part"}, "has no 'x_calib'"),
    ],
)
def test_bad_descriptions_are_named(folder, ref, message):
    with pytest.raises(DataError, match=message):
        load_data(ref, folder)


def test_data_that_do_not_belong_together():
    with pytest.raises(DataError, match="t: 3 images and 2 labels"):
        Data("t", X, X[:3], np.arange(2))
    with pytest.raises(DataError, match="t/x_calib: 1 of 24 values are NaN"):
        Data("t", np.where(X == 5, np.nan, X), X, np.arange(6))


def test_absolute_data_means_the_same_everywhere(folder, monkeypatch):
    ref = absolute_data(NPZ, folder)
    monkeypatch.chdir("/")
    assert load_data(ref).n_eval == 6
    assert absolute_data("quickstart", folder) == "digits"


def test_models_are_files_that_exist(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        model_path("a.keras", tmp_path, tmp_path)
    with pytest.raises(ModelError, match=r"'a.tflite' is not allowed"):
        model_path("a.tflite", tmp_path, tmp_path)
    (tmp_path / "a.keras").write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"a\.keras: Keras cannot load the model"):
        load_model(model_path("a.keras", tmp_path, tmp_path))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared assets are not here")
def test_the_shared_assets_load():
    data = load_data({"loader": "assets.py:load", "args": {"name": "kws", "n_calib": 20}}, SHARED)
    assert data.n_calib == 20
    assert data.x_eval.dtype == np.float32
