"""Two runs side by side: strategies, accuracy, SQNR and flipped samples."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import records as make
from vqkit.comparison import leaderboard
from vqkit.comparison.difference import condensed
from vqkit.errors import RecordError


@pytest.fixture
def pair(tmp_path):
    a = make.record("pof2s", {"weight_bit": 8}, accuracy=420 / 450, size=20_000)
    b = make.record("pof2s", {"weight_bit": 4, "activation_bit": 6}, accuracy=405 / 450, size=10_000)
    make.add(tmp_path, a, right=range(420))
    make.add(tmp_path, b, right=range(20, 425))
    return tmp_path, a, b


def test_strategy_changes_are_those_that_were_made(pair):
    runs, a, b = pair
    found = leaderboard.difference(a["key"], b["key"], runs_dir=runs)
    user = "/quantize_registry_config/user_quantize_config/"
    assert {(c.pointer, c.before, c.after) for c in found.changes} == {
        (user + "weight_bit", 8, 4),
        (user + "activation_bit", None, 6),
    }
    assert found.inputs == {}


def test_flips_are_counted_sample_by_sample(pair):
    runs, a, b = pair
    found = leaderboard.difference(a["key"], b["key"], runs_dir=runs).flips
    assert (found.n, found.both_right, found.only_a, found.only_b, found.both_wrong) == (450, 400, 20, 5, 25)
    assert found.p_value == pytest.approx(0.0040774, rel=1e-4)


def test_sqnr_is_joined_in_graph_order_with_the_difference_from_a_to_b(pair):
    runs, a, b = pair
    table = leaderboard.difference(a["key"], b["key"], runs_dir=runs).sqnr
    assert list(table["layer"].drop_duplicates()) == list(make.LAYERS)
    np.testing.assert_allclose(table["delta_db"], 40 * (405 - 420) / 450)


def test_a_tensor_that_only_one_run_quantizes_stays_in_the_table(pair):
    runs, a, b = pair
    path = runs / "variants" / b["key"] / "sqnr.json"
    make.write(
        path,
        [*make.sqnr(0.9)[1:], {"layer": "z", "tensor": "z", "role": "output", "order": 9, "sqnr_db": None}],
    )
    table = leaderboard.difference(a["key"], b["key"], runs_dir=runs).sqnr
    assert len(table) == 11
    assert list(np.flatnonzero(np.isnan(table["delta_db"]))) == [0, 10]
    assert list(table["order"]) == sorted(table["order"])


def test_the_text_tells_the_whole_story(pair, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    runs, a, b = pair
    text = str(leaderboard.difference(a["key"], b["key"], runs_dir=runs))
    assert "Strategy: 2 difference(s)\n" in text
    assert "weight_bit      8     4" in text
    assert "accuracy %            93.33    90.00      -3.33" in text
    assert "A alone gets 20 right, B alone 5: the difference is more than chance (McNemar p = 0.0041)" in text
    assert "SQNR by tensor, dB: 10 tensors" in text
    assert max(map(len, text.splitlines())) < 125


def test_the_plans_tell_what_changed_on_this_model(pair):
    runs, a, b = pair
    found = leaderboard.difference(a["key"], b["key"], runs_dir=runs).resolved
    assert found.total == 10
    assert found.kinds() == [("bit_width", 8, 4, [f"{layer}/weight" for layer in make.LAYERS[:-1]])]
    text = str(leaderboard.difference(a["key"], b["key"], runs_dir=runs))
    assert "Quantizers of this model: 4 of 10 tensors differ" in text


def test_a_tensor_that_one_plan_leaves_float_is_said(pair):
    runs, a, b = pair
    rows = make.plan(b)
    rows[0]["spec"], rows[-1]["spec"] = None, rows[1]["spec"]
    make.write(runs / "variants" / b["key"] / "plan.json", {"rows": rows[:-2] + rows[-1:]})
    kinds = leaderboard.difference(a["key"], b["key"], runs_dir=runs).resolved.kinds()
    assert ("quantizer", "Pof2SQuantizer", "float", ["conv1/weight"]) in kinds
    assert ("quantizer", "float", "Pof2SQuantizer", ["logits/activation"]) in kinds
    (runs / "variants" / b["key"] / "plan.json").write_text("{}")
    found = leaderboard.difference(a["key"], b["key"], runs_dir=runs)
    assert found.resolved is None
    assert f"{b['key']}/plan.json: not a plan" in str(found)
    (runs / "variants" / b["key"] / "plan.json").unlink()
    assert leaderboard.difference(a["key"], b["key"], runs_dir=runs).resolved is None


def test_without_predictions_intervals_decide(pair):
    runs, a, b = pair
    (runs / "variants" / a["key"] / "predictions.npz").unlink()
    found = leaderboard.difference(a["key"], b["key"], runs_dir=runs)
    assert found.flips is None
    assert found.verdict().startswith("The 95 % intervals overlap: the difference could be chance.")


def test_other_data_are_never_compared_sample_by_sample(pair):
    runs, a, _ = pair
    c = make.record("pof2s", data={"ref": "other", "digest": "x", "n_calib": 1, "n_eval": 450}, calibration="float")
    make.add(runs, c, right=range(450))
    found = leaderboard.difference(a["key"], c["key"], runs_dir=runs)
    assert found.flips is None
    assert found.inputs["calibration"] == ("quantized", "float")
    assert found.inputs["data_digest"] == ("d" * 16, "x")
    assert "Other inputs that differ" in str(found)


def test_families_of_strategies_are_told_by_kinds(tmp_path):
    for base in ("pof2s", "fsx"):
        make.add(tmp_path, make.record(base))
    found = leaderboard.difference("pof2s", "fsx", runs_dir=tmp_path)
    kinds = condensed(found.changes)
    assert len(kinds) < len(found.changes) / 2
    assert sum(len(where.split(", ")) for *_, where in kinds) == len(found.changes)
    row = next(k for k in kinds if k[0] == "weight 0 method")
    assert row[1:3] == ["1 MIN_MSE", "0 NON_OVERFLOW"]
    assert row[3].split(", ")[0] == "Conv2D"
    assert str(found).count("\n") < 90


def test_a_failed_run_can_be_compared(pair):
    runs, a, _ = pair
    failed = make.record("fs", {"weight_bit": 99}, status="FAILED")
    make.add(runs, failed)
    found = leaderboard.difference(a["key"], failed["key"], runs_dir=runs)
    assert len(found.sqnr) == 0
    assert "no accuracy" in str(found)


def test_a_run_is_found_by_folder_name_key_or_start_of_key(pair):
    runs, a, b = pair
    folder = runs / "variants" / a["key"]
    for given in (folder, str(folder), a["name"], a["key"], a["key"][:6]):
        assert leaderboard.difference(given, b["key"], runs_dir=runs).a["key"] == a["key"]
    with pytest.raises(RecordError, match="not a run directory"):
        leaderboard.difference(a["key"], b["key"])
    with pytest.raises(
        RecordError, match=r"run 'pof2s weight_bit=9' is not allowed \(did you mean 'pof2s weight_bit=8'"
    ):
        leaderboard.difference("pof2s weight_bit=9", b["key"], runs_dir=runs)


def test_a_name_of_two_runs_asks_for_a_key(pair):
    runs, a, b = pair
    make.add(runs, make.record("pof2s", {"weight_bit": 8}, seed=1))
    with pytest.raises(RecordError, match=r"'pof2s weight_bit=8' means 2 runs: .*Give a key"):
        leaderboard.difference(a["name"], b["key"], runs_dir=runs)


def test_a_strategy_file_that_is_none_is_named(pair):
    runs, a, b = pair
    for text, said in (
        ("{", "cannot be read"),
        ("{}", "not a whole strategy"),
        ("[]", "not a whole strategy"),
    ):
        (runs / "variants" / b["key"] / "strategy.json").write_text(text)
        found = leaderboard.difference(a["key"], b["key"], runs_dir=runs)
        assert found.changes == ()
        assert any(f"{b['key']}/strategy.json: " in d and said in d for d in found.damaged), found.damaged
    (runs / "variants" / b["key"] / "strategy.json").unlink()
    assert leaderboard.difference(a["key"], b["key"], runs_dir=runs).changes == ()


def test_the_notebook_form_is_escaped(tmp_path):
    a = make.record("pof2s", {"x": "<script>"})
    make.add(tmp_path, a)
    make.add(tmp_path, make.record("fs"))
    shown = leaderboard.difference(a["key"], "fs", runs_dir=tmp_path)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
