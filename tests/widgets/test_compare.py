"""The comparison: what it shows is read from its HTML, and what is chosen reaches every part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vqkit as vq
from tests.support import records as make
from tests.support.hand import having, part, press, told
from vqkit import plots
from vqkit.errors import RecordError, TrackingError
from vqkit.runs import mlflow
from vqkit.runs.tracking import Reader, rebuild
from vqkit.widgets.compare import Compare

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make.example(tmp_path)
    return tmp_path


def names(html: str) -> list[str]:
    """Runs of a leaderboard, in order."""
    return re.findall(r"<tr data-key='[^']*'[^>]*><td[^>]*>[^<]*</td><td>([^<]*)</td>", html)


def key(bench: Compare, name: str) -> str:
    return bench.view.runs.run(name).key


def test_the_board_ranks_filters_and_sorts(runs: Path) -> None:
    view = vq.compare(runs, "quick").view
    assert names(view.board())[:2] == ["pof2s", "pof2s weight_bit=6"]
    assert names(view.board())[-1] == "fsx weight_bit=99"
    view.words = "weight_bit pof2s"
    assert names(view.board()) == ["pof2s weight_bit=6", "pof2s weight_bit=3"]
    view.words, view.sorted_by = "", "size_bytes"
    assert names(view.board())[0] == "pof2s weight_bit=3"
    view.front_only = True
    shown = names(view.board())
    assert "fsx weight_bit=99" not in shown
    assert len(shown) == view.runs.frame["pareto"].sum()
    view.words = "nothing like it"
    assert "No run fits the filter" in view.board()


def test_every_run_can_be_chosen_in_the_pictures(runs: Path) -> None:
    view = vq.compare(runs).view
    for html in (view.pareto(), view.parallel()):
        assert set(re.findall(r"data-key='([^']+)'", html)) == set(view.runs.frame["key"])
        assert "aria-label='fsx weight_bit=99: failed'" in html
        assert html.count("<title>") == len(view.runs.frame)


def test_the_chosen_run_shows_numbers_strategy_and_notebook(runs: Path) -> None:
    bench = vq.compare(runs)
    bench.view.chosen = key(bench, "fs weight_bit=4 weight_per_channel=true")
    html = bench.view.details()
    for words in ("96.44 %", "weight_per_channel", "Strategy, as JSON", "Noise by layer", "notebook.ipynb"):
        assert words in html
    assert bench.run.strategy.dump(verbose=2)["quantize_registry_config"]["user_quantize_config"]["weight_bit"] == 4


def test_a_failed_run_tells_why(runs: Path) -> None:
    bench = vq.compare(runs)
    bench.view.chosen = key(bench, "fsx weight_bit=99")
    html = bench.view.details()
    assert "failed: StrategyError: bit_width 99\nin notebook cell 3" in html
    assert "Traceback: StrategyError" in html


def test_two_runs_show_strategy_noise_and_flips(runs: Path) -> None:
    bench = vq.compare(runs)
    view = bench.view
    view.pair = (key(bench, "pof2s"), key(bench, "pof2s weight_bit=6"))
    html = view.two()
    assert "weight_bit" in html
    assert "Noise by tensor of pof2s weight_bit=6 against pof2s" in html
    assert "no predictions with labels were kept" in html
    view.pair = ("", "")
    assert "Choose two runs" in view.two()


def test_flipped_samples_come_with_their_pictures(tmp_path: Path) -> None:
    from vqkit.sweeps.quickstart import quickstart_data

    data = quickstart_data()
    said = {"ref": "digits", "digest": data.digest, "n_calib": data.n_calib, "n_eval": data.n_eval}
    for seed, wrong in ((1, [3]), (2, [5, 9])):
        folder = make.add(tmp_path, make.record(seed=seed, data=said, name=f"run {seed}"))
        predicted = data.y_eval.copy()
        predicted[wrong] = (predicted[wrong] + 1) % 10
        np.savez(folder / "predictions.npz", predicted=predicted, labels=data.y_eval)
    bench = vq.compare(tmp_path)
    bench.view.pair = (key(bench, "run 1"), key(bench, "run 2"))
    html = bench.view.two()
    assert "3 samples are answered differently: 2 where only A is right, 1 where only B is right" in html
    assert "Samples that two runs answer differently" in html


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    made = make.record("pof2s", {"weight_bit": EVIL}, name=EVIL)
    folder = make.add(tmp_path, made)
    make.write(folder / "sqnr.json", [{**row, "layer": EVIL, "tensor": EVIL} for row in make.sqnr(0.9)])
    make.add(tmp_path, make.record(name=f"failed {EVIL}", status="FAILED"))
    make.add(tmp_path, make.record(seed=5))
    bench = vq.compare(tmp_path)
    assert "<script" not in bench.html()
    for chosen in bench.view.runs.frame["key"]:
        bench.view.chosen = chosen
        assert "&lt;script&gt;" in bench.view.details() or chosen == bench.view.runs.run("pof2s").key
        assert "<script" not in bench.view.details()
    bench.view.pair = (made["key"], bench.view.runs.run("pof2s").key)
    assert "<script" not in bench.view.two()


def test_a_page_is_whole_without_a_kernel(runs: Path) -> None:
    bench = vq.compare(runs, "quick")
    html = bench.html()
    assert html.count("<img") + html.count("<image") >= 4
    assert "Use fs weight_bit=4 weight_per_channel=true" in html
    assert all("alt='" in tag for tag in re.findall(r"<img[^>]*>", html))
    assert "quick: 4 finished, 1 failed" in str(bench)


def test_no_runs_no_sweep_and_no_store_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such folder of runs"):
        vq.compare(tmp_path / "nothing")
    make.example(tmp_path)
    with pytest.raises(RecordError, match=r"sweep 'quik' is not allowed.*quick"):
        vq.compare(tmp_path, "quik")
    with pytest.raises(TrackingError, match="there is no database"):
        vq.compare(f"sqlite:///{tmp_path}/missing.db")
    with pytest.raises(RecordError, match=r"'pof2' is not allowed.*'pof2s'"):
        vq.compare(tmp_path).choose("pof2")


def test_a_folder_without_a_finished_run_is_shown(tmp_path: Path) -> None:
    make.add(tmp_path, make.record(status="FAILED"))
    html = vq.compare(tmp_path).html()
    assert "No run has finished" in html
    assert "no variant has finished" not in html  # words of a picture: it is an image


@pytest.mark.slow
def test_reading_a_store_creates_nothing_in_it(tmp_path: Path) -> None:

    uri = mlflow.default_uri(tmp_path)
    client = store(mlflow.Tracker.open(runs_dir=tmp_path, experiment="another").uri)
    before = [e.name for e in client.search_experiments()]
    assert "vqkit" not in before
    assert Reader.at(uri).records() == []
    assert [e.name for e in client.search_experiments()] == before


@pytest.mark.slow
def test_an_mlflow_store_shows_the_same_runs_and_their_files(runs: Path) -> None:
    rebuild(runs)
    bench = vq.compare(mlflow.default_uri(runs), "quick")
    assert names(bench.view.board()) == names(vq.compare(runs, "quick").view.board())
    bench.view.chosen = key(bench, "fsx weight_bit=99")
    assert "Traceback: StrategyError" in bench.view.details()
    bench.view.pair = (key(bench, "pof2s"), key(bench, "pof2s weight_bit=6"))
    assert "Strategy: 1 difference(s)" in bench.view.two()


def store(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def live(bench: Compare) -> Any:
    pytest.importorskip("anywidget")
    return bench.widget


def test_the_widget_follows_what_is_chosen_anywhere(runs: Path) -> None:
    bench = vq.compare(runs, "quick")
    live(bench)
    failed = key(bench, "fsx weight_bit=99")
    part(bench.widget, "Accuracy against cost").chosen = failed
    assert part(bench.widget, "Leaderboard").chosen == failed
    assert "bit_width 99" in told(bench.widget)
    assert "notebook.ipynb" in having(bench.widget, "outputs").outputs[0]["data"]["text/html"]
    part(bench.widget, "Filter").value = "fs 4"
    assert names(part(bench.widget, "Leaderboard").html) == ["fs weight_bit=4 weight_per_channel=true"]
    before = part(bench.widget, "Accuracy against cost").html
    part(bench.widget, "Filter").value, part(bench.widget, "Pareto front only").value = "", True
    assert part(bench.widget, "Accuracy against cost").html != before
    having(bench.widget, "selected_index").selected_index = 1
    assert "Choices and accuracy" in part(bench.widget, "Choices and accuracy").html
    part(bench.widget, "Leaderboard").dark = True
    assert bench.view.theme is plots.DARK
    part(bench.widget, "Pareto front only").value = False
    having(bench.widget, "selected_index").selected_index = 3
    part(bench.widget, "Accuracy against cost").chosen = key(bench, "pof2s weight_bit=3")
    press(part(bench.widget, "Chosen run as B"), "chosen-run-as-b")
    assert "B: pof2s weight_bit=3" in told(part(bench.widget, "Two runs"))


def test_reading_again_finds_new_runs_and_a_lost_folder_is_said(runs: Path) -> None:
    bench = vq.compare(runs)
    live(bench)
    make.add(runs, make.record("fs", {"weight_bit": 5}, accuracy=0.99))
    press(part(bench.widget, "Read again"), "read-again")
    assert "fs weight_bit=5" in part(bench.widget, "Leaderboard").html
    runs.rename(runs.with_name("gone"))
    press(part(bench.widget, "Read again"), "read-again")
    assert "no such folder of runs" in told(bench.widget)


def test_every_control_has_words(runs: Path) -> None:
    import ipywidgets as w

    bench = vq.compare(runs)
    live(bench)
    group, a, b = (part(bench.widget, words) for words in ("Comparable runs", "Run A", "Run B"))
    controls = [part(bench.widget, words) for words in ("Filter", "Pareto front only", "Cost")]
    assert [c.layout.display for c in (group, a, b)] == ["none", None, None]
    controls += [
        part(bench.widget, words) for words in ("Leaderboard", "Accuracy against cost", "Choices and accuracy")
    ]
    assert all(isinstance(c, w.DOMWidget) for c in (*controls, group, a, b))
