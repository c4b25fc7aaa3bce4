"""Leaderboards of realistic run folders: places, ties, what is shown and what is never mixed."""

from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest

from tests.support import records as make
from vqkit.comparison import leaderboard
from vqkit.errors import RecordError


@pytest.fixture
def runs(tmp_path):
    make.example(tmp_path)
    return tmp_path


def board(runs, *args, **kwargs):
    return leaderboard.leaderboard(leaderboard.load_records(runs, *args, **kwargs))


def named(frame):
    return frame.set_index("name")


def test_one_row_per_record_with_inputs_metrics_and_overrides(runs):
    frame = named(leaderboard.load_records(runs))
    assert sorted(frame.index) == sorted(m["name"] for m in make.example(runs / "again"))
    row = frame.loc["fs weight_bit=4 weight_per_channel=true"]
    assert (row["strategy"], row["override.weight_bit"], row["override.weight_per_channel"]) == (
        "fs",
        4,
        True,
    )
    np.testing.assert_array_equal(row[["accuracy", "size_bytes", "n_eval"]].astype(float), [0.9644, 11_000, 450])
    assert frame.loc["fsx weight_bit=99", "error"] == "bit_width 99"
    assert frame["accuracy"].dtype == np.float64


def test_a_sweep_comes_in_its_own_order_with_what_has_not_run_yet(runs):
    made = [make.record("fsx", {"weight_bit": 5}), *make.example(runs / "other")]
    make.sweep(runs, "wider", made)
    frame = leaderboard.load_records(runs, "wider")
    assert list(frame["key"]) == [m["key"] for m in made]
    assert list(frame["status"]) == ["PENDING", *["FINISHED"] * 4, "FAILED"]
    assert set(frame["sweep"]) == {"wider"}
    assert frame["override.weight_bit"][0] == 5


def test_two_names_for_one_variant_are_one_row(runs):
    made = make.record("pof2s", accuracy=0.9733)
    make.sweep(runs, "twice", [made, {**made, "name": "the same"}])
    assert list(leaderboard.load_records(runs, "twice")["name"]) == ["pof2s"]


def test_records_name_their_sweep_where_its_file_is_gone(runs):
    (runs / "sweeps" / "quick" / "sweep.json").unlink()
    assert len(leaderboard.load_records(runs, "quick")) == 5


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"key": "x"}', "", "null", '{"key": "b", "status": "FINISHED", "metrics": 3, "inputs": []}'],
)
def test_a_broken_record_is_reported_and_stops_nothing(runs, text):
    (runs / "variants" / "b").mkdir()
    (runs / "variants" / "b" / "record.json").write_text(text)
    shown = leaderboard.render(runs)
    assert "b [b]" in shown
    assert "4 finished" in shown or "5 finished" in shown


def test_a_folder_that_a_run_has_only_claimed_is_no_record(runs):
    (runs / "variants" / "claimed").mkdir()
    (runs / "variants" / "claimed" / ".lock").touch()
    assert "claimed" not in set(leaderboard.load_records(runs)["key"])


def test_where_takes_overrides_by_their_plain_name(runs):
    assert len(leaderboard.load_records(runs, where={"weight_bit": [6, "3"], "strategy": "pof2s"})) == 2
    assert len(leaderboard.load_records(runs, where={"weight_per_channel": "true"})) == 1
    with pytest.raises(RecordError, match=r"column 'weight_bits' is not allowed \(did you mean 'weight_bit'"):
        leaderboard.load_records(runs, where={"weight_bits": 4})


def test_unknown_sweep_folder_and_sort_say_what_there_is(runs):
    with pytest.raises(RecordError, match=r"sweep 'quik' is not allowed \(did you mean 'quick'"):
        leaderboard.load_records(runs, "quik")
    with pytest.raises(RecordError, match="no such folder"):
        leaderboard.load_records(runs / "nowhere")
    with pytest.raises(RecordError, match="sort: column 'size' is not allowed"):
        leaderboard.leaderboard(leaderboard.load_records(runs), "size")


def test_places_intervals_and_front(runs):
    frame = named(board(runs, "quick"))
    ranked = frame[frame["rank"].notna()]
    assert list(ranked.index) == [
        "pof2s",
        "pof2s weight_bit=6",
        "fs weight_bit=4 weight_per_channel=true",
        "pof2s weight_bit=3",
    ]
    assert list(ranked["best"]) == [True, False, False, False]
    assert list(ranked["tied"]) == [True, True, True, False]
    assert ranked["pareto"].all()
    assert (ranked["ci_low"] <= ranked["accuracy"]).all()
    assert np.isnan(frame.loc["fsx weight_bit=99", "rank"])


@pytest.mark.parametrize(("sort", "first"), [("size_bytes", "pof2s weight_bit=3"), ("sqnr_min_db", "pof2s")])
def test_the_order_can_be_another_and_the_winner_stays(runs, sort, first):
    frame = leaderboard.leaderboard(leaderboard.load_records(runs, "quick"), sort)
    assert frame["name"][0] == first
    assert list(frame[frame["best"]]["name"]) == ["pof2s"]


def test_the_two_calibrations_are_never_in_one_order(runs):
    make.add(runs, make.record("fs", calibration="float", accuracy=0.9999))
    frame = board(runs)
    float_run = frame[frame["calibration"] == "float"].iloc[0]
    assert float_run["rank"] == 1
    assert float_run["group"] != frame["group"][0]
    assert frame["calibration"][0] == "quantized"
    shown = leaderboard.render(runs)
    assert "calibration quantized" in shown
    assert "calibration float" in shown
    assert "1 more differ in model, data or calibration" in " ".join(shown.split())
    assert leaderboard.recommend(frame).row["calibration"] == "quantized"


@pytest.mark.parametrize("other", [{"model": {"ref": "b", "digest": "b"}}, {"data": {"ref": "x", "digest": "x"}}])
def test_other_models_and_data_are_apart(runs, other):
    make.add(runs, make.record("fs", accuracy=0.9999, **other))
    assert board(runs)["group"].nunique() == 2


def test_predictions_decide_where_both_runs_kept_them(tmp_path):
    """438 of 450 right against 429: the intervals overlap, yet one never wins where the other loses."""
    best = make.record("fsx", accuracy=438 / 450, size=20_000)
    worse = make.record("fs", accuracy=429 / 450, size=9_000)
    even = make.record("pof2s", accuracy=436 / 450, size=12_000)
    make.add(tmp_path, best, right=range(438))
    make.add(tmp_path, worse, right=range(429))
    make.add(tmp_path, even, right=range(4, 440))
    frame = named(board(tmp_path))
    assert frame.loc["fs", "ci_high"] > frame.loc["fsx", "ci_low"]
    assert dict(frame["tied"]) == {"fsx": True, "fs": False, "pof2s": True}
    assert frame.loc["fs", "test"] == "McNemar"
    (tmp_path / "variants" / worse["key"] / "predictions.npz").write_bytes(b"torn")
    assert named(board(tmp_path)).loc["fs", ["tied", "test"]].tolist() == [True, "interval"]


def test_the_smallest_of_the_level_is_recommended_with_a_reason(runs):
    row, sentence = leaderboard.recommend(leaderboard.load_records(runs, "quick"))
    assert row["name"] == "fs weight_bit=4 weight_per_channel=true"
    assert sentence.startswith("Use fs weight_bit=4 weight_per_channel=true: accuracy 96.44 % (95 % interval 94.30")
    assert "1.56 points below float, 11.0 kB, 7.3 times smaller than float" in sentence
    assert "The most accurate, pof2s, scores 97.33 % at 20.0 kB" in sentence
    assert "smallest of the 3 that are level" in sentence


def test_nothing_finished_recommends_nothing(tmp_path):
    make.add(tmp_path, make.record(status="FAILED"))
    row, sentence = leaderboard.recommend(leaderboard.load_records(tmp_path))
    assert row is None
    assert sentence == "No run has finished, so there is nothing to recommend."
    assert "FAILED" in leaderboard.render(tmp_path)


def test_the_pair_worth_a_look_is_the_best_and_the_recommended(runs):
    frame = board(runs, "quick")
    directory = named(frame)["directory"]
    recommended = directory["fs weight_bit=4 weight_per_channel=true"]
    assert leaderboard.pair(frame) == (directory["pof2s"], recommended)
    assert leaderboard.pair(frame, recommended) == (recommended, directory["pof2s weight_bit=3"])
    assert leaderboard.pair(frame, "x", "y") == ("x", "y")
    alone = leaderboard.leaderboard(leaderboard.load_records(runs, where={"strategy": "fs"}))
    with pytest.raises(RecordError, match="needs two finished runs; there are 1"):
        leaderboard.pair(alone)


def test_an_empty_folder_is_no_error(tmp_path):
    assert leaderboard.render(tmp_path).startswith(f"Runs in {tmp_path}: none")
    assert len(leaderboard.load_records(tmp_path)) == 0


def test_the_text_is_aligned_and_as_wide_as_the_terminal(runs, monkeypatch):
    make.add(runs, make.record("fs", {"a_very_long_override_name_number_" + str(i): [1, 2, 3] for i in range(9)}))
    monkeypatch.setenv("COLUMNS", "120")
    lines = leaderboard.render(runs).splitlines()
    table = [line for line in lines if line[:2].strip().isdigit()]
    assert len({line.index(" B") if " B" in line else line.index("kB") for line in table}) == 1
    assert max(map(len, table)) < 125
    assert "…" in "".join(table)


def test_a_limit_says_what_it_leaves_out(runs):
    shown = leaderboard.render(runs, "quick", limit=2)
    assert "… and 2 more" in shown
    assert "pof2s weight_bit=3" not in shown


def test_the_notebook_form_escapes_what_it_shows(runs):
    make.add(runs, make.record("fs", {"layer": "<script>alert(1)</script>"}))
    shown = leaderboard.Leaderboard(board(runs))._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown


def test_a_lossless_tensor_and_missing_numbers_are_shown(runs):
    made = make.record("fs", {"bit": 32})
    made["metrics"] |= {"sqnr_min_db": None, "sqnr_output_db": float("inf"), "accuracy_delta": None}
    make.add(runs, made)
    line = next(x for x in leaderboard.render(runs).splitlines() if "fs bit=32" in x)
    assert " inf " in line
    assert "–" in line


def test_thousands_of_records_are_read_and_ranked_in_seconds(tmp_path):
    for i in range(2_000):
        made = make.record("fs", {"weight_bit": i}, accuracy=0.9 + (i % 97) / 1000, size=float(i))
        path = tmp_path / "variants" / made["key"]
        path.mkdir(parents=True)
        (path / "record.json").write_text(json.dumps(made))
    start = time.process_time()
    frame = board(tmp_path)
    assert time.process_time() - start < 4
    assert len(frame) == 2_000
    assert isinstance(frame, pd.DataFrame)
