"""A trained variant: its section is checked, it is recorded as any other, its thresholds are tracked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vqkit.errors import SweepError
from vqkit.execution.runner import run_sweep
from vqkit.runs.mlflow_tags import threshold_metrics
from vqkit.runs.store import Store
from vqkit.sweeps.qat import quantized_by
from vqkit.sweeps.quickstart import quickstart_data, quickstart_model
from vqkit.sweeps.resolve import settings_of
from vqkit.sweeps.spec import Sweep, title
from vqkit.sweeps.variant import Settings

QAT = {"epochs": 2, "learning_rate": 1e-3, "threshold_factor": 30.0, "log_every": 4}


def sweep(**changes: object) -> Sweep:
    given = {"name": "t", "model": "quickstart", "data": "digits", "strategy": "pof2s_tqt", **changes}
    return Sweep.from_dict(given)


def test_training_is_a_setting_and_an_axis():
    plain, trained = sweep(axes={"qat": [None, {"epochs": 3}]}).points()
    spec = sweep(axes={"qat": [None, {"epochs": 3}]}).spec
    assert settings_of(spec, plain).qat is None
    found = settings_of(spec, trained).qat
    assert (found["epochs"], found["loss"], found["batch_size"]) == (3, "distillation", 32)
    assert settings_of(sweep(qat={"epochs": 3}).spec, {}).qat == found
    assert title(trained, "pof2s_tqt") == "pof2s_tqt qat=epochs:3"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"epoch": 3}, "epoch"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"loss": "kl"}, "'kl' is not allowed"),
        ({"learning_rate": -1.0}, "greater than 0"),
    ],
)
def test_a_section_that_says_nothing_sensible_is_refused(given, problem):
    with pytest.raises(SweepError, match=problem):
        sweep(qat=given)
    with pytest.raises(SweepError, match=problem):
        settings_of(sweep(axes={"qat": [given]}).spec, {"qat": given})


@pytest.mark.slow
def test_a_trained_variant_is_run_recorded_and_tracked_like_any_other(tmp_path, quickstart_model_path):
    from vqkit.runs.tracking import rebuild

    runs = Store.at(tmp_path)
    runs.cache.mkdir()
    shutil.copy(quickstart_model_path, runs.cache)
    given = sweep(strategy="pof2s", axes={"qat": [None, QAT]})
    given = Sweep.from_dict({**given.spec.model_dump(mode="json"), "axes": {"qat": [None, QAT], "weight_bit": [4]}})
    outcome = run_sweep(given, runs)
    assert [r.status for r in outcome.ran] == ["FINISHED", "FINISHED"], outcome.failed
    plain, trained = outcome.ran
    assert trained.inputs["qat"]["epochs"] == 2
    assert plain.key != trained.key
    assert trained.metrics["accuracy"] > plain.metrics["accuracy"]
    assert "thresholds" in trained.artifacts
    assert "thresholds" not in plain.artifacts
    folder = runs.variant_dir(trained.key)
    logged = list(threshold_metrics(folder))
    assert {step for _, _, step in logged} >= {0, 4, 8, 12}
    assert list(threshold_metrics(runs.variant_dir(plain.key))) == []

    import mlflow

    assert rebuild(tmp_path).problems == ()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vqkit")
    found = client.search_runs([experiment.experiment_id], "params.`qat.epochs` = '2'")
    assert len(found) == 1
    name = next(n for n, _, _ in logged if n.startswith("position/"))
    history = {m.step: m.value for m in client.get_metric_history(found[0].info.run_id, name)}
    assert history == {step: value for n, value, step in logged if n == name}

    settings = Settings(qat=trained.inputs["qat"])
    settings.set_seeds()
    from vqkit.sweeps.source import load_model
    from vqkit.sweeps.variant import build_strategy

    net = load_model(quickstart_model(runs.cache))
    again = quantized_by(settings, net, build_strategy("pof2s", {"weight_bit": 4}), quickstart_data())
    recorded = json.loads(Path(folder, "encodings.json").read_text())
    assert {k: v.to_json() for k, v in again.encodings.items()} == recorded
    assert np.isfinite(trained.metrics["sqnr_output_db"])
