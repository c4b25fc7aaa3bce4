"""A damaged file of one run is told by its name, and takes nothing else down."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vqkit as vq
from tests.support import records as make
from tests.support.damage import DAMAGES
from vqkit.comparison import leaderboard, report
from vqkit.errors import RecordError, VqkitError
from vqkit.execution.attempt import adopted
from vqkit.files import read_json, write_json
from vqkit.runs.records import answers, correct, load_records
from vqkit.runs.store import RunRecord, Status, Store

FILES = (
    "record.json",
    "predictions.npz",
    "plan.json",
    "encodings.json",
    "result.json",
    "strategy.json",
    "sqnr.json",
)
# What the two ends of a file do not tell; whoever reads the file itself does.
BY_ITS_ENDS = ("cut", "empty", "garbage", "folder", "dangling", "missing")


def missing(path: Path) -> None:
    """Deleted."""
    path.unlink()


EVERY: tuple[Callable[[Path], None], ...] = (*DAMAGES, missing)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Three runs with all their files; the first is the most accurate."""
    runs = tmp_path_factory.mktemp("whole")
    model = {"ref": str(runs / "gone.keras"), "digest": "m" * 16}
    some = ((8, 0.96), (6, 0.955), (4, 0.95))
    made = [make.record("pof2s", {"weight_bit": b}, accuracy=a, model=model) for b, a in some]
    for one in made:
        kept = {"predictions": "predictions.npz", **one["artifacts"]}
        right = range(int(450 * one["metrics"]["accuracy"]))
        folder = make.add(runs, {**one, "artifacts": kept}, right=right)
        write_json(folder / "result.json", {"key": one["key"], "attempt": "", "metrics": one["metrics"]})
    return runs, made[0], made[1]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", EVERY, ids=lambda d: d.__name__)
def test_every_file_may_be_damaged_in_every_way(
    whole: Any, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    source, a, b = whole
    runs = tmp_path / "runs"
    shutil.copytree(source, runs)
    path = runs / "variants" / a["key"] / name
    damage(path)
    board = str(leaderboard.Leaderboard(leaderboard.leaderboard(load_records(runs))))
    assert b["name"] in board
    if name == "record.json":
        broken = f"BROKEN   {a['key']} [{a['key']}]: RecordError: " in board and f"{path}: " in board
        assert broken or damage.__name__ == "flipped"
        return
    # A result that was taken into its record is of no use any more.
    if damage.__name__ in BY_ITS_ENDS and not (name == "result.json" and not path.exists()):
        assert f"{a['name']} [{a['key']}] {path}: " in board.split("Damaged files:")[1]
    both = str(leaderboard.difference(runs / "variants" / a["key"], b["key"], runs_dir=runs))
    if damage.__name__ in ("cut", "empty", "garbage", "folder") and name in ("predictions.npz", "plan.json"):
        assert str(path) in "".join(both.split("Damaged files, left out")[1].split())


@pytest.mark.parametrize("name", ["sqnr.json", "predictions.npz", "record.json"])
def test_the_page_and_the_widget_tell_it_too(whole: Any, tmp_path: Path, name: str) -> None:
    source, a, b = whole
    shutil.copytree(source, tmp_path / "runs")
    path = tmp_path / "runs" / "variants" / a["key"] / name
    path.write_bytes(path.read_bytes()[:40])
    page = report.write(tmp_path / "runs", tmp_path / "report.html").read_text()
    shown = vq.compare(tmp_path / "runs").html()
    for text in (page, shown):
        assert b["name"] in text
        assert str(path) in text


def test_a_record_of_another_shape_is_no_record(whole: Any, tmp_path: Path) -> None:
    source, a, _ = whole
    shutil.copytree(source, tmp_path / "runs")
    path = tmp_path / "runs" / "variants" / a["key"] / "record.json"
    value = read_json(path)
    odd = [{**value, k: [1]} for k in ("inputs", "metrics", "status")]
    for other in ([], 3, {"key": 3, "status": "FINISHED"}, *odd):
        write_json(path, other)
        board = str(leaderboard.Leaderboard(leaderboard.leaderboard(load_records(tmp_path / "runs"))))
        assert f"BROKEN   {a['key']}" in board
        assert str(path) in " ".join(board.split())
        with pytest.raises(RecordError, match=r"record\.json"):
            Store.at(tmp_path / "runs").record(a["key"])


@pytest.mark.parametrize(
    "content", ["[]", "3", "{}", '{"variants": 3}', '{"variants": [3]}', '{"variants": [{}]}', "{"]
)
def test_a_damaged_sweep_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sweeps" / "s" / "sweep.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(RecordError, match=r"s/sweep\.json"):
        Store(tmp_path).records("s")


@pytest.mark.parametrize("damage", EVERY, ids=lambda d: d.__name__)
def test_a_damaged_result_is_not_taken_for_one(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = Store.at(tmp_path)
    record = RunRecord("k", "n", Status.KILLED, {}, attempt="1")
    store.write(record)
    write_json(store.variant_dir("k") / "notebook.ipynb", {})
    path = store.variant_dir("k") / "result.json"
    write_json(path, {"key": "k", "attempt": "1", "metrics": {"accuracy": 0.5}})
    damage(path)
    found = adopted(store, record)
    # One bit may be another in a number, and nothing can tell.
    assert found is None or damage.__name__ == "flipped"


@pytest.mark.parametrize("name", ["record.json", "strategy.json", "encodings.json"])
@pytest.mark.parametrize("damage", EVERY, ids=lambda d: d.__name__)
def test_export_and_reproduce_refuse_in_words(
    whole: Any, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    from vqkit.comparison.reproduce import reproduce
    from vqkit.execution.requantize import of_run

    source, a, _ = whole
    shutil.copytree(source, tmp_path / "runs")
    damage(tmp_path / "runs" / "variants" / a["key"] / name)
    # The model of these made-up records is not to be had, which is the last thing to be noticed.
    for ask in (lambda: of_run(a["key"], tmp_path / "runs"), lambda: reproduce(tmp_path / "runs", a["key"])):
        with warnings.catch_warnings(), pytest.raises(VqkitError):
            ask()


def test_predictions_of_another_shape_are_none(tmp_path: Path) -> None:
    for predicted, labels in ((np.zeros((3, 2)), np.zeros((3, 2))), (np.zeros(3), np.zeros(4))):
        np.savez(tmp_path / "predictions.npz", predicted=predicted, labels=labels)
        assert correct(tmp_path) is None
        with pytest.raises(RecordError, match="do not fit"):
            answers(tmp_path)


@pytest.mark.parametrize("content", ["3", "[null, 3]", '{"other": 1}'])
def test_what_is_no_strategy_is_neither_explained_nor_patched(whole: Any, tmp_path: Path, content: str) -> None:
    from vqkit.search.attribution import explain, patch_between

    source, a, b = whole
    shutil.copytree(source, tmp_path / "runs")
    path = tmp_path / "runs" / "variants" / a["key"] / "strategy.json"
    path.write_text(content)
    for ask in (explain, patch_between):
        with pytest.raises(VqkitError, match=rf"{a['key']}/strategy\.json"):
            ask(a["key"], b["key"], runs=tmp_path / "runs")
