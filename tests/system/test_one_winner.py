"""One sweep file whose metric is a function of one's own: whatever ranks, searches or draws names the same winner."""

from __future__ import annotations

from pathlib import Path

import pytest

import vqkit
from tests.system.test_any_task import MINE, furnish, sweep
from vqkit.comparison.leaderboard import leaderboard, recommend
from vqkit.comparison.report import write
from vqkit.execution.runner import run_tracked
from vqkit.runs.records import load_records
from vqkit.runs.store import RunRecord, Store
from vqkit.search import Bounds, Engine, Search, advise, explain, mixed, search, sensitivity
from vqkit.search.recommend import deliver, record
from vqkit.search.recommend import write as write_advice
from vqkit.sweeps.settings import Settings

NAME, AXES = "own", {"weight_bit": [2, 8]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression and its data, with the runs of the sweep."""
    made = tmp_path_factory.mktemp("winner")
    furnish(made)
    outcome = run_tracked(sweep(made, name=NAME, axes=AXES, metrics=[MINE, "mae"]), Store.at(made / "runs"))
    assert not outcome.failed
    return made


@pytest.fixture(scope="module")
def winner(folder: Path) -> RunRecord:
    """The run with the smallest worst error."""
    return min(Store.at(folder / "runs").records(NAME), key=lambda r: r.metrics["mine"])


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    stated = {**MINE, "function": f"{folder / 'mine.py'}:worst"}
    model, data = vqkit.load_model(folder / "net.keras"), vqkit.load_data({"npz": str(folder / "data.npz")})
    return Engine(model, data, settings=Settings(metrics=[stated, "mae"]), cache=Store.at(folder / "runs").cache)


def test_the_leaderboard_the_report_and_the_widget(folder: Path, winner: RunRecord) -> None:
    runs = folder / "runs"
    board = leaderboard(load_records(runs, NAME))
    assert winner.name == board["name"][0] == "fsx weight_bit=8"
    told = recommend(board)
    assert told.row is not None
    assert told.row["key"] == winner.key
    report = write(runs, runs / "report.html", NAME).read_text("utf-8")
    assert told.sentence.split(",")[0] in report
    shown = vqkit.compare(runs, NAME).view.board()
    assert shown.index(winner.name) < shown.index("fsx weight_bit=2")


def test_the_search_runs_nothing_twice(folder: Path, winner: RunRecord) -> None:
    value = {"model": "net.keras", "data": {"npz": "data.npz"}, "strategy": "fsx", "metrics": [MINE, "mae"]}
    start = [{"weight_bit": b} for b in AXES["weight_bit"]]
    what = Search.from_dict({**value, "name": "found", "axes": AXES, "trials": 2, "start": start}, base_dir=folder)
    said: list[str] = []
    found = search(what, Store.at(folder / "runs"), say=said.append)
    assert said == ["Judged by mine (lower is better)"]
    assert found.search.spec.objectives == ["mine", "size_bytes"]
    assert {t.key for t in found.trials} == {r.key for r in Store.at(folder / "runs").records(NAME)}
    assert found.best is not None
    assert found.best.key == found.front[0].key == winner.key
    assert [t.metrics["mine"] for t in found.front] == sorted(t.metrics["mine"] for t in found.trials)


def test_sensitivity_and_mixed_precision(engine: Engine, winner: RunRecord) -> None:
    asked = sensitivity(engine.model, engine.data, "fsx", bits=(8, 2), kinds=("weights",), engine=engine)
    assert asked.float_value == winner.metrics["float_mine"]
    means = asked.table.groupby("bits")["mine"].mean()
    assert means[8] < means[2]
    front = mixed(engine, "fsx", bits=(8, 2), points=4, by="mine", uniform=(8, 2))
    best = front.best()
    assert best is not None
    assert best.measured.value == winner.metrics["mine"]
    assert dict(best.measured.metrics) == {name: winner.metrics[name] for name in ("mine", "mae")}
    assert set(best.bits.values()) == {"w8"}


def test_the_recommendation(folder: Path, engine: Engine, winner: RunRecord) -> None:
    runs = Store.at(folder / "runs")
    for run in runs.records(NAME):
        vqkit.Strategy.load(runs.variant_dir(run.key) / "strategy.json").dump(folder / f"{run.key}.json")
    files = [folder / f"{run.key}.json" for run in runs.records(NAME)]
    advice = advise(engine, engine, Bounds(), bits=(8,), points=1, strategies=files)
    assert advice.chosen is not None
    assert advice.chosen.measured.value == winner.metrics["mine"]
    assert "mine" in advice.sentence
    page = write_advice(advice, folder / "advice.html", "net").read_text("utf-8")
    assert "accura" not in advice.sentence + page
    done = deliver(advice, engine, folder / "best")
    key = record(done, str(folder / "net.keras"), {"npz": str(folder / "data.npz")}, runs, engine.settings)
    kept = runs.record(key)
    assert kept is not None
    assert kept.measure.name == "mine"
    assert kept.metrics["mine"] == winner.metrics["mine"]


def test_why_one_of_them_is_better(folder: Path, winner: RunRecord) -> None:
    other = next(r for r in Store.at(folder / "runs").records(NAME) if r.key != winner.key)
    why = explain(other.key, winner.key, runs=folder / "runs")
    (share,) = why.shares
    assert share.points == pytest.approx(winner.metrics["mine"] - other.metrics["mine"])
    assert share.points < 0
    assert "(mine)" in str(why)
