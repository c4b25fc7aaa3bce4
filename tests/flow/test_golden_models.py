"""Every recorded run of the reference on whole models; what it completes matches, what it fails works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.golden_parts.ir import build
from benchmarks.golden_parts.models import check_run

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILES = sorted(GOLDEN.glob("model_*.json"))
RUNS = [(f.stem, name) for f in FILES for name in json.loads(f.read_text())["runs"]]


@pytest.fixture(scope="module")
def recorded():
    """Model name -> (data, arrays, Keras model), read once."""
    cache = {}

    def get(stem):
        if stem not in cache:
            data = json.loads((GOLDEN / f"{stem}.json").read_text())
            with np.load(GOLDEN / f"{stem}.npz") as file:
                arrays = {k: file[k] for k in file.files}
            cache[stem] = data, arrays, build(data["ir"], arrays)
        return cache[stem]

    return get


@pytest.mark.parametrize(("stem", "name"), RUNS, ids=[f"{s}-{n}" for s, n in RUNS])
def test_recorded_run(recorded, stem, name):
    data, arrays, model = recorded(stem)
    np.testing.assert_allclose(model(arrays["eval"]), arrays["float_out"], atol=1e-6)
    run = check_run(name, name, data["runs"][name], model, arrays, data["calib_batch_size"])
    assert run.mismatches == []
    assert run.exact == run.checked > 0
    if "error" not in data["runs"][name]:
        assert run.flips == []
