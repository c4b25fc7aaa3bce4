"""Every combination of `tests/export/test_onnx_combinations.py`, exported to ONNX and compared.

python benchmarks/onnx_combinations.py [GROUP ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.export.test_onnx_combinations import GROUPS, joint


def main() -> int:
    """Print, for each group, how many combinations there are and what is wrong with which."""
    wrong = 0
    for group in sys.argv[1:] or GROUPS:
        parts = list(GROUPS[group]())
        refused = joint(parts).refusals()
        # Layers are used up by the model that they stand in.
        found = joint([p for p in GROUPS[group]() if p[0] not in refused]).worst()
        print(f"{group}: {len(parts)} combinations, {len(refused)} refused, {len(found)} wrong")
        for name, why in {**refused, **found}.items():
            print(f"  {name}: {why}")
        wrong += len(found)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
