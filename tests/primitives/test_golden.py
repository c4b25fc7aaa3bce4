"""The recorded results of the reference, through the same script a user runs."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import golden
from benchmarks.golden_parts import hist, misc, ops
from vqkit.primitives import affine, reference
from vqkit.primitives import choose as numpy_choice
from vqkit.primitives import spec as grid

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def test_the_script_finds_no_mismatch(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(GOLDEN), "--json", "--part", "ops", "--part", "hist", "--part", "misc"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["mismatches"] == 0
    assert summary["exact"] + summary["exceptions"] == summary["checked"]
    assert {name: part["checked"] for name, part in summary["parts"].items()} == {
        "ops": 2659,
        "hist": 191,
        "misc": 293,
    }


def test_numpy_gives_the_recorded_results_too() -> None:
    """Everything but the positions of all-zero slices, where TensorFlow's own logarithm rounds both ways."""
    wrong: Counter[str] = Counter()
    with np.load(GOLDEN / "ops.npz") as arrays:
        for case in json.loads((GOLDEN / "ops.json").read_text()):
            if "error_g" in case:
                continue
            spec, x, out = ops.spec_of(case), arrays["in/" + case["input"]], arrays[f"out/{case['id']}"]
            qp = numpy_choice.choose(x, spec, vitis_compat=True)
            same = np.array_equal(qp.f_min, np.float32(case["min"])) and np.array_equal(
                qp.f_max, np.float32(case["max"])
            )
            wrong["range"] += not same
            with np.errstate(all="ignore"):
                found = reference.fake_quantize(x, qp, vitis_compat=True)
            wrong["out"] += not np.array_equal(found, out, equal_nan=True)
            full = np.max(np.abs(x), axis=reference.reduction_axes(x.ndim, spec), keepdims=spec.per_channel) > 0
            wrong["pos"] += "pos" in case and not np.array_equal(qp.pos[full], np.float32(case["pos"])[full])
    assert wrong.total() == 0


def test_the_default_differs_from_the_reference_only_where_it_should() -> None:
    """Plain ranges: positions move on power-of-two boundaries only, and outputs nowhere else."""
    moved = set()
    with np.load(GOLDEN / "ops.npz") as arrays:
        for case in json.loads((GOLDEN / "ops.json").read_text()):
            if "pos" not in case or case["method"]:
                continue
            x = arrays["in/" + case["input"]]
            found = numpy_choice.choose(x, ops.spec_of(case))
            away = found.pos - np.float32(case["pos"])
            assert np.abs(away).max() <= 1
            if away.any():
                moved.add(case["input"])
    assert moved <= {"zeros", "one_zero_chan", "grid", "grid127", "halves"}


@pytest.mark.parametrize("part", [ops, hist, misc])
def test_absent_files_are_skipped(part: object, tmp_path: Path) -> None:
    assert part.check(tmp_path) is None


def test_nothing_to_check_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(tmp_path)]) == 2
    assert "nothing to check" in capsys.readouterr().err
    assert golden.main([str(tmp_path / "absent")]) == 2


def test_a_wrong_value_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = json.loads((GOLDEN / "ops.json").read_text())
    picked = [next(c for c in cases if c["kind"] == k and c["input"] == "normal") for k in ("pof2s", "tqt", "fs")]
    picked[0]["pos"] += 1
    picked[1]["log_th"] += 1e-6
    picked[2]["max"] *= 1.0001
    (tmp_path / "ops.json").write_text(json.dumps(picked))
    shutil.copy(GOLDEN / "ops.npz", tmp_path)
    assert golden.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("MISMATCH") == 3


def test_unseen_widths_are_read_from_the_case(tmp_path: Path) -> None:
    """Nothing is looked up by id: a case of another width, made with the numpy reference, is exact."""
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
    cases, arrays = [], {"in/new": x}
    for number, bits in enumerate((3, 5, 6, 12, 20, 24)):
        case = {
            "id": number,
            "kind": "pof2s",
            "bit_width": bits,
            "method": 1,
            "round_mode": 2,
            "input": "new",
        }
        qp = numpy_choice.choose(x, ops.spec_of(case), vitis_compat=True)
        arrays[f"out/{number}"] = reference.fake_quantize(x, qp)
        cases.append({**case, "min": float(qp.f_min), "max": float(qp.f_max), "pos": float(qp.pos)})
    (tmp_path / "ops.json").write_text(json.dumps(cases))
    np.savez(tmp_path / "ops.npz", **arrays)
    result = ops.check(tmp_path)
    assert (result.checked, result.exact, result.mismatches) == (6, 6, ())


def test_an_unknown_table_is_a_mismatch(tmp_path: Path) -> None:
    (tmp_path / "misc.json").write_text('{"softmax": {}}')
    assert misc.check(tmp_path).mismatches == ("misc table softmax: unknown instead of known",)


def test_levels_of_a_grid() -> None:
    spec = ops.spec_of({"kind": "fs", "bit_width": 4, "narrow_range": True})
    assert grid.levels(spec) == 14
    assert affine.multiplier(spec, np.float32(-7), np.float32(7), None) == 1
