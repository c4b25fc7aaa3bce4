"""TFLite files of our own writing, run by LiteRT."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import vqkit
from tests.support.exported import quantized, samples, simulated
from vqkit.errors import ModelError
from vqkit.export.tflite import signed_grid, to_tflite
from vqkit.export.tflite.flatbuffer import LiteRtSession, schema

POF2S, FSX = "pof2s", "fsx"


def codes_apart(name: str, strategy: str, *, kernels: str = "default", **overrides: object) -> dict[str, np.ndarray]:
    """Row name -> codes of LiteRT less those of the simulation."""
    q = quantized(name, strategy, **overrides)
    made, expected = to_tflite(q, intermediate=True), simulated(name, strategy, **overrides)
    got, found = LiteRtSession(made.content, kernels=kernels)(samples(name)), {}
    for row, tensor in made.tensors.items():
        scale, zero = signed_grid(q.encodings[row])
        found[row] = got[tensor].astype(int) - zero - np.rint(expected[row] / np.float32(scale)).astype(int)
    return found


@pytest.mark.parametrize("name", ["residual", "depthwise", "depth_multiplier", "one_channel"])
def test_power_of_two_grids_are_equal(name: str) -> None:
    for row, codes in codes_apart(name, POF2S).items():
        assert not codes.any(), row


def test_fused_rounding_departs_at_negative_ties_by_one_code() -> None:
    q, expected = quantized("residual", POF2S), simulated("residual", POF2S)
    made = to_tflite(q, rounding="fused", intermediate=True)
    got = LiteRtSession(made.content)(samples("residual"))[made.tensors["conv2/output"]]
    apart = got - np.rint(expected["conv2/output"] / q.encodings["conv2/output"].scale)
    assert set(np.unique(apart)) == {-1.0, 0.0}
    assert "SUB" not in operators(made.content)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("residual", FSX),
        ("concat", POF2S),
        ("two_outputs", POF2S),
        ("nested", FSX),
        ("fused_activations", FSX),
        ("lone_batch_norm", POF2S),
    ],
)
def test_within_one_code_in_99_per_cent(name: str, strategy: str) -> None:
    for row, codes in codes_apart(name, strategy).items():
        assert np.mean(np.abs(codes) > 1) < 0.01, row


def test_reference_kernels_are_one_code_off_at_the_first_layer() -> None:
    """They round twice, away from zero; later layers see what that changed."""
    apart = codes_apart("depthwise", POF2S, kernels="reference")
    assert not apart["quant_image/input"].any()
    assert np.abs(apart["dw_relu/output"]).max() == 1


@pytest.mark.parametrize(
    "overrides",
    [
        {"weight_bit": 4, "activation_bit": 4},
        {"activation_symmetry": False},
        {"activation_unsigned": True, "activation_symmetry": False},
    ],
    ids=lambda o: "-".join(o),
)
def test_other_grids(overrides: dict[str, object]) -> None:
    for row, codes in codes_apart("depthwise", POF2S, **overrides).items():
        assert np.mean(np.abs(codes) > 1) < 0.02, row


def operators(content: bytes) -> list[str]:
    """Names of the operators of a file, in order."""
    s = schema()
    names = {v: k for k, v in vars(s.BuiltinOperator).items() if isinstance(v, int)}
    model = s.ModelT.InitFromObj(s.Model.GetRootAs(content, 0))
    return [names[model.operatorCodes[o.opcodeIndex].builtinCode] for o in model.subgraphs[0].operators]


def test_the_file_is_full_integer_between_its_ends() -> None:
    made = to_tflite(quantized("residual", POF2S))
    found = operators(made.content)
    assert made.in_float == ()
    assert found[:5] == ["MUL", "ADD", "FLOOR", "MUL", "QUANTIZE"]
    assert found[-1] == "DEQUANTIZE"
    assert found.count("QUANTIZE") == found.count("DEQUANTIZE") == 1
    assert {"CONV_2D", "ADD", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} <= set(found)
    assert found.count("SUB") == 2, "one for each layer without ReLU"
    assert "RELU" not in found


def test_scales_and_biases_are_ours() -> None:
    q, s = quantized("residual", FSX), schema()
    made = to_tflite(q)
    tensors = s.ModelT.InitFromObj(s.Model.GetRootAs(made.content, 0)).subgraphs[0].tensors
    kernel = next(t for t in tensors if t.name == b"conv1/kernel")
    np.testing.assert_array_equal(kernel.quantization.scale, q.encodings["conv1/kernel"].scale.ravel())
    bias = next(t for t in tensors if t.name == b"conv1/bias")
    assert bias.type == s.TensorType.INT32
    source = q.encodings["stem_relu/output"].scale
    np.testing.assert_array_equal(bias.quantization.scale, kernel.quantization.scale * source)


def test_the_weight_of_minus_128() -> None:
    q, x = quantized("residual", FSX), samples("residual")
    kept = to_tflite(q)
    assert sum(kept.lowest_weights.values()) > 0
    clipped = to_tflite(q, lowest_weight="clip")
    assert clipped.lowest_weights == kept.lowest_weights
    a, b = (LiteRtSession(m.content)(x)["output"] for m in (kept, clipped))
    assert not np.array_equal(a, b)
    with pytest.raises(ModelError, match=r"weights have the code -128.*narrow_range"):
        to_tflite(q, lowest_weight="error")
    with pytest.raises(ModelError, match="did you mean 'keep'"):
        to_tflite(q, lowest_weight="keeep")


def test_what_tflite_has_not_is_named() -> None:
    with pytest.raises(ModelError, match=r"stem_relu/output.*has 16. Export onnx"):
        to_tflite(quantized("residual", POF2S, activation_bit=16, weight_bit=16, bias_bit=32))
    i = keras.Input((4, 4, 4, 4), name="cube")
    model = keras.Model(i, keras.layers.Conv3D(2, 3, groups=2, name="cube_conv")(i))
    q = vqkit.quantize(model, POF2S, np.random.default_rng(0).normal(size=(8, 4, 4, 4, 4)).astype(np.float32))
    with pytest.raises(ModelError, match=r"'cube_conv' cannot be exported to TFLite.*2 groups"):
        to_tflite(q)
