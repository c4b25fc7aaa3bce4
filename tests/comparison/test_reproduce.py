"""A run can be repeated to the last bit, and a difference is found where there is one."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from vqkit.comparison.reproduce import reproduce, tampered
from vqkit.errors import ModelError, RecordError
from vqkit.execution.runner import RunOptions, run_single
from vqkit.runs.store import RunRecord, Store
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep


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


TAMPERED = {
    "name": ("name", "another", "record"),
    "metrics": ("metrics", {"accuracy": 1.0}, "record"),
    "error": ("error", {"type": "x"}, "record"),
    "overrides": ("overrides", {"weight_bit": 7}, "base and overrides"),
    "base": ("strategy", "pof2s", "base and overrides"),
    "seed": ("seed", 4, "key"),
    "strategy digest": ("strategy digest", "0" * 16, "strategy.json"),
    "environment": ("tensorflow", "1.0", "environment tensorflow"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_record_that_was_changed_is_noticed(recorded, tmp_path, name):
    """Also by somebody who computed its digest again; a name and an error then fit as well."""
    where, value, told = TAMPERED[name]
    target, key, written = _copied(recorded, tmp_path)
    shutil.copy(recorded[0] / "runs" / "variants" / key / "strategy.json", target)
    again = RunRecord.from_json(copy.deepcopy(written))
    if where == "overrides" or where == "seed":
        written["inputs"][where] = value
    elif where == "strategy":
        written["inputs"]["strategy"]["base"] = value
    elif where == "strategy digest":
        written["inputs"]["strategy"]["digest"] = value
    elif where == "tensorflow":
        written["environment"][where] = value
    else:
        written[where] = value
    changed = RunRecord.from_json(written)
    found = [t[0] for t in tampered(changed, again, target)]
    assert {"record", told} <= set(found)
    sealed = [t[0] for t in tampered(RunRecord.from_json(changed.to_json()), again, target)]
    assert "record" not in sealed
    assert (told in sealed) == (told != "record")
    whole = again.to_json()
    assert list(tampered(RunRecord.from_json(whole), again, target)) == []
    # A record of an older version has no digest of its own.
    older = RunRecord.from_json({k: v for k, v in whole.items() if k != "digest"})
    assert list(tampered(older, again, target)) == []


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
