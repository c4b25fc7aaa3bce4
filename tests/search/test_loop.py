"""Searches: reproducible, resumable after a kill, bounded, best always on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.counting import SPEC, Counting, searched
from vqkit import files
from vqkit.errors import SweepError
from vqkit.search.loop import front
from vqkit.search.spec import Search, params_of, point_of
from vqkit.search.study import Study

ROOT = Path(__file__).resolve().parents[2]


def numbers(found):
    return [(t.number, dict(t.point), t.values, t.reason, t.violations) for t in found.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted search of 16 trials."""
    return searched(tmp_path_factory.mktemp("whole"), 16, Counting())


def test_killed_and_taken_up_it_ends_the_same(whole, tmp_path):
    command = [sys.executable, "-m", "tests.support.counting", str(tmp_path), "16", "0.4"]
    child = subprocess.Popen(command, cwd=ROOT)
    best = tmp_path / "best.json"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (best.exists() and json.loads(best.read_text())["trials"] >= 6):
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = json.loads(best.read_text())
    assert 6 <= kept["trials"] < 16
    assert kept["best"]["metrics"]["accuracy"] > 0.3
    again = Counting()
    resumed = searched(tmp_path, 16, again)
    assert numbers(resumed) == numbers(whole)
    # What was told before the kill is not run again.
    assert len(again.asked) <= 16 - (kept["trials"] - 2)
    assert json.loads(best.read_text())["best"] == whole.to_json()["best"]


def test_a_longer_budget_goes_on(whole, tmp_path):
    searched(tmp_path, 7, Counting())
    assert numbers(searched(tmp_path, 16, Counting())) == numbers(whole)


def test_starts_come_first_failures_are_kept_and_constraints_count(whole):
    assert whole.trials[0].point == SPEC["start"][0]
    for t in whole.trials:
        assert (t.values is None) == (t.point["activation_bit"] == 3)
        assert t.reason == ("three is refused" if t.values is None else "")
        if t.values is not None:
            assert t.fits == (t.metrics["accuracy"] >= 0.3)
    assert whole.best in whole.front
    assert files.read_json(whole.folder / "best-strategy.json") == {"of": whole.best.key}


def test_other_seeds_try_other_points_and_all_samplers_search(tmp_path):
    found = {}
    for sampler in ("tpe", "nsga2", "random"):
        for seed in (0, 1):
            made = searched(tmp_path / f"{sampler}{seed}", 6, Counting(), sampler=sampler, seed=seed)
            found[sampler, seed] = [t.point for t in made.trials]
    assert all(found[s, 0] != found[s, 1] for s in ("tpe", "nsga2", "random"))


def test_the_front(whole):
    fits = [t for t in whole.trials if t.fits]
    on = front(fits, whole.search)
    for t in fits:
        beaten = any(o.values[0] >= t.values[0] and o.values[1] <= t.values[1] and o.values != t.values for o in fits)
        assert beaten == (t.values not in [o.values for o in on])


def test_importance_finds_the_keys_that_matter(whole):
    shares = Study(whole.search, whole.folder / "study.db").importances()
    assert set(shares) == {"accuracy", "size_bytes"}
    assert max(shares["size_bytes"], key=shares["size_bytes"].get) == "weight_bit"


def test_another_search_of_that_name_is_an_error(whole):
    with pytest.raises(SweepError, match="another search"):
        searched(whole.folder, 16, Counting(), seed=5)


def test_two_processes_do_not_search_at_once(tmp_path):
    with files.lock(tmp_path), pytest.raises(SweepError, match="another process"):
        searched(tmp_path, 4, Counting())


def test_minutes_end_a_search(tmp_path):
    found = searched(tmp_path, None, Counting(0.3), minutes=0.01)
    assert 2 <= len(found.trials) <= 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {}}, "nothing to search"),
        ({"axes": {"weight_bit": []}}, "holds no value"),
        ({"axes": {"weight_bit": {"low": 8, "high": 2}}}, "above high"),
        ({"objectives": ["acuracy"]}, "did you mean 'accuracy'"),
        ({"constraints": {"size": {"max": 1}}}, "size"),
        ({"trials": None}, "needs 'trials' or 'minutes'"),
        ({"start": [{"weight_bit": 9}]}, "cannot be 9"),
        ({"sampler": "cma"}, "sampler"),
    ],
)
def test_bad_files(change, message):
    with pytest.raises(SweepError, match=message):
        Search.from_dict({**SPEC, **change})


def test_points_and_parameters_are_inverse():
    spec = Search.from_dict(
        {**SPEC, "axes": {"input_layers": [None, ["a"]], "x": {"low": 0.5, "high": 2}}, "start": []}
    ).spec
    for point in ({"input_layers": None, "x": 1.5}, {"input_layers": ["a"], "x": 0.5}):
        assert point_of(spec, params_of(spec, point)) == point
