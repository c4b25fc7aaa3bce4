"""The bench without a page: every change is a new strategy, and what is shown is what is used."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import StrategyError
from vqkit.execution.in_memory import CancelledError
from vqkit.files import UnwritableError
from vqkit.quantization import make_plan
from vqkit.quantization.data import Data
from vqkit.quantization.plan import Role
from vqkit.runs.store import Store
from vqkit.strategy import Strategy
from vqkit.strategy.scope import Scope
from vqkit.widgets.explorer_state import Exploration


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.build("residual")


@pytest.fixture(scope="module")
def data(model: Any) -> Data:
    x = zoo.batch(model, 24)
    labels = np.asarray(model(x)).reshape(24, -1).argmax(-1)
    return Data("random", x_calib=x[:16], x_eval=x, y_eval=labels, ref="random")


@pytest.fixture
def work(model: Any, data: Data) -> Exploration:
    return Exploration(model, data)


def kernel(work: Exploration) -> Any:
    return next(r for r in work.plan.quantized if r.role is Role.WEIGHT)


def same_as_planned_anew(work: Exploration, model: Any) -> None:
    assert work.plan.to_json() == make_plan(work.strategy, model).to_json()


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize(("param", "value"), [("bit_width", 4), ("method", "PERCENTILE"), ("per_channel", True)])
def test_a_change_makes_a_new_strategy_and_plan(
    work: Exploration, model: Any, scope: Scope, param: str, value: Any
) -> None:
    before, row = work.strategy, kernel(work)
    costs = work.state.costs
    changed = work.set(row, param, value, scope)
    assert row.name in [r.name for r in changed]
    after = getattr(work.plan[row.name].spec, param)
    assert getattr(after, "name", after) == value
    same_as_planned_anew(work, model)
    untouched = set(costs) - {r.name for r in changed}
    assert all(work.state.costs[name] is costs[name] for name in untouched)
    assert work.undo()
    assert work.strategy is before
    assert not work.undo()
    assert work.redo()
    assert not work.redo()


def test_a_new_change_forgets_what_was_undone(work: Exploration) -> None:
    work.set(kernel(work), "bit_width", 4, Scope.MODEL)
    work.undo()
    work.set(kernel(work), "bit_width", 5, Scope.MODEL)
    assert not work.can_redo
    assert work.strategy.overrides() == {"weight_bit": 5}


def test_left_float_and_back(work: Exploration, model: Any) -> None:
    row = kernel(work)
    work.set(row, "left_float", True, Scope.TENSOR)
    assert work.plan[row.name].spec is None
    assert work.look(work.plan[row.name]) is None
    same_as_planned_anew(work, model)
    work.set(work.plan[row.name], "left_float", False, Scope.TENSOR)
    assert work.plan[row.name].spec == row.spec


def test_an_edited_layer_type_gives_way_too(work: Exploration, model: Any) -> None:
    row = kernel(work)
    work.set(row, "bit_width", 5, Scope.TYPE)
    changed = work.set(row, "bit_width", 6, Scope.MODEL, replace=True)
    assert row.name in [r.name for r in changed]
    assert work.strategy.overrides() == {"weight_bit": 6}
    same_as_planned_anew(work, model)


def test_what_does_not_fit_changes_nothing(work: Exploration) -> None:
    before = work.state
    with pytest.raises(StrategyError):
        work.set(kernel(work), "bit_width", 99, Scope.MODEL)
    with pytest.raises(StrategyError):
        work.use(Strategy.builtin("pof2s").with_kwargs(ignore_layers=["no_such_layer"]))
    assert work.state is before
    assert not work.can_undo


def test_another_graph_is_prepared_anew(work: Exploration, model: Any) -> None:
    graph = work.state.prepared.graph
    work.use(work.strategy.with_kwargs(include_cle=False))
    assert work.state.prepared.graph is not graph
    same_as_planned_anew(work, model)


def test_inputs_and_activations_have_their_own_rules(work: Exploration, model: Any) -> None:
    for role in (Role.INPUT, Role.ACTIVATION, Role.BIAS):
        row = next(r for r in work.plan.quantized if r.role is role)
        for scope in Scope:
            assert row.name in [r.name for r in work.set(row, "bit_width", 6, scope)]
            same_as_planned_anew(work, model)
            work.undo()


def test_pictures_have_what_they_need(work: Exploration) -> None:
    row = kernel(work)
    look = work.look(row)
    assert look is not None
    assert look.values.shape == look.quantized.shape
    steps = np.unique(np.round(look.quantized / look.qparams.scale))
    assert len(steps) <= 256
    assert look.curve.chosen == row.spec.method.name
    assert work.look(row).curve is look.curve  # type: ignore[union-attr]


def test_evaluate_save_track(work: Exploration, tmp_path: Path) -> None:
    work.set(kernel(work), "bit_width", 4, Scope.MODEL)
    with pytest.raises(StrategyError, match="evaluate"):
        work.track(tmp_path / "runs")
    told: list[tuple[float, str]] = []
    trial = work.evaluate(lambda share, words: told.append((share, words)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert trial.scores is not None
    assert trial.scores.float_metrics["accuracy"] == 1.0
    assert 0 <= trial.scores.quantized.metrics["accuracy"] <= 1
    assert work.trial is trial

    file = work.save(tmp_path / "mine.json")
    assert json.loads(file.read_text()) == work.strategy.dump()
    assert Strategy.load(file) == trial.quantized.strategy
    with pytest.raises(StrategyError, match=r"\.json"):
        work.save(tmp_path / "mine.txt")
    with pytest.raises(UnwritableError, match="cannot be written"):
        work.save(tmp_path / "mine.json" / "below a file.json")

    key = work.track(tmp_path / "runs")
    assert work.track(tmp_path / "runs") == key
    runs = Store.at(tmp_path / "runs")
    record = runs.record(key)
    assert record is not None
    assert record.metrics["accuracy"] == trial.scores.quantized.metrics["accuracy"]
    assert Strategy.load(runs.variant_dir(key) / "strategy.json") == work.strategy
    from vqkit.runs.mlflow import Tracker

    assert [r.key for r in Tracker.open(runs_dir=runs.root).records()] == [key]

    work.undo()
    assert work.trial is None  # the result belongs to the strategy it was measured with


def test_evaluating_can_be_stopped(work: Exploration) -> None:
    stop = threading.Event()
    told: list[str] = []

    def tell(_: float, words: str) -> None:
        told.append(words)
        if words == "calibrating":
            stop.set()

    with pytest.raises(CancelledError, match=r"calibrating|evaluating"):
        work.evaluate(tell, stop)
    assert work.trial is None
    assert "done" not in told


def test_calibration_inputs_alone_give_noise_but_no_score(model: Any, data: Data, tmp_path: Path) -> None:
    work = Exploration(model, data.x_calib)
    trial = work.evaluate()
    assert trial.scores is None
    assert len(trial.sqnr) > len(work.plan.quantized)
    with pytest.raises(Exception, match="labelled"):
        work.track(tmp_path)
