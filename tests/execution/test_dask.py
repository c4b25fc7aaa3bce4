"""What a Dask cluster must have; tests/robustness kills one of its workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cluster import dask_cluster
from tests.support.pretend import resolved
from vqkit.errors import SweepError
from vqkit.execution.runner import RunOptions, run_sweep
from vqkit.runs.store import Store


def on_disk(folder, *variants):
    """The sweep with a model file that all processes see."""
    (folder / "m.keras").write_bytes(b"a model")
    return replace(resolved(*variants), model_file=folder / "m.keras")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_a_cluster_lacks_is_said_before_anything_runs(tmp_path, monkeypatch):
    runs, sweep = Store.at(tmp_path / "runs"), on_disk(tmp_path, {"name": "a", "do": "fail"}, {"name": "b"})
    with pytest.raises(SweepError, match=r"--dask tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        run_sweep(sweep, runs, RunOptions(cluster="tcp://127.0.0.1:9"))
    with dask_cluster(tmp_path / "dask", 1) as (file, _):
        # A path that means something here and nothing in the worker's folder.
        monkeypatch.chdir(tmp_path)
        private = replace(sweep, model_file=Path("m.keras"))
        with pytest.raises(SweepError, match=r"the model is None, here it is '\w+'\. runs/, model, data"):
            run_sweep(private, runs, RunOptions(warm=False, cluster=str(file)))
        assert runs.records() == []
        outcome = run_sweep(sweep, runs, RunOptions(warm=False, fail_fast=True, cluster=str(file)))
        assert (outcome.ran[0].name, outcome.ran[0].error["type"]) == ("a", "ValueError")
