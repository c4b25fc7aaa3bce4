"""Metrics: their values beside other libraries, how they are stated, and that perfect answers score perfectly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from vqkit.errors import DataError
from vqkit.evaluation.metrics import NAMED, combine_of
from vqkit.evaluation.stated_metrics import metric_of, metrics_of


def draw(seed: int, n: int = 60, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.dirichlet(np.ones(classes), n), random.integers(0, classes, n)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_values_are_those_of_other_libraries(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, y = draw(seed)
    assert NAMED["accuracy"].of(scores, y) == sklearn.metrics.accuracy_score(y, scores.argmax(1))
    wanted = sklearn.metrics.top_k_accuracy_score(y, scores, k=5, labels=np.arange(7))
    assert NAMED["top5"].of(scores, y) == pytest.approx(wanted)
    a, b = random.normal(size=(40, 3)), random.normal(size=(40, 3))
    assert NAMED["mae"].of(a, b) == pytest.approx(sklearn.metrics.mean_absolute_error(b, a))
    assert NAMED["mse"].of(a, b) == pytest.approx(sklearn.metrics.mean_squared_error(b, a))
    assert NAMED["rmse"].of(a, b) == pytest.approx(sklearn.metrics.mean_squared_error(b, a) ** 0.5)
    assert NAMED["r2"].of(a[:, :1], b[:, 0]) == pytest.approx(sklearn.metrics.r2_score(b[:, 0], a[:, 0]))
    several = np.vstack([np.zeros(5), np.ones(5), random.integers(0, 2, (50, 5))])
    ties = np.round(random.random((52, 5)), 1)
    assert NAMED["auc"].of(ties, several) == pytest.approx(sklearn.metrics.roc_auc_score(several, ties))
    assert NAMED["exact_match"].of(ties, several) == sklearn.metrics.accuracy_score(several, ties >= 0.5)


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_classes_of_places_are_counted_as_the_library_counts_them(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    scores, y = random.random((6, 4, 5, classes)), random.integers(0, classes, (6, 4, 5))
    found = scores.argmax(-1)
    present = np.union1d(y, found)
    wanted = sklearn.metrics.jaccard_score(y.ravel(), found.ravel(), average="macro", labels=present)
    assert NAMED["miou"].of(scores, y) == pytest.approx(wanted)
    assert NAMED["pixel_accuracy"].of(scores, y) == pytest.approx((y == found).mean())
    assert NAMED["miou"].of(scores, np.eye(classes)[y]) == NAMED["miou"].of(scores, y)
    void = np.where(random.random(y.shape) < 0.3, 255, y)
    judged = void != 255
    assert NAMED["pixel_accuracy"].of(scores, void) == pytest.approx((y == found)[judged].mean())


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=30, deadline=None)
def test_partial_areas_and_anomalies_are_those_of_the_library(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    y = np.append([0, 1], random.integers(0, 2, 58))
    scores = np.round(random.random(60), 1) if ties else random.random(60)
    weights = random.random(60) + 0.01
    for w in (None, weights):
        wanted = sklearn.metrics.roc_auc_score(y, scores, max_fpr=0.1, sample_weight=w)
        assert NAMED["pauc"].of(scores[:, None], y, w) == pytest.approx(wanted)
    x = np.zeros((60, 3, 3, 1))
    outputs = x + scores[:, None, None, None]
    metric = NAMED["anomaly_auc"]
    assert metric.of(metric.seen(outputs, x), y) == pytest.approx(NAMED["auc"].of(scores[:, None], y))
    with pytest.raises(DataError, match="no inputs are known here"):
        metric.seen(outputs, None)


def test_the_void_label_is_stated() -> None:
    random = np.random.default_rng(0)
    scores, y = random.random((6, 5, 5, 3)), random.integers(0, 3, (6, 5, 5))
    for name in ("miou", "pixel_accuracy", "token_accuracy"):
        plain, stated = NAMED[name], metric_of({"name": name, "void": 1})
        assert stated.of(scores, y) == plain.of(scores, np.where(y == 1, 255, y))
        assert metric_of(stated.source).of(scores, y) == stated.of(scores, y)
        assert stated.combine is combine_of(name)
        with pytest.raises(DataError, match="labels up to 255"):
            stated.of(scores, np.where(y == 1, 255, y))
    with pytest.raises(DataError, match="void is a label of miou, pixel_accuracy, token_accuracy"):
        metric_of({"name": "mae", "void": 1})
    with pytest.raises(DataError, match="void is the number of a label"):
        metric_of({"name": "miou", "void": "sky"})


@pytest.mark.parametrize("name", [n for n in NAMED if n not in ("top5", "sqnr")])
def test_perfect_answers_score_perfectly_and_worse_ones_worse(name: str) -> None:
    random, metric = np.random.default_rng(0), NAMED[name]
    y: Any = random.integers(0, 2, (50, 3)).astype(float)
    perfect: Any = y.copy()
    if name == "accuracy":
        y = random.integers(0, 4, 50)
        perfect = np.eye(4)[y]
    elif name in ("pixel_accuracy", "token_accuracy", "miou"):
        y = random.integers(0, 3, (20, 4, 4))
        perfect = np.eye(3)[y]
    elif name == "accuracy_from_logit":
        y = random.integers(0, 2, 50)
        perfect = np.where(y, 3.0, -3.0)[:, None]
    elif name in ("kl", "agreement"):
        y = perfect = random.dirichlet(np.ones(4), 50)
    best = 1.0 if metric.better == "higher" else 0.0
    assert metric.of(perfect, y) == pytest.approx(best, abs=1e-9)
    other = perfect[random.permutation(len(perfect))]
    assert metric.sign * (metric.of(perfect, y) - metric.of(other, y)) > 0


@pytest.mark.parametrize("name", [n for n, m in NAMED.items() if m.parts])
def test_sums_over_batches_give_the_metric_of_all(name: str) -> None:
    scores, y = draw(3)
    labels: Any = y
    if name in ("mae", "mse", "rmse", "r2", "kl", "sqnr", "agreement"):
        labels = np.random.default_rng(4).dirichlet(np.ones(7), 60)
    elif name == "exact_match":
        labels = np.eye(7)[y]
    elif name == "accuracy_from_logit":
        scores, labels = scores[:, :1] - 0.2, y % 2
    elif name in ("pixel_accuracy", "token_accuracy", "miou"):
        scores, labels = scores.reshape(20, 3, 7), y.reshape(20, 3)
    metric = NAMED[name]
    parts = [metric.samples(scores[i : i + 7], labels[i : i + 7]) for i in range(0, len(scores), 7)]
    sums = sum(p.sum(axis=0, dtype=np.float64) for p in parts if p is not None)
    assert metric.combined(np.asarray(sums), len(scores)) == pytest.approx(metric.of(scores, labels))


FILE = """
import numpy as np

def worst(predictions, labels):
    return np.abs(predictions - labels).max()

def worst_error(y_true, y_pred):
    return np.abs(y_true - y_pred).max(axis=1)

def wrong(predictions, labels):
    return "good"
"""


def test_a_function_of_a_file_judges(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    y = np.zeros((4, 2))
    x = np.array([[1, 2], [0, 0], [0, 5], [0, 0.0]])
    stated = {"name": "mine", "function": "mine.py:worst", "better": "lower"}
    metric = metric_of(stated, tmp_path)
    assert (metric.name, metric.better, metric.of(x, y)) == ("mine", "lower", 5.0)
    again = metric_of(metric.source)
    assert again.of(x, y) == 5.0
    (tmp_path / "mine.py").write_text(FILE + "# changed")
    with pytest.raises(DataError, match="has changed since the run was planned"):
        metric_of(metric.source)
    mean = metric_of("mine.py:worst_error", tmp_path)
    assert (mean.better, mean.of(x, y)) == ("lower", 1.75)
    with pytest.raises(DataError, match="one number is needed, or one for each of the 4 samples"):
        metric_of({"function": "mine.py:wrong", "better": "lower"}, tmp_path).of(x, y)
    with pytest.raises(DataError, match="did you mean 'worst'"):
        metric_of("mine.py:wrost", tmp_path)
    with pytest.raises(DataError, match=r"did you mean 'mine\.py'"):
        metric_of("mne.py:worst", tmp_path)


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(DataError, match="did you mean 'accuracy'"):
        metric_of("acuracy")
    with pytest.raises(DataError, match="key 'direction' is not allowed"):
        metric_of({"name": "mae", "direction": "lower"})
    with pytest.raises(DataError, match="value 'up' is not allowed"):
        metric_of({"name": "mae", "better": "up"})
    with pytest.raises(DataError, match="two are called 'mae'"):
        metrics_of(["mae", {"name": "mae", "function": "mse"}])
    with pytest.raises(DataError, match="none is given"):
        metrics_of([])
    nameless = metric_of(lambda p, y: np.mean(p - y))
    with pytest.raises(DataError, match="which direction is better"):
        nameless.sign  # noqa: B018


@pytest.mark.parametrize(
    ("stated", "better"),
    [
        ("mean_absolute_error", "lower"),
        ("cosine_similarity", "higher"),
        ("binary_crossentropy", "lower"),
        ("AUC", "higher"),
        (keras.metrics.Precision(), "higher"),
        (keras.losses.Huber(name="huber_loss"), "lower"),
        ("neg_mean_absolute_error", "higher"),
        ("f1_macro", "higher"),
    ],
)
def test_metrics_of_other_libraries_have_their_direction(stated: Any, better: str) -> None:
    assert metric_of(stated).better == better


def test_scorers_and_keras_agree_with_ours() -> None:
    random = np.random.default_rng(1)
    p, y = random.random((50, 1)), random.integers(0, 2, 50)
    assert metric_of("roc_auc").of(p, y) == pytest.approx(NAMED["auc"].of(p, y))
    assert metric_of("balanced_accuracy").of(p, y) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(y, p[:, 0] >= 0.5)
    )
    x, z = random.normal(size=(50, 1)), random.normal(size=50)
    assert metric_of("neg_mean_absolute_error").of(x, z) == pytest.approx(-NAMED["mae"].of(x, z))
    assert metric_of("mse").of(x, z) == pytest.approx(metric_of("mean_squared_error").of(x, z))
    scores, classes = draw(5)
    assert metric_of("top_k_categorical_accuracy").of(scores, np.eye(7)[classes]) == pytest.approx(
        NAMED["top5"].of(scores, classes)
    )


@pytest.mark.parametrize("name", ["mae", "auc", "exact_match", "r2", "kl", "miou", "pixel_accuracy"])
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="shape"):
        NAMED[name].of(np.zeros((6, 3, 2)), np.zeros((6, 2)))


def test_a_metric_prints_itself() -> None:
    share, plain = NAMED["accuracy"].measure, NAMED["mae"].measure
    assert (share.text(0.9712), share.difference(-0.0123)) == ("97.12 %", "-1.23 points")
    assert (plain.text(0.123456), plain.difference(0.001)) == ("0.1235", "+0.001")
    assert (share.label, plain.label) == ("accuracy %", "mae")
    assert (share.gain(0.9, 1.0), plain.gain(0.3, 0.2)) == (pytest.approx(-10), pytest.approx(-50))


def test_kept_samples_are_added_up_by_the_function_not_by_the_name() -> None:
    """A run keeps samples only where the metric's name tells how their sums become the metric."""
    for name, metric in NAMED.items():
        assert combine_of(name) is combine_of(f"size/{name}") is metric.combine
    squares_called_root = metric_of({"name": "rmse", "function": "mse"})
    root_called_mine = metric_of({"name": "mine", "function": "rmse"})
    mean_called_mine = metric_of({"name": "mine", "function": "mae"})
    assert squares_called_root.combine is not combine_of("rmse")
    assert root_called_mine.combine is not combine_of("mine")
    assert mean_called_mine.combine is combine_of("mine") is None
