"""Layers that hold more than config and weights: filled, then quantized, saved, loaded and exported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import vqkit
from tests.support import custom_layers
from tests.system.contract.check import leaves
from tests.system.contract.recipes import IMPOSSIBLE
from vqkit.graph.keras_io import lower
from vqkit.graph.state import _parts, _writes

L = keras.layers
R = np.random.default_rng(0)
X = R.normal(30, 7, (16, 5)).astype("float32")
WORDS = np.array([["a b"], ["b"], ["c a a"], ["d"]])
NUMBERS = np.array([[5], [7], [7], [9]])
Filled = tuple[Any, np.ndarray]
FILLED: dict[str, Callable[[], Filled]] = {}


def _adapted(layer: Any, x: np.ndarray) -> Filled:
    layer.adapt(x)
    return layer, x


for mode in ("int", "multi_hot", "tf_idf"):
    FILLED |= {
        f"StringLookup {mode}": partial(lambda m: _adapted(L.StringLookup(output_mode=m), WORDS), mode),
        f"IntegerLookup {mode}": partial(lambda m: _adapted(L.IntegerLookup(output_mode=m), NUMBERS), mode),
        f"TextVectorization {mode}": partial(
            lambda m: _adapted(
                L.TextVectorization(output_mode=m, output_sequence_length=4 if m == "int" else None), WORDS
            ),
            mode,
        ),
    }
FILLED |= {
    "Normalization": lambda: _adapted(L.Normalization(), X),
    "Normalization of all, back": lambda: _adapted(L.Normalization(axis=None, invert=True), X),
    "Discretization": lambda: _adapted(L.Discretization(num_bins=4, output_mode="one_hot"), X),
    "Hashing": lambda: (L.Hashing(7, salt=[3, 5], output_mode="one_hot"), NUMBERS),
    "nested in a Sequential": lambda: (
        keras.Sequential([keras.Input((5,)), _adapted(L.Normalization(), X)[0], L.Dense(4)]),
        X,
    ),
    "TimeDistributed": lambda: (L.TimeDistributed(custom_layers.adapted(X)), np.stack([X, X + 1], 1)),
    "a layer of the user's": lambda: (custom_layers.filled(X), X),
}


def _model() -> tuple[keras.Model, list[Any]]:
    """One model with an input and an output for each."""
    keras.utils.set_random_seed(0)
    inputs, outputs, data = [], [], []
    for number, make in enumerate(FILLED.values()):
        layer, x = make()
        i = keras.Input(x.shape[1:], dtype="string" if x.dtype.kind == "U" else x.dtype, name=f"in_{number}")
        y = layer(i)
        y = L.Embedding(30, 4)(y) if "int" in y.dtype else y
        inputs.append(i)
        outputs.append(L.Dense(3, name=f"head_{number}")(L.Flatten()(y)))
        data.append(np.resize(x, (16, *x.shape[1:])))
    return keras.Model(inputs, outputs), data


def test_every_layer_of_keras_that_writes_files_or_variables_of_its_own_is_here() -> None:
    classes = [c for c in vars(L).values() if isinstance(c, type) and issubclass(c, L.Layer)]
    own = {
        c.__name__
        for c in classes
        for method in ("save_assets", "load_own_variables", "finalize_state")
        if getattr(c, method, None) is not None and (method == "finalize_state" or _writes(c, method))
    }
    assert own
    assert own - set(IMPOSSIBLE) <= {name.split()[0] for name in FILLED}


def test_quantized_saved_loaded_and_exported(tmp_path: Path) -> None:
    model, data = _model()
    quantized = vqkit.quantize(model, "pof2s", data)
    tensors = [tf.constant(x) for x in data]
    outputs = [leaves(m(tensors, training=False)) for m in (model, quantized.float_model, quantized.model)]
    for name, want, floats, got in zip(FILLED, *outputs, strict=True):
        np.testing.assert_allclose(floats, want, rtol=1e-6, atol=1e-5, err_msg=name)
        assert np.abs(got - want).max() < 0.1 * np.ptp(want), name
    quantized.model.save(tmp_path / "m.keras")
    quantized.model.export(tmp_path / "m", verbose=False)
    np.savez(tmp_path / "x.npz", *data)
    np.savez(tmp_path / "y.npz", *outputs[2])
    code = (
        "import sys, vqkit, keras, numpy as np, tensorflow as tf\n"
        "from tests.support import custom_layers as custom\n"
        "x, want = (list(np.load(f'{sys.argv[1]}/{k}.npz').values()) for k in 'xy')\n"
        "x = [tf.constant(a) for a in x]\n"
        "got = keras.models.load_model(f'{sys.argv[1]}/m.keras')(x, training=False)\n"
        "served = tf.saved_model.load(f'{sys.argv[1]}/m')\n"
        "for a, b, c in zip(got, served.serve(x), want, strict=True):\n"
        "    np.testing.assert_array_equal(a, c)\n"
        "    np.testing.assert_allclose(b, c, rtol=1e-6, atol=1e-5)\n"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]


def test_attributes_set_after_construction_are_carried_and_named() -> None:
    layer = custom_layers.filled(X)
    layer.table, layer.gain = np.arange(5).astype("float32"), 2.5
    layer.scale_by = lambda t: t * layer_factor
    i = keras.Input((5,))
    model = keras.Model(i, L.Dense(2)(layer(i)))
    layer.gain = 3.5
    quantized = vqkit.quantize(model, "fs", X)
    np.testing.assert_allclose(quantized.float_model(X), model(X), rtol=1e-6, atol=1e-4)
    lines = [r for r in quantized.report if "which neither its get_config()" in r]
    assert [line.partition(",")[0] for line in lines] == [f"layer {layer.name!r} holds table"]
    assert "scale_by" in lines[0]


layer_factor = 0.5


def test_a_vocabulary_is_part_of_what_a_model_is() -> None:
    from vqkit.bench.cache import graph_digest

    def made(words: np.ndarray) -> str:
        layer = L.StringLookup(output_mode="multi_hot", name="lookup")
        layer.adapt(words)
        i = keras.Input((1,), dtype="string", name="i")
        return graph_digest(lower(keras.Model(i, layer(i), name="m")))

    assert made(WORDS) == made(WORDS)
    assert made(WORDS) != made(np.array([["a b"], ["b"], ["c a a"], ["e"]]))


def test_random_layers_go_on_where_the_user_s_stands() -> None:
    i = keras.Input((5,))
    model = keras.Model(i, L.Dense(2)(custom_layers.Noise(name="noise")(i)))
    model.predict(X, verbose=0)
    before = [np.array(v) for v in model.get_layer("noise").generator.state.value]
    quantized = vqkit.quantize(model, "fs", X)
    np.testing.assert_array_equal(before, np.array(model.get_layer("noise").generator.state.value))
    np.testing.assert_allclose(leaves(quantized.float_model(X))[0], leaves(model(X))[0], rtol=1e-6, atol=1e-5)


def test_walks_in_the_order_of_keras() -> None:
    layer = custom_layers.filled(X)
    assert [type(p).__name__ for p in _parts(layer)] == ["Filled", "Normalization", "Normalization"]
