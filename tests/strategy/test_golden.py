"""Dumps equal the original's, key order included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.golden_parts import strategy as part


@pytest.mark.parametrize("where", ["golden", "shared"])
def test_every_dump_is_the_originals(where: str, root: Path, request: pytest.FixtureRequest) -> None:
    folder = root / "tests" / "golden"
    if where == "shared":
        folder = request.getfixturevalue("shared") / "golden"
    result = part.check(folder)
    assert result.mismatches == ()
    assert result.exceptions == ()
    assert result.exact == result.checked == 42


def test_a_changed_value_and_a_changed_order_are_found(root: Path, tmp_path: Path) -> None:
    source = root / "tests" / "golden" / "strategy"
    target = tmp_path / "strategy"
    target.mkdir()
    doc = json.loads((source / "fs_v1_default.json").read_text())
    doc["optimize_pipeline_config"]["cle_steps"] = 11
    (target / "fs_v1_default.json").write_text(json.dumps(doc))
    swapped = dict(reversed(json.loads((source / "fs_v2_default.json").read_text()).items()))
    (target / "fs_v2_default.json").write_text(json.dumps(swapped))
    (target / "gpu_v0_default.json").write_text("{}")
    (target / "notes.json").write_text("{}")
    result = part.check(tmp_path)
    assert (result.checked, result.exact) == (4, 0)
    assert result.mismatches[0] == "fs_v1_default.json: the dump differs"
    assert result.mismatches[1] == "fs_v2_default.json: the dump differs"
    assert "'gpu' is not allowed" in result.mismatches[2]
    assert "notes.json" in result.mismatches[3]
