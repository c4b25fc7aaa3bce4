"""Samples that count by weights, and functions of users: values beside other libraries, intervals and paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

import vqkit
from vqkit.bench import Bench
from vqkit.errors import DataError
from vqkit.evaluation.judgement import compared, interval
from vqkit.evaluation.metric import Metric
from vqkit.evaluation.metrics import NAMED, combine_of
from vqkit.evaluation.stated_metrics import metric_of

R = np.random.default_rng(0)


def drawn(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random, n = np.random.default_rng(seed), 60
    if name in ("accuracy", "top5"):
        return random.random((n, 7)), random.integers(0, 7, n)
    if name in ("miou", "pixel_accuracy", "token_accuracy"):
        return random.random((n, 4, 3)), random.integers(0, 3, (n, 4))
    if name in ("kl", "agreement"):
        return random.dirichlet(np.ones(4), n), random.dirichlet(np.ones(4), n)
    if "auc" in name or name in ("exact_match", "accuracy_from_logit"):
        width = 1 if name == "accuracy_from_logit" else 3
        return np.round(random.random((n, width)), 1), random.integers(0, 2, (n, width))
    return random.normal(size=(n, 3)), random.normal(size=(n, 3))


@pytest.mark.parametrize("name", NAMED)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_weight_of_two_is_the_sample_twice_and_of_zero_is_none(name: str, seed: int) -> None:
    metric, (x, y) = NAMED[name], drawn(name, seed)
    weights = np.random.default_rng(seed).integers(0, 3, len(x))
    again = np.repeat(np.arange(len(x)), weights)
    assert metric.of(x, y, weights) == pytest.approx(metric.of(x[again], y[again]), rel=1e-9, abs=1e-12)
    assert metric.of(x, y, np.full(len(x), 0.3)) == pytest.approx(metric.of(x, y), rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_weighted_values_are_those_of_other_libraries(seed: int) -> None:
    random = np.random.default_rng(seed)
    w = random.random(60) + 0.01
    x, y = drawn("mae", seed)
    assert NAMED["mae"].of(x, y, w) == pytest.approx(sklearn.metrics.mean_absolute_error(y, x, sample_weight=w))
    r2 = sklearn.metrics.r2_score(y[:, 0], x[:, 0], sample_weight=w)
    assert NAMED["r2"].of(x[:, :1], y[:, 0], w) == pytest.approx(r2)
    x, y = drawn("auc", seed)
    assert NAMED["auc"].of(x, y, w) == pytest.approx(sklearn.metrics.roc_auc_score(y, x, sample_weight=w))
    x, y = drawn("accuracy", seed)
    wanted = sklearn.metrics.f1_score(y, x.argmax(1), average="macro", sample_weight=w)
    assert metric_of("f1_macro").of(x, y, w) == pytest.approx(wanted)
    own = keras.metrics.SparseCategoricalAccuracy()
    assert metric_of(own).of(x, y, w) == pytest.approx(NAMED["accuracy"].of(x, y, w), rel=1e-5)


def test_names_tell_weights_and_how_sums_become_the_metric() -> None:
    for name, metric in NAMED.items():
        own = metric.with_weights()
        assert own.name == f"weighted_{name}"
        assert own.combine is combine_of(own.name) is combine_of(f"size/{own.name}")
        with pytest.raises(DataError, match="it needs a weight for each of 60 samples"):
            own.samples(*drawn(name, 0))
    # A function of the name that is not the named metric keeps no samples under it.
    assert metric_of({"name": "weighted_rmse", "function": "mse"}).combine is not combine_of("weighted_rmse")


def test_intervals_and_tests_know_the_weights() -> None:
    x, y = drawn("mae", 3)
    weights = np.where(np.arange(60) < 30, 1.0, 0.0)
    metric = NAMED["mae"].with_weights()
    low, high = interval(metric, x, y, weights)
    assert low < metric.of(x, y, weights) < high
    worse = np.where(weights[:, None] > 0, x, x + 5)
    assert compared(metric, x, worse, y, weights).p_value == 1.0
    assert compared(NAMED["mae"], x, worse, y).p_value < 0.01
    auc, (x, y) = NAMED["auc"].with_weights(), drawn("auc", 3)
    low, high = interval(auc, x, y, weights)
    assert low < auc.of(x, y, weights) < high
    assert compared(auc, x, 1 - x, y, weights).a == auc.of(x, y, weights)


def test_a_function_weighs_or_is_refused() -> None:
    x, y, w = R.normal(size=(20, 1)), R.normal(size=20), R.random(20)

    def weighs(p: Any, y: Any, sample_weight: Any = None) -> Any:
        return np.average(np.abs(p - y)[:, 0], weights=sample_weight)

    def each(p: Any, y: Any) -> Any:
        return np.abs(p - y)

    wanted = NAMED["mae"].of(x, y, w)
    assert metric_of(weighs).of(x, y, w) == pytest.approx(wanted)
    assert metric_of(each).of(x, y, w) == pytest.approx(wanted)
    with pytest.raises(DataError, match="needs a third parameter sample_weight"):
        metric_of(lambda p, y: np.abs(p - y).mean()).of(x, y, w)


def net() -> Any:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])


def calls(seen: list[int]) -> Any:
    def asked(predict: Any, data: Any) -> dict[str, float]:
        seen.append(len(data.x))
        parts = [predict(data.x[i : i + 7]) for i in range(0, len(data.x), 7)]
        error = np.abs(np.concatenate(parts) - data.y)
        assert np.allclose(np.concatenate(parts), predict(data.x), atol=1e-5)  # Batches of other sizes round otherwise.
        return {"mean_error": error.mean(), "high_error": error.max()}

    return asked


def test_a_function_of_predict_and_data_asks_the_model() -> None:
    x, seen = R.normal(size=(80, 4)).astype("float32"), list[int]()
    y = R.normal(size=(80, 1))
    found = vqkit.evaluate(net(), x, y, metrics=[calls(seen), "mae"])
    assert list(found.metrics) == ["asked/mean_error", "asked/high_error", "mae"]
    assert found.metrics["asked/mean_error"] == pytest.approx(found.metrics["mae"])
    assert seen == [80]
    with pytest.raises(DataError, match="it asks the model itself"):
        metric_of(calls(seen)).of(x[:, :1], y)


def test_a_bench_judges_by_it_and_by_weights() -> None:
    x = R.normal(size=(150, 4)).astype("float32")
    y, w, seen = R.normal(size=(120, 1)), R.random(120), list[int]()
    data = vqkit.Data("weighed", x[:30], x[30:], y, weights_eval=w)
    assert data.digest != vqkit.Data("weighed", x[:30], x[30:], y).digest
    bench = Bench(net(), data, metrics=[calls(seen), "mae"])
    assert [j.metric.name for j in bench.judges] == [
        "weighted_asked/mean_error",
        "weighted_asked/high_error",
        "weighted_mae",
    ]
    quantized = bench.quantize("pof2s")
    found, reference = bench.evaluate(quantized), bench.float_evaluation()
    plain = vqkit.evaluate(quantized, data.x_eval, y, sample_weight=w, metrics=["mae"])
    assert found.metrics["weighted_mae"] == pytest.approx(plain.metrics["weighted_mae"], rel=1e-5)
    assert reference.metrics["weighted_mae"] != found.metrics["weighted_mae"]
    assert seen == [100, 120, 120]  # A few samples first, then all, of the quantized and of the float model.
    with pytest.raises(DataError, match=r"weights of shape \(119,\)"):
        vqkit.Data("weighed", x[:30], x[30:], y, weights_eval=w[1:])


def test_the_key_of_a_dict_that_decides_comes_first(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f(p, y):\n    return {'low_error': 1.0, 'accuracy': 0.5}\n")
    x, y = np.zeros((5, 1)), np.zeros(5)

    def names(stated: Any) -> list[tuple[str, str | None]]:
        metric: Metric = metric_of(stated, tmp_path)
        again = metric_of(metric.source)
        assert again.name == metric.name
        return [(m.name, m.better) for m in again.settled(x, y, None)]

    assert names("m.py:f") == [("f/low_error", "lower"), ("f/accuracy", "higher")]
    stated = {"function": "m.py:f", "name": "mine", "key": "accuracy"}
    assert names(stated) == [("mine/accuracy", "higher"), ("mine/low_error", "lower")]
    with pytest.raises(DataError, match="its function gave no 'auc'; it has low_error, accuracy"):
        metric_of({"function": "m.py:f", "key": "auc"}, tmp_path).of(x, y)
