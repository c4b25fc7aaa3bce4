"""Records and sweeps survive a kill at any moment and say what is wrong with a broken file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import records as make
from vqkit import files
from vqkit.errors import RecordError
from vqkit.runs import store as st
from vqkit.runs.records import load_records
from vqkit.runs.store import RunRecord, Status, Store


def record(key: str = "k1", **changes) -> RunRecord:
    return RunRecord(key, "pof2s weight_bit=4", Status.RUNNING, {"seed": 0}, started=st.now()).with_(**changes)


def test_a_record_survives_the_disk(tmp_path):
    store = Store.at(tmp_path)
    done = record(status=Status.FINISHED, metrics={"accuracy": 0.5}, sweep="s", artifacts={"plan": "plan.json"})
    path = store.write(done)
    assert store.record("k1") == done
    assert json.loads(path.read_text())["schema"] == 1
    assert json.loads(path.read_text())["status"] == "FINISHED"
    assert store.record("unknown") is None


def test_records_come_by_key_and_those_of_a_sweep_in_its_order_with_what_has_not_begun(tmp_path):
    store = Store.at(tmp_path)
    for key, started in [("b", "2026-01-02"), ("a", "2026-01-03"), ("c", "2026-01-01")]:
        store.write(record(key, started=started))
    assert [r.key for r in store.records()] == ["a", "b", "c"]
    store.write_sweep({"name": "s", "variants": [{"key": "a"}, {"key": "missing"}, {"key": "b"}]})
    listed = store.records("s")
    assert [(r.key, r.status) for r in listed] == [("a", "RUNNING"), ("missing", "PENDING"), ("b", "RUNNING")]
    with pytest.raises(RecordError, match="a PENDING record is never written"):
        store.write(listed[1])
    assert store.sweeps() == ["s"]
    with pytest.raises(RecordError, match=r"sweep 't' is not allowed.*Allowed: s"):
        store.sweep("t")


def test_broken_records_are_named(tmp_path):
    store = Store.at(tmp_path)
    path = store.write(record())
    good = json.loads(path.read_text())
    for bad, message in [
        ("{", "cannot be read"),
        (json.dumps({**good, "schema": 2}), "schema 2 is not allowed"),
        (json.dumps({**good, "status": "DONE"}), "'DONE' is not a valid Status"),
        (json.dumps({**good, "status": "PENDING"}), "'PENDING' is not a valid Status"),
        (json.dumps({**good, "started": "yesterday"}), "Invalid isoformat string"),
        (json.dumps({**good, "notes": 3}), "'notes' is no list"),
        (json.dumps({**good, "colour": 1}), "colour"),
        (json.dumps({**good, "key": "k2"}), "belongs to k2, not to k1"),
    ]:
        path.write_text(bad)
        with pytest.raises(RecordError, match=message):
            store.record("k1")
        if "k2" not in bad:
            (listed,) = store.records()
            assert (listed.key, listed.status) == ("k1", Status.BROKEN)
            assert message.replace("\\", "") in listed.error["message"]
            with pytest.raises(RecordError, match="never written"):
                store.write(listed)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_killed_process_frees_its_lock(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom vqkit.files import lock\n"
        "with lock(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "held\n"
        assert files.process_alive(p.pid)
        with files.lock(tmp_path, wait=False) as held:
            assert not held
        os.kill(p.pid, signal.SIGKILL)
        began = time.monotonic()
        with files.lock(tmp_path) as held:
            assert held
        assert time.monotonic() - began < 30
    assert not files.process_alive(p.pid)


@pytest.mark.slow
def test_readers_never_see_half_a_record(tmp_path):
    """A writer is killed while it rewrites one file without pause; the file is whole each time."""
    path = tmp_path / "r.json"
    code = (
        "import sys\nfrom vqkit.files import write_json\n"
        "for i in range(10**9): write_json(sys.argv[1], {'i': i, 'text': 'x' * 100_000})"
    )
    for _ in range(3):
        p = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists():
            time.sleep(0.01)
        for _ in range(20):
            assert len(files.read_json(path)["text"]) == 100_000
            time.sleep(0.002)
        p.kill()
        p.wait()
        assert len(files.read_json(path)["text"]) == 100_000


def test_an_object_store_is_no_folder_for_runs():
    with pytest.raises(RecordError, match=r"runs: 's3:/bucket/runs' is an address, not a folder"):
        Store.at(Path("s3://bucket/runs"))


IMPOSSIBLE = {
    "more than all": ({"accuracy": 7}, "no share between 0 and 1"),
    "less than none": ({"float_accuracy": -0.1}, "no share between 0 and 1"),
    "infinity": ({"accuracy": float("inf")}, "no finite number"),
    "signal without strength": ({"sqnr_output_db": -float("inf")}, "no finite number"),
    "no number": ({"accuracy": float("nan")}, "no finite number"),
    "more than a float holds": ({"seconds_total": 10**400}, "no finite number"),
    "text": ({"accuracy": "0.9"}, "no finite number"),
    "truth": ({"accuracy": True}, "no finite number"),
    "negative size": ({"size_bytes": -1}, "less than nothing"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_numbers_that_cannot_be_are_no_result(tmp_path: Path, name: str) -> None:
    metrics, why = IMPOSSIBLE[name]
    made = make.record()
    made["metrics"] |= metrics
    folder = tmp_path / "variants" / made["key"]
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(made))
    (found,) = Store.at(tmp_path).records()
    assert found.status is Status.BROKEN
    assert why in found.error["message"]
    assert str(folder / "record.json") in found.error["message"]


def test_metrics_of_one_s_own_may_be_any_number(tmp_path: Path) -> None:
    judged = [{"name": "error", "better": "lower", "unit": "plain"}]
    record = RunRecord("k", "n", Status.FINISHED, {}, metrics={"error": -7.5, "accuracy": 12.0}, judged=judged)
    Store.at(tmp_path).write(record)
    assert RunRecord.read(tmp_path / "variants" / "k").metrics == record.metrics


def test_a_record_that_was_changed_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "variants" / "k"
    Store.at(tmp_path).write(RunRecord("k", "n", Status.FINISHED, {}, metrics={"accuracy": 0.5}))
    assert load_records(tmp_path)["damaged"].tolist() == [""]
    path = folder / "record.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    assert load_records(tmp_path)["damaged"].tolist() == [f"{path}: was changed after the run"]
