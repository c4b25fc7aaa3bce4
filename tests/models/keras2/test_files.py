"""Files that Keras 2 wrote load, compute what Keras 2 computed, and quantize."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import vqkit as vq
from vqkit import digest
from vqkit.errors import ModelError

LEGACY = Path(__file__).resolve().parents[2] / "models" / "legacy"
FILES = [
    *(f"{n}.h5" for n in ("depthwise", "operators", "shared", "recurrent", "sequential", "raw_operations")),
    *(f"{n}{kind}" for n in ("depthwise", "operators") for kind in (".keras", "_saved_model")),
]


def expected(name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs and what Keras 2 computed from them."""
    with np.load(LEGACY / "expected.npz") as arrays:
        return tuple([arrays[k] for k in arrays.files if k.startswith(f"{name}/{v}")] for v in "xy")


def stem(file: str) -> str:
    return file.removesuffix("_saved_model").split(".")[0]


@pytest.mark.parametrize("file", FILES)
def test_it_computes_what_keras_2_computed(file):
    inputs, outputs = expected(stem(file))
    model = vq.load_model(LEGACY / file)
    assert model.name == stem(file)
    got = model(inputs[0] if len(inputs) == 1 else inputs)
    for ours, theirs in zip(got if isinstance(got, list) else [got], outputs, strict=True):
        # Keras 2 sums convolutions in another order.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_layers_and_operations_keep_their_names():
    model = vq.load_model(LEGACY / "operators.h5")
    names = [row.layer for row in vq.make_plan("pof2s", model).rows]
    assert {"conv", "side", "head", "tf.nn.relu6", "tf.concat"} <= set(names)


def test_the_three_formats_hold_the_same_model():
    inputs, _ = expected("operators")
    models = [vq.load_model(LEGACY / f"operators{kind}") for kind in (".h5", ".keras", "_saved_model")]
    for other in models[1:]:
        np.testing.assert_array_equal(other(inputs[0]), models[0](inputs[0]))


@pytest.mark.parametrize("file", ["operators.h5", "raw_operations.h5", "depthwise_saved_model", "shared.h5"])
def test_it_is_quantized_like_any_other_and_saved(file, tmp_path):
    inputs, _ = expected(stem(file))
    x = inputs[0] if len(inputs) == 1 else inputs
    quantized = vq.quantize(vq.load_model(LEGACY / file), "pof2s", x)
    quantized.model.save(tmp_path / "q.keras")
    again = vq.load_model(tmp_path / "q.keras")
    ours, theirs = (keras.tree.flatten(m(x)) for m in (again, quantized.model))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_hard_sigmoid_of_operators_becomes_the_device_form():
    """`ReLU(6)(x + 3) * (1 / 6)`, as MobileNetV3 was written before Keras had it."""
    for file in ("operators.h5", "raw_operations.h5"):
        model = vq.load_model(LEGACY / file)
        kinds = {row.kind for row in vq.make_plan("pof2s", model).rows}
        assert "VitisSigmoid" in kinds, file


def test_a_folder_is_a_model_of_a_sweep(tmp_path):
    folder = LEGACY / "depthwise_saved_model"
    assert vq.model_path(str(folder), ".", tmp_path) == folder
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert digest.of_file(copy) == digest.of_file(folder)
    (copy / "fingerprint.pb").unlink()
    assert digest.of_file(copy) != digest.of_file(folder)


def edited(source: str, target: Path, change) -> Path:
    """A copy of an .h5 file with its layers changed."""
    shutil.copy(LEGACY / source, target)
    with h5py.File(target, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            change(layer)
        file.attrs["model_config"] = json.dumps(config)
    return target


def on(name: str, /, **changes):
    """A change of one layer: its keys, and `config_*` those of its configuration."""

    def change(layer):
        if layer["name"] == name:
            layer.update({k: v for k, v in changes.items() if k != "config"})
            layer["config"].update(changes.get("config", {}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            on("tf.nn.relu", config={"function": "nn.relu9"}),
            r"tf\.nn\.relu9 has no counterpart here \(did you",
        ),
        (on("gate_relu6", class_name="ReLu"), r"does not know the layer 'ReLu' \(did you mean 'ReLU'"),
        (on("side", class_name="Custom>Vitis>QuantizeWrapper"), "layer of the original quantizer"),
        (on("conv", config={"groups": 2, "filters": 5}), "'conv' .*cannot"),
        (on("head", name="other"), "no layer makes what"),
    ],
)
def test_what_cannot_be_read_says_why(change, message, tmp_path):
    path = edited("operators.h5", tmp_path / "m.h5", change)
    with pytest.raises(ModelError, match=message):
        vq.load_model(path)


def test_an_argument_that_keras_3_lacks_is_not_dropped(tmp_path):
    path = edited("recurrent.h5", tmp_path / "m.h5", on("gru", config={"time_major": True}))
    with pytest.raises(ModelError, match="time_major=True; Keras 3 has it only as False"):
        vq.load_model(path)


LAMBDA = {"function": ["4wAA", None, None], "function_type": "lambda", "arguments": {}}


def test_a_lambda_is_not_run_and_takes_the_callers_function(tmp_path):
    path = edited("depthwise.h5", tmp_path / "m.h5", on("leaky", class_name="Lambda", config=LAMBDA))
    with pytest.raises(ModelError, match=r"is not run\. Pass its function by the layer's name: .*'leaky'"):
        vq.load_model(path)
    inputs, outputs = expected("depthwise")
    model = vq.load_model(path, {"leaky": lambda x: keras.ops.leaky_relu(x, 0.1)})
    np.testing.assert_allclose(model(inputs[0]), outputs[0], rtol=1e-5, atol=1e-6)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = edited("depthwise.h5", tmp_path / "m.h5", on("pw", config={"kernel_size": [2, 2]}))
    with pytest.raises(ModelError, match=r"pw/kernel' has shape \(2, 2, 3, 4\), the file \(1, 1, 3, 4\)"):
        vq.load_model(path)


def test_weights_only_is_said(tmp_path):
    image = keras.Input((4,))
    keras.Model(image, keras.layers.Dense(2)(image)).save_weights(tmp_path / "only.weights.h5")
    with pytest.raises(ModelError, match="holds weights only, no architecture"):
        vq.load_model(tmp_path / "only.weights.h5")


def test_a_function_without_layers_is_said(tmp_path):
    image = keras.Input((4,))
    keras.Model(image, keras.layers.Dense(2)(image)).export(tmp_path / "served", verbose=False)
    with pytest.raises(ModelError, match="functions only, without the layers"):
        vq.load_model(tmp_path / "served")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"without saved_model\.pb is not a SavedModel"):
        vq.load_model(tmp_path / "empty")


@pytest.mark.parametrize("suffix", [".pb", ".tflite", ".onnx", ".xmodel", ".pth"])
def test_other_formats_are_named(suffix, tmp_path):
    (tmp_path / f"m{suffix}").write_bytes(b"x")
    with pytest.raises(ModelError, match="Give the trained float model as Keras saved it"):
        vq.load_model(tmp_path / f"m{suffix}")


def test_lambdas_of_keras_3_run_only_when_asked(tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, keras.layers.Lambda(lambda t: t * 2, output_shape=(3,), name="twice")(x))
    model.save(tmp_path / "code.keras")
    with pytest.raises(ModelError, match="safe_mode=False"):
        vq.load_model(tmp_path / "code.keras")
    loaded = vq.load_model(tmp_path / "code.keras", safe_mode=False)
    np.testing.assert_array_equal(loaded(np.ones((1, 3), np.float32)), np.full((1, 3), 2))


def test_files_of_keras_3_are_left_to_keras(tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, keras.layers.Dense(2, name="d")(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HDF5.*")
        model.save(tmp_path / "new.h5")
    model.save(tmp_path / "new.keras")
    for file in ("new.h5", "new.keras"):
        np.testing.assert_array_equal(vq.load_model(tmp_path / file).get_layer("d").kernel, model.layers[1].kernel)
    with zipfile.ZipFile(tmp_path / "new.keras") as file:
        assert json.loads(file.read("metadata.json"))["keras_version"].startswith("3")
