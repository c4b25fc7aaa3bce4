"""Each fault once; `benchmarks/faults.py` does each several times and counts."""

from __future__ import annotations

import pytest

from tests.system.robustness import faults

# The moment at which the test does it.
TURNS = {"disk_full": 2, "read_only_runs": 1, "torn_notebook": 2}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", faults.FAULTS)
def test_nothing_is_lost_doubled_or_falsified(name, tmp_path):
    if name == "disk_full" and not faults.can_fill_a_disk():
        pytest.skip("this user may not mount a small disk in a name space of his own")
    faults.FAULTS[name](tmp_path / "x", TURNS.get(name, 0))
