"""Tracking against real sqlite stores: one run per variant, whatever happens in between."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support import records as make
from tests.support.server import mlflow_server
from vqkit.comparison import leaderboard
from vqkit.comparison.publication import publish
from vqkit.errors import TrackingError
from vqkit.runs import mlflow as track
from vqkit.runs.mlflow import Tracker
from vqkit.runs.mlflow_tags import Tag
from vqkit.runs.tracking import rebuild


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database that mlflow has prepared once, because its migrations take seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Tracker.open(f"sqlite:///{path}", runs_dir=path.parent, experiment="prepared")
    return path


@pytest.fixture
def runs(tmp_path, migrated):
    shutil.copy(migrated, tmp_path / "mlflow.db")
    make.example(tmp_path)
    return tmp_path


def log_all(runs, uri=None):
    tracker = Tracker.open(uri, runs_dir=runs)
    sweep = json.loads((runs / "sweeps" / "quick" / "sweep.json").read_text())
    parent = tracker.start_sweep(sweep)
    ids = [tracker.log_variant(runs / "variants" / v["key"]) for v in sweep["variants"]]
    tracker.end_sweep()
    return tracker, parent, ids


def client_of(tracker):
    """mlflow's own view of the store."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracker.uri)


def all_runs(tracker):
    """Every active run in every experiment, so that a misfiled one is seen."""
    client = client_of(tracker)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, max_results=1000)


def content(tracker):
    """What the store holds, without the ids and folders that it makes up itself."""
    own = {Tag.PARENT}
    return sorted(
        (
            run.info.run_name,
            run.info.status,
            run.info.start_time if Tag.KEY in run.data.tags else None,
            run.info.end_time,
            sorted(run.data.params.items()),
            sorted(run.data.metrics.items()),
            sorted((k, v) for k, v in run.data.tags.items() if k not in own),
            sorted(str(i.dataset.to_dictionary()) + str(i.tags[0].value) for i in run.inputs.dataset_inputs),
            files(tracker, run.info.run_id),
        )
        for run in all_runs(tracker)
    )


def files(tracker, run_id, folder=None):
    listed = client_of(tracker).list_artifacts(run_id, folder)
    return sorted(p for a in listed for p in (files(tracker, run_id, a.path) if a.is_dir else [a.path]))


def test_mlflow_itself_finds_every_variant_with_its_strategy(runs):
    tracker, parent, _ = log_all(runs)
    found = _search(tracker.uri)
    assert len(found) == 6
    children = found[found["tags.mlflow.parentRunId"] == parent].set_index("tags.vqkit.key")
    assert len(children) == 5
    for made in (
        make.record("pof2s", {"weight_bit": 6}),
        make.record("fsx", {"weight_bit": 99}, status="FAILED"),
    ):
        run = children.loc[made["key"]]
        assert (run["params.strategy"], run["status"]) == (made["inputs"]["strategy"]["base"], made["status"])
        path = client_of(tracker).download_artifacts(run["run_id"], "strategy.json")
        with open(path) as f:
            assert json.load(f) == make.strategy(made)
    best = children.loc[make.record("pof2s")["key"]]
    np.testing.assert_array_equal(
        best[["metrics.accuracy", "metrics.size_bytes", "metrics.seconds_total"]].astype(float),
        [0.9733, 20_000, 6.25],
    )
    assert best["params.calibration"] == "quantized"


def _search(uri):
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        return mlflow.search_runs(experiment_names=[track.EXPERIMENT])
    finally:
        mlflow.set_tracking_uri(before)


def test_a_run_holds_status_times_dataset_files_and_environment(runs):
    tracker, _, ids = log_all(runs)
    good, failed = (client_of(tracker).get_run(ids[i]) for i in (0, 4))
    assert (good.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert (good.info.end_time - good.info.start_time) == 12_500
    assert files(tracker, ids[0]) == [
        "encodings.json",
        "notebook.ipynb",
        "plan.json",
        "plots/sqnr.png",
        "record.json",
        "sqnr.json",
        "strategy.json",
    ]
    assert "traceback.txt" in files(tracker, ids[4])
    contexts = {i.tags[0].value: i.dataset for i in good.inputs.dataset_inputs}
    assert set(contexts) == {"calibration", "evaluation"}
    assert (contexts["evaluation"].name, contexts["evaluation"].digest) == ("digits:evaluation", "d" * 16)
    assert json.loads(contexts["calibration"].profile) == {"num_rows": 100}
    assert good.data.tags["vqkit.env.tensorflow"] == "2.21.0"
    assert failed.data.tags[Tag.NOTE] == "FAILED: StrategyError in cell 3: bit_width 99"
    assert good.info.artifact_uri.startswith((runs / "mlartifacts").resolve().as_uri())


def test_the_parent_tells_what_became_of_the_sweep(runs):
    tracker, parent, _ = log_all(runs)
    run = client_of(tracker).get_run(parent)
    assert (run.info.run_name, run.info.status) == ("quick", "FINISHED")
    assert run.data.metrics == {"variants": 5, "finished": 4, "failed": 1, "killed": 0}
    assert files(tracker, parent) == ["sweep.json"]


def test_logging_everything_twice_changes_nothing(runs):
    first, _, ids = log_all(runs)
    before = content(first)
    second, _, again = log_all(runs)
    assert ids == again
    assert content(second) == before


def test_a_variant_of_two_sweeps_is_one_run_in_each(runs):
    tracker, _, ids = log_all(runs)
    made = make.record("pof2s")
    tracker.start_sweep(make.sweep(runs, "other", [made]))
    other = tracker.log_variant(runs / "variants" / made["key"])
    tracker.end_sweep()
    assert other not in ids
    assert [r.key for r in tracker.records("other")] == [made["key"]]
    assert len(tracker.records()) == 6


def test_a_run_without_a_sweep_has_no_parent(runs):
    tracker = Tracker.open(runs_dir=runs)
    run_id = tracker.log_variant(make.add(runs, make.record("fs", {"weight_bit": 7})))
    assert Tag.PARENT not in client_of(tracker).get_run(run_id).data.tags


def test_a_half_logged_run_is_completed(runs):
    """The store's artifact folder is in the way: logging breaks off after params and metrics."""
    (runs / "mlartifacts").write_text("in the way")
    tracker = Tracker.open(runs_dir=runs)
    run_dir = make.add(runs, make.record("fs", {"weight_bit": 7}, accuracy=0.9733))
    with pytest.raises(TrackingError, match=r"records are safe in .*`vqkit track .*` fills the store"):
        tracker.log_variant(run_dir)
    half = [r for r in all_runs(tracker) if Tag.KEY in r.data.tags]
    assert [(r.info.status, Tag.COMPLETE in r.data.tags) for r in half] == [("RUNNING", False)]
    (runs / "mlartifacts").unlink()
    assert tracker.log_variant(run_dir) == half[0].info.run_id
    done = client_of(tracker).get_run(half[0].info.run_id)
    assert (done.info.status, done.data.tags[Tag.COMPLETE]) == ("FINISHED", "true")
    assert "strategy.json" in files(tracker, done.info.run_id)
    history = client_of(tracker).get_metric_history(done.info.run_id, "accuracy")
    assert [m.value for m in history] == [0.9733]


def test_a_variant_that_ran_again_replaces_its_run(runs):
    tracker, _, ids = log_all(runs)
    key = make.record("fsx", {"weight_bit": 99}, status="FAILED")["key"]
    again = make.record("fsx", {"weight_bit": 99}, accuracy=0.5, sweep="quick")
    assert again["key"] == key
    make.write(runs / "variants" / key / "record.json", again)
    new = tracker.log_variant(runs / "variants" / key)
    assert new != ids[4]
    same = [r for r in all_runs(tracker) if r.data.tags.get(Tag.KEY) == key]
    assert [(r.info.run_id, r.info.status, r.data.metrics["accuracy"]) for r in same] == [(new, "FINISHED", 0.5)]


def test_a_listed_file_that_is_gone_or_outside_is_named_not_copied(runs):
    made = make.record("fs", {"weight_bit": 2}) | {"artifacts": {"plan": "gone.json", "strategy": "../../secret"}}
    (runs / "secret").write_text("x")
    tracker = Tracker.open(runs_dir=runs)
    run_id = tracker.log_variant(make.add(runs, made))
    assert client_of(tracker).get_run(run_id).data.tags[Tag.MISSING] == "gone.json, ../../secret"
    assert files(tracker, run_id) == ["plots/sqnr.png", "record.json"]


def test_the_store_is_rebuilt_identically_from_the_records(runs, tmp_path_factory, migrated):
    live, _, _ = log_all(runs)
    make.add(runs, make.record("fs", {"weight_bit": 7}))
    live.log_variant(runs / "variants" / make.record("fs", {"weight_bit": 7})["key"])
    (runs / "variants" / "torn").mkdir()
    (runs / "variants" / "torn" / "record.json").write_text("{")
    fresh = tmp_path_factory.mktemp("fresh") / "again.db"
    shutil.copy(migrated, fresh)
    rebuilt = rebuild(runs, f"sqlite:///{fresh}")
    assert len(rebuilt.runs) == 6
    assert len(rebuilt.problems) == 1
    assert "torn" in rebuilt.problems[0]
    copy = Tracker.open(f"sqlite:///{fresh}", runs_dir=runs)
    assert content(copy) == content(live)
    assert rebuild(runs, f"sqlite:///{fresh}").runs == rebuilt.runs


def test_the_leaderboard_from_mlflow_is_the_one_from_disk(runs):
    tracker, _, _ = log_all(runs)
    from_disk = leaderboard.leaderboard(leaderboard.load_records(runs, "quick"))
    from_store = leaderboard.leaderboard(leaderboard.to_frame(tracker.records("quick")))
    shown = ["name", "status", "accuracy", "size_bytes", "rank", "pareto", "strategy", "error", "calibration"]
    assert from_store[shown].to_json() == from_disk[shown].to_json()


def test_inputs_too_long_for_a_tag_come_from_the_artifact(runs):
    made = make.record("fs", {"ignore_layers": [f"layer_{i}" for i in range(2000)]})
    tracker = Tracker.open(runs_dir=runs)
    tracker.log_variant(make.add(runs, made))
    assert [r.inputs for r in tracker.records()] == [made["inputs"]]


def test_relative_sqlite_addresses_do_not_depend_on_where_a_kernel_runs(runs, monkeypatch):
    monkeypatch.chdir(runs)
    tracker = Tracker.open("sqlite:///mlflow.db", runs_dir=".")
    assert tracker.uri == f"sqlite:///{runs.resolve()}/mlflow.db" == track.default_uri(".")


def test_a_deleted_experiment_is_not_written_to(runs):
    tracker = Tracker.open(runs_dir=runs)
    client_of(tracker).delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match="experiment 'vqkit' was deleted"):
        Tracker.open(runs_dir=runs)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/no/such.db", "nonsense://x"])
def test_a_store_that_is_not_there_says_that_the_records_are_safe(runs, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"open: the tracking store .* refused: .*safe in"):
        Tracker.open(uri, runs_dir=runs)


def test_a_broken_database_says_so(runs):
    (runs / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(TrackingError, match="refused"):
        Tracker.open(runs_dir=runs)


def test_importing_the_module_imports_no_mlflow_and_opening_turns_telemetry_off(tmp_path):
    code = (
        "import os, sys; from vqkit.runs import mlflow as track; from vqkit.comparison import leaderboard\n"
        "assert 'mlflow' not in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
        "os.environ['DO_NOT_TRACK'] = '0'; track.client_class()\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled(), os.environ['DO_NOT_TRACK'])"
    )
    environment = {"PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=".")
    assert done.stdout.split() == ["True", "true"], done.stderr


RACE = """
import sys, json, pathlib
from vqkit.runs.mlflow import Tracker
runs = pathlib.Path(sys.argv[1])
sweep = json.loads((runs / "sweeps/quick/sweep.json").read_text())
tracker = Tracker.open(runs_dir=runs)
tracker.start_sweep(sweep)
print(json.dumps([tracker.log_variant(runs / "variants" / v["key"]) for v in sweep["variants"]]))
"""


@pytest.mark.slow
def test_processes_that_open_a_fresh_store_at_once_agree(tmp_path):
    make.example(tmp_path)
    command = [sys.executable, "-W", "error", "-c", RACE, str(tmp_path)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], told
    assert len({out for out, _ in told}) == 1
    assert not any("INFO" in err for _, err in told), told
    assert len(all_runs(Tracker.open(runs_dir=tmp_path))) == 6


@pytest.mark.slow
def test_a_server_holds_the_same_and_its_outage_loses_nothing(runs, tmp_path, monkeypatch):
    with mlflow_server(tmp_path / "server") as server:
        _check_server(runs, server, monkeypatch)


def _check_server(runs, server, monkeypatch):
    uri = server.uri
    remote, _, ids = log_all(runs, uri)
    local, _, _ = log_all(runs)
    assert content(remote) == content(local)
    assert log_all(runs, uri)[2] == ids
    assert len(_search(uri)) == 6
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.end(signal.SIGKILL)
    run_dir = make.add(runs, make.record("fs", {"weight_bit": 7}))
    with pytest.raises(TrackingError, match=r"variant .*127.0.0.1.* refused: .*vqkit track"):
        remote.log_variant(run_dir)
    assert len(rebuild(runs).runs) == 6


def test_an_experiment_is_one_of_runs_whoever_made_it(runs, monkeypatch):
    from mlflow import MlflowClient

    kind = "mlflow.experimentKind"
    made = Tracker.open(runs_dir=runs, experiment="ours")
    client = client_of(made)
    theirs = {name: client.create_experiment(name) for name in ("theirs", "agents")}
    client.set_experiment_tag(theirs["agents"], kind, "genai_development")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert Tracker.open(runs_dir=runs).experiment_id == theirs["theirs"]
    assert Tracker.open(runs_dir=runs, experiment="agents").experiment_id == theirs["agents"]
    found = {e.name: e.tags.get(kind) for e in MlflowClient(tracking_uri=made.uri).search_experiments()}
    classic = "custom_model_development"
    assert {name: found[name] for name in ("ours", "theirs", "agents")} == {
        "ours": classic,
        "theirs": classic,
        "agents": "genai_development",
    }


def test_the_parent_run_holds_what_came_of_the_sweep(runs):
    tracker, parent, ids = log_all(runs)
    advice = publish(runs, "quick")
    publish(runs, "quick")
    told = client_of(tracker).get_run(parent).data
    best = make.record("pof2s")
    assert told.metrics["best_accuracy"] == 0.9733
    assert told.metrics["variants"] == 5
    assert (told.tags[Tag.BEST_KEY], told.tags[Tag.BEST_NAME]) == (best["key"], "pof2s")
    assert told.tags[Tag.BEST] in ids
    assert told.tags[Tag.NOTE] == advice.sentence
    assert {"leaderboard.csv", "report.html", "sweep.json"} <= set(files(tracker, parent))
    path = client_of(tracker).download_artifacts(parent, "leaderboard.csv")
    with open(path) as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 5
    assert [r["key"] for r in rows if r["best"] == "True" and r["group"] == "0"] == [best["key"]]
