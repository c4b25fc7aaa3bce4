"""Evaluation batch by batch: the same numbers from arrays, generators and data sets, and nothing held beside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import vqkit
from vqkit.errors import DataError
from vqkit.evaluation import streaming
from vqkit.evaluation.judgement import compared, compared_by, interval, interval_of
from vqkit.evaluation.metrics import NAMED
from vqkit.evaluation.streaming import Kept

N = 130
R = np.random.default_rng(0)
X = R.normal(size=(N, 6)).astype("float32")
CLASSES = R.integers(0, 3, N)
W = R.random(N) * (R.random(N) > 0.2)


class Items(keras.utils.PyDataset):
    """Batches of seven."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = parts

    def __len__(self) -> int:
        return -(-len(self.parts[0]) // 7)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        return tuple(p[7 * i : 7 * i + 7] for p in self.parts)


def generated(*parts: Any) -> Callable[[], Iterator[Any]]:
    return lambda: (tuple(p[i : i + 9] for p in parts) for i in range(0, len(parts[0]), 9))


SOURCES: dict[str, Callable[..., Any]] = {
    "function": generated,
    "generator": lambda *p: generated(*p)(),
    "tf.data": lambda *p: tf.data.Dataset.from_tensor_slices(p).batch(11),
    "PyDataset": Items,
}


def net(outputs: int = 3, activation: str = "softmax", *, batch: int | None = None) -> Any:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), batch_size=batch)
    return keras.Model(x, keras.layers.Dense(outputs, activation)(x))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("weights", [None, W])
def test_every_source_gives_what_arrays_give(source: str, weights: np.ndarray | None) -> None:
    parts = (X, CLASSES) if weights is None else (X, CLASSES, weights)
    labels = {"metrics": ["accuracy", "f1_macro", "SparseCategoricalAccuracy"]}
    wanted = vqkit.evaluate(net(), X, CLASSES, sample_weight=weights, **labels)
    found = vqkit.evaluate(net(), SOURCES[source](*parts), **labels)
    assert found.metrics == pytest.approx(wanted.metrics, rel=1e-6)
    assert (found.n, found.predictions) == (N, None)
    assert all(name.startswith("weighted_") == (weights is not None) for name in found.metrics)
    told = vqkit.evaluate(net(), SOURCES[source](*parts))
    assert told.metrics == pytest.approx(vqkit.evaluate(net(), X, CLASSES, sample_weight=weights).metrics)
    assert "single label" in told.task


@pytest.mark.parametrize("batch", [4, 50, 200])
def test_a_fixed_batch_size_and_memory_maps(batch: int, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = net(1, "linear", batch=batch)
    y = R.normal(size=N)
    found = vqkit.evaluate(model, mapped, y, keep_predictions=False)
    assert found.metrics == pytest.approx(vqkit.evaluate(model, X, y).metrics)
    assert found.predictions is None


def test_inputs_and_outputs_by_name() -> None:
    a, b = keras.Input((6,), name="a"), keras.Input((2,), name="b")
    both = keras.layers.Concatenate()([a, b])
    outputs = {"kind": keras.layers.Dense(3, "softmax")(both), "size": keras.layers.Dense(1)(both)}
    model = keras.Model({"a": a, "b": b}, outputs)
    x, y = {"a": X, "b": X[:, :2]}, {"kind": CLASSES, "size": X[:, 0]}
    wanted = vqkit.evaluate(model, x, y)
    source = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    found = vqkit.evaluate(model, source)
    assert list(found.metrics) == list(wanted.metrics)
    assert found.metrics == pytest.approx(wanted.metrics)
    assert vqkit.evaluate(model, x, y, keep_predictions=False).metrics == pytest.approx(wanted.metrics)
    assert vqkit.quantize(model, "pof2s", source).plan.quantized


def test_what_all_samples_are_needed_for_lies_in_a_file_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    y = (R.random((N, 3)) < 0.5).astype(float)
    wanted = vqkit.evaluate(net(3, "sigmoid"), X, y).metrics
    monkeypatch.setattr(streaming, "KEPT_BYTES", 100)
    opened = len(os.listdir("/proc/self/fd"))
    found = vqkit.evaluate(net(3, "sigmoid"), generated(X, y))
    assert found.metrics == pytest.approx(wanted)
    assert list(found.metrics) == ["auc", "exact_match"]
    assert isinstance(found.samples["exact_match"], np.memmap)
    del found
    assert len(os.listdir("/proc/self/fd")) <= opened


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), limit=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_kept_arrays_are_those_that_were_given(sizes: list[int], limit: int) -> None:
    kept, parts = Kept(limit), [np.random.default_rng(i).normal(size=(n, 2)) for i, n in enumerate(sizes)]
    for part in parts:
        kept.add(part)
    whole = np.concatenate(parts)
    np.testing.assert_array_equal(kept.array(), whole)
    assert isinstance(kept.array(), np.memmap) == (whole.nbytes > limit)


def test_samples_of_a_stream_are_tested_like_predictions() -> None:
    y = X @ R.normal(size=(6, 1))
    streams = [vqkit.evaluate(net(1, "linear"), generated(X, y + s)) for s in (0, 0.3)]
    outputs = vqkit.evaluate(net(1, "linear"), X, y).predictions
    metric = NAMED["rmse"]
    samples = [s.samples["rmse"] for s in streams]
    assert interval_of(metric, samples[0]) == pytest.approx(interval(metric, outputs, y), rel=1e-5)
    verdict = compared(metric, outputs, outputs - np.float32(0.3), y)
    assert compared_by(metric, *samples).p_value == pytest.approx(verdict.p_value, abs=0.01)


def test_a_function_with_a_value_for_each_sample_is_streamed_and_one_without_keeps_predictions() -> None:
    y = R.normal(size=(N, 1))

    def each_error(p: Any, y: Any) -> Any:
        return np.abs(p - y).max(axis=1)

    def worst_error(p: Any, y: Any) -> Any:
        return np.abs(p - y).max()

    def both(p: Any, y: Any) -> Any:
        return {"low_error": np.abs(p - y).min(), "high_error": np.abs(p - y).max()}

    model, stated = net(1, "linear"), {"metrics": [each_error, worst_error, both]}
    wanted, found = vqkit.evaluate(model, X, y, **stated), vqkit.evaluate(model, generated(X, y), **stated)
    assert found.metrics == pytest.approx(wanted.metrics)
    assert list(found.metrics) == ["each_error", "worst_error", "both/low_error", "both/high_error"]
    assert list(found.samples) == ["each_error"]


def test_anomalies_are_found_by_errors_of_reconstruction(monkeypatch: pytest.MonkeyPatch) -> None:
    keras.utils.set_random_seed(0)
    x = R.normal(size=(N, 4, 4, 1)).astype("float32")
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 3, padding="same")])
    error = ((model.predict(x, verbose=0) - x) ** 2).mean((1, 2, 3))
    # The model is perfect where every anomaly is reconstructed worse than anything else.
    y = (error > np.median(error)).astype(int)
    found = vqkit.evaluate(model, x, y)
    assert found.metrics == {"anomaly_auc": 1.0, "anomaly_pauc": 1.0}
    assert "anomaly detection" in found.task
    np.testing.assert_allclose(found.scores["anomaly_auc"][:, 0], error, rtol=1e-4)
    monkeypatch.setattr(streaming, "KEPT_BYTES", 100)
    assert vqkit.evaluate(model, generated(x, y)).metrics == found.metrics
    bench = vqkit.Bench(model, vqkit.Data("anomalies", x[:30], x, y))
    assert [j.metric.name for j in bench.judges] == ["anomaly_auc", "anomaly_pauc"]
    assert bench.float_evaluation().metrics == found.metrics
    assert bench.evaluate(bench.quantize("pof2s")).metrics["anomaly_auc"] > 0.9


def test_a_bench_without_labels_compares_with_the_float_model() -> None:
    data = vqkit.Data("unlabelled", X[:30], X, None)
    assert data.digest != vqkit.Data("unlabelled", X[:30], X, CLASSES).digest
    bench = vqkit.Bench(net(), data)
    assert bench.float_evaluation().metrics == {"agreement": 1.0, "kl": 0.0, "sqnr": float("inf")}
    quantized = bench.quantize("pof2s", steps=1)
    found = bench.evaluate(quantized)
    reference = vqkit.evaluate(net(), X, CLASSES).predictions
    assert found.metrics["agreement"] == np.mean(found.predictions.argmax(1) == reference.argmax(1))
    assert found.metrics == pytest.approx(vqkit.evaluate(quantized, X, reference, metrics=list(found.metrics)).metrics)
    with pytest.raises(DataError, match="there are none"):
        vqkit.evaluation.check_labels(net(), data)


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "no labels": (lambda: X, "there are no labels"),
    "batches without": (lambda: iter([X, X]), "a batch without labels came out"),
    "fewer labels": (lambda: iter([(X, CLASSES[:5])]), r"130 inputs, labels of shape \[\(5,\)\]"),
    "negative weights": (lambda: iter([(X, CLASSES, -W)]), "a finite one from 0 is needed for each of 130 samples"),
    "no batch": (lambda: iter([]), "hold no batch"),
    "not batched": (lambda: tf.data.Dataset.from_tensor_slices((X, CLASSES)), "call .batch"),
    "weights end": (lambda: iter([(X, CLASSES, W), (X, CLASSES)]), "it needs a weight for each of 130"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_data_that_cannot_be_judged_are_refused(name: str) -> None:
    make, said = BROKEN[name]
    with pytest.raises(DataError, match=said):
        vqkit.evaluate(net(), make())
