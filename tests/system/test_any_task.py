"""Sweeps of a model that is no classifier: the metric that decides is one and the same wherever runs are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from vqkit import plots
from vqkit.comparison.difference import difference
from vqkit.comparison.leaderboard import leaderboard, recommend, render
from vqkit.comparison.publication import publish
from vqkit.comparison.report import write
from vqkit.errors import DataError, SweepError
from vqkit.execution.runner import run_tracked
from vqkit.runs.records import load_records, to_frame
from vqkit.runs.store import Store
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep

FILE = """
import numpy as np

def worst(predictions, labels):
    return np.abs(predictions - labels).max()


def scores(predictions, labels, sample_weight=None):
    error = np.abs(predictions - labels)[:, 0]
    return {"high_error": error.max(), "mean_error": np.average(error, weights=sample_weight)}


def asked_error(predict, data):
    found = [predict(data.x[i : i + 50]) for i in range(0, len(data.x), 50)]
    return np.abs(np.concatenate(found) - data.y)[:, 0]
"""
MINE = {"name": "mine", "function": "mine.py:worst", "better": "lower"}


def furnish(folder: Path) -> None:
    """A regression that two layers solve, its data, and a metric of one's own."""
    random = np.random.default_rng(0)
    x = random.normal(size=(160, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1, name="head")]
    )
    y = model.predict(x, verbose=0) + random.normal(0, 0.05, (160, 1)).astype("float32")
    model.save(folder / "net.keras")
    np.savez(folder / "data.npz", x_calib=x[:40], x_eval=x[40:], y_eval=y[40:])
    (folder / "mine.py").write_text(FILE)


def sweep(folder: Path, **more: Any) -> Sweep:
    value = {
        "name": "bits",
        "model": "net.keras",
        "data": {"npz": "data.npz"},
        "strategy": "fsx",
        "axes": {"weight_bit": [8, 2]},
        **more,
    }
    return Sweep.from_dict(value, base_dir=folder)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of two sweeps of the same variants: by the task's metrics, and by one's own."""
    folder = tmp_path_factory.mktemp("regression")
    furnish(folder)
    for given in (sweep(folder), sweep(folder, name="own", metrics=[MINE, "mae"])):
        outcome = run_tracked(given, Store.at(folder / "runs"))
        assert not outcome.failed
        assert not outcome.untracked
    return folder


@pytest.mark.parametrize(("name", "metric"), [("bits", "mae"), ("own", "mine")])
def test_everything_names_the_metric_and_agrees_on_the_winner(ran: Path, name: str, metric: str) -> None:
    runs = ran / "runs"
    board = leaderboard(load_records(runs, name))
    values = {r.name: r.metrics[metric] for r in Store.at(runs).records(name)}
    winner = min(values, key=lambda run: values[run])
    assert winner == "fsx weight_bit=8"
    assert board["name"].tolist() == sorted(values, key=lambda run: values[run])
    assert board["best"].tolist() == [True, False]
    assert (board["metric"] == metric).all()
    assert (board["ci_low"] <= board["value"]).all()
    assert (board["value"] <= board["ci_high"]).all()
    told = recommend(board)
    assert told.row is not None
    assert told.row["name"] == winner
    page = write(runs, runs / f"{name}.html", name).read_text("utf-8")
    for text in (render(runs, name), told.sentence, page):
        assert metric in text
        assert "accura" not in text.replace("as accurate", "")
    view = vqkit.compare(runs, name)
    html = view.view.board()
    assert metric in html
    assert html.index(winner) < html.index("fsx weight_bit=2")


def test_weights_and_functions_that_ask_the_model_judge_a_sweep(ran: Path) -> None:
    arrays = dict(np.load(ran / "data.npz"))
    weights = np.random.default_rng(1).random(len(arrays["y_eval"]))
    np.savez(ran / "weighted.npz", **arrays, weights_eval=weights)
    metrics = ["mine.py:asked_error", {"function": "mine.py:scores", "key": "mean_error", "better": "lower"}, "r2"]
    given = sweep(ran, name="weighed", data={"npz": "weighted.npz"}, metrics=metrics)
    store = Store.at(ran / "weighed")
    outcome = run_tracked(given, store)
    assert not outcome.failed
    names = ["weighted_asked_error", "weighted_scores/mean_error", "weighted_scores/high_error", "weighted_r2"]
    for record in store.records("weighed"):
        assert [m["name"] for m in record.judged] == names
        own = record.metrics
        assert own["weighted_asked_error"] == pytest.approx(own["weighted_scores/mean_error"])
        assert own["weighted_asked_error_low"] < own["weighted_asked_error"] < own["weighted_asked_error_high"]
        kept = np.load(store.variant_dir(record.key) / "samples.npz")["samples"]
        assert own["weighted_asked_error"] == pytest.approx(kept[:, 0].sum() / kept[:, 1].sum())
    board = leaderboard(load_records(ran / "weighed", "weighed"))
    assert board["name"].tolist() == ["fsx weight_bit=8", "fsx weight_bit=2"]
    assert board["test"].tolist()[1] == "permutation"


def test_runs_without_labels_are_compared_with_the_float_model(ran: Path) -> None:
    """Images in folders, an autoencoder: what it gives is what the float one gave."""
    random = np.random.default_rng(0)
    for name in ("good", "odd"):
        (ran / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 256, (6, 6, 3), np.uint8)
            keras.utils.save_img(ran / "images" / name / f"{i}.png", pixels, scale=False)
    x = keras.Input((6, 6, 3))
    code = keras.layers.Conv2D(2, 3, padding="same", activation="relu")(keras.layers.Rescaling(1 / 255)(x))
    keras.Model(x, keras.layers.Conv2D(3, 3, padding="same")(code)).save(ran / "coder.keras")
    images = {"folder": "images", "image_size": [6, 6], "n_calib": 8}
    (ran / "none.py").write_text(
        "import vqkit\n\n\ndef images(ref):\n    data = vqkit.load_data(ref)\n"
        "    return {'x_calib': data.x_calib, 'x_eval': data.x_eval, 'y_eval': None}\n"
    )
    unlabelled = {"loader": "none.py:images", "args": {"ref": {**images, "folder": str(ran / "images")}}}
    store = Store.at(ran / "folders")
    wanted = {"anomalies": (images, "anomaly_auc"), "none": (unlabelled, "sqnr")}
    for name, (data, metric) in wanted.items():
        given = sweep(ran, name=name, model="coder.keras", data=data)
        resolved = resolve(given, store.cache)
        assert resolved.judged.startswith(f"judged by {metric} (higher is better)")
        outcome = run_tracked(resolved, store)
        assert not outcome.failed
        for record in store.records(name):
            assert record.measure.name == metric
            assert record.metrics[f"{metric}_low"] <= record.metrics[metric] <= record.metrics[f"{metric}_high"]
    board = leaderboard(load_records(store.root, "none"))
    assert board["name"].tolist() == ["fsx weight_bit=8", "fsx weight_bit=2"]
    assert board["test"].tolist()[1] == "permutation"


def test_the_store_of_mlflow_ranks_alike(ran: Path) -> None:
    from vqkit.runs.mlflow import Tracker

    records = Tracker.open(runs_dir=ran / "runs").records("own")
    board = leaderboard(to_frame(records))
    assert board["name"].tolist() == ["fsx weight_bit=8", "fsx weight_bit=2"]
    assert set(board["metric"]) == {"mine"}


def test_the_parent_run_in_mlflow_has_the_best_by_the_same_metric(ran: Path) -> None:
    from vqkit.runs.mlflow import Tracker

    sentence = publish(ran / "runs", "own").sentence
    tracker = Tracker.open(runs_dir=ran / "runs")
    (parent,) = tracker._search("tags.`vqkit.kind` = 'sweep' and tags.`vqkit.sweep` = 'own'")
    (winner,) = (r for r in Store.at(ran / "runs").records("own") if r.name == "fsx weight_bit=8")
    assert parent.data.metrics["best_mine"] == winner.metrics["mine"]
    assert parent.data.tags["vqkit.best_key"] == winner.key
    assert parent.data.tags["mlflow.note.content"] == sentence


def test_two_runs_are_told_apart_by_a_paired_test(ran: Path) -> None:
    keys = {r.name: r.key for r in Store.at(ran / "runs").records("bits")}
    text = str(difference(keys["fsx weight_bit=2"], keys["fsx weight_bit=8"], runs_dir=ran / "runs"))
    assert "By mae on 120 samples the difference is more than chance (permutation test" in text


def test_runs_by_another_metric_are_other_runs_in_another_table(ran: Path) -> None:
    board = leaderboard(load_records(ran / "runs"))
    assert len(board) == 4
    assert sorted(set(zip(board["group"], board["metric"], strict=True))) == [(0, "mae"), (1, "mine")]


def test_a_metric_that_changes_is_another_run(ran: Path, tmp_path: Path) -> None:
    before = resolve(sweep(ran, metrics=[MINE]), tmp_path).planned[0].variant
    (ran / "other").mkdir(exist_ok=True)
    (ran / "other" / "mine.py").write_text(FILE)
    moved = resolve(sweep(ran, metrics=[{**MINE, "function": "other/mine.py:worst"}]), tmp_path).planned[0].variant
    (ran / "other" / "mine.py").write_text(FILE.replace("max", "mean"))
    changed = resolve(sweep(ran, metrics=[{**MINE, "function": "other/mine.py:worst"}]), tmp_path).planned[0].variant
    assert before.key == moved.key != changed.key


def test_pictures_are_drawn_of_any_metric(ran: Path) -> None:
    frame = leaderboard(load_records(ran / "runs", "bits"))
    for draw in (plots.pareto, plots.leaderboard_bars, plots.marginal_effects, plots.parallel_coordinates):
        words = [t.get_text() for t in draw(frame).findobj(lambda artist: hasattr(artist, "get_text"))]
        assert any("mae" in w.lower() or "against float" in w for w in words)
        assert not any("accura" in w for w in words)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no direction": ({"metrics": ["mine.py:worst"]}, "which direction is better"),
    "an unknown one": ({"metrics": ["maee"]}, "did you mean 'mae'"),
    "no function": ({"metrics": ["mine.py:best"]}, "did you mean 'worst'|Allowed: worst"),
    "one for classes": ({"metrics": ["pixel_accuracy"]}, "the labels are no class numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_judge_is_refused_before_anything_runs(ran: Path, tmp_path: Path, name: str) -> None:
    more, said = REFUSED[name]
    with pytest.raises(DataError, match=said):
        resolve(sweep(ran, **more), tmp_path)


def test_a_metric_is_no_axis_and_constraints_name_one(ran: Path, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="it is no axis"):
        resolve(sweep(ran, axes={"metrics": [["mae"], ["rmse"]]}), tmp_path)
    with pytest.raises(SweepError, match=r"constraints.*'msae' is not allowed.*did you mean 'mae'"):
        resolve(sweep(ran, constraints={"msae": {"max": 1}}), tmp_path)


@pytest.mark.parametrize(("metric", "stated"), [("mae", None), ("mine", [MINE])])
def test_screening_goes_by_the_metric_and_its_direction(ran: Path, metric: str, stated: Any) -> None:
    runs, name = Store.at(ran / "runs"), f"screened-{metric}"
    outcome = run_tracked(sweep(ran, name=name, screen={"images": 60}, metrics=stated), runs, track=False)
    assert not outcome.failed
    eight, two = (
        next(v for v in runs.sweep(name)["screening"]["variants"] if v["name"] == f"fsx weight_bit={bits}")
        for bits in (8, 2)
    )
    assert (eight["kept"], two["kept"]) == (True, False)
    assert two["gain"] < 0
    assert two[metric] > eight[metric]


def test_a_run_outside_the_constraints_is_never_the_best(ran: Path) -> None:
    runs = ran / "runs"
    sizes = {r.name: r.metrics["size_bytes"] for r in Store.at(runs).records("bits")}
    cases: list[tuple[str, dict[str, Any], str | None]] = [
        ("small", {"size_bytes": {"max": sum(sizes.values()) / 2}}, "fsx weight_bit=2"),
        ("impossible", {"mae": {"max": 0.0}}, None),
    ]
    for name, constraints, wanted in cases:
        outcome = run_tracked(sweep(ran, name=name, constraints=constraints), Store.at(runs), track=False)
        assert not outcome.ran
        board = leaderboard(load_records(runs, name))
        assert board["name"].tolist() == ["fsx weight_bit=8", "fsx weight_bit=2"]
        assert board["best"].tolist() == [False, wanted is not None]
        told = recommend(board)
        if wanted is None:
            assert told.row is None
            assert "at most 0 wanted" in told.sentence
        else:
            assert told.row is not None
            assert told.row["name"] == wanted
            assert "1 of the 2 runs are outside the constraints" in told.sentence
        assert "outside" in render(runs, name)
        assert "outside" in write(runs, runs / f"{name}.html", name).read_text("utf-8")
        assert "outside" in vqkit.compare(runs, name).view.board()
