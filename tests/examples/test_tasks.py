"""The examples of many tasks: their data, nets, metrics and files, and the notebook that goes the whole way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nbformat import read
from typer.testing import CliRunner

import vqkit
from benchmarks.tasks import is_perfect, perfect, value
from vqkit.cli import app
from vqkit.errors import DataError
from vqkit.evaluation import metrics_of
from vqkit.examples import TASKS, detection, example, tasks
from vqkit.execution import papermill
from vqkit.quantization.data import Data
from vqkit.search.engine import Engine
from vqkit.sweeps.notebook import find
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep

# What decides, and what the task is taken for where the sweep does not state metrics.
JUDGED = {
    "segmentation": ("miou", "dense labels"),
    "detection": ("map", ""),
    "regression": ("mae", "regression"),
    "anomaly": ("anomaly_auc", ""),
    "forecast": ("mae", "regression"),
    "sequences": ("accuracy", "class numbers"),
    "binary": ("accuracy", "binary"),
    "multi_label": ("auc", "multi-label"),
    "two_answers": ("digit/accuracy", "single label"),
}


@pytest.mark.parametrize("name", TASKS)
def test_data_follow_from_the_seed_and_none_is_both_learnt_from_and_judged_by(name: str) -> None:
    judged, again, known = (TASKS[name].samples(40, seed) for seed in (1, 1, 0))
    assert judged.x.shape[0] == 40
    assert judged.x.dtype == np.float32
    np.testing.assert_array_equal(judged.x, again.x)
    assert not {x.tobytes() for x in judged.x} & {x.tobytes() for x in known.x}


@pytest.mark.parametrize("name", TASKS)
def test_predictions_that_are_right_are_perfect_and_those_of_a_fresh_net_are_not(name: str) -> None:
    task, net = TASKS[name], TASKS[name].net()
    samples = task.samples(150, 1)
    stated = task.metrics and metrics_of(list(task.metrics), Path(detection.__file__).parent)
    engine = Engine(net, Data(name, samples.x[:10], samples.x, samples.labels), metrics=stated)
    decides, taken_for = JUDGED[name]
    assert engine.metric.name == decides
    assert engine.task.startswith(taken_for)
    measure, right = engine.metric.measure, value(engine, perfect(name, samples))
    assert is_perfect(right, measure.better)
    assert measure.drop(engine.reference.value, right) > 0.02


def cells(*objects: tuple[float, int, float, float, float]) -> np.ndarray:
    """What a detector gives that sees objects: logit, kind, middle (x, y) in pixels and side in pixels."""
    grid = np.full((detection.CELLS, detection.CELLS, 5 + detection.KINDS), -9.0)
    for logit, kind, x, y, side in objects:
        column, row = x * detection.CELLS / detection.SIZE, y * detection.CELLS / detection.SIZE
        kinds = np.eye(detection.KINDS)[kind]
        extent = side / detection.SIZE
        grid[int(row), int(column)] = [logit, column - int(column), row - int(row), extent, extent, *kinds]
    return grid


def truth(*objects: tuple[int, float, float, float]) -> np.ndarray:
    found = np.full((2, 5), -1.0)
    for i, (kind, x, y, side) in enumerate(objects):
        found[i] = kind, x - side / 2, y - side / 2, x + side / 2, y + side / 2
    return found


def test_mean_average_precision_is_what_a_hand_computes() -> None:
    labels = np.stack([truth((0, 13, 20, 16), (2, 26, 5, 8)), truth((0, 10, 6, 8))])
    seen, last = (3, 0, 13, 20, 16), cells((1, 0, 10, 6, 8))
    both = cells(seen, (3, 2, 26, 5, 8))
    assert detection.mean_average_precision(np.stack([both, last]), labels) == 1.0
    # Kind 0: a hit, a false alarm, a hit: 1/2 x 1 + 1/2 x 2/3. Kind 2: its object is taken for kind 0, and missed.
    mixed = np.stack([cells(seen, (2, 0, 26, 5, 8)), last])
    assert detection.mean_average_precision(mixed, labels) == pytest.approx((5 / 6 + 0) / 2)
    # The same object once more, less certain: covered by the first at an overlap of 12 / 20, a false alarm at 9 / 23.
    for x, expected in ((17, 1.0), (20, (5 / 6 + 1) / 2)):
        twice = np.stack([cells(seen, (2, 0, x, 20, 16), (3, 2, 26, 5, 8)), last])
        assert detection.mean_average_precision(twice, labels) == pytest.approx(expected)


@pytest.mark.parametrize("name", TASKS)
def test_an_example_is_files_that_a_sweep_takes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASKS", {name: replace(TASKS[name], n=(100, 60), epochs=1)})
    sweep = example(name, tmp_path / "here")
    before = {p.name: p.stat().st_mtime_ns for p in sweep.parent.iterdir()}
    assert set(before) == {"model.keras", "data.npz", "sweep.yaml", *TASKS[name].files}
    assert example(name, tmp_path / "here") == sweep
    assert {p.name: p.stat().st_mtime_ns for p in sweep.parent.iterdir()} == before
    resolved = resolve(Sweep.load(sweep), tmp_path / "cache")
    assert len(resolved.planned) == 4
    assert not any(planned.same_as for planned in resolved.planned)


def test_training_follows_from_the_seed_and_leaves_the_callers_random_state() -> None:
    small = replace(TASKS["binary"], n=(100, 60), epochs=2)
    np.random.seed(3)
    expected = np.random.random(3)
    np.random.seed(3)
    one, other = (small.trained().get_weights() for _ in range(2))
    np.testing.assert_array_equal(np.random.random(3), expected)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_command_writes_an_example_and_says_what_to_do_next(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["example", "binary", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert f"vqkit sweep {tmp_path / 'b' / 'sweep.yaml'}" in done.output
    data = np.load(tmp_path / "b" / "data.npz")
    found = vqkit.evaluate(vqkit.load_model(tmp_path / "b" / "model.keras"), data["x_eval"], data["y_eval"])
    assert found.metrics["accuracy"] > 0.95


def test_an_example_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="segmentation"):
        example("segmentaton", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "binary"])
def test_the_notebook_goes_from_the_model_to_a_decision(task: str, tmp_path: Path) -> None:
    given = {"task": task, "folder": str(tmp_path / task), "runs_dir": str(tmp_path / "runs"), "minutes": 0.3}
    failure = papermill.execute(find("80_any_task.ipynb"), tmp_path / "out.ipynb", given)
    assert failure is None, failure
    cells = [c for c in read(tmp_path / "out.ipynb", as_version=4).cells if c.cell_type == "code"]
    told = ["".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in c.outputs) for c in cells]
    name = JUDGED[task][0]
    assert any(text.startswith(f"Judged by {name} (") for text in told)
    assert any(f"Sweep {task}: 4 finished" in text for text in told)
    assert told[-1].startswith("Use ")
    assert f", {name} " in told[-1]
    assert (tmp_path / task / "recommended" / "model.keras").is_file()
