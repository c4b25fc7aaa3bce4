"""A spoiled file of a folder of runs is told by its name, or what it held is computed again; see `spoiled`."""

from __future__ import annotations

import pytest

from tests.system.robustness import spoiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["cache/", "sweeps/"])
def test_every_file_spoiled_is_told_or_computed_again(folder, part):
    """Two ways for each file, in turn; `benchmarks/faults.py` tries more, and the files of variants and of mlflow."""
    found = list(spoiled.outcomes(folder, part, ways=2))
    assert len(found) > 5
    assert [str(o) for o in found if o.verdict == spoiled.BAD] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return spoiled.made(tmp_path_factory.mktemp("spoiled").resolve())
