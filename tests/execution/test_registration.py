"""A registered model, loaded by mlflow alone in a fresh process, gives the simulation's outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from tests.support.server import mlflow_server
from vqkit.errors import TrackingError
from vqkit.evaluation import predict
from vqkit.execution.requantize import of_run
from vqkit.execution.runner import run_tracked
from vqkit.export.files import write_saved_model
from vqkit.runs.pyfunc import CALL, SAVED_MODEL, ServedModel
from vqkit.runs.registry import Registry
from vqkit.runs.store import RunRecord, Store
from vqkit.sweeps.spec import Sweep

LOADED = """
import sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
x = np.load(sys.argv[3])["x_eval"]
np.save(sys.argv[4], model.predict(x))
example = model.input_example
assert example.shape == (1, *x.shape[1:]), example.shape
assert model.predict(example).shape[0] == 1
assert [str(t.type) for t in model.metadata.signature.inputs] == ["float32"]
assert not [name for name in sys.modules if name.split(".")[0] == "vqkit"]
"""


def sweep(folder: Path, **more: Any) -> Sweep:
    value = {"name": "bits", "model": "net.keras", "data": {"npz": "data.npz"}, "axes": {"weight_bit": [8, 4]}}
    return Sweep.from_dict({**value, **more}, base_dir=folder)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of a small classifier."""
    folder = tmp_path_factory.mktemp("registered")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(6, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Softmax()])
    model.save(folder / "net.keras")
    x = np.random.default_rng(0).normal(size=(250, 8, 8, 1)).astype("float32")
    np.savez(folder / "data.npz", x_calib=x[:40], x_eval=x[40:], y_eval=predict(model, x[40:]).argmax(-1))
    outcome = run_tracked(sweep(folder), Store.at(folder / "runs"), experiment="small nets")
    assert not outcome.failed
    assert not outcome.untracked
    return folder


def loaded_elsewhere(uri: str, address: str, folder: Path) -> np.ndarray:
    """What `mlflow.pyfunc.load_model` gives in a process of its own, in another folder."""
    out, elsewhere = folder / "out.npy", folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", LOADED, uri, address, str(folder / "data.npz"), str(out)]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.asarray(np.load(out))


def test_a_fresh_process_gives_the_simulation_s_outputs(ran: Path) -> None:
    runs, uri = ran / "runs", f"sqlite:///{ran / 'runs' / 'mlflow.db'}"
    address = vqkit.register("pof2s weight_bit=4", "bits", runs, experiment="small nets")
    assert address == "models:/bits/1"
    quantized = of_run("pof2s weight_bit=4", runs)
    with np.load(ran / "data.npz") as data:
        x = data["x_eval"]
    expected = predict(quantized, x)
    np.testing.assert_array_equal(loaded_elsewhere(uri, address, ran), expected)
    assert not np.array_equal(expected, predict(of_run("pof2s weight_bit=8", runs), x))


def test_a_registered_model_tells_where_it_comes_from(ran: Path) -> None:
    runs = ran / "runs"
    address = vqkit.register("pof2s weight_bit=8", "origin", runs, experiment="small nets")
    assert vqkit.register("pof2s weight_bit=8", "origin", runs, experiment="small nets") == address
    assert vqkit.register("pof2s weight_bit=4", "origin", runs, experiment="small nets") == "models:/origin/2"
    registry = Registry.open(runs_dir=runs, experiment="small nets")
    first = registry._client.get_model_version("origin", "1")
    key = RunRecord.read(Store.at(runs).find("pof2s weight_bit=8")).key
    assert first.tags["vqkit.key"] == key
    run = registry._client.get_run(first.run_id)
    assert run.data.tags["vqkit.key"] == key
    (logged,) = run.outputs.model_outputs
    assert registry._client.get_logged_model(logged.model_id).artifact_location == first.source
    path = Path(registry._client.download_artifacts(first.run_id, "record.json"))
    assert json.loads(path.read_text("utf-8"))["key"] == key
    with pytest.raises(TrackingError, match="register a/b:c: the tracking store"):
        vqkit.register(key, "a/b:c", runs, experiment="small nets")


@pytest.mark.slow
def test_a_sweep_registers_its_winner_on_a_server(ran: Path, tmp_path: Path) -> None:
    """The command line, a real mlflow server, and an experiment that the environment names."""
    value = sweep(ran).spec.model_dump(mode="json")
    (ran / "bits.json").write_text(json.dumps(value))
    with mlflow_server(tmp_path / "server") as server:
        args = ["sweep", str(ran / "bits.json"), "--runs", str(ran / "runs"), "--register", "winner"]
        env = {**os.environ, "MLFLOW_EXPERIMENT_NAME": "by name", "MLFLOW_TRACKING_URI": server.uri}
        command = [sys.executable, "-m", "vqkit.cli", *args, "--tracking-uri", server.uri]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        address, name = done.stdout.splitlines()[-1].split(": ")
        assert address == "models:/winner/1"
        with np.load(ran / "data.npz") as data:
            expected = predict(of_run(name, ran / "runs"), data["x_eval"])
        np.testing.assert_array_equal(loaded_elsewhere(server.uri, address, ran), expected)
        registry = Registry.open(server.uri, runs_dir=ran / "runs", experiment="by name")
        parent = next(iter(registry._search("tags.`vqkit.kind` = 'sweep'")))
        assert parent.data.tags["mlflow.note.content"].startswith(f"Use {name}: accuracy")


def test_several_inputs_and_outputs_have_names(tmp_path: Path) -> None:
    from vqkit.execution.registration import described

    keras.utils.set_random_seed(0)
    a, b = keras.Input((4,), name="a", batch_size=16), keras.Input((3,), name="b", batch_size=16)
    shared = keras.layers.Dense(5, activation="relu")(keras.layers.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, [keras.layers.Dense(2)(shared), keras.layers.Dense(1)(shared)])
    random = np.random.default_rng(0)
    x = {"a": random.normal(size=(40, 4)).astype("float32"), "b": random.normal(size=(40, 3)).astype("float32")}
    quantized = vqkit.quantize(model, "pof2s", {k: v[:32] for k, v in x.items()})
    write_saved_model(quantized, tmp_path / SAVED_MODEL)
    made = described(quantized, tmp_path / SAVED_MODEL, x)
    (tmp_path / CALL).write_text(json.dumps(made.call))
    found = ServedModel(tmp_path).predict(x)
    for given, expected in zip(found.values(), predict(quantized, x), strict=True):
        np.testing.assert_array_equal(given, expected)
    assert made.inputs == {"a": ("float32", (-1, 4)), "b": ("float32", (-1, 3))}
    assert list(made.outputs) == list(found) == ["output_0", "output_1"]
    assert {k: v.shape for k, v in made.example.items()} == {"a": (1, 4), "b": (1, 3)}
