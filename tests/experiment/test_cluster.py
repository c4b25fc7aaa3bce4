"""A sweep on a Dask cluster: real processes, one of which is killed; and what a cluster must have."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.experiment.cluster import dask_cluster
from tests.experiment.pretend import diary, resolved
from tests.experiment.test_track import server  # noqa: F401
from vqkit.errors import SweepError
from vqkit.experiment.runner import Options, run_sweep
from vqkit.experiment.session import Session
from vqkit.experiment.store import Status, Store

VARIANTS = tuple({"name": f"v{i}", "sleep": 1.5} for i in range(8))


def on_disk(folder, *variants):
    """The sweep with a model file that all processes see."""
    (folder / "m.keras").write_bytes(b"a model")
    return replace(resolved(*variants), model_file=folder / "m.keras")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_killed_worker_loses_nothing_and_all_runs_land_in_one_server(tmp_path, server):  # noqa: F811
    uri, _ = server
    runs, sweep = Store.at(tmp_path / "runs"), on_disk(tmp_path, *VARIANTS)
    session = Session(runs, uri, sweep.to_json(), print)
    with dask_cluster(tmp_path / "dask") as (file, workers):

        def notify(record) -> None:
            session.log(record)
            if len(seen) == 1:
                workers[0].kill()
            seen.append(record.name)

        seen: list[str] = []
        outcome = run_sweep(sweep, runs, Options(warm=None, cluster=str(file)), notify=notify)
        session.close()
        assert workers[0].wait(10) != 0
        assert workers[1].poll() is None
        assert not [p for p in psutil.Process(workers[1].pid).children() if p.status() != "zombie"]
        names = sorted(v["name"] for v in VARIANTS)
        assert sorted(seen) == names
        assert {r.status for r in outcome.ran} == {Status.FINISHED}
        assert sorted(r.name for r in runs.records("s")) == names
        ends = Counter(line for line in diary(runs.root) if line.startswith("end"))
        assert ends == {f"end {name}": 1 for name in names}
        # What the dead worker had begun was begun again, and nothing else.
        begun = Counter(line for line in diary(runs.root) if line.startswith("begin"))
        assert sum(begun.values()) <= len(names) + 1
        assert len({r.pid for r in outcome.ran}) == 2
        again = run_sweep(sweep, runs, Options(warm=None, cluster=str(file)))
        assert (again.ran, len(again.skipped)) == ([], len(names))
    assert session.problem is None
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "vqkit"]
    logged = client.search_runs([experiment.experiment_id])
    keys = Counter(r.data.tags["vqkit.key"] for r in logged if r.data.tags["vqkit.kind"] == "variant")
    assert keys == {p.variant.key: 1 for p in sweep.planned}
    assert {r.info.status for r in logged} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_a_cluster_lacks_is_said_before_anything_runs(tmp_path, monkeypatch):
    runs, sweep = Store.at(tmp_path / "runs"), on_disk(tmp_path, {"name": "a", "do": "fail"}, {"name": "b"})
    with pytest.raises(SweepError, match=r"--dask tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        run_sweep(sweep, runs, Options(cluster="tcp://127.0.0.1:9"))
    with dask_cluster(tmp_path / "dask", 1) as (file, _):
        # A path that means something here and nothing in the worker's folder.
        monkeypatch.chdir(tmp_path)
        private = replace(sweep, model_file=Path("m.keras"))
        with pytest.raises(SweepError, match=r"the model is None, here it is '\w+'\. runs/, model, data"):
            run_sweep(private, runs, Options(warm=None, cluster=str(file)))
        assert runs.records() == []
        outcome = run_sweep(sweep, runs, Options(warm=None, fail_fast=True, cluster=str(file)))
        assert (outcome.ran[0].name, outcome.ran[0].error["type"]) == ("a", "ValueError")
