"""A recommendation: inside the bounds, honest about chance, delivered as files that hold."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.search.test_sensitivity import SETTINGS, data_for
from vqkit.errors import ModelError, StrategyError, SweepError
from vqkit.evaluation import evaluate
from vqkit.evaluation.judgement import Evidence
from vqkit.evaluation.metrics import NAMED
from vqkit.models import load_model
from vqkit.quantization.prepare import make_plan
from vqkit.search.engine import Engine, Measured
from vqkit.search.mixed_precision import Point
from vqkit.search.recommend import (
    Advice,
    Bounds,
    advise,
    candidates,
    choose,
    deliver,
    spread_over_subsets,
)
from vqkit.strategy import Strategy
from vqkit.tables import parse_size


def point(name, right, size):
    return Point(name, Strategy.builtin("fsx"), 0.0, Measured(name, right, 0.95, 20.0, 0.1, size, 1.0), {})


def rights(n, wrong):
    return Evidence(NAMED["accuracy"], (np.arange(n) >= wrong)[:, None], np.zeros(n, int))


def test_the_smallest_that_chance_cannot_tell_from_the_best_is_chosen():
    found = [
        point("big", rights(1000, 50), 300),
        point("mid", rights(1000, 54), 200),
        point("small", rights(1000, 120), 100),
    ]
    chosen, sentence, level = choose(found, Bounds(), rights(1000, 50))
    assert chosen.name == "mid"
    assert level == ("big", "mid")
    assert "smallest of the 2" in sentence
    assert "big" in sentence
    assert choose(found, Bounds(max_size=150), rights(1000, 50))[0].name == "small"


def test_nothing_fits_and_the_sentence_says_what_is_nearest():
    found = [point("big", rights(1000, 50), 300), point("small", rights(1000, 120), 100)]
    chosen, sentence, level = choose(found, Bounds(max_size=150, max_drop=0.01), rights(1000, 50))
    assert (chosen, level) == (None, ())
    assert "small, loses 7.00 points" in sentence
    assert "big, has 300 B" in sentence


@pytest.mark.parametrize(
    ("text", "bytes_"), [("100KB", 1e5), ("0.5 MB", 5e5), ("64KiB", 65536), ("2048", 2048), ("60%", 600)]
)
def test_sizes(text, bytes_):
    assert parse_size(text, 1000) == bytes_


@pytest.mark.parametrize("text", ["", "big", "-1KB", "10XB", "0"])
def test_what_is_no_size(text):
    with pytest.raises(SweepError, match="not a size"):
        parse_size(text)


def test_what_is_chosen_among_can_be_named(tmp_path):
    every = candidates()
    assert list(every)[:2] == ["fsx", "fsx corrected"]
    assert every["pof2s corrected"].refine.include_bias_corr
    own = Strategy.builtin("pof2s").with_kwargs(weight_bit=6)
    own.dump(tmp_path / "own.json")
    found = candidates([tmp_path / "own.json"])
    plain, corrected = found.values()
    assert plain == own
    assert corrected == own.with_kwargs(include_bias_corr=True)
    with pytest.raises(StrategyError, match="pof2s"):
        candidates(["pof3s"])


def test_layers_that_a_built_in_does_not_know_are_quantized_all_the_same(tmp_path):
    x = keras.Input((12, 2))
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Conv1D(4, 3)(x))))
    found = candidates(model=model)
    assert list(found) == [f"{name}, extra layers" for name in candidates()]
    for strategy in found.values():
        rows = {(r.layer, r.role.value) for r in make_plan(strategy, model).quantized}
        assert {("conv1d", "weight"), ("dense", "weight")} <= {(layer.split("_")[0], role) for layer, role in rows}
    known = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert candidates(model=known) == candidates()
    Strategy.builtin("pof2s").with_kwargs(weight_bit=6).dump(tmp_path / "own.json")
    own = [tmp_path / "own.json"]
    assert candidates(own, model) == candidates(own)


def test_no_format_is_found_unknown_only_when_all_is_done(tmp_path):
    with pytest.raises(ModelError, match="onnx"):
        deliver(given_advice(), None, tmp_path, formats=("onxx",))


def given_advice():
    chosen = point("big", rights(10, 1), 300)
    return Advice(chosen, "why", (chosen,), ("big",), rights(10, 1), (), 1.0)


def test_from_a_model_to_files(tiny, tmp_path):
    model = tiny("conv_bn_relu")
    engine = Engine(model, data_for(model, 80), settings=SETTINGS)
    said = []
    bounds = Bounds(max_size=500, minutes=1)
    advice = advise(engine, engine, bounds, bits=(8, 4), points=3, strategies=("fsx",), say=said.append)
    assert said
    assert advice.chosen.measured.size_bytes <= 500
    assert advice.chosen.name in advice.level
    assert len(advice.spread) >= 2
    assert {"fsx", "fsx corrected"} <= {p.name for p in advice.points}
    assert not any(p.name.startswith("pof2s") for p in advice.points)
    done = deliver(advice, engine, tmp_path, title="<tiny>", formats=("keras", "encodings"))
    assert [p.name for p in done.exports] == ["model.json"]
    strategy = Strategy.load(done.strategy)
    assert strategy == advice.chosen.strategy
    result = evaluate(load_model(done.model), engine.data.x_eval, engine.data.y_eval)
    assert result.metrics["accuracy"] == advice.chosen.measured.value
    report = done.report.read_text()
    assert "&lt;tiny&gt;" in report
    assert "data:image/png;base64," in report
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.json",
        "model.keras",
        "report.html",
        "strategy.json",
    ]


def test_subsets_are_the_same_each_time(tiny):
    model = tiny("conv_bn_relu")
    engine = Engine(model, data_for(model, 40), settings=SETTINGS)
    strategy = Strategy.builtin("pof2s").with_kwargs(activation_bit=4)
    assert spread_over_subsets(engine, strategy, subsets=2) == spread_over_subsets(engine, strategy, subsets=2)
