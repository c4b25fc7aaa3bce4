"""A search whose evaluator only computes; run as a script it can be killed in the middle.

python -m tests.support.counting FOLDER TRIALS [SECONDS_FOR_EACH]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from vqkit.search.loop import Answer, Found, run
from vqkit.search.spec import Search

SPEC = {
    "name": "counting",
    "model": "quickstart",
    "data": "digits",
    "strategy": "fsx",
    "trials": 1,
    "batch": 2,
    "axes": {
        "weight_bit": {"low": 2, "high": 8},
        "activation_bit": {"low": 2, "high": 8},
        "weight_method": [0, 1],
        "include_cle": [True, False],
    },
    "constraints": {"accuracy": {"min": 0.3}},
    "start": [{"weight_bit": 8, "activation_bit": 8, "weight_method": 0, "include_cle": False}],
}


class Counting:
    """Accuracy and size by a formula; activation_bit 3 fails."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked: list[dict] = []
        self.seconds = seconds

    def answers(self, points):
        self.asked += points
        time.sleep(self.seconds)
        return [self.answer(p) for p in points]

    @staticmethod
    def answer(p):
        key = "-".join(str(v) for v in p.values())
        if p["activation_bit"] == 3:
            return Answer(None, key, "three is refused")
        noise = 2.0 ** -p["weight_bit"] + 2.0 ** -p["activation_bit"] - 0.01 * p["weight_method"]
        return Answer(
            {
                "accuracy": min(1.0, max(0.0, 1 - noise)),
                "size_bytes": 1000.0 * p["weight_bit"],
                "n_eval": 1000.0,
            },
            key,
        )

    def strategy(self, trial):
        return {"of": trial.key}


def searched(folder: Path, trials: int, evaluator: Counting, **changes) -> Found:
    return run(Search.from_dict({**SPEC, "trials": trials, **changes}), folder, evaluator)


if __name__ == "__main__":
    searched(Path(sys.argv[1]), int(sys.argv[2]), Counting(float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
