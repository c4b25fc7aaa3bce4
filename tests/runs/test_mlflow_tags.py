"""The translation between run records and mlflow's params, metrics and tags, without a store."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import records as make
from vqkit import digest
from vqkit.runs import mlflow_tags
from vqkit.runs.mlflow_tags import Tag
from vqkit.runs.records import row
from vqkit.runs.store import RunRecord


def record(*args: Any, **changes: Any) -> RunRecord:
    return RunRecord.from_json(make.record(*args, **changes))


def test_params_are_the_choices_with_overrides_under_their_own_names():
    found = mlflow_tags.params(record("fs", {"weight_bit": 4, "weight_per_channel": True, "input_layers": ["a"]}))
    assert found == {
        "strategy": "fs",
        "model": "quickstart",
        "data": "digits",
        "n_calib": "100",
        "n_eval": "450",
        "calibration": "quantized",
        "seed": "0",
        "vitis_compat": "false",
        "batch_size": "32",
        "steps": "null",
        "weight_bit": "4",
        "weight_per_channel": "true",
        "input_layers": '["a"]',
    }


def test_an_override_called_like_a_fixed_param_does_not_hide_it():
    found = mlflow_tags.params(record("fs", {"seed": 7}))
    assert (found["seed"], found["override.seed"]) == ("0", "7")


@settings(deadline=None)  # the first call imports mlflow
@given(st.text(min_size=1, max_size=400))
def test_every_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_param_name

    key = mlflow_tags.legal_key(name)
    _validate_param_name(key)
    assert len(key) <= mlflow_tags.KEY_LIMIT


@given(st.lists(st.text(alphabet="ab/*[. ", min_size=1, max_size=6), unique=True, max_size=8))
def test_different_pointers_stay_different(names):
    names = [f"/x{name}y" for name in names]
    assert len({mlflow_tags.legal_key(name) for name in names}) == len(names)


def test_long_values_are_cut_and_say_so():
    text = mlflow_tags.params(record("fs", {"layers": "x" * 9000}))["layers"]
    assert len(text) == mlflow_tags.PARAM_LIMIT
    assert text.endswith("… (9000 characters in all)")


def test_metrics_leave_out_what_was_not_measured():
    given = {"accuracy": 0.5, "sqnr_min_db": None, "x": float("nan"), "seconds_total": 3}
    made = replace(record(), metrics=given)
    assert mlflow_tags.metrics(made) == {"accuracy": 0.5, "seconds_total": 3.0}


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "RUNNING"])
def test_a_record_comes_back_as_the_same_row(status):
    made = record("fs", {"weight_bit": 4}, status=status, sweep="s")
    times = (mlflow_tags.milliseconds(made.started), mlflow_tags.milliseconds(made.ended))
    tags, metrics = mlflow_tags.tags(made, "s", "p"), mlflow_tags.metrics(made)
    back = mlflow_tags.record_of(tags, metrics, name=made.name, times=times)
    expected, found = row(made), row(back)
    for stamp in ("started", "ended"):
        assert mlflow_tags.milliseconds(found.pop(stamp)) == mlflow_tags.milliseconds(expected.pop(stamp))
    assert {k: v for k, v in found.items() if v == v} == {k: v for k, v in expected.items() if v == v}


def test_infinity_survives_a_store_that_keeps_it_as_the_largest_float():
    back = mlflow_tags.record_of({}, {"sqnr_min_db": 1.7976931348623157e308}, name=None, times=(None, None))
    assert back.metrics == {"sqnr_min_db": math.inf}


def test_identity_tells_sweeps_apart_and_the_record_digest_ignores_the_folder():
    assert len({mlflow_tags.identity("variant", "k", s) for s in (None, "a", "b")}) == 3
    made = record()
    assert mlflow_tags.record_digest(made) == mlflow_tags.record_digest(replace(made, directory=Path("elsewhere")))
    assert mlflow_tags.record_digest(made) != mlflow_tags.record_digest(made.with_(status="FAILED"))


def test_a_record_of_an_older_version_keeps_the_digest_under_which_it_was_logged():
    """Else every run of an old store would be deleted and logged again."""
    older = {k: v for k, v in make.record().items() if k not in ("notes", "environment", "pid")}
    text = json.dumps(older, sort_keys=True, ensure_ascii=False)
    assert mlflow_tags.record_digest(RunRecord.from_json(older)) == digest.of_bytes(text.encode())


def test_every_tag_fits_and_environment_is_there():
    made = record("fs", {"layers": ["y" * 9000]}, status="FAILED")
    made = made.with_(error={**made.error, "message": "z" * 20_000})
    found = mlflow_tags.tags(made, None, None)
    assert max(map(len, found.values())) <= mlflow_tags.TAG_LIMIT
    assert Tag.INPUTS not in found
    assert Tag.SWEEP not in found
    assert found["vqkit.env.tensorflow"] == "2.21.0"
    assert found[Tag.COMMIT] == "f" * 40
    assert found[Tag.NOTE].startswith("FAILED: StrategyError in cell 3: zzz")
    back = mlflow_tags.record_of(found, {}, name=None, times=(None, None))
    assert back.error["message"].startswith('{"cell"')
