"""Images in class folders and inputs by name: what runs read, beside what Keras reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from vqkit.errors import DataError
from vqkit.quantization.float_model import arranged
from vqkit.sweeps import folder as reading
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep

SIZE = (8, 6)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 20)):
        for name in ("cat", "dog", "owl"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (10, 9, 3), np.uint8)
                keras.utils.save_img(root / part / name / f"{i:02}.png", pixels, scale=False)
    return root


def ref(**more: Any) -> dict[str, Any]:
    return {"folder": "test", "calib_folder": "train", "image_size": list(SIZE), "n_calib": 7, **more}


def test_a_folder_is_what_keras_reads(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = vqkit.load_data(ref(scale=1 / 255, offset=-0.5), images)
    read = keras.utils.image_dataset_from_directory(images / "test", image_size=SIZE, shuffle=False, verbose=False)
    x, y = (np.concatenate(p) for p in zip(*read.as_numpy_iterator(), strict=True))
    np.testing.assert_allclose(data.x_eval, x / 255 - 0.5, atol=1e-6)
    np.testing.assert_array_equal(data.y_eval, y)
    assert data.class_names == ("cat", "dog", "owl")
    assert (data.n_calib, data.n_eval, len(data.y_calib)) == (7, 60, 7)
    again = vqkit.load_data(ref(scale=1 / 255, offset=-0.5, n_eval=60), images)
    assert sorted(again.y_eval.tolist()) == data.y_eval.tolist()
    some = [vqkit.load_data(ref(n_eval=25, seed=s), images) for s in (0, 1)]
    assert len(set(some[0].y_eval.tolist())) == 3  # A random choice, not the first class.
    assert some[0].digest != some[1].digest
    monkeypatch.setattr(reading, "IN_MEMORY", 1000)
    kept = reading.data_from_folders(
        reading.FolderSpec(
            **{**ref(n_eval=25), **{"folder": str(images / "test"), "calib_folder": str(images / "train")}}
        ),
        None,
    )
    assert isinstance(kept.x_eval.base, np.memmap)
    assert kept.digest == some[0].digest


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"folder": "tst"}, "did you mean"),
    "no images": ({"folder": "empty"}, "cannot be read"),
    "no size": ({"image_size": [8]}, "data/image_size"),
    "more than there are": ({"n_eval": 61}, "61 images are wanted, there are 60"),
    "other classes": ({"calib_folder": "test/.."}, "classes empty, test, train"),
    "an unknown key": ({"images": 3}, "'images' is not allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_cannot_be_read_are_refused(images: Path, name: str) -> None:
    more, said = REFUSED[name]
    (images / "empty" / "cat").mkdir(parents=True, exist_ok=True)
    try:
        with pytest.raises(DataError, match=said):
            vqkit.load_data(ref(**more), images)
    finally:
        (images / "empty" / "cat").rmdir()
        (images / "empty").rmdir()


def test_a_data_set_of_keras_calibrates_and_is_evaluated(images: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((*SIZE, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    )
    model.add(keras.layers.Dense(3, "softmax"))
    read = keras.utils.image_dataset_from_directory(images / "test", image_size=SIZE, shuffle=False, verbose=False)
    data = vqkit.load_data(ref(), images)
    quantized = vqkit.quantize(model, "pof2s", read, steps=1)
    assert quantized.plan.quantized
    found, wanted = vqkit.evaluate(quantized, read), vqkit.evaluate(quantized, data.x_eval, data.y_eval)
    assert found.metrics == wanted.metrics


def two_inputs(*, by_name: bool) -> Any:
    keras.utils.set_random_seed(0)
    # Not in the order of their names.
    right, left = keras.Input((2,), name="right"), keras.Input((3,), name="left")
    both = keras.layers.Concatenate()([left, right])
    kind, size = keras.layers.Dense(2, "softmax", name="kind")(both), keras.layers.Dense(1, name="size")(both)
    inputs = {"right": right, "left": left} if by_name else [right, left]
    return keras.Model(inputs, {"kind": kind, "size": size})


@pytest.mark.parametrize("by_name", [True, False])
def test_arrays_by_name_are_inputs_and_labels_of_these_names(tmp_path: Path, by_name: bool) -> None:
    random = np.random.default_rng(0)
    left, right = random.normal(size=(50, 3)).astype("float32"), random.normal(size=(50, 2)).astype("float32")
    labels = {"kind": np.arange(50) % 2, "size": left[:, :1]}
    arrays = {"left": left, "right": right}
    parts = {f"{part}.{k}": v for part in ("x_calib", "x_eval") for k, v in arrays.items()}
    np.savez(tmp_path / "data.npz", **parts, **{f"y_eval.{k}": v for k, v in labels.items()})
    two_inputs(by_name=by_name).save(tmp_path / "net.keras")
    data = vqkit.load_data("data.npz", tmp_path)
    assert set(data.x_eval) == {"left", "right"}
    stated = {"npz": "data.npz", "x_eval": {"left": "x_eval.left", "right": "x_eval.right"}}
    assert vqkit.load_data(stated, tmp_path).digest == data.digest
    sweep = Sweep.from_dict({"name": "s", "model": "net.keras", "data": "data.npz"}, base_dir=tmp_path)
    assert "kind/accuracy" in resolve(sweep, tmp_path).judged
    model = vqkit.load_model(tmp_path / "net.keras")
    bench = vqkit.Bench(model, data)
    found = bench.float_evaluation()
    given = arrays if by_name else [right, left]
    assert found.metrics == pytest.approx(vqkit.evaluate(model, given, labels).metrics)
    assert found.metrics == pytest.approx(vqkit.evaluate(model, dict(reversed(arrays.items())), labels).metrics)
    assert bench.evaluate(bench.quantize("pof2s")).metrics.keys() == found.metrics.keys()


def test_names_that_a_model_does_not_have_are_refused() -> None:
    model = two_inputs(by_name=False)
    with pytest.raises(DataError, match="inputs left, middle are given, the model takes right, left"):
        arranged(model, {"left": 1, "middle": 2})
