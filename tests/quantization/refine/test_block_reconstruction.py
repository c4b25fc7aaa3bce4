"""Block reconstruction: units from the graph, less loss, equal runs, resumed runs, results on the plan's grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.bench import Bench
from vqkit.export.integer import IntegerModel
from vqkit.export.onnx import OnnxSession, to_onnx
from vqkit.files import DiskCache
from vqkit.quantization import quantize
from vqkit.quantization.data import Data
from vqkit.quantization.prepare import instrument, prepare
from vqkit.quantization.quantized import Quantized
from vqkit.quantization.refine.block_reconstruction import KEY
from vqkit.quantization.refine.block_trainer import Cell
from vqkit.quantization.refine.units import MOST_LAYERS, find_units, shown
from vqkit.strategy import Strategy

layers = keras.layers
QUICK = {KEY: True, "block_iterations": 10}


def strategy(base: str = "fsx", **changes: Any) -> Strategy:
    kwargs = {"weight_bit": 4, "activation_bit": 4, "bias_bit": 16, **QUICK, **changes}
    return Strategy.builtin(base).with_kwargs(**kwargs)


def units_of(model: keras.Model) -> list[str]:
    prepared = prepare(model, Strategy.builtin("fsx"))
    graph, _ = instrument(prepared.graph, prepared.plan)
    weighted = {row.layer for row in prepared.plan.quantized if row.is_weight}
    found = find_units(graph, prepared.plan)
    ends = [unit.begin + len(unit.nodes) for unit in found]
    assert [unit.begin for unit in found] == [0, *ends[:-1]]
    return [shown(unit, weighted) for unit in found]


def losses(quantized: Quantized) -> list[tuple[float, float]]:
    lines = [line.rpartition(" loss ")[2].split(" -> ") for line in quantized.report if line.startswith(KEY)]
    return [(float(before), float(after)) for before, after in lines]


def conv(name: str, filters: int = 4, size: int = 3) -> Any:
    return layers.Conv2D(filters, size, padding="same", activation="relu", name=name)


def test_a_residual_block_is_one_unit() -> None:
    x = keras.Input((8, 8, 3))
    y = conv("stem")(x)
    z = layers.Conv2D(4, 3, padding="same", name="second")(conv("first")(y))
    y = layers.ReLU()(layers.Add()([y, z]))
    y = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y))
    assert units_of(keras.Model(x, y)) == ["stem", "first … second", "head"]


def test_depthwise_layers_go_with_their_neighbours() -> None:
    x = keras.Input((8, 8, 3))
    y = conv("stem")(x)
    y = conv("point", 4, 1)(layers.DepthwiseConv2D(3, padding="same", activation="relu", name="pair")(y))
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="deep")(conv("expand", 12, 1)(y))
    y = layers.Dense(3, name="head")(layers.Flatten()(conv("project", 4, 1)(y)))
    assert units_of(keras.Model(x, y)) == ["stem", "pair … point", "expand … project", "head"]


def test_what_is_larger_than_a_block_is_left_to_its_layers() -> None:
    x = keras.Input((8, 8, 3))
    first = y = conv("c0")(x)
    names = [f"c{i}" for i in range(1, MOST_LAYERS)]
    for name in names:
        y = conv(name)(y)
    other = conv("d")(first)
    y = conv("last")(layers.Add()([layers.Add()([first, y]), conv("e")(other)]))
    found = units_of(keras.Model(x, y))
    assert found[0] == "c0"
    assert found[-1] == "last"
    assert not any("…" in name for name in found)


@pytest.mark.parametrize("base", ["fsx", "pof2s"])
@pytest.mark.parametrize("name", ["depthwise", "shared_layer", "two_inputs", "two_outputs", "transposed"])
def test_no_unit_gets_worse_and_what_comes_out_is_audited(name: str, base: str) -> None:
    model = zoo.build(name)
    made = quantize(model, strategy(base, block_iterations=4), zoo.batch(model, 12), batch_size=4)
    assert losses(made)
    assert all(after <= before for before, after in losses(made))
    assert {row.name for row in made.plan.quantized} == set(made.encodings)


@pytest.mark.parametrize("changes", [{}, {"block_drop_probability": 0.5}, {"block_loss": "mse"}], ids=str)
def test_two_runs_are_equal_and_another_seed_is_another_run(changes: dict[str, Any]) -> None:
    model = zoo.build("residual")
    x = zoo.batch(model, 24)
    one, two, other = (
        quantize(model, strategy(block_seed=seed, **changes), x, batch_size=8).model.predict(x, verbose=0)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert np.any(one != other)


def test_the_last_units_loss_is_that_of_the_simulation() -> None:
    x = keras.Input((8, 8, 3))
    y = layers.Flatten()(layers.MaxPooling2D(4)(conv("stem", 6)(x)))
    model = keras.Model(x, layers.Dense(5, activation="softmax", name="head")(y))
    zoo.randomize(model, seed=3)
    images = zoo.batch(model, 64)
    made = quantize(model, strategy(output_layers=["head"]), images, batch_size=16)
    want, got = (m.predict(images, verbose=0) for m in (model, made.model))
    divergence = float(np.mean(np.sum(want * (np.log(want) - np.log(got + 1e-12)), -1)))
    before, after = losses(made)[-1]
    assert after < before
    assert after == pytest.approx(divergence, rel=0.05)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build("residual")
    x = zoo.batch(model, 24)
    data, chosen = Data("zoo", x, x, np.zeros(24, int)), strategy()
    whole = Bench(model, data).quantize(chosen)
    keep, written = DiskCache.keep_arrays, []

    def interrupted(cache: DiskCache, name: str, arrays: Any) -> None:
        keep(cache, name, arrays)
        if cache.folder is not None and cache.folder.name == "blocks":
            written.append(name)
            if len(written) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(DiskCache, "keep_arrays", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Bench(model, data, cache=tmp_path).quantize(chosen)
    again = Bench(model, data, cache=tmp_path).quantize(chosen)
    assert len(written) == len(set(written)) == len(losses(whole))
    assert again.encodings == whole.encodings
    np.testing.assert_array_equal(again.model.predict(x, verbose=0), whole.model.predict(x, verbose=0))


@pytest.mark.parametrize("base", ["fsx", "pof2s"])
def test_onnx_computes_what_the_simulation_computes(base: str) -> None:
    model = zoo.build("residual")
    x = zoo.batch(model, 16)
    made = quantize(model, strategy(base, integer_arithmetic=base == "fsx"), x)
    session = OnnxSession(to_onnx(made).model)
    np.testing.assert_array_equal(*session({"image": x}).values(), made.model.predict(x, verbose=0))


def test_integers_compute_what_the_simulation_computes() -> None:
    model = zoo.build("residual")
    x = zoo.batch(model, 16)
    made = quantize(model, strategy("pof2s"), x)
    (got,) = IntegerModel(made)({"image": x}).outputs.values()
    np.testing.assert_array_equal(got, made.model.predict(x, verbose=0))


def test_more_is_left_than_by_rounding_to_the_nearest() -> None:
    model = zoo.build("residual")
    x = zoo.batch(model, 64)
    want = model.predict(x, verbose=0)
    plain, trained = (
        quantize(model, strategy(**{KEY: on, "include_bias_corr": True, "block_iterations": 100}), x).model.predict(
            x, verbose=0
        )
        for on in (False, True)
    )
    assert np.mean((trained - want) ** 2) < 0.8 * np.mean((plain - want) ** 2)


def test_positions_are_chosen_among_neighbours() -> None:
    model = zoo.build("residual")
    x = zoo.batch(model, 32)
    plain, trained = (quantize(model, strategy("pof2s", **{KEY: on}), x) for on in (False, True))
    moved = [np.max(np.abs(plain.encodings[k].pos - p.pos)) for k, p in trained.encodings.items() if "bias" not in k]
    assert 1 in moved
    assert max(moved) == 1


def test_a_weight_stands_between_two_points_of_its_grid() -> None:
    model = zoo.build("residual")
    made = quantize(model, Strategy.builtin("fsx").with_kwargs(weight_bit=3), zoo.batch(model, 4))
    for row in made.plan.quantized:
        if row.is_weight:
            weight, params = made.corrected.layers[row.layer].weights[row.tensor], made.encodings[row.name]
            cell = Cell.of(weight, params)
            inside = cell.width > 0
            assert np.all((cell.low <= weight + 1e-6) & (weight <= cell.low + cell.width + 1e-6) | ~inside)
            np.testing.assert_array_equal(cell.rounded(weight, (cell.near > cell.low).astype(np.float32)), weight)


def test_without_it_its_keys_change_nothing() -> None:
    plain = Strategy.builtin("fsx")
    assert plain.with_kwargs(block_iterations=7, block_seed=3) == plain
    assert strategy(block_iterations=7) != strategy()
