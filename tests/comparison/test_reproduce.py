"""A run can be repeated to the last bit, and a difference is found where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.system.robustness import tampering
from vqkit.comparison.reproduce import reproduce, tampered
from vqkit.errors import ModelError, RecordError
from vqkit.execution.runner import RunOptions, run_single
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import SETTINGS, Sweep


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, str]:
    """A small real run: folder of runs, key."""
    folder = tmp_path_factory.mktemp("reproduce")
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 2))
    y = keras.layers.Conv2D(4, 3, activation="relu")(x)
    keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(y))).save(folder / "net.keras")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(24, 8, 8, 2)).astype("float32")
    np.savez(folder / "data.npz", x_calib=images, x_eval=images, y_eval=rng.integers(0, 3, 24))
    value = {
        "name": "one",
        "model": "net.keras",
        "data": {"npz": "data.npz"},
        "mode": "list",
        "seed": 3,
        "strategy": "fsx",
        "variants": [{"weight_bit": 5}],
        "batch_size": 8,
    }
    runs = Store.at(folder / "runs")
    resolved = resolve(Sweep.from_dict(value, base_dir=folder), runs.cache)
    outcome = run_single(resolved, runs, RunOptions(warm=False))
    assert outcome.failed == [], outcome.failed[0].error
    return folder, outcome.ran[0].key


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_another_process_with_other_threads_gives_the_same(recorded, tmp_path, monkeypatch, threads):
    folder, key = recorded
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, str(threads))
    found = reproduce(folder / "runs", key[:8], into=tmp_path)
    assert found.inputs == ()
    assert found.same, str(found)
    assert "the same to the last bit" in str(found)
    assert found.again.parent == tmp_path / "variants"
    again = json.loads((found.again / "record.json").read_text())
    assert again["key"] == key
    assert again["pid"] != os.getpid()


@pytest.mark.slow
def test_what_differs_is_named(recorded, tmp_path):
    folder, key = recorded
    runs = tmp_path / "runs"
    source = folder / "runs" / "variants" / key
    target = runs / "variants" / key
    target.mkdir(parents=True)
    for name in (
        "record.json",
        "strategy.json",
        "plan.json",
        "encodings.json",
        "sqnr.json",
        "predictions.npz",
    ):
        (target / name).write_bytes((source / name).read_bytes())
    record = json.loads((target / "record.json").read_text())
    record["metrics"]["accuracy"] += 1e-9
    record["inputs"]["code"] = "0.0.1+older"
    (target / "record.json").write_text(json.dumps(record))
    encodings = json.loads((target / "encodings.json").read_text())
    name = next(iter(encodings))
    encodings[name]["f_max"] = 1.25
    (target / "encodings.json").write_text(json.dumps(encodings))
    found = reproduce(runs, key)
    assert not found.same
    assert {d[0] for d in found.results} == {"accuracy", f"encodings.json {name}"}
    assert [d[0] for d in found.inputs] == ["code"]
    assert {d[0] for d in found.tampered} == {"record", "key", "folder"}
    assert "not the same" in str(found)
    # The repetition is there now; another call does not take it for its own, whatever became of it.
    other = json.loads((found.again / "record.json").read_text())
    other["metrics"]["accuracy"] = record["metrics"]["accuracy"]
    (found.again / "record.json").write_text(json.dumps(other))
    (target / "predictions.npz").write_bytes((target / "predictions.npz").read_bytes()[:99])
    later = reproduce(runs, key)
    assert {"accuracy", "predictions.npz"} <= {d[0] for d in later.results}
    assert "predictions.npz: damaged: " in str(later)


def test_every_field_of_a_record_is_in_the_table_of_tamperings(recorded):
    folder, key = recorded
    whole = json.loads((folder / "runs" / "variants" / key / "record.json").read_text())
    found = set(tampering.fields(whole))
    stated = {*tampering.NOTICED, *tampering.HARMLESS}
    settings = {f"inputs/{name}" for name in SETTINGS} | {"inputs/metrics"}
    assert found - stated <= settings, "say in the table whether changing it is noticed"
    assert stated - found <= {"environment/switches", "environment/git"}


def test_each_tampering_is_noticed_or_harmless(recorded):
    folder, key = recorded
    run = folder / "runs" / "variants" / key
    again = RunRecord.read(run)
    assert list(tampered(again, again, run)) == []
    for field, plain, sealed, named in tampering.outcomes(run):
        assert "record" in plain, field
        assert "record" not in sealed
        if field in tampering.HARMLESS:
            assert sealed == [], (field, sealed)
        else:
            # Settings that the table does not name are in the key.
            assert tampering.NOTICED.get(field, "key") in sealed, (field, sealed)
        if field in tampering.ELSEWHERE:
            assert named == [field.rpartition("/")[2]]
    with pytest.raises(ValueError, match="FINISHED1"):
        Status("FINISHED1")


def test_a_record_of_an_older_version_counts_as_it_stands(recorded):
    folder, key = recorded
    run = folder / "runs" / "variants" / key
    again = RunRecord.read(run)
    older = RunRecord.from_json({k: v for k, v in again.written.items() if k != "digest"})
    assert list(tampered(older, again, run)) == []


@pytest.mark.parametrize("spelling", ["same", "dots", "link", "relative"])
def test_a_run_is_not_compared_with_itself(recorded, tmp_path, monkeypatch, spelling):
    folder, key = recorded
    (tmp_path / "link").symlink_to(folder / "runs")
    monkeypatch.chdir(folder)
    into = {
        "same": folder / "runs",
        "dots": folder / "runs" / ".." / "runs",
        "link": tmp_path / "link",
        "relative": Path("runs"),
    }[spelling]
    with pytest.raises(RecordError, match="holds the recorded run itself"):
        reproduce(folder / "runs", key, into=into)


def _copied(recorded, tmp_path, **changes):
    folder, key = recorded
    target = tmp_path / "variants" / key
    target.mkdir(parents=True)
    record = json.loads((folder / "runs" / "variants" / key / "record.json").read_text())
    record.update(changes)
    (target / "record.json").write_text(json.dumps(record))
    return target, key, record


def test_a_failed_run_and_a_lost_strategy_and_a_lost_model_are_errors(recorded, tmp_path):
    target, key, record = _copied(recorded, tmp_path, status="FAILED")
    with pytest.raises(RecordError, match="FAILED, only a finished run has a result to repeat"):
        reproduce(tmp_path, key)
    record["status"] = "FINISHED"
    (target / "record.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"strategy\.json: no such file"):
        reproduce(tmp_path, key)
    (target / "strategy.json").write_text("{}")
    record["inputs"]["model"]["ref"] = str(tmp_path / "gone.keras")
    (target / "record.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"gone\.keras"):
        reproduce(tmp_path, key)
