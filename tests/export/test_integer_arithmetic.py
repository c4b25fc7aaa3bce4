"""Float scales with `integer_arithmetic`: the simulation, ONNX Runtime and LiteRT are equal bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from vqkit.bench import Bench
from vqkit.errors import CrossCheckError, StrategyError
from vqkit.evaluation import predict
from vqkit.quantization.data import Data
from vqkit.quantization.refine.integer_arithmetic import SCALES

EXACT = {"onnxruntime": (0, 1.0), "litert": (0, 1.0)}


def net() -> Any:
    """Plain, strided and depthwise convolutions, all ReLUs, both average pools, a dense layer; no Add."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    x = i = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="conv")(x)
    x = layers.ReLU(max_value=6.0, name="conv_relu")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2, name="dw")(x)
    x = layers.ReLU(name="dw_relu")(x)
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="point")(x)
    x = layers.MaxPooling2D(3, strides=1, padding="same", name="max")(x)
    x = layers.Conv2D(6, 2, use_bias=False, name="bare")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    made = keras.Model(i, layers.Dense(4, name="head")(x))
    rng = np.random.default_rng(3)
    made.set_weights([w + rng.normal(0, 0.05, w.shape) for w in made.get_weights()])
    return made


def images(n: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 12, 12, 3)).astype("float32")


@cache
def quantized(**overrides: Any) -> Any:
    return vqkit.quantize(net(), vqkit.build_strategy("fsx", {"integer_arithmetic": True, **overrides}), images())


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"weight_per_channel": False},
        {"activation_symmetry": False},
        {"weight_bit": 4, "activation_bit": 6, "bias_bit": 16},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_every_tensor_is_equal_in_both_runtimes(overrides: dict[str, Any]) -> None:
    q = quantized(**overrides)
    assert "integer_arithmetic: 7 layers add integers" in q.report
    checked = vqkit.cross_check(q, images(32, seed=1), ["onnxruntime", "litert"], bounds=EXACT)
    tensors = checked.table[~checked.table.tensor.isin(["output"])]
    assert set(tensors.tensor) == {r.name for r in q.plan.quantized if not r.is_weight}
    assert (checked.table.different == 0).all()


def test_without_it_both_depart_and_the_error_says_what_to_do() -> None:
    plain = vqkit.quantize(net(), "fsx", images())
    with pytest.raises(CrossCheckError, match="integer_arithmetic in the strategy's refine pipeline"):
        vqkit.cross_check(plain, images(32, seed=1), ["litert"], bounds=EXACT)


def test_what_it_changes_is_rounding_alone() -> None:
    plain, whole = vqkit.quantize(net(), "fsx", images()), quantized()
    assert plain.encodings == whole.encodings
    step = float(plain.encodings["head/output"].scale)
    apart = np.abs(predict(plain.model, images(32, 1)) - predict(whole.model, images(32, 1))) / step
    assert apart.max() <= 2.01
    assert plain.size_bytes == whole.size_bytes


def test_sums_past_24_bits_and_channels_without_weights() -> None:
    keras.utils.set_random_seed(1)
    made = keras.Sequential(
        [
            keras.Input((3000,)),
            keras.layers.Dense(5, activation="relu", name="wide"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    kernel = np.sign(np.random.default_rng(1).normal(size=(3000, 5))) * 0.05
    kernel[:, 2] = 0
    made.layers[0].set_weights([kernel, np.asarray([0.1, -0.2, 1.7, 0, 30.0])])
    x = np.random.default_rng(2).uniform(0.5, 1, (16, 3000)).astype("float32")
    q = vqkit.quantize(made, vqkit.build_strategy("fsx", {"integer_arithmetic": True}), x)
    assert q.graph.layers["wide"].config["wide"]
    vqkit.cross_check(q, x, ["onnxruntime", "litert"], bounds=EXACT)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_and_loaded_it_gives_the_same(tmp_path: Path, suffix: str) -> None:
    q = quantized()
    path = vqkit.export(q, tmp_path / f"m{suffix}")
    loaded = vqkit.load_model(path)
    np.testing.assert_array_equal(predict(loaded, images(8)), predict(q.model, images(8)))


def test_a_bench_gives_the_same_and_noise_is_against_the_float_model() -> None:
    strategy = vqkit.build_strategy("fsx", {"integer_arithmetic": True})
    bench = Bench(net(), Data("random", images(), images(16, 1), np.arange(16) % 4))
    found = bench.quantize(strategy)
    expected = predict(quantized().model, images(16, 1))
    np.testing.assert_array_equal(bench.evaluate(found).predictions, expected)
    plain = vqkit.sqnr(vqkit.quantize(net(), "fsx", images()), images(16, 1))
    for table in (bench.sqnr(found, images(16, 1)), vqkit.sqnr(quantized(), images(16, 1))):
        np.testing.assert_allclose(table.sqnr_db, plain.sqnr_db, atol=0.3)


def test_a_trained_model_is_deployed_in_integers() -> None:
    strategy = vqkit.build_strategy("fsx", {"integer_arithmetic": True})
    trained = vqkit.qat_model(net(), strategy, images())
    q = vqkit.deploy_model(trained)
    assert set(SCALES) < set(q.graph.layers["conv"].weights)
    np.testing.assert_array_equal(predict(q.model, images(8)), predict(quantized().model, images(8)))


def test_where_it_means_nothing_it_is_refused() -> None:
    strategy = vqkit.build_strategy("pof2s", {"integer_arithmetic": True})
    with pytest.raises(StrategyError, match=r"no layer stands between float-scale grids .* leave"):
        vqkit.quantize(net(), strategy, images())
