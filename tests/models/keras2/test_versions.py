"""Files that real versions of Keras 2 wrote load and compute what these computed; see `versions`."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest

import vqkit as vq
from tests.models.keras2.versions import ARCHIVES, LEGACY, Version, one_of_each
from vqkit.errors import ModelError
from vqkit.models import load_model

CHOSEN = one_of_each()


@pytest.mark.parametrize("name", ARCHIVES)
def test_it_computes_what_that_version_computed(name, tmp_path):
    version = Version(name)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(no layer name with a slash|does not write invert|interpolation of).*"
        )
        found = [version.wrong(file, tmp_path) for file in CHOSEN[name]]
    assert not any(found), [f for f in found if f]
    assert len(found) > 2


def member(archive: str, name: str, folder):
    with zipfile.ZipFile(LEGACY / f"{archive}.zip") as files:
        files.extract(name, folder)
    return folder / name


def test_a_name_with_a_slash_is_told(tmp_path):
    path = member("tf_1_15", "slashes.h5", tmp_path)
    with pytest.warns(UserWarning, match="'conv1/conv' is now 'conv1_conv_'.*'conv1/bn' is now 'conv1_bn'"):
        model = load_model(path)
    # There is a layer `conv1_conv` besides.
    assert {"conv1_conv", "conv1_conv_", "conv1_bn"} <= {layer.name for layer in model.layers}


@pytest.mark.parametrize("kind", [".h5", ".keras"])
def test_hard_sigmoid_is_that_of_keras_2_also_quantized_and_saved(kind, tmp_path):
    archive = {".h5": "tf_1_13", ".keras": "tf_2_15"}[kind]
    path = member(archive, f"image_act_hard_sigmoid{kind}", tmp_path)
    x = np.linspace(-4, 4, 2 * 8 * 8 * 4, dtype="f4").reshape(2, 8, 8, 4)
    model = load_model(path)
    np.testing.assert_allclose(model(x), np.clip(0.2 * x + 0.5, 0, 1), atol=1e-6)
    quantized = vq.quantize(model, "pof2s", x)
    assert np.abs(quantized.model(x) - np.clip(0.2 * x + 0.5, 0, 1)).max() < 0.05
    quantized.model.save(tmp_path / "q.keras")
    np.testing.assert_array_equal(load_model(tmp_path / "q.keras")(x), quantized.model(x))


def test_a_file_of_windows_reads_like_any_other(tmp_path):
    """`layers\\dense` is one name there; every `.keras` file of the archive could have been saved so."""
    version = Version("tf_2_15")
    for file in ("frozen.keras", "words.keras", "steps_both.keras", "two_heads.keras"):
        path = member("tf_2_15", file, tmp_path)
        with zipfile.ZipFile(path) as archive:
            parts = {n: archive.read(n) for n in archive.namelist()}
        sound = tmp_path / "sound.h5"
        sound.write_bytes(parts["model.weights.h5"])
        with h5py.File(sound) as old, h5py.File(tmp_path / "windows.h5", "w") as new:
            old.visititems(
                lambda n, o, new=new: (
                    new.__setitem__(
                        n.rpartition("/vars/")[0].replace("/", "\\") + "/vars/" + n.rpartition("/")[2], o[()]
                    )
                    if isinstance(o, h5py.Dataset) and "/vars/" in n
                    else None
                )
            )
        parts["model.weights.h5"] = (tmp_path / "windows.h5").read_bytes()
        (tmp_path / "w").mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / "w" / file, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        ours, theirs = load_model(tmp_path / "w" / file), load_model(path)
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert version.wrong(file, tmp_path) is None


def test_a_file_of_hdf5_named_keras_loads(tmp_path):
    """So Keras before 2.12 wrote it."""
    path = member("tf_1_15", "fixed.h5", tmp_path)
    shutil.move(path, tmp_path / "fixed.keras")
    assert load_model(tmp_path / "fixed.keras").name == "fixed"


def test_bilinear_upsampling_of_keras_2_3_is_told(tmp_path):
    path = member("tf_2_4", "image_up_bilinear.h5", tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "2.3.1"
    with pytest.warns(UserWarning, match="resized at the corners of pixels"):
        load_model(path)


@pytest.mark.parametrize(
    ("archive", "name"),
    [
        ("tf_2_13_lookups", "texts_text_file.keras"),
        ("tf_2_15_lookups", "lookups_string_file.keras"),
        ("tf_2_15_lookups", "lookups_string_file.h5"),
        ("tf_2_15_lookups", "texts_text_saved_model"),
    ],
)
def test_a_vocabulary_that_is_no_data_of_the_file_is_not_read(archive, name, tmp_path):
    """A path of any file of the reader's machine, or tables that only a graph fills."""
    with zipfile.ZipFile(LEGACY / f"{archive}.zip") as files:
        files.extractall(tmp_path, [m for m in files.namelist() if m.split("/")[0] == name])
    with pytest.raises(ModelError, match=r"layer 'made' .*: its vocabulary is not in the file as data"):
        load_model(tmp_path / name)


@pytest.mark.parametrize("kind", [".h5", ".keras"])
def test_an_inverse_normalization_that_its_version_does_not_write_is_told_and_can_be_set(kind, tmp_path):
    path = member("tf_2_12", f"floats_norm_inverse{kind}", tmp_path)
    with pytest.warns(
        UserWarning, match=r"Keras 2\.12\.0 does not write invert .* False for 'made'.*layer.invert = True"
    ):
        model = load_model(path)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("f4")
    layer = model.get_layer("made")
    np.testing.assert_allclose(model(x), (x - layer.mean) / np.sqrt(layer.variance), rtol=1e-5)
    layer.invert = True
    model.save(tmp_path / "stated.keras")
    for stated in (model, load_model(tmp_path / "stated.keras")):
        np.testing.assert_allclose(stated(x), x * np.sqrt(layer.variance) + layer.mean, rtol=1e-5)


def test_an_interpolation_that_its_version_does_not_write_is_told_and_can_be_set(tmp_path):
    path = member("tf_2_12", "unsaid_bilinear.h5", tmp_path)
    with pytest.warns(
        UserWarning, match=r"2\.2\.4-tf does not write interpolation of UpSampling2D.*'nearest' for 'up'"
    ):
        model = load_model(path)
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype("f4")
    model.get_layer("up").interpolation = "bilinear"
    model.save(tmp_path / "stated.keras")
    resized = keras.ops.image.resize(x, (8, 8), interpolation="bilinear")
    np.testing.assert_allclose(load_model(tmp_path / "stated.keras")(x), model.get_layer("c")(resized), rtol=1e-5)


def test_names_that_repeat_in_a_layer_lost_weights(tmp_path):
    path = member("tf_1_15", "fixed.h5", tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/f"]
        group.attrs["weight_names"] = [b"a", b"a"]
        group["a"] = np.zeros(3, "f4")
    with pytest.raises(ModelError, match="several weights of layer 'f' have the name 'a'; one alone was stored"):
        load_model(path)


@keras.saving.register_keras_serializable(package="tests", name="Known")
class Mine(keras.Model):
    """A subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("version", ["2.15.0", "3.9.0"])
def test_a_subclassed_model_is_called_one(version, tmp_path):
    model = Mine()
    model(np.ones((1, 3), "f4"))
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    config = json.loads(parts["config.json"])
    config.update(class_name="Theirs", registered_name="Theirs", module="their.package")
    parts["config.json"] = json.dumps(config).encode()
    parts["metadata.json"] = json.dumps({"keras_version": version}).encode()
    with zipfile.ZipFile(tmp_path / "theirs.keras", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(ModelError, match=r"subclassed model \(Theirs\).*not in the file"):
        load_model(tmp_path / "theirs.keras")


def test_the_reason_is_shown_whole(tmp_path):
    """Keras prints the configuration first; the point comes after it."""
    path = member("tf_1_13", "image_conv.h5", tmp_path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["activation"] = "none_such"
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ModelError, match="none_such") as caught:
        load_model(path)
    assert "kernel_size" not in str(caught.value)
