"""Sensitivity, mixed precision and recommendation by any metric: of either direction, with values of samples or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.search.test_sensitivity import data_for
from vqkit.errors import DataError, RecordError, SweepError
from vqkit.evaluation import evaluate
from vqkit.evaluation.judgement import Evidence
from vqkit.evaluation.metric import Metric
from vqkit.evaluation.metrics import NAMED
from vqkit.evaluation.stated_metrics import metric_of
from vqkit.quantization import Data, quantize
from vqkit.quantization.prepare import prepare
from vqkit.search import Engine, Sensitivity, accumulated, advise, mixed, recovery, sensitivity
from vqkit.search.engine import Measured
from vqkit.search.mixed_precision import Point
from vqkit.search.questions import questions, strategy_for, units
from vqkit.search.recommend import Advice, Bounds, choose, figure, spread_over_subsets, write
from vqkit.strategy import Strategy
from vqkit.sweeps.variant import Settings
from vqkit.widgets.sensitivity import SensitivityView

SETTINGS = Settings(batch_size=8)


def worst(predictions: np.ndarray, labels: np.ndarray) -> Any:
    """A metric without values of samples."""
    return np.abs(predictions - labels).max()


MINE = {"name": "mine", "function": worst, "better": "lower"}


@pytest.fixture(scope="module")
def regression() -> tuple[keras.Model, Data]:
    random = np.random.default_rng(0)
    x = random.normal(size=(90, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(12, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(1, name="head")])
    y = model.predict(x, verbose=0) + random.normal(0, 0.05, (90, 1)).astype("float32")
    return model, Data("measured", x[:20], x[20:], y[20:])


@pytest.mark.parametrize("metrics", [["mae", "r2"], ["r2"], [MINE]], ids=["mae", "r2", "mine"])
def test_answers_are_those_of_evaluate(
    regression: tuple[keras.Model, Data], metrics: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = regression
    base, modes = Strategy.builtin("fsx"), ("only", "all_but")
    # So few bytes that the questions of a metric without values of samples are asked in several parts.
    monkeypatch.setattr("vqkit.search.probe.KEPT", 600)
    engine = Engine(model, data, settings=SETTINGS, metrics=metrics)
    found = sensitivity(model, data, base, bits=(3,), modes=modes, engine=engine)
    name = found.measure.name
    reference = evaluate(model, data.x_eval, data.y_eval, metrics=metrics).metrics
    assert found.float_value == reference[name] == engine.reference.value
    asked = questions(units(prepare(model, base)), (3,), ("weights", "activations", "both"), modes)
    for row, question in list(zip(found.rows, asked, strict=True))[::3]:
        made = quantize(model, strategy_for(base, question), data.x_calib, **SETTINGS.for_quantize)
        wanted = evaluate(made.model, data.x_eval, data.y_eval, metrics=metrics).metrics
        assert row[name] == wanted[name]
        measured = engine.measure(strategy_for(base, question))
        assert dict(measured.metrics) == wanted
        assert measured.drop == found.measure.sign * (reference[name] - wanted[name])
    alone = found.table[found.table["mode"] == "only"].set_index(["layer", "kind"])[name]
    first = found.ranked(name).iloc[0]
    assert (first["layer"], first["kind"]) == (-found.measure.sign * alone).idxmax()


def test_a_model_without_classes_has_no_divergence(regression: tuple[keras.Model, Data]) -> None:
    model, data = regression
    engine = Engine(model, data, settings=SETTINGS)
    assert engine.judged_by == "Judged by mae (lower is better): regression: one number for each sample"
    found = sensitivity(model, data, "fsx", bits=(4,), engine=engine)
    assert found.table["kl"].isna().all()
    assert found.ranked().equals(found.ranked("sqnr_db"))
    again = Sensitivity.from_json(found.to_json())
    assert again.table.equals(found.table)
    assert (again.measure, again.float_value) == (found.measure, found.float_value)
    for text in (str(found), SensitivityView(found).html()):
        assert "mae" in text
        assert "accura" not in text.lower()
    with pytest.raises(RecordError, match=r"'accuracy' is not allowed.*mae"):
        found.ranked("accuracy")
    for by in ("kl", "accuracy"):
        with pytest.raises(DataError, match=f"'{by}' is not allowed.*mae, sqnr_db"):
            mixed(engine, "fsx", bits=(8, 4), points=2, by=by)


@pytest.mark.parametrize("by", [None, "mae"])
def test_bits_are_chosen_by_what_is_lost(regression: tuple[keras.Model, Data], by: str | None) -> None:
    model, data = regression
    engine = Engine(model, data, settings=SETTINGS)
    allowed = engine.bound("60%")
    found = mixed(engine, "fsx", bits=(8, 4, 2), points=3, by=by, uniform=(8, 2), max_drop=allowed)
    eight, two = found.uniform
    assert eight.measured.value < two.measured.value
    assert eight.measured.goodness > two.measured.goodness
    small = found.best(max_drop=allowed)
    assert small is not None
    assert small.measured.value <= 1.6 * engine.reference.value
    best = found.best()
    assert best is not None
    assert best.measured.value == min(p.measured.value for p in (*found.points, *found.uniform))
    values = found.table.set_index("name")["mae"]
    assert found.table["pareto"][values.argmin()]
    assert "mae" in str(found)


def test_what_may_be_lost_is_said_in_the_unit_or_as_a_share(regression: tuple[keras.Model, Data], tiny: Any) -> None:
    engine = Engine(*regression, settings=SETTINGS)
    assert engine.bound("0.5") == 0.5
    assert engine.bound("1%") == pytest.approx(0.01 * engine.reference.value)
    classes = tiny("conv_bn_relu")
    accuracy = Engine(classes, data_for(classes), settings=SETTINGS)
    assert accuracy.bound("0.5") == 0.005
    assert accuracy.bound("10 %") == pytest.approx(0.1 * accuracy.reference.value)
    for text in ("much", "nan", ""):
        with pytest.raises(SweepError, match=r"is not a drop\. Allowed: 0\.5 \(the unit of mae\), 1%"):
            engine.bound(text)


def evidence(metric: Metric, errors: np.ndarray) -> Evidence:
    return Evidence.of(metric, errors[:, None], np.zeros((len(errors), 1)))


@pytest.mark.parametrize("metric", [NAMED["mae"], metric_of(MINE)], ids=["mae", "mine"])
def test_the_smallest_that_chance_cannot_tell_from_the_best_is_chosen(metric: Metric, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=200)
    reference = evidence(metric, noise)
    points = [
        Point(name, Strategy.builtin("fsx"), 0.0, Measured(name, found, reference.value, 20.0, np.nan, size, 1.0), {})
        for name, found, size in (
            ("big", reference, 300.0),
            ("mid", evidence(metric, 1.0001 * noise[::-1]), 200.0),
            ("small", evidence(metric, 9 * noise), 100.0),
        )
    ]
    chosen, sentence, level = choose(points, Bounds(), reference)
    assert chosen is not None
    assert (chosen.name, level) == ("mid", ("big", "mid"))
    assert f"{metric.name} {1.0001 * reference.value:.4g}" in sentence
    assert "above float (which could be chance, permutation p = " in sentence
    assert f"the best by {metric.name}, big" in sentence
    nothing, why, _ = choose(points, Bounds(max_size=150, max_drop=0.1), reference)
    assert nothing is None
    assert f"small, loses {8 * reference.value:.4g} ({metric.name})" in why
    page = write(Advice(chosen, sentence, tuple(points), level, reference, (), 1.0), tmp_path / "r.html", "net")
    assert "accura" not in page.read_text("utf-8")
    assert "permutation test" in page.read_text("utf-8")


def test_a_function_in_a_file_is_kept_by_its_content_and_an_object_is_not(
    regression: tuple[keras.Model, Data], tmp_path: Path
) -> None:
    model, data = regression
    file = tmp_path / "mine.py"
    stated = [{"name": "mine", "function": f"{file}:worst", "better": "lower"}]
    strategy, cache = Strategy.builtin("fsx"), tmp_path / "cache"
    found = []
    for body in ("abs(p - y).max()", "abs(p - y).max()", "abs(p - y).mean()"):
        file.write_text(f"def worst(p, y):\n    return {body}\n")
        engine = Engine(model, data, settings=SETTINGS, metrics=stated, cache=cache)
        found.append((engine.measure(strategy), engine.evaluations))
    assert [n for _, n in found] == [1, 0, 1]
    np.testing.assert_equal(found[0][0].to_arrays(), found[1][0].to_arrays())
    assert found[0][0].evidence.interval == found[1][0].evidence.interval
    assert found[2][0].value < found[0][0].value
    engine = Engine(model, data, settings=SETTINGS, metrics=[MINE], cache=cache)
    before = sorted(cache.rglob("*.npz"))
    assert engine.measure(strategy).value == found[0][0].value
    assert spread_over_subsets(engine, strategy, subsets=2) == spread_over_subsets(engine, strategy, subsets=2)
    assert [p for p in sorted(cache.rglob("*.npz")) if p not in before and "measured" in p.parts] == []


def test_weights_of_samples_count(regression: tuple[keras.Model, Data]) -> None:
    model, plain = regression
    weights = np.linspace(0, 2, plain.n_eval)
    data = replace(plain, weights_eval=weights, digest="")
    for stated in (None, [{"name": "mine", "function": weighted_worst, "better": "lower"}]):
        engine = Engine(model, data, settings=SETTINGS, metrics=stated)
        found = sensitivity(model, data, "fsx", bits=(3,), kinds=("weights",), engine=engine)
        first = questions(units(prepare(model, Strategy.builtin("fsx"))), (3,), ("weights",), ("only",))[0]
        made = quantize(model, strategy_for(Strategy.builtin("fsx"), first), data.x_calib, **SETTINGS.for_quantize)
        wanted = evaluate(made.model, data.x_eval, data.y_eval, metrics=stated, sample_weight=weights).metrics
        name = found.measure.name
        assert name.startswith("weighted_")
        assert found.rows[0][name] == pytest.approx(wanted[name], rel=1e-6)
        low, high = engine.reference.interval
        assert low <= engine.reference.value <= high


def weighted_worst(predictions: np.ndarray, labels: np.ndarray, sample_weight: Any = None) -> Any:
    """A metric of all samples that weighs."""
    return (np.abs(predictions - labels)[:, 0] * (1 if sample_weight is None else sample_weight)).max()


def test_without_labels_quantized_outputs_are_held_against_those_of_float(
    regression: tuple[keras.Model, Data], tiny: Any
) -> None:
    plain = tiny("conv_bn_relu")
    classes = keras.Model(plain.inputs, keras.layers.Softmax()(plain.outputs[0]))
    engine = Engine(classes, replace(data_for(classes), y_eval=None, digest=""), settings=SETTINGS)
    assert engine.judged_by.startswith("Judged by agreement (higher is better): no labels")
    assert engine.reference.value == 1
    front = mixed(engine, "fsx", bits=(8, 2), points=2, uniform=(8, 2))
    eight, two = front.uniform
    assert eight.measured.value >= two.measured.value
    assert eight.measured.metrics["kl"] < two.measured.metrics["kl"]
    assert eight.measured.drop == 1 - eight.measured.value

    model, data = regression
    engine = Engine(model, replace(data, y_eval=None, digest=""), settings=SETTINGS)
    assert engine.judged_by.startswith("Judged by sqnr (higher is better): no labels")
    found = sensitivity(model, engine.data, "fsx", bits=(8, 3), modes=("only", "all_but"), engine=engine)
    for row in found.rows:
        assert row["sqnr"] == pytest.approx(row["sqnr_db"])
    back, summed = recovery(found, engine, "fsx"), accumulated(found, engine, "fsx")
    assert "sqnr" in SensitivityView(found, back, summed=summed).html()
    best = mixed(engine, "fsx", bits=(8, 3), points=2).best()
    assert best is not None
    assert set(best.bits.values()) == {"w8"}
    advice = advise(engine, engine, Bounds(), bits=(8,), points=1, strategies=("fsx",))
    assert "sqnr" in advice.sentence
    assert figure(advice).axes
    with pytest.raises(SweepError, match="a drop from it says nothing"):
        engine.bound("1%")
    with pytest.raises(DataError, match=r"'sqnr' is not allowed.*sqnr_db"):
        mixed(engine, "fsx", bits=(8, 3), points=2, by="sqnr")
