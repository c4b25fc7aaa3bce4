"""Custom layers: left float with the reason, or quantized by an entry; saved and loaded again."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.support.custom_layers import CUSTOM_OBJECTS, Block, Gate, Mix, Mute, Square, bend
from vqkit.errors import ModelError, StrategyError
from vqkit.models import load_model
from vqkit.primitives import ops
from vqkit.quantization import make_plan, quantize
from vqkit.strategy import Strategy

ROOT = Path(__file__).resolve().parents[2]
BUILT_INS = ("pof2s", "pof2s_tqt", "fs", "fsx")
NO_ENTRY = "the strategy has no entry for {0}; a layer_quantize_config entry with this layer_type quantizes it"


def around(*custom: Any) -> keras.Model:
    """A model with these layers, one after the other, between two dense ones."""
    keras.utils.set_random_seed(7)
    y = x = keras.Input((6,), name="x")
    y = keras.layers.Dense(5, activation="relu", name="before")(y)
    for layer in custom:
        y = layer(y)
    return keras.Model(x, keras.layers.Dense(2, name="after")(y))


def data(n: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)


def quantizer(**params: Any) -> dict[str, Any]:
    return {"quantizer_type": "Pof2SQuantizer", "quantizer_params": {"bit_width": 8} | params}


def entry(layer_type: str, weights: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """A partial strategy that quantizes variables and first output of a layer class."""
    value = {
        "layer_type": layer_type,
        "quantizable_weights": list(weights),
        "weight_quantizers": [quantizer(method=1, round_mode=0) for _ in weights],
        "quantizable_outputs": [0],
        "output_quantizers": [quantizer(method=1, round_mode=1)],
        **more,
    }
    return {"quantize_registry_config": {"layer_quantize_config": [value]}}


def custom_types(*names: str) -> dict[str, Any]:
    return {"quantize_registry_config": {"custom_layer_type": list(names)}}


@pytest.mark.parametrize("name", BUILT_INS)
def test_custom_layers_stay_float_and_the_plan_says_how_to_quantize_them(name):
    model, x = around(Mix(4, name="mix"), Square(name="square"), Block(name="block")), data()
    quantized = quantize(model, name, x)
    reasons = {row.name: row.reason for row in quantized.plan.rows if row.spec is None}
    for layer in ("Mix", "Square", "Block"):
        assert reasons[f"{layer.lower()}/output"] == NO_ENTRY.format(layer)
    assert reasons["mix/kernel"] == NO_ENTRY.format("Mix")
    assert reasons["block/first/kernel"] == NO_ENTRY.format("Block")
    for layer in ("mix", "block"):
        got, want = (m.get_layer(layer).get_weights() for m in (quantized.model, model))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert [len(layer._inbound_nodes) for layer in model.layers] == [1] * len(model.layers)


def test_custom_layer_type_is_the_reason_where_the_strategy_names_the_class():
    strategy = Strategy.builtin("pof2s").update(custom_types("mine.Square"))
    plan = make_plan(strategy, around(Square(name="square")))
    where = "dict /quantize_registry_config/custom_layer_type/0"
    assert plan["square/output"].reason == f"custom layer, left float by {where}"


@pytest.mark.parametrize("layer_type", ["Mix", "tests.support.custom_layers.Mix"])
def test_an_entry_quantizes_a_custom_layer(layer_type):
    strategy = Strategy.builtin("pof2s").update(
        entry(layer_type, ("kernel",), quantizable_biases=["offset"], bias_quantizers=[quantizer(method=1)])
    )
    model, x = around(Mix(4, name="mix")), data()
    quantized = quantize(model, strategy, x)
    assert {r.tensor: r.spec.bit_width for r in quantized.plan.quantized if r.layer == "mix"} == {
        "kernel": 8,
        "offset": 8,
        "output": 8,
    }
    kernel = model.get_layer("mix").kernel.numpy()
    expected = ops.fake_quantize_numpy(kernel, quantized.encodings["mix/kernel"])
    assert not np.array_equal(kernel, expected)
    np.testing.assert_array_equal(quantized.model.get_layer("mix").kernel.numpy(), expected)
    pos = float(quantized.encodings["mix/output"].pos)
    probe = keras.Model(quantized.model.input, quantized.model.get_layer("quant_mix").output)
    codes = np.asarray(probe(x)) * 2.0**pos
    np.testing.assert_array_equal(codes, np.round(codes))
    assert quantized.audit()["ok"].all()


def test_the_entry_is_narrower_than_global_keys_and_wider_than_a_layer_name():
    base = Strategy.builtin("pof2s").update(entry("Mix", ("kernel",)))
    plan = make_plan(base.with_kwargs(weight_bit=4), around(Mix(4, name="mix")))
    assert plan["mix/kernel"].spec.bit_width == 8
    assert plan["after/kernel"].spec.bit_width == 4
    named = {"quantize_registry_config": {"layer_config": {"mix": {"weight_bit": 5}}}}
    assert make_plan(base.update(named), around(Mix(4, name="mix")))["mix/kernel"].spec.bit_width == 5


def test_variables_of_layers_inside_are_named_by_their_layer():
    strategy = Strategy.builtin("pof2s").update(
        entry("Block", ("first/kernel", "first/bias", "second/kernel", "second/bias"))
    )
    quantized = quantize(around(Block(name="block")), strategy, data())
    rows = [r.tensor for r in quantized.plan.quantized if r.layer == "block"]
    assert rows == ["first/kernel", "first/bias", "second/kernel", "second/bias", "output"]


def test_outputs_are_chosen_by_index():
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="x")
    a, b = keras.layers.Dense(4, name="a")(x), keras.layers.Dense(4, name="b")(x)
    p, q = Gate(name="gate")(a, y=b)
    model = keras.Model(x, [keras.layers.Dense(2, name="p")(p), q])
    change = entry("Gate", (), quantizable_outputs=[1])
    quantized = quantize(model, Strategy.builtin("pof2s").update(change), data())
    assert quantized.plan["gate/output_1"].spec is not None
    assert quantized.plan["gate/output"].reason == "the strategy has no output quantizer for Gate"
    with pytest.raises(StrategyError, match=r"quantizable_outputs/0: output of Gate 2 is not allowed"):
        make_plan(Strategy.builtin("pof2s").update(entry("Gate", (), quantizable_outputs=[2])), model)


def gated(**more: Any) -> tuple[Strategy, keras.Model]:
    """A gate that reads two float tensors, and an entry for it."""
    x = keras.Input((6,), name="x")
    model = keras.Model(x, Gate(name="gate")(Square(name="one")(x), y=Square(name="two")(x)))
    return Strategy.builtin("pof2s").update(entry("Gate", (), **more)), model


def test_an_entry_may_state_the_quantizers_of_inputs():
    four = {"quantizable_inputs": [0, 1], "input_quantizers": [quantizer(bit_width=4), None]}
    strategy, model = gated(**four)
    quantized = quantize(model, strategy, data())
    row = quantized.plan["quant_one/input"]
    assert row.spec.bit_width == 4
    assert row.origins["bit_width"][1].endswith("/input_quantizers/0/quantizer_params/bit_width")
    assert [r.name for r in quantized.plan.quantized] == ["quant_one/input", "gate/output"]
    plain, model = gated()
    assert make_plan(plain, model)["quant_two/input"].spec.bit_width == 8
    wrong, model = gated(quantizable_inputs=[2], input_quantizers=[quantizer()])
    with pytest.raises(StrategyError, match=r"quantizable_inputs/0: input of Gate 2 is not allowed"):
        make_plan(wrong, model)


def test_one_tensor_is_not_put_on_two_grids():
    four = {"quantizable_inputs": [0], "input_quantizers": [quantizer(bit_width=4)]}
    x = keras.Input((6,), name="x")
    y = Square(name="one")(x)
    p, q = Gate(name="gate")(y, y=y)
    model = keras.Model(x, [p, q, keras.layers.Dense(2, name="head")(y)])
    with pytest.raises(StrategyError, match=r"reads a float tensor \(one\), for which head states another"):
        make_plan(Strategy.builtin("pof2s").update(entry("Gate", (), **four)), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (custom_types("Squar"), r"custom_layer_type/0: layer type 'Squar' .* \(did you mean 'Square'\?\)"),
        (entry("Mixx", ("kernel",)), r"layer_type: layer type 'Mixx' .* \(did you mean 'Mix'\?\)"),
        (entry("Mix", ("kernal",)), r"weights/0: weight of Mix 'kernal' .* \(did you mean 'kernel'\?\)"),
    ],
)
def test_names_that_the_model_does_not_have_are_errors_except_in_compat(change, message):
    model = around(Mix(4, name="mix"), Square(name="square"))
    strategy = Strategy.builtin("pof2s").update(change)
    with pytest.raises(StrategyError, match=message):
        make_plan(strategy, model)
    assert make_plan(strategy, model, vitis_compat=True)["mix/kernel"].spec is None


def test_a_bias_that_a_layer_does_not_have_is_no_error():
    change = entry("Mix", ("kernel",), quantizable_biases=["offset"], bias_quantizers=[quantizer()])
    plan = make_plan(Strategy.builtin("pof2s").update(change), around(Mix(4, use_offset=False, name="mix")))
    assert [r.tensor for r in plan.rows if r.layer == "mix"] == ["kernel", "output"]


def test_entries_for_other_keras_layers_are_no_error():
    strategy = Strategy.builtin("pof2s").update(entry("LayerNormalization", ("gamma", "beta")))
    assert make_plan(strategy, around(Square())).quantized


def test_an_unregistered_function_as_activation():
    model = around(keras.layers.Dense(4, activation=bend, name="bent"))
    quantized = quantize(model, "pof2s", data())
    assert quantized.plan["bent_bend/output"].spec is not None


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_and_loaded_in_another_process(tmp_path, suffix):
    model = around(Mix(4, name="mix"), Square(name="square"), Block(name="block"))
    strategy = Strategy.builtin("pof2s").update(entry("Mix", ("kernel",)))
    quantized, x = quantize(model, strategy, data()).model, data()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HDF5.*")
        model.save(tmp_path / f"float{suffix}")
        quantized.save(tmp_path / f"quantized{suffix}")
    code = (
        "import sys, numpy as np, vqkit as vq\n"
        "from tests.support import custom_layers as custom\n"
        "folder, suffix = sys.argv[1:]\n"
        "x = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)\n"
        "for name in ('float', 'quantized'):\n"
        "    path = f'{folder}/{name}{suffix}'\n"
        "    model = vq.load_model(path, custom_objects=custom.CUSTOM_OBJECTS)\n"
        "    np.save(f'{folder}/{name}.npy', model(x))\n"
        "    assert name == 'quantized' or vq.make_plan('pof2s', model).quantized\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), suffix], cwd=ROOT, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "quantized.npy"), quantized(x))
    np.testing.assert_array_equal(np.load(tmp_path / "float.npy"), model(x))


def test_a_file_with_an_unknown_class_says_which(tmp_path):
    around(Square(name="square")).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match=r"does not know 'Square'. Pass custom_objects=\{'Square': Square\}"):
        load_model(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras", CUSTOM_OBJECTS)
    quantized = quantize(loaded, "pof2s", data())
    quantized.model.save(tmp_path / "q.keras")
    again = load_model(tmp_path / "q.keras", CUSTOM_OBJECTS)
    np.testing.assert_array_equal(again(data()), quantized.model(data()))


def test_a_layer_that_cannot_say_how_it_was_made_is_named():
    with pytest.raises(ModelError, match=r"layer 'mute' \(Mute\) cannot say how it was made: .*get_config"):
        make_plan("pof2s", around(Mute(np.zeros(3), name="mute")))
