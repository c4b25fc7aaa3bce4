"""`extra_layers`: one key of the strategy quantizes the layer types that version 2.5 does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import vqkit
from vqkit.errors import StrategyError
from vqkit.evaluation import predict
from vqkit.evaluation.cost import coverage
from vqkit.graph.keras_io import lower, raise_model
from vqkit.graph.passes import optimize
from vqkit.quantization import Quantized
from vqkit.strategy import Strategy, vocabulary

SEQUENCE, IMAGE, CUBE, TOKENS = (12, 6), (8, 8, 3), (6, 6, 6, 2), (9,)


def stacked(shape: tuple[int, ...], *stack: Any, dtype: str = "float32") -> keras.Model:
    x = i = keras.Input(shape, name="x", dtype=dtype)
    for layer in stack:
        x = layer(x)
    return keras.Model(i, x)


def transformer(**call: Any) -> keras.Model:
    i = keras.Input(TOKENS, name="x", dtype="int32")
    x = layers.Embedding(20, 8, name="embedding")(i)
    attention = layers.MultiHeadAttention(2, 5, value_dim=3, name="attention")
    x = layers.LayerNormalization(name="norm")(layers.Add()([x, attention(x, x, **call)]))
    x = layers.Add()([x, layers.Dense(8)(layers.Dense(16, activation="gelu")(x))])
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def attention_with_scores() -> keras.Model:
    i = keras.Input(SEQUENCE, name="x")
    return keras.Model(i, layers.MultiHeadAttention(2, 3, name="attention")(i, i, return_attention_scores=True)[0])


def masked(*stack: Any) -> keras.Model:
    return stacked(TOKENS, layers.Embedding(20, 8, mask_zero=True), *stack, dtype="int32")


def masked_transformer() -> keras.Model:
    i = keras.Input(TOKENS, name="x", dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(i)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x, use_causal_mask=True)
    x = layers.MultiHeadAttention(2, 4, name="second")(layers.Dense(7)(x), x)
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def pair(layer: Any) -> keras.Model:
    i = keras.Input(SEQUENCE, name="x")
    return keras.Model(i, layers.Dense(3)(layer([layers.Dense(6)(i), layers.Dense(6)(i)])))


def grouped_query(**call: Any) -> keras.Model:
    i = keras.Input(SEQUENCE, name="x")
    attention = layers.GroupQueryAttention(3, 4, 2, sliding_window=4)
    return keras.Model(i, layers.Dense(3)(attention(layers.Dense(6)(i), i, **call)))


def attention_with_a_mask_given() -> keras.Model:
    i = keras.Input(TOKENS, name="x", dtype="int32")
    x, given = layers.Embedding(20, 8)(i), keras.ops.not_equal(i, 0)[:, None, :]
    return keras.Model(i, layers.Dense(3)(layers.MultiHeadAttention(2, 4)(x, x, attention_mask=given)))


def product() -> keras.Model:
    i = keras.Input(SEQUENCE, name="x")
    return keras.Model(i, keras.ops.matmul(layers.Dense(5)(i), keras.ops.transpose(layers.Dense(5)(i), (0, 2, 1))))


def attention_called_twice() -> keras.Model:
    i = keras.Input(SEQUENCE, name="x")
    attention = layers.MultiHeadAttention(3, 4, use_bias=False, name="attention")
    x = attention(layers.Dense(6)(i), i)
    return keras.Model(i, layers.Dense(3)(attention(x, value=i, key=x)))


NETS: dict[str, Callable[[], keras.Model]] = {
    "Conv1D": lambda: stacked(
        SEQUENCE,
        layers.Conv1D(8, 3, padding="causal", name="conv"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling1D(2),
        layers.Dense(4),
    ),
    "Conv1D, grouped and dilated": lambda: stacked(
        SEQUENCE,
        layers.Conv1D(8, 3, activation="relu"),
        layers.Conv1D(6, 3, dilation_rate=2, groups=2),
        layers.Dense(4),
    ),
    "Conv2D, grouped and dilated": lambda: stacked(
        IMAGE,
        layers.Conv2D(6, 3, groups=3, activation="relu"),
        layers.Conv2D(4, 2, dilation_rate=2),
        layers.Flatten(),
        layers.Dense(4),
    ),
    "Conv3D": lambda: stacked(
        CUBE,
        layers.Conv3D(4, 3),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.AveragePooling3D(2),
        layers.Flatten(),
        layers.Dense(4),
    ),
    "Conv1DTranspose": lambda: stacked(
        SEQUENCE, layers.Conv1DTranspose(8, 3, strides=2), layers.BatchNormalization(), layers.Dense(4)
    ),
    "Conv3DTranspose": lambda: stacked(
        CUBE, layers.Conv3DTranspose(3, 2, strides=2), layers.BatchNormalization(), layers.GlobalAveragePooling3D()
    ),
    "DepthwiseConv1D": lambda: stacked(
        SEQUENCE, layers.DepthwiseConv1D(3, depth_multiplier=2), layers.BatchNormalization(), layers.Dense(4)
    ),
    "SeparableConv1D": lambda: stacked(
        SEQUENCE,
        layers.SeparableConv1D(8, 3, activation="relu"),
        layers.SeparableConv1D(4, 3, strides=2),
        layers.Dense(4),
    ),
    "SeparableConv2D": lambda: stacked(
        IMAGE,
        layers.SeparableConv2D(8, 3, depth_multiplier=2, use_bias=False, name="first"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.SeparableConv2D(4, 3, dilation_rate=2, name="second"),
    ),
    "Dense on sequences": lambda: stacked(
        SEQUENCE, layers.Dense(8, activation="relu"), layers.TimeDistributed(layers.Dense(5))
    ),
    "EinsumDense": lambda: stacked(
        SEQUENCE, layers.EinsumDense("abc,cd->abd", (None, 4), activation="relu", bias_axes="d"), layers.Dense(4)
    ),
    "Embedding": lambda: stacked(TOKENS, layers.Embedding(20, 8), layers.Conv1D(6, 3), layers.Dense(4), dtype="int32"),
    "LayerNormalization": lambda: stacked(
        SEQUENCE, layers.Dense(8), layers.LayerNormalization(name="norm"), layers.Dense(4)
    ),
    "MultiHeadAttention": transformer,
    "causal MultiHeadAttention": lambda: transformer(use_causal_mask=True),
    "MultiHeadAttention called twice": attention_called_twice,
    "LSTM": lambda: stacked(
        SEQUENCE,
        layers.LSTM(8, return_sequences=True),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
        layers.Dense(3),
    ),
    "masked LSTM": lambda: masked(layers.LSTM(6, return_sequences=True), layers.Dense(3)),
    "masked GRU": lambda: masked(layers.GRU(5), layers.Dense(3)),
    "backward LSTM": lambda: stacked(
        SEQUENCE, layers.LSTM(6, go_backwards=True, return_sequences=True), layers.LSTM(5, use_bias=False)
    ),
    "Bidirectional GRU": lambda: stacked(SEQUENCE, layers.Bidirectional(layers.GRU(4), merge_mode="sum")),
    "RNN of cells": lambda: stacked(SEQUENCE, layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(5)])),
    "ConvLSTM": lambda: stacked((3, *IMAGE), layers.ConvLSTM2D(4, 3), layers.GroupNormalization(2)),
    "TimeDistributed convolutions": lambda: stacked(
        (3, *IMAGE), layers.TimeDistributed(layers.Conv2D(4, 3)), layers.GlobalAveragePooling3D(), layers.Dense(3)
    ),
    "masked MultiHeadAttention": masked_transformer,
    "MultiHeadAttention that gives its scores": attention_with_scores,
    "MultiHeadAttention with a mask given": attention_with_a_mask_given,
    "GroupQueryAttention": grouped_query,
    "causal GroupQueryAttention": lambda: grouped_query(use_causal_mask=True),
    "Attention": lambda: pair(layers.Attention(use_scale=True)),
    "AdditiveAttention": lambda: pair(layers.AdditiveAttention()),
    "Dot": lambda: pair(layers.Dot(axes=2)),
    "matmul": product,
    "GRU": lambda: stacked(SEQUENCE, layers.GRU(8, return_sequences=True), layers.SimpleRNN(5), layers.Dense(3)),
}
WHOLE = ("MultiHeadAttention that gives its scores",)
# The DPU's shifts hold the sums of eight-bit numbers.
WIDE = {"adjust_dpu_shift_cut": False, "adjust_dpu_shift_bias": False}


@cache
def made(name: str) -> tuple[keras.Model, np.ndarray]:
    """A random net, and what it is calibrated and compared on."""
    keras.utils.set_random_seed(0)
    model, random = NETS[name](), np.random.default_rng(0)
    for weight in model.weights:
        if "variance" not in weight.path and "gamma" not in weight.path:
            weight.assign(weight.numpy() + random.normal(0, 0.1, weight.shape))
    shape = (64, *model.inputs[0].shape[1:])
    tokens = model.inputs[0].dtype == "int32"
    return model, random.integers(0, 20, shape).astype("int32") if tokens else random.normal(size=shape).astype(
        "float32"
    )


def strategy_of(base: str, bits: int) -> Strategy:
    keys = ("weight_bit", "activation_bit", "bias_bit")
    wide = WIDE if base == "pof2s" and bits > 8 else {}
    inputs = "/quantize_registry_config/input_quantize_config/input_quantizer/quantizer_params/bit_width"
    start = Strategy.builtin(base).with_kwargs(extra_layers=True, **dict.fromkeys(keys, bits), **wide)
    return start.with_value(inputs, bits)


@cache
def quantized(name: str, base: str, bits: int) -> Quantized:
    """A net of the table; calibrated in one batch, as a vote of several cuts off what one of them has."""
    model, x = made(name)
    return vqkit.quantize(model, strategy_of(base, bits), x, batch_size=len(x))


def decibels(model: keras.Model, found: Quantized, x: np.ndarray) -> float:
    wanted = predict(model, x)
    return float(10 * np.log10((wanted**2).sum() / ((wanted - predict(found, x)) ** 2).sum()))


@pytest.mark.parametrize("name", NETS)
def test_taking_apart_loses_nothing(name: str) -> None:
    model, x = made(name)
    config = Strategy.builtin("pof2s").with_kwargs(include_cle=False).optimize
    optimized = optimize(lower(model), config, extra_layers=True).graph
    kinds = {layer.kind for layer in optimized.layers.values()}
    assert not kinds & {"SeparableConv1D", "SeparableConv2D"}
    assert ("MultiHeadAttention" in kinds) == (name in WHOLE)
    wanted = predict(model, x)
    np.testing.assert_allclose(predict(raise_model(optimized), x), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("base", ["pof2s", "fsx"])
@pytest.mark.parametrize("name", NETS)
def test_every_kernel_is_quantized_and_the_noise_is_that_of_the_bits(name: str, base: str) -> None:
    model, x = made(name)
    for bits, least in ((8, 25), (16, 60)):
        found = quantized(name, base, bits)
        found.audit()
        floats = [r.name for r in found.plan.float_rows if r.is_weight]
        assert [f for f in floats if f.endswith(("kernel", "embeddings", "bias"))] == []
        assert decibels(model, found, x) > least
    assert coverage(found).weights > 0.8


@pytest.mark.parametrize("name", NETS)
def test_without_the_key_nothing_changes(name: str) -> None:
    model, _ = made(name)
    plain = Strategy.builtin("fsx")
    assert plain.with_kwargs(extra_layers=False).digest == plain.digest
    rows = {r.kind for r in vqkit.make_plan(plain, model).quantized} - {"FakeQuantize"}
    assert rows <= {*vocabulary.layer_types()}
    assert vqkit.make_plan("fsx", model).strategy_digest == plain.digest


LOAD = """
import sys
import keras, numpy as np
import vqkit
with np.load(sys.argv[1] + "/expected.npz") as f:
    for name in f.files:
        if name.endswith("_x"):
            model = vqkit.load_model(f"{sys.argv[1]}/{name[:-2]}.keras")
            np.testing.assert_array_equal(model(f[name], training=False), f[name[:-2]])
"""


def test_saved_models_give_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    arrays = {}
    for i, name in enumerate(NETS):
        found, x = quantized(name, "fsx", 8), made(name)[1][:8]
        vqkit.export(found, tmp_path / f"net{i}.keras")
        arrays |= {f"net{i}_x": x, f"net{i}": np.asarray(found.model(x, training=False))}
    np.savez(tmp_path / "expected.npz", **arrays)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", NETS)
def test_onnx_and_tflite_files_agree(name: str) -> None:
    checked = vqkit.cross_check(quantized(name, "fsx", 8), made(name)[1], ["onnxruntime", "litert"])
    assert checked.first == {}


def test_a_layer_in_its_parts_is_still_found_by_its_name() -> None:
    model, _ = made("MultiHeadAttention")
    rules = {"layer_config": {"attention": {"weight_bit": 4}, "norm": "float32"}}
    plan = vqkit.make_plan(strategy_of("fsx", 8).update(rules), model)
    bits = {r.name: r.spec.bit_width for r in plan.quantized if r.is_weight and r.origin[0] != "embedding"}
    parts = {"attention_query", "attention_key", "attention_value", "attention"}
    assert {name: bits[f"{name}/kernel"] for name in parts} == dict.fromkeys(parts, 4)
    assert {"attention_logits/output", "attention_context/output"} <= {r.name for r in plan.quantized}
    assert {r.origin[0] for r in plan.rows if r.layer in parts and not r.is_weight} == {"attention"}
    left = vqkit.make_plan(strategy_of("fsx", 8).with_kwargs(ignore_layers=["attention"]), model)
    assert [r.name for r in left.quantized if r.layer.startswith("attention")] == []
    assert plan["norm/output"].reason == "left float by dict /quantize_registry_config/layer_config/norm"


def test_attention_that_stays_whole_says_what_is_float() -> None:
    told = coverage(quantized("MultiHeadAttention that gives its scores", "fsx", 8))
    assert told.left == {"attention": "what is inside stays float"}
    assert told.weights == 1
    assert told.macs is not None
    assert 0.3 < told.macs < 1


def test_an_entry_of_ones_own_goes_before_the_shared_one() -> None:
    model, _ = made("Conv1D")
    document = Strategy.builtin("fsx").dump()["quantize_registry_config"]["layer_quantize_config"]
    (conv,) = (e for e in document if e["layer_type"].endswith("Conv2D") and "Depthwise" not in e["layer_type"])
    own = {**conv, "layer_type": "Conv1D", "quantizable_biases": [], "bias_quantizers": []}
    strategy = strategy_of("fsx", 8).update({"layer_quantize_config": [own]})
    plan = vqkit.make_plan(strategy, model)
    assert plan["conv/bias"].spec is None
    assert plan["conv/kernel"].spec is not None


def test_the_key_is_a_word_of_the_format() -> None:
    chosen = Strategy.builtin("pof2s").with_kwargs(extra_layers=True)
    assert chosen.overrides() == {"extra_layers": True}
    assert Strategy.from_dict(chosen.dump()) == chosen != Strategy.builtin("pof2s")
    assert Strategy.builtin("pof2s").update(chosen.dump(verbose=0)) == chosen
    with pytest.raises(StrategyError, match="extra_layers"):
        chosen.with_kwargs(extra_layers="yes")
    unsaid = Strategy.builtin("int8").dump()
    del unsaid["quantize_registry_config"]["extra_layers"]
    assert Strategy.from_dict(unsaid).overrides() == {"extra_layers": False}
    assert Strategy.from_dict(unsaid) == Strategy.builtin("int8").with_kwargs(extra_layers=False)


@pytest.mark.parametrize("name", ["LSTM", "GroupQueryAttention"])
def test_blocks_of_extra_layers_are_reconstructed(name: str) -> None:
    model, x = made(name)
    short = Strategy.builtin("w4a8").with_kwargs(block_iterations=60)
    found = vqkit.quantize(model, short, x, batch_size=len(x))
    found.audit()
    plain = vqkit.quantize(model, short.with_kwargs(include_block_reconstruction=False), x, batch_size=len(x))
    assert coverage(found).weights == 1
    assert decibels(model, found, x) > decibels(model, plain, x)


def test_blocks_between_which_masks_go_are_not_reconstructed() -> None:
    model, x = made("masked MultiHeadAttention")
    found = vqkit.quantize(model, "w4a8", x, batch_size=len(x))
    assert [line for line in found.report if "left out, as masks" in line]
    plain = Strategy.builtin("w4a8").with_kwargs(include_block_reconstruction=False)
    np.testing.assert_array_equal(predict(found, x), predict(vqkit.quantize(model, plain, x, batch_size=len(x)), x))
