"""Golden dumps: the integers that the original writes, and those that it could not."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import vqkit as vq
from benchmarks.golden_parts.ir import build
from tests.support import zoo
from vqkit.errors import DataError, ModelError
from vqkit.export.golden import activations, dump_model, weights
from vqkit.export.program import codes_of
from vqkit.quantization.layers import FakeQuantize

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def read(folder: Path, name: str, dtype: str = "int8") -> np.ndarray:
    """The integers of a .bin file; the .txt beside it must say the same."""
    values = np.fromfile(folder / f"{name}.bin", dtype)
    np.testing.assert_array_equal(np.loadtxt(folder / f"{name}.txt", ndmin=1), values)
    return values


@pytest.mark.parametrize("name", ["plain_cnn", "residual_bn"])
def test_weights_are_the_integers_of_the_reference(name, tmp_path):
    """Its formula on what it recorded: optimized float weights and final positions."""
    data = json.loads((GOLDEN / f"model_{name}.json").read_text())
    with np.load(GOLDEN / f"model_{name}.npz") as file:
        arrays = {k: file[k] for k in file.files}
    run = data["runs"]["pof2s/default"]
    quantized = vq.quantize(
        build(data["ir"], arrays),
        "pof2s",
        arrays["calib"],
        batch_size=data["calib_batch_size"],
        vitis_compat=True,
    )
    folder = dump_model(quantized.model, output_dir=tmp_path, weights_only=True) / "dump_results_weights"
    checked = 0
    for layer, quantizers in run["info_final"].items():
        for key, info in quantizers.items():
            weight = key.split("/")[-1].split(":")[0]
            if info.get("type") != "weight":
                continue
            stored = arrays[f"opt/{run['optimized_weights']}/{layer}/{weight}"]
            wanted = np.clip(np.rint(stored * 2.0 ** info["quant_pos_var"]), -128, 127).astype("int8")
            np.testing.assert_array_equal(read(folder, f"quant_{layer}_{weight}"), wanted.reshape(-1))
            checked += 1
    assert checked > 4


@pytest.mark.parametrize(
    ("strategy", "kwargs", "dtype"),
    [
        ("pof2s", {}, "int8"),
        ("pof2s", {"weight_per_channel": True}, "int8"),
        ("pof2s", {"weight_bit": 4, "activation_bit": 4, "bias_bit": 12}, "int8"),
        ("pof2s", {"weight_bit": 16, "activation_bit": 16}, "int16"),
        ("fsx", {}, "int8"),
        ("fsx", {"weight_symmetry": False, "activation_symmetry": False}, "int8"),
    ],
)
def test_integers_give_back_what_the_simulation_computes(strategy, kwargs, dtype, tmp_path):
    net = zoo.build("residual")
    x = zoo.batch(net, 3)
    quantized = vq.quantize(net, vq.Strategy.builtin(strategy).with_kwargs(**kwargs), x)
    folder = dump_model(quantized.model, [x[:1], x[1:2]], tmp_path)
    notes = json.loads((folder / "dump.json").read_text())["folders"]
    for row in quantized.plan.quantized:
        if row.is_weight:
            part, name = "dump_results_weights", f"quant_{row.layer}_{row.tensor}"
            wanted = quantized.model.get_layer(row.layer).weights
            wanted = next(w.numpy() for w in wanted if w.name == row.tensor)
        else:
            part, name = "dump_results_1", row.quantizer
            values = keras.Model(quantized.model.input, quantized.model.get_layer(name).output)
            wanted = np.asarray(values(x[1:2]))
        note = notes[part][name]
        kind = "int16" if row.role == "bias" and kwargs.get("bias_bit") == 12 else dtype
        kind = "int8" if row.role == "bias" and "bias_bit" not in kwargs else kind
        kind = "int8" if row.role == "input" else kind
        codes = read(folder / part, name, kind).reshape(note["shape"])
        grid = quantized.encodings[row.name]
        assert grid.spec.q_min <= codes.min()
        assert codes.max() <= grid.spec.q_max
        shape = np.shape(grid.scale)
        scale, zero = (np.reshape(note[k], shape) for k in ("scale", "zero_point"))
        np.testing.assert_allclose((codes.astype(int) - zero) * scale, wanted, rtol=1e-6)
        np.testing.assert_array_equal(codes_of(wanted, grid), codes)


def test_floats_are_written_on_request_and_old_dumps_go(tmp_path):
    net = zoo.build("fused_activations")
    x = zoo.batch(net, 1)
    model = vq.quantize(net, "pof2s", x).model
    dump_model(model, [x], tmp_path, dump_float=True)
    floats = np.fromfile(tmp_path / "dump_results_0" / "head_softmax_float.bin", "float32")
    np.testing.assert_array_equal(floats, np.asarray(model(x)).reshape(-1))
    # What the softmax reads is quantized; the original scales what it gives by that position.
    assert (tmp_path / "dump_results_0" / "quant_head_softmax.bin").is_file()
    dump_model(model, [x], tmp_path)
    assert not list((tmp_path / "dump_results_0").glob("*_float*"))


def test_what_cannot_be_dumped_says_why(tmp_path):
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 2)
    with pytest.raises(ModelError, match="is not quantized"):
        dump_model(net, [x], tmp_path)
    model = vq.quantize(net, "pof2s", x).model
    with pytest.raises(DataError, match="dataset is needed"):
        dump_model(model, output_dir=tmp_path)
    with pytest.raises(ModelError, match="does not carry the grids of its weights"):
        dump_model(keras.models.clone_model(model), [x], tmp_path)
    model.get_layer("conv").kernel.assign_add(np.full((3, 3, 3, 4), 0.001, "float32"))
    with pytest.raises(ModelError, match="quant_conv_kernel: its values are not on its grid"):
        dump_model(model, [x], tmp_path)


def test_weights_and_activations_are_there_as_arrays():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 2)
    model = vq.quantize(net, "pof2s", x).model
    assert {t.name for t in weights(model)} == {
        "quant_conv_kernel",
        "quant_conv_bias",
        "quant_head_kernel",
        "quant_head_bias",
    }
    (first,) = activations(model, [x])
    assert [t.name for t in first if t.grid is not None] == [
        layer.name for layer in model.layers if isinstance(layer, FakeQuantize)
    ]
