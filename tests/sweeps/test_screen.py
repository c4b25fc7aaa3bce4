"""Screening rules out what a bound rules out, says on how much, and never ranks parts beside wholes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from tests.support.pretend import resolved
from vqkit import statistics
from vqkit.comparison import leaderboard
from vqkit.errors import SweepError
from vqkit.execution import run_api
from vqkit.execution.runner import RunOptions, run_sweep
from vqkit.quantization import Data
from vqkit.runs.records import sentence
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.sweeps import screen
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep

NOTEBOOKS = Path(__file__).parents[1] / "support" / "notebooks"


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (7, 20), (20, 20), (990, 1000)])
def test_bounds_are_where_the_binomial_tail_says(hits, n):
    low, high = statistics.clopper_pearson(hits, n, error=0.01)
    assert low <= hits / n <= high
    if hits:
        assert binom.sf(hits - 1, n, low) == pytest.approx(0.01, rel=1e-9)
    if hits < n:
        assert binom.cdf(hits, n, high) == pytest.approx(0.01, rel=1e-9)
    assert (low == 0) == (hits == 0)
    assert (high == 1) == (hits == n)


def kept(folder: Path, right: np.ndarray) -> Path:
    """A run folder whose predictions are right where it is said."""
    folder.mkdir()
    np.savez(folder / "predictions.npz", predicted=right.astype(int), labels=np.ones(len(right), int))
    return folder


def test_the_bound_looks_only_at_images_on_which_the_runs_differ(tmp_path):
    right = np.arange(1000) < 900
    best, same = kept(tmp_path / "best", right), kept(tmp_path / "same", right)
    worse = kept(tmp_path / "worse", right & (np.arange(1000) >= 100))
    assert 0 < screen.gain_bound(same, best, (0.9, 0.9), 1000, 0.01) < 0.006
    paired = screen.gain_bound(worse, best, (0.8, 0.9), 1000, 0.01)
    apart = screen.gain_bound(tmp_path / "nothing", best, (0.8, 0.9), 1000, 0.01)
    assert -0.1 < paired < apart < -0.02


def test_the_best_is_rarely_ruled_out():
    """A hundred sweeps of ten variants, the best by little: the promise is 95 of them."""
    rng, lost = np.random.default_rng(0), 0
    truth = np.array([0.9, *np.linspace(0.85, 0.895, 9)])
    for _ in range(100):
        right = rng.random((10, 300)) < truth[:, None]
        best = right.mean(1).argmax()
        ours, theirs = int(np.sum(right[0] & ~right[best])), int(np.sum(right[best] & ~right[0]))
        high = statistics.clopper_pearson(ours, 300, error=0.05 / 9 / 2)[1]
        lost += high < statistics.clopper_pearson(theirs, 300, error=0.05 / 9 / 2)[0]
    assert lost <= 5


def finished(name: str, values: np.ndarray, better: str) -> RunRecord:
    judged = [{"name": name, "better": better, "unit": "plain"}]
    return RunRecord("k", "n", Status.FINISHED, {}, metrics={name: float(np.mean(values))}, judged=judged)


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_best_is_rarely_ruled_out_by_any_metric(better):
    """Thirty sweeps of ten variants, the best by little, whose values have a long tail."""
    rng, lost, out = np.random.default_rng(0), 0, 0
    scale = np.array([1.0, *np.linspace(1.05, 1.5, 9)])
    scale = 1 / scale if better == "higher" else scale
    for _ in range(30):
        values = rng.exponential(1, 300) * (scale[:, None] + 0.3 * rng.normal(size=(10, 300)))
        records = [finished("error", v, better) for v in values]
        best = max(range(10), key=lambda i: records[i].goodness)
        gains = [
            screen.gain_by(records[i], records[best], values[i][:, None], values[best][:, None], 0.05 / 9)
            for i in (0, 9)
        ]
        lost += best != 0 and gains[0] < 0
        out += gains[1] < 0
    assert lost <= 2
    assert out >= 27


def test_a_share_has_the_exact_bound_and_what_keeps_no_samples_that_of_its_intervals():
    right = (np.arange(1000) < 900)[:, None].astype(float)
    worse = right * (np.arange(1000) >= 100)[:, None]
    a, b = finished("exact_match", worse, "higher"), finished("exact_match", right, "higher")
    high = statistics.clopper_pearson(0, 1000, error=0.005)[1] - statistics.clopper_pearson(100, 1000, error=0.005)[0]
    assert screen.gain_by(a, b, worse, right, 0.01) == high
    assert screen.gain_by(a, b, None, None, 0.01) == np.inf
    for better, sign in (("higher", 1), ("lower", -1)):
        one, two = (finished("m", np.array([sign * value]), better) for value in (1.0, 3.0))
        for record in (one, two):
            value = record.metrics["m"]
            record.metrics.update(m_low=value - 0.5, m_high=value + 0.5)
        # Both intervals reach a half at 95 %, so that together they reach one.
        assert screen.gain_by(one, two, None, None, 0.05) == pytest.approx(-1)
        assert screen.gain_by(one, two, None, None, 0.01) > -1


def test_the_part_is_a_fixed_choice_over_the_whole_set():
    y = np.repeat(np.arange(10), 50)
    data = Data("sorted", np.zeros((4, 2), np.float32), np.arange(1000, dtype=np.float32).reshape(500, 2), y)
    part, again = run_api.some_of(data, 100), run_api.some_of(data, 100)
    assert part.digest == again.digest != data.digest
    assert part.n_eval == 100
    assert set(part.y_eval.tolist()) == set(range(10))
    np.testing.assert_array_equal(part.x_eval, again.x_eval)
    np.testing.assert_array_equal(part.x_eval[:, 0] // 2 // 50, part.y_eval)
    assert run_api.some_of(data, None) is data


def test_a_screening_of_everything_is_an_error():
    sweep = resolved({"name": "a"}, {"name": "b"})
    with pytest.raises(SweepError, match=r"/screen/images: 3 of 3 evaluation images is no screening"):
        screen.first_round(screened(sweep, 3))
    with pytest.raises(SweepError, match=r"imagse.*did you mean 'images'"):
        Sweep.from_dict({"name": "s", "model": "m", "data": "digits", "screen": {"images": 3, "imagse": 1}})


def screened(sweep, images):
    from dataclasses import replace

    return replace(sweep, sweep=sweep.sweep.with_screen(images))


def test_two_rounds_and_a_failure_in_the_first(tmp_path):
    runs = Store.at(tmp_path / "runs")
    sweep = screened(resolved({"name": "a"}, {"name": "b", "do": "fail"}, {"name": "c"}), 2)
    rounds = []
    outcome = run_sweep(sweep, runs, RunOptions(warm=False), announce=lambda told, n: rounds.append((told, n)))
    assert [(r.name, str(r.status)) for r in outcome.ran] == [
        ("a [2 images]", "FINISHED"),
        ("b [2 images]", "FAILED"),
        ("c [2 images]", "FINISHED"),
        ("a", "FINISHED"),
        ("c", "FINISHED"),
    ]
    how = "on 2 of 3 evaluation images, calibration float"
    assert rounds == [
        (f"Screening {how}; not yet decided.", 3),
        (
            f"Screened 3 variants {how}: 2 may be the best (confidence 0.95, margin 0.01) and are measured on "
            "all; 0 ruled out, 1 without a result.",
            2,
        ),
    ]
    assert not run_sweep(sweep, runs, RunOptions(warm=False)).ran


@pytest.mark.slow
def test_screening_a_real_model(tmp_path, quickstart_model_path):
    value = {
        "name": "s",
        "model": str(quickstart_model_path),
        "data": "digits",
        "strategy": "fsx",
        "axes": {"weight_bit": [8, 6, 3, 2]},
        "screen": {"images": 200},
    }
    runs = Store.at(tmp_path / "runs")
    sweep = resolve(Sweep.from_dict(value), runs.cache, notebook=NOTEBOOKS / "measures.ipynb")
    outcome = run_sweep(sweep, runs)
    assert {r.status for r in outcome.ran} == {Status.FINISHED}, [r.error for r in outcome.ran]
    listed = runs.sweep("s")
    judged = {v["name"]: v for v in listed["screening"]["variants"]}
    assert judged["fsx weight_bit=8"]["kept"]
    assert not judged["fsx weight_bit=2"]["kept"]
    assert judged["fsx weight_bit=2"]["gain"] < -0.01
    looked = [r for r in outcome.ran if r.inputs["eval_images"] == 200]
    assert {r.inputs["calibration"] for r in looked} == {"float"}
    assert len(looked) == 4
    whole = [r for r in outcome.ran if r.inputs["eval_images"] is None]
    assert {r.name for r in whole} == {name for name, v in judged.items() if v["kept"]}
    assert {r.inputs["calibration"] for r in whole} == {"quantized"}
    for record in outcome.ran:
        with np.load(runs.variant_dir(record.key) / "predictions.npz") as found:
            assert len(found["labels"]) == (record.inputs["eval_images"] or 597)
    table = leaderboard.leaderboard(leaderboard.load_records(runs.root, "s"))
    assert [set(g["n_eval"]) for _, g in table.groupby("group")] == [{597}, {200}]
    assert leaderboard.recommend(table).row["n_eval"] == 597
    text = leaderboard.render(runs.root, "s")
    assert "a random choice of 200 samples" in text
    assert sentence(listed).split(":")[0] in " ".join(text.split())
    assert not run_sweep(sweep, runs).ran
    assert json.loads((runs.sweep_dir("s") / "sweep.json").read_text()) == listed
