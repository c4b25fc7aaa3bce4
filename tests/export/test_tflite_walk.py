"""Every layer class that quantizes leaves as TFLite and agrees in the interpreter, or says why not.

The classes are those that the built-in strategies' registries name, read from there, and some that a user's
registry may add: those with a kernel, and others that give a float tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from vqkit.errors import ModelError
from vqkit.export.tflite import to_tflite

L = keras.layers
STRATEGIES = ("pof2s", "pof2s_tqt", "fs", "fsx")
LINE, IMAGE, CUBE, VECTOR = (8, 4), (6, 6, 4), (4, 4, 4, 2), (6,)

# Class -> (shape, the layer around a tensor), for each form of it.
FORMS: dict[str, list[tuple[tuple[int, ...], Callable[[Any], Any]]]] = {
    "Conv2D": [
        (IMAGE, lambda t: L.Conv2D(4, 3, activation="relu")(t)),
        (IMAGE, lambda t: L.Conv2D(4, 3, groups=2, padding="same", strides=2)(t)),
        (IMAGE, lambda t: L.Conv2D(4, 3, dilation_rate=2)(t)),
        (IMAGE, lambda t: L.Conv2D(4, 2, activation="sigmoid", padding="same")(t)),
    ],
    "DepthwiseConv2D": [
        (IMAGE, lambda t: L.DepthwiseConv2D(3, depth_multiplier=2)(t)),
        (IMAGE, lambda t: L.DepthwiseConv2D(2, dilation_rate=2, activation="relu6")(t)),
        (IMAGE, lambda t: L.DepthwiseConv2D(3, strides=2, padding="same")(t)),
    ],
    "Conv2DTranspose": [
        (IMAGE, lambda t: L.Conv2DTranspose(3, 3, strides=2, padding="same")(t)),
        (IMAGE, lambda t: L.Conv2DTranspose(3, 2, output_padding=1, strides=2)(t)),
    ],
    "Dense": [
        (VECTOR, lambda t: L.Dense(4, activation="relu")(t)),
        (LINE, lambda t: L.Dense(4, use_bias=False)(t)),
        (VECTOR, lambda t: L.Dense(4, activation="softmax")(t)),
    ],
    "Activation": [
        (VECTOR, lambda t, a=a: L.Activation(a)(L.Dense(6)(t)))
        for a in (
            "relu",
            "relu6",
            "sigmoid",
            "tanh",
            "hard_sigmoid",
            "swish",
            "elu",
            "selu",
            "softplus",
            "softsign",
            "gelu",
            "exponential",
            "leaky_relu",
            "hard_swish",
            "mish",
            "softmax",
            "linear",
        )
    ],
    "ReLU": [
        (IMAGE, lambda t: L.ReLU()(L.Conv2D(3, 1)(t))),
        (IMAGE, lambda t: L.ReLU(max_value=4.0)(L.Conv2D(3, 1)(t))),
        (IMAGE, lambda t: L.ReLU(negative_slope=0.1, threshold=0.2, max_value=3.0)(L.Conv2D(3, 1)(t))),
    ],
    "LeakyReLU": [(IMAGE, lambda t: L.LeakyReLU(negative_slope=0.3)(L.Conv2D(3, 1)(t)))],
    "Add": [(IMAGE, lambda t: L.Add()([L.Conv2D(4, 1)(t), t, L.Conv2D(4, 1)(t)]))],
    "Multiply": [(IMAGE, lambda t: L.Multiply()([L.Conv2D(4, 1)(t), t]))],
    "Concatenate": [(IMAGE, lambda t: L.Concatenate()([L.Conv2D(4, 1)(t), t]))],
    "BatchNormalization": [
        (IMAGE, lambda t: L.BatchNormalization()(t)),
        (IMAGE, lambda t: L.ReLU()(L.BatchNormalization()(L.Conv2D(3, 3)(t)))),
    ],
    "MaxPooling2D": [
        (IMAGE, lambda t: L.MaxPooling2D(2)(L.Conv2D(3, 1)(t))),
        (IMAGE, lambda t: L.MaxPooling2D(3, strides=2, padding="same")(L.Conv2D(3, 1)(t))),
    ],
    "AveragePooling2D": [
        (IMAGE, lambda t: L.AveragePooling2D(2)(L.Conv2D(3, 1)(t))),
        (IMAGE, lambda t: L.AveragePooling2D(3, strides=2, padding="same")(L.ReLU()(L.Conv2D(3, 1)(t)))),
    ],
    "GlobalAveragePooling2D": [
        (IMAGE, lambda t: L.GlobalAveragePooling2D()(L.Conv2D(3, 1)(t))),
        (IMAGE, lambda t: L.GlobalAveragePooling2D(keepdims=True)(L.Conv2D(3, 1)(t))),
    ],
    "UpSampling2D": [
        (IMAGE, lambda t: L.UpSampling2D(2)(L.Conv2D(3, 1)(t))),
        (IMAGE, lambda t: L.UpSampling2D((2, 3), interpolation="bilinear")(L.Conv2D(3, 1)(t))),
    ],
    "ZeroPadding2D": [(IMAGE, lambda t: L.ZeroPadding2D(((1, 0), (2, 1)))(L.Conv2D(3, 1)(t)))],
    "Reshape": [(IMAGE, lambda t: L.Reshape((9, 16))(L.Conv2D(4, 1)(t)))],
    "Flatten": [(IMAGE, lambda t: L.Dense(3)(L.Flatten()(L.Conv2D(4, 1)(t))))],
    # The DPU's own layers come from these by the passes.
    "VitisGlobalAveragePooling2D": [(IMAGE, lambda t: L.GlobalAveragePooling2D()(L.Conv2D(3, 1)(t)))],
    "VitisAveragePooling2D": [(IMAGE, lambda t: L.AveragePooling2D(3)(L.Conv2D(3, 1)(t)))],
    "VitisSigmoid": [(IMAGE, lambda t: L.Activation("hard_sigmoid")(L.Conv2D(3, 1)(t)))],
    "VitisConvBN": [(IMAGE, lambda t: L.BatchNormalization()(L.Conv2D(3, 1)(t)))],
    "VitisDepthwiseConvBN": [(IMAGE, lambda t: L.BatchNormalization()(L.DepthwiseConv2D(3)(t)))],
    # Classes that a user's registry adds.
    "Conv1D": [
        (LINE, lambda t: L.Conv1D(4, 3, activation="relu")(t)),
        (LINE, lambda t: L.Conv1D(4, 3, padding="causal", dilation_rate=2)(t)),
        (LINE, lambda t: L.Conv1D(4, 3, strides=2, padding="same", groups=2)(t)),
    ],
    "DepthwiseConv1D": [(LINE, lambda t: L.DepthwiseConv1D(3, depth_multiplier=2, activation="relu")(t))],
    "Conv3D": [(CUBE, lambda t: L.Conv3D(3, 2, activation="relu")(t))],
    "Conv1DTranspose": [(LINE, lambda t: L.Conv1DTranspose(3, 3, strides=2)(t))],
    "MaxPooling1D": [(LINE, lambda t: L.MaxPooling1D(2)(L.Conv1D(4, 1)(t)))],
    "AveragePooling1D": [(LINE, lambda t: L.AveragePooling1D(2)(L.Conv1D(4, 1)(t)))],
    "GlobalAveragePooling1D": [(LINE, lambda t: L.GlobalAveragePooling1D()(L.Conv1D(4, 1)(t)))],
    "Subtract": [(VECTOR, lambda t: L.Subtract()([L.Dense(6)(t), t]))],
    "Maximum": [(VECTOR, lambda t: L.Maximum()([L.Dense(6)(t), t]))],
    "LayerNormalization": [(LINE, lambda t: L.LayerNormalization()(t))],
    "EinsumDense": [(LINE, lambda t: L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d")(t))],
}
ADDED = tuple(FORMS)[tuple(FORMS).index("Conv1D") :]


def registered() -> set[str]:
    """The layer classes that the built-in strategies quantize."""
    entries = [e for s in STRATEGIES for e in _entries(vqkit.Strategy.builtin(s))]
    return {e["layer_type"].rpartition(".")[2] for e in entries}


def _entries(strategy: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = strategy.dump(None, verbose=2)["quantize_registry_config"]["layer_quantize_config"]
    return found


@cache
def extended(base: str) -> Any:
    """A strategy whose registry has the added classes: as Conv2D where they have a kernel, else as Add."""
    strategy = vqkit.Strategy.builtin(base)
    known = {e["layer_type"].rpartition(".")[2]: e for e in _entries(strategy)}
    like = {name: known["Conv2D" if "Conv" in name or "Dense" in name else "Add"] for name in ADDED}
    entries = [{**e, "layer_type": f"tensorflow.keras.layers.{name}"} for name, e in like.items()]
    return strategy.update({"quantize_registry_config": {"layer_quantize_config": entries}})


def test_every_class_that_a_strategy_quantizes_is_walked() -> None:
    assert registered() - set(FORMS) == set()


@cache
def walked(base: str) -> tuple[Any, dict[str, str]]:
    """All forms in one model, quantized; and which outputs are whose."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs, outputs, owners = [], [], []
    for name, forms in FORMS.items():
        for shape, call in forms:
            i = keras.Input(shape)
            inputs.append(i)
            outputs.append(call(i))
            owners.append(name)
    model = keras.Model(inputs, outputs)
    for w in model.weights:
        values = rng.uniform(0.5, 2, w.shape) if "variance" in w.path else rng.normal(0, 0.4, w.shape)
        w.assign(values.astype("float32"))
    return vqkit.quantize(model, extended(base), samples(model)), {f"output_{i}": o for i, o in enumerate(owners)}


def samples(model: Any, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(8, *t.shape[1:])).astype("float32") for t in model.inputs]


@pytest.mark.parametrize("base", ["pof2s", "fsx"])
def test_every_layer_class_that_quantizes_agrees(base: str) -> None:
    q, owners = walked(base)
    found = vqkit.cross_check(q, samples(q.model, 1), ["litert"], strict=False, int32_biases=base == "fsx")
    table = found.table.set_index("tensor")
    inner = table[[("/" in t) for t in table.index]]
    # A code that fell otherwise in front of a float function counts as much as the function is steep.
    ends = table.drop(index=inner.index)
    assert {owners[t]: v for t, v in ends.max_codes.items() if v > 4} == {}
    assert {t: v for t, v in inner.beyond_1.items() if v} == {}


def test_added_classes_are_quantized() -> None:
    q, _ = walked("pof2s")
    kinds = {q.graph.layers[r.layer].kind for r in q.plan.quantized if r.layer in q.graph.layers}
    assert {"Conv1D", "DepthwiseConv1D", "Conv3D", "Conv1DTranspose", "EinsumDense"} <= kinds


# --- tensors that are all zero ---


ZEROS: dict[str, tuple[tuple[str, ...], int | None]] = {
    "one_channel": (("kernel",), 0),
    "a_kernel": (("conv/kernel",), None),
    "a_depthwise_kernel": (("depth/kernel",), None),
    "the_last_kernel": (("head/kernel",), None),
    "all_biases": (("/bias",), None),
    "a_layer": (("conv",), None),
    "all_weights": (("conv", "depth", "head"), None),
    "the_inputs": ((), None),
}
"""What is zero -> ends of weights' paths, and the channel where it is not all."""


def _with_zeros() -> keras.Model:
    """A small net for each, side by side."""
    keras.utils.set_random_seed(0)
    inputs, outputs = [], []
    for name in ZEROS:
        i = keras.Input((6, 6, 3), name=name)
        y = L.Conv2D(4, 3, activation="relu", name=f"{name}_conv")(i)
        y = L.DepthwiseConv2D(2, name=f"{name}_depth")(y)
        outputs.append(L.Dense(3, name=f"{name}_head")(L.GlobalAveragePooling2D()(L.ReLU()(y))))
        inputs.append(i)
    model = keras.Model(inputs, outputs)
    for w in model.weights:
        value = np.asarray(w) + 0.1 * ("bias" in w.path)
        ends, channel = next(v for k, v in ZEROS.items() if w.path.startswith(f"{k}_"))
        if any(e in w.path for e in ends):
            value[... if channel is None else (..., channel)] = 0
        w.assign(value)
    return model


@pytest.mark.parametrize("base", ["pof2s", "fs", "fsx"])
def test_tensors_that_are_all_zero_agree_in_every_runtime(base: str) -> None:
    x = [0 * v if k == "the_inputs" else v for k, v in zip(ZEROS, samples(_with_zeros()), strict=True)]
    q = vqkit.quantize(_with_zeros(), base, x)
    for inputs in (x, samples(q.model, 1)):
        found = vqkit.cross_check(q, inputs, ["onnxruntime", "litert", "keras"], also=["integer"])
        assert np.isfinite(found.table.max_codes).all()
    assert list(found.skipped) == ([] if base == "pof2s" else ["integer"])


def test_zero_kernels_stay_in_integer_operators() -> None:
    q = vqkit.quantize(_with_zeros(), "fsx", samples(_with_zeros()))
    without_range = {"a_layer", "all_weights"}
    inside = {k for k in ZEROS if f"{k}_conv" not in to_tflite(q).in_float}
    assert inside == set(ZEROS) - without_range


# --- layers in float ---


def test_layers_that_are_not_quantized_agree() -> None:
    keras.utils.set_random_seed(0)
    i, words = keras.Input((5, 6)), keras.Input((5,), dtype="int32")
    h = L.LayerNormalization()(i)
    parts = [
        L.MultiHeadAttention(2, 3)(h, h),
        L.LSTM(3, return_sequences=True)(i),
        L.Bidirectional(L.GRU(3))(i),
        L.Conv1DTranspose(3, 3, strides=2)(i),
        L.GroupNormalization(3)(i),
        L.Embedding(9, 4)(words),
        L.Softmax(axis=1)(i),
        i[:, 1:3],
        keras.ops.split(i, 2, axis=-1)[1],
        i @ keras.ops.transpose(i, (0, 2, 1)),
    ]
    q = vqkit.quantize(keras.Model([i, words], [L.Dense(2)(p) for p in parts]), "fsx", _words(8))
    found = vqkit.cross_check(q, _words(7), ["litert"])
    assert found.metrics["litert_output_within_1"] == 1


def _words(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.normal(size=(n, 5, 6)).astype("float32"), rng.integers(0, 9, (n, 5)).astype("int32")]


def test_what_the_converter_lacks_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    i = keras.Input((4, 4, 4, 2))
    model = keras.Model(i, L.Dense(2)(L.AdaptiveAveragePooling3D(2, name="pool")(i)))
    q = vqkit.quantize(model, "fsx", samples(model)[0])
    with pytest.raises(ModelError, match=r"^layer 'pool' cannot be exported to TFLite: .* its AvgPool3D\. Export onnx"):
        to_tflite(q)
    assert capfd.readouterr().err == ""
