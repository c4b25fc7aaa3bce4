"""Notebooks of one's own as what runs each variant: they declare what they use, and record by one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from tests.system.test_any_task import furnish
from vqkit import run_api
from vqkit.comparison.leaderboard import leaderboard
from vqkit.comparison.reproduce import reproduce
from vqkit.errors import DataError, SweepError
from vqkit.execution.runner import run_tracked
from vqkit.runs.records import load_records
from vqkit.runs.store import Status, Store
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep
from vqkit.sweeps.variant import build_strategy

BODY = """
import numpy as np
import vqkit as vq

net, images = vq.load_model(model), vq.load_data(data)
quantized = vq.quantize(net, vq.build_strategy("fsx", {"weight_bit": weight_bit}), images.x_calib)
errors = np.abs(quantized.model.predict(images.x_eval, verbose=0) - images.y_eval)[:, 0] > tolerance
vq.run_api.record_metrics(
    {"outside": errors.mean(), "largest": 3.0}, better="lower", unit="percent", samples=errors, quantized=quantized
)
"""


def notebook(folder: Path, parameters: str, body: str = BODY, name: str = "mine.ipynb") -> Path:
    book = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    book.cells = [nbformat.v4.new_markdown_cell("# Mine"), first, nbformat.v4.new_code_cell(body)]
    nbformat.write(book, folder / name)
    return folder / name


def sweep(folder: Path, **more: Any) -> Sweep:
    value = {"name": "own", "model": "net.keras", "data": {"npz": "data.npz"}, "notebook": "mine.ipynb", **more}
    return Sweep.from_dict(value, base_dir=folder)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    furnish(folder)
    notebook(folder, 'model = ""\ndata = ""\nweight_bit = 8\ntolerance = 0.1')
    return folder


@pytest.mark.slow
def test_a_notebook_that_declares_little_is_swept_ranked_and_reproduced(here: Path) -> None:
    given = sweep(here, strategy="fsx", axes={"weight_bit": [8, 2], "tolerance": [0.05, 0.4]})
    with pytest.raises(SweepError, match=r"'strategy' has no effect: mine\.ipynb declares neither 'strategy'"):
        resolve(given, here / "cache")
    body = BODY.replace('"fsx"', "strategy")
    notebook(here, 'model = ""\ndata = ""\nstrategy = ""\nweight_bit = 8\ntolerance = 0.1', body)
    resolved = resolve(given, here / "cache")
    assert resolved.unheard == ("name", "key", "overrides", "settings", "run_dir", "cache")
    runs = Store.at(here / "runs")
    outcome = run_tracked(resolved, runs)
    assert [r.error for r in outcome.failed] == []
    assert not outcome.untracked
    records = {(r.inputs["overrides"]["weight_bit"], r.inputs["parameters"]["tolerance"]): r for r in outcome.ran}
    assert len(records) == len({r.key for r in outcome.ran}) == 4
    assert all(
        r.metrics["outside"] <= records[2, r.inputs["parameters"]["tolerance"]].metrics["outside"] for r in outcome.ran
    )
    assert records[8, 0.4].metrics["outside"] < records[2, 0.05].metrics["outside"]
    assert all(r.metrics["size_bytes"] < r.metrics["float_size_bytes"] for r in outcome.ran)
    board = leaderboard(load_records(here / "runs", "own"))
    assert board.iloc[0]["metric"] == "outside"
    assert board.iloc[0]["value"] == min(r.metrics["outside"] for r in outcome.ran)
    assert {"override.weight_bit", "override.tolerance"} <= set(board.columns)
    again = reproduce(here / "runs", records[2, 0.05].key)
    assert again.inputs == again.results == again.tampered == ()


@pytest.mark.slow
def test_a_notebook_that_quantizes_with_something_else_fails_and_says_so(here: Path) -> None:
    notebook(here, 'model = ""\ndata = ""\nweight_bit = 8\ntolerance = 0.1', BODY.replace('"fsx"', '"fs"'), "fs.ipynb")
    given = sweep(here, notebook="fs.ipynb", mode="list", variants=[{"weight_bit": 4}])
    (record,) = run_tracked(given, Store.at(here / "elsewhere"), track=False).ran
    assert record.status is Status.FAILED
    used = build_strategy("fs", {"weight_bit": 4}).digest
    assert record.error is not None
    assert f"quantized with strategy {used}, the run stands for" in record.error["message"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"axes": {"tolerence": [1, 2]}}, "'tolerence' is no key of the strategy.*did you mean 'tolerance'"),
        ({"parameters": {"tolerence": 1}}, "did you mean 'tolerance'"),
        ({"parameters": {"model": 1}}, "parameter of mine.ipynb"),
        (
            {"axes": {"activation_bit": [8, 4]}},
            "'activation_bit' has no effect: mine.ipynb declares neither 'overrides'",
        ),
        ({"axes": {"calibration": ["float"]}}, "'calibration' has no effect"),
        ({"steps": 1}, "'steps' has no effect: mine.ipynb declares neither 'settings' nor 'steps'"),
        ({"notebook": "yours.ipynb"}, "yours.ipynb"),
    ],
)
def test_what_cannot_reach_the_notebook_is_told_before_anything_runs(
    here: Path, more: dict[str, Any], told: str
) -> None:
    notebook(here, 'model = ""\ndata = ""\nweight_bit = 8\ntolerance = 0.1')
    with pytest.raises((SweepError, DataError, Exception), match=told):
        resolve(sweep(here, **more), here / "cache")


def test_parameters_are_defaults_of_axes_and_change_the_key(here: Path) -> None:
    notebook(here, 'model = ""\ndata = ""\nweight_bit = 8\ntolerance = 0.1')
    keys = {}
    for name, more in {
        "none": {},
        "stated": {"parameters": {"tolerance": 0.3}},
        "axis": {"parameters": {"tolerance": 0.1}, "axes": {"tolerance": [0.3]}},
    }.items():
        (planned,) = resolve(sweep(here, **more), here / "cache").planned
        keys[name] = planned.variant.key
    assert keys["stated"] == keys["axis"] != keys["none"]


@pytest.mark.parametrize(
    ("metrics", "more", "told"),
    [
        ({}, {}, "no metric is given"),
        ({"mae": float("nan")}, {}, "'mae' is nan"),
        ({"thing": 1.0}, {}, "which direction is better"),
        ({"mae": 1.0}, {"samples": [1.0, 2.0]}, "their mean is 1.5, the metric 1"),
        ({"mae": 1.0}, {"samples": [[1.0], [1.0]]}, r"given shape \(2, 1\)"),
        ({"rmse": 1.0}, {"samples": [1.0, 1.0]}, "it is no mean over samples"),
    ],
)
def test_numbers_that_cannot_decide_are_told(metrics: dict[str, float], more: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        run_api.record_metrics(metrics, **more)


def test_tried_by_hand_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(run_api.RUN_DIR, raising=False)
    values = np.linspace(0, 1, 11)
    found = run_api.record_metrics({"share": 0.5, "float_share": 0.75}, better="higher", samples=values)
    assert found["share_delta"] == -0.25
    assert 0.2 < found["share_low"] < 0.5 < found["share_high"] < 0.8
    assert list(tmp_path.iterdir()) == []
