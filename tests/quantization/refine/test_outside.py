"""A tensor of which much lies outside the range that was chosen for it is named, whoever chose it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import vqkit
from vqkit.primitives import reference
from vqkit.primitives.choose import choose
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType
from vqkit.quantization.refine.outside import (
    MOST,
    NOTHING,
    Outside,
    lines,
    outside,
    values_outside,
    weights_outside,
)


def net(kind: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    if kind == "dense autoencoder":
        i = keras.Input((64,))
        x = layers.Dense(8, activation="relu")(layers.Dense(32, activation="relu")(i))
        return keras.Model(i, layers.Dense(64)(layers.Dense(32, activation="relu")(x)))
    i = keras.Input((16, 12, 2))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(i)
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x))
    if kind == "fingerprint":
        return keras.Model(i, layers.Dense(16, activation="tanh")(layers.Dense(16)(x)))
    return keras.Model(
        i, layers.Softmax()(layers.Dense(6, activation="softmax")(layers.Dense(12, activation="relu")(x)))
    )


def images(kind: str, n: int = 96) -> np.ndarray:
    r = np.random.default_rng(0)
    shape = (n, 64) if kind == "dense autoencoder" else (n, 16, 12, 2)
    return r.gamma(2.0, 9.0, shape).astype(np.float32) + np.float32(20)


def decibel(x: np.ndarray, y: np.ndarray) -> float:
    return float(10 * np.log10(np.square(x).mean() / max(np.square(x - y).mean(), 1e-30)))


@pytest.mark.parametrize("kind", ["dense autoencoder", "fingerprint", "audio"])
def test_bottlenecks_pooled_features_and_logits_by_kl_and_by_least_error(kind: str) -> None:
    """On every quantized value and on the output MIN_KL is within 3 dB of MIN_MSE."""
    model, x = net(kind), images(kind)
    bench = vqkit.Bench(model, vqkit.Data("d", x, x, np.zeros(len(x), int)))
    base = vqkit.Strategy.builtin("fsx")
    tables = []
    for method in (2, 1):
        found = bench.quantize(base.with_kwargs(input_method=method, activation_method=method))
        assert found.outside == ()
        tables.append(bench.sqnr(found, x).set_index(["layer", "tensor"])["sqnr_db"])
    assert np.all(tables[0] >= tables[1] - 3), (tables[0] - tables[1]).min()


def two_layers() -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((8,), name="far")
    return keras.Model(i, layers.Dense(4, name="last")(layers.Dense(16, activation="relu", name="first")(i)))


def far(n: int = 512) -> np.ndarray:
    return np.random.default_rng(0).uniform(2, 10, (n, 8)).astype(np.float32)


@pytest.mark.parametrize("calibration", ["quantized", "float"])
@pytest.mark.parametrize("base", ["fs", "fsx", "pof2s"])
def test_a_percentile_that_clips_is_named_in_every_mode(base: str, calibration: str) -> None:
    x = far()
    strategy = vqkit.Strategy.builtin(base).with_kwargs(input_method="PERCENTILE", input_method_percentile=30.0)
    found = vqkit.quantize(two_layers(), strategy, x, calibration=calibration)
    (line,) = [t for t in found.outside if t.startswith("quant_far/input: ")]
    share = float(line.split(": ")[1].split(" %")[0])
    limit = float(reference.fake_quantize(np.float32(1e9), found.encodings["quant_far/input"]))
    assert share == pytest.approx(100 * np.mean(x > limit), abs=3)
    assert "of the values lie outside the range that PERCENTILE chose" in line
    assert line in found.report
    assert found.audit().set_index("tensor")["note"]["quant_far/input"] == line
    assert "outside" in repr(found)
    assert "\n" not in repr(found)


def test_weights_that_the_original_loses_are_named() -> None:
    strategy = vqkit.Strategy.builtin("fs").with_kwargs(weight_method=2)
    found = vqkit.quantize(two_layers(), strategy, far(), vitis_compat=True)
    assert sum("/kernel: 100 % of the values lie outside" in line for line in found.outside) == 2
    assert vqkit.quantize(two_layers(), strategy, far()).outside == ()


@pytest.mark.parametrize("base", ["pof2s", "pof2s_tqt", "fs", "fsx"])
def test_plain_calibrations_name_nothing(base: str) -> None:
    assert vqkit.quantize(two_layers(), base, far()).outside == ()


def test_values_without_a_histogram_are_measured_on_the_first_batch() -> None:
    """A range that somebody else moved afterwards, on a generator that can be read once."""
    x = far()
    model = two_layers()
    found = vqkit.quantize(model, "pof2s", (b for b in np.split(x, 8)))
    name = "quant_far/input"
    grid = found.encodings[name]
    moved = QParams(grid.spec, grid.f_min, grid.f_max, grid.pos + 2)
    seen = vqkit.quantization.calibrate.calibrate(found.graph, found.rows, found.live, [x])
    shares = values_outside(
        found.graph, found.rows, {**found.encodings, name: moved}, seen.tensors, found.live, iter([x])
    )
    limit = float(reference.fake_quantize(np.float32(1e9), moved) + moved.scale)
    assert shares[name].values == pytest.approx(np.mean(x > limit), abs=1e-6)
    assert shares[name].much
    assert sum(share.much for share in shares.values()) == 1


def test_weights_are_measured() -> None:
    found = vqkit.quantize(two_layers(), "pof2s", far())
    grid = found.encodings["first/kernel"]
    moved = QParams(grid.spec, grid.f_min, grid.f_max, grid.pos + 3)
    shares = weights_outside(found.corrected, found.plan, {**found.encodings, "first/kernel": moved})
    assert [k for k, share in shares.items() if share.much] == ["first/kernel"]
    told = list(lines(shares, found.plan))
    assert len(told) == 1
    assert told[0].startswith("first/kernel: ")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([QuantizerType.FS, QuantizerType.POF2S, QuantizerType.MAFS]),
    bits=st.integers(2, 12),
    per_channel=st.booleans(),
    symmetry=st.booleans(),
    seed=st.integers(0, 9999),
    shrink=st.sampled_from([1.0, 0.5, 0.1]),
)
def test_shares_are_those_of_the_quantizer(
    kind: QuantizerType, bits: int, per_channel: bool, symmetry: bool, seed: int, shrink: float
) -> None:
    """Values that the quantizer moves by more than a step, and what that takes."""
    r = np.random.default_rng(seed)
    x = r.normal(r.normal(), 1, (50, 3)).astype(np.float32)
    spec = QuantizerSpec(kind, bits, Method.NON_OVERFLOW, symmetry=symmetry, per_channel=per_channel)
    grid = choose(np.float32(shrink) * x, spec)
    lost = np.abs(x - reference.fake_quantize(x, grid)).astype(np.float64)
    found = outside(x, grid)
    # A value that lies just a step beyond may fall on either side.
    few, many = (lost * (lost > grid.scale * (1 + near)) for near in (1e-3, -1e-3))
    for share, power in ((found.values, 0), (found.energy, 2)):
        whole = np.sum(np.abs(x.astype(np.float64)) ** power)
        low, high = (np.sum(some**power * (some > 0)) / whole for some in (few, many))
        assert low * (1 - 1e-3) <= share <= high * (1 + 1e-3)
    if shrink == 1:
        assert found == NOTHING


def test_a_range_without_width_loses_everything() -> None:
    grid = QParams(QuantizerSpec(QuantizerType.FS), np.float32(0), np.float32(0))
    assert outside(np.float32([1, 2]), grid) == Outside(1.0, 1.0)
    assert outside(np.float32([0, 0]), grid) == NOTHING
    assert MOST < 1


def test_plans_and_results_are_one_line(capsys: Any) -> None:
    model = two_layers()
    plan = vqkit.make_plan("pof2s", model)
    assert repr(plan) == f"<{plan.summary()}>"
    assert "\n" not in repr(plan)
    print(plan)
    shown = capsys.readouterr().out
    assert all(row.layer in shown for row in plan.rows)
    found = vqkit.quantize(model, "pof2s", far(64))
    assert repr(found) == f"<Quantized: {plan.summary()}>"
    assert len(repr(found)) < 200
