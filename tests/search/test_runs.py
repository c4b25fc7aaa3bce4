"""A search over real runs: records like a sweep's, and nothing twice."""

from __future__ import annotations

import pytest

from vqkit.execution.runner import run_sweep
from vqkit.files import read_json
from vqkit.runs.records import load_records
from vqkit.runs.store import Store
from vqkit.search import Search, explain, search
from vqkit.search.attribution import patch_between
from vqkit.strategy import Strategy
from vqkit.sweeps.spec import Sweep


@pytest.mark.slow
def test_trials_are_the_runs_of_a_sweep(tmp_path, quickstart_model_path):
    runs = Store.at(tmp_path / "runs")
    shared = {
        "model": str(quickstart_model_path),
        "data": "digits",
        "strategy": "fsx",
        "sqnr_images": 10,
        "steps": 2,
    }
    bits = [8, 2]
    what = Search.from_dict(
        {
            **shared,
            "name": "bits",
            "axes": {"weight_bit": bits},
            "trials": 2,
            "screen": 200,
            "constraints": {"accuracy_delta": {"min": -0.05}},
            "start": [{"weight_bit": b} for b in bits],
        }
    )
    seen = []
    found = search(what, runs, notify=seen.append)
    good, poor = found.trials
    assert good.fits
    assert poor.screened
    assert not poor.fits
    assert [r.key for r in seen] == [good.key]
    assert found.best == good
    folder = runs.root / "searches" / "bits"
    best = Strategy.load(folder / "best-strategy.json")
    assert best == Strategy.builtin("fsx").with_kwargs(weight_bit=8)
    assert read_json(folder / "best.json")["best"]["key"] == good.key
    frame = load_records(runs.root, "bits")
    assert list(frame["key"]) == [good.key]
    assert frame["bit_operations"][0] > frame["macs"][0] > 0

    sweep = Sweep.from_dict({**shared, "name": "grid", "axes": {"weight_bit": bits}})
    outcome = run_sweep(sweep, runs)
    assert [r.key for r in outcome.skipped] == [good.key]
    assert len(outcome.ran) == 1

    other = outcome.ran[0]
    why = explain(good.key, other.key, runs=runs.root)
    (share,) = why.shares
    assert share.what == "weight_bit"
    assert share.points == pytest.approx(other.metrics["accuracy"] - good.metrics["accuracy"])
    assert [o["value"] for o in patch_between(good.key, other.key, runs=runs.root)] == [2]
