"""Whole models in ONNX Runtime: every quantized tensor is the simulation's."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import vqkit
from tests.support.exported import quantized, samples, simulated
from vqkit.errors import ModelError
from vqkit.export.onnx import OnnxSession, to_onnx

CASES = [
    ("residual", "pof2s", 21),
    ("depthwise", "pof2s", 11),
    ("concat", "pof2s", 17),
    ("nested", "pof2s", 21),
    ("two_inputs", "pof2s", 21),
    ("two_outputs", "pof2s", 21),
    ("transposed", "pof2s", 21),
    ("activations", "pof2s", 21),
    ("lone_batch_norm", "pof2s", 21),
    ("depth_multiplier", "pof2s", 13),
    ("residual", "fsx", 21),
    ("depthwise", "fsx", 13),
    ("fused_activations", "fs", 21),
]


def run(name: str, strategy: str, opset: int, *, rounding: str = "exact", **overrides: object) -> dict[str, np.ndarray]:
    """Row name -> value as ONNX Runtime computes it, in Keras' layout."""
    made = to_onnx(quantized(name, strategy, **overrides), opset=opset, rounding=rounding, intermediate=True)
    session = OnnxSession(made.model)
    got = session(samples(name))
    found = {k: np.moveaxis(got[t], 1, -1) if first else got[t] for k, (t, first) in made.tensors.items()}
    outputs = [k for k in session.outputs if k.startswith("output")]
    names = ["model output"] if len(outputs) == 1 else [f"model output {i}" for i in range(len(outputs))]
    return found | {n: got[o] for n, o in zip(names, outputs, strict=True)}


@pytest.mark.parametrize(("name", "strategy", "opset"), CASES)
def test_every_quantized_tensor_is_the_simulations(name: str, strategy: str, opset: int) -> None:
    expected, got = simulated(name, strategy), run(name, strategy, opset)
    assert set(got) == set(expected)
    for tensor, value in expected.items():
        if tensor.startswith("model output"):
            # Softmax, tanh and sums in another order: the last places of a float.
            np.testing.assert_allclose(got[tensor], value, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(got[tensor], value, err_msg=tensor)


@pytest.mark.parametrize("bits", [4, 5])
def test_narrow_bit_widths(bits: int) -> None:
    over = {"weight_bit": bits, "activation_bit": bits, "bias_bit": bits}
    expected, got = simulated("residual", "pof2s", **over), run("residual", "pof2s", 21, **over)
    for tensor, value in expected.items():
        np.testing.assert_array_equal(got[tensor], value, err_msg=tensor)


def test_sixteen_bits_differ_in_few_codes() -> None:
    """Sums of 32-bit products do not fit the 24 bits of a float32, so their order shows at ties."""
    over = {"weight_bit": 16, "activation_bit": 16, "bias_bit": 32}
    q, expected = quantized("residual", "pof2s", **over), simulated("residual", "pof2s", **over)
    got = run("residual", "pof2s", 21, **over)
    for row in (r for r in q.plan.quantized if not r.is_weight):
        codes = (got[row.name] - expected[row.name]) / q.encodings[row.name].scale
        assert np.abs(codes).max() <= (1 if row.layer in ("quant_image", "stem_relu") else 3)
        assert np.mean(codes != 0) < 0.01


def test_integers_are_in_the_file() -> None:
    made = to_onnx(quantized("residual", "pof2s", weight_bit=4))
    types = {i.name: i.data_type for i in made.model.graph.initializer}
    assert types["conv1/kernel/q"] == 22  # INT4
    assert types["conv1/bias/q"] == 3  # INT8
    scales = {i.name: i for i in made.model.graph.initializer}["conv1/kernel/scale"]
    assert np.log2(np.frombuffer(scales.raw_data, np.float32)[0]) % 1 == 0


def test_qdq_stays_within_one_code_at_the_first_tensors() -> None:
    q = quantized("residual", "pof2s")
    expected, got = simulated("residual", "pof2s"), run("residual", "pof2s", 21, rounding="qdq")
    first = next(r.name for r in q.plan.quantized if r.layer == "stem_relu")
    for tensor in ("quant_image/input", first):
        assert np.abs(got[tensor] - expected[tensor]).max() <= q.encodings[tensor].scale
    made = to_onnx(q, rounding="qdq")
    kinds = [n.op_type for n in made.model.graph.node]
    assert "Floor" not in kinds
    assert {i.data_type for i in made.model.graph.initializer if i.name.endswith("/int32")} == {6}


def test_transposes_stand_at_the_borders_only() -> None:
    kinds = [n.op_type for n in to_onnx(quantized("residual", "pof2s")).model.graph.node]
    assert kinds.count("Transpose") == 1


def test_a_layer_without_a_form_is_named() -> None:
    i = keras.Input((8,), name="x")
    y = keras.ops.rfft(keras.layers.Dense(8)(i))[0]
    model = keras.Model(i, keras.layers.Dense(2, name="head")(y))
    q = vqkit.quantize(model, "pof2s", np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32))
    with pytest.raises(ModelError, match=r"layer 'rfft\w*' cannot be exported to ONNX: its operation RFFT"):
        to_onnx(q)


def test_mistakes_are_named(tmp_path: Path) -> None:
    q = quantized("residual", "pof2s")
    with pytest.raises(ModelError, match=r"'onxx'.*did you mean 'onnx'"):
        vqkit.export(q, tmp_path / "m.onnx", "onxx")
    with pytest.raises(ModelError, match="option 'rounding' is not allowed"):
        vqkit.export(q, tmp_path / "m.keras", rounding="exact")
    with pytest.raises(ModelError, match=r"Expected the suffix '\.onnx'"):
        vqkit.export(q, tmp_path / "m.bin", "onnx")
    with pytest.raises(ModelError, match="opset"):
        vqkit.export(q, tmp_path / "m.onnx", opset=7)
    with pytest.raises(ModelError, match=r"did you mean 'exact'"):
        vqkit.export(q, tmp_path / "m.onnx", rounding="exakt")
    assert list(tmp_path.iterdir()) == []
