"""Turn every key of the built-in strategies, alone and in pairs, on many graphs, and check what comes out.

    python benchmarks/switches.py [--seconds S] [--seed N] [--quantize K] [--golden DIR]

The graphs are those of tests/support/zoo.py, of the recorded models in DIR (tests/golden by default) and
random
ones. For each strategy, with and without `vitis_compat`: every tensor has its row; what layers with quantized
weights read is quantized; the optimized graph computes what the model computes; in compat the quantized
tensors are those that the description of the reference says (benchmarks/switch_parts/placement.py). Every
K-th combination is also quantized, audited, and must give finite outputs. Combinations are shuffled and
walked until the time is over. Exit code: 0 no fault, 1 faults.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.switch_parts.keys import combinations  # noqa: E402

STRATEGIES = ("pof2s", "pof2s_tqt", "fs", "fsx")


def main(arguments: list[str] | None = None) -> int:
    """Walk; see the module's head."""
    options = _parser().parse_args(arguments)
    walk = _Walk(options.quantize)
    graphs = list(_models(options.golden))
    work = [(s, kwargs) for s in STRATEGIES for kwargs in combinations(s)]
    rng = random.Random(options.seed)
    rng.shuffle(work)
    end = time.monotonic() + options.seconds
    done = 0
    for strategy, kwargs in work:
        if time.monotonic() > end:
            break
        model = rng.choice(graphs)
        for compat in (False, True):
            walk.one(model, strategy, kwargs, compat)
        done += 1
    print(
        f"{done} of {len(work)} combinations, each on one of {len(graphs)} graphs, twice: "
        f"{walk.checked} checked, {walk.refused} refused, {walk.quantized} quantized, "
        f"{len(walk.faults)} faults"
    )
    for line in walk.faults:
        print(f"  FAULT: {line}")
    for strategy, kinds in walk.refusals.items():
        print(f"  {strategy} refused: " + "; ".join(f"{n} x {why}" for why, n in kinds.most_common(6)))
    return 1 if walk.faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quantize", type=int, default=10, metavar="K", help="quantize every K-th (0: none)")
    parser.add_argument("--golden", type=Path, default=ROOT / "tests" / "golden", metavar="DIR")
    return parser


def _models(golden: Path) -> Iterator[Any]:
    from benchmarks.golden_parts import ir
    from benchmarks.golden_parts.models import read
    from tests.support import programs, zoo

    yield from map(zoo.build, zoo.NAMES)
    for path in sorted(golden.glob("model_*.json")):
        recording = read(path)
        yield ir.build(recording.ir, recording.arrays)
    rng = random.Random(1)
    for seed in range(40):
        names = rng.choices(sorted(programs.STEPS), k=rng.randint(2, 9))
        steps = tuple(programs.Step(n, rng.choice((0, 0, 0, 1, 2)), rng.randrange(8), rng.randrange(21)) for n in names)
        yield programs.build(programs.Program((3,), steps, rng.randint(1, 2), seed))


class _Walk:
    """Counts what was checked and keeps what was wrong."""

    def __init__(self, every: int) -> None:
        self.every, self.checked, self.refused, self.quantized = every, 0, 0, 0
        self.faults: list[str] = []
        self.refusals: dict[str, Counter[str]] = defaultdict(Counter)
        self._lowered: dict[int, Any] = {}

    def one(self, model: Any, strategy: str, kwargs: dict[str, Any], compat: bool) -> None:
        from benchmarks.switch_parts.checks import faults
        from vqkit.errors import StrategyError

        where = f"{model.name} {strategy} {kwargs}{' vitis_compat' if compat else ''}"
        lowered, x, wanted = self._known(model)
        self.checked += 1
        try:
            found = list(faults(lowered, strategy, kwargs, compat=compat, x=x, wanted=wanted))
            if self.every and self.checked % self.every == 0:
                found += self._run(model, strategy, kwargs, compat, x)
        except StrategyError as error:
            self.refused += 1
            self.refusals[strategy][str(error).partition(": ")[2][:60]] += 1
            return
        except Exception as error:
            found = [f"{type(error).__name__}: {str(error)[:200]}"]
        self.faults += [f"{where}: {line}" for line in found]

    def _known(self, model: Any) -> Any:
        import keras
        import numpy as np

        from tests.support import zoo
        from vqkit.graph.keras_io import lower

        if id(model) not in self._lowered:
            x = zoo.batch(model, 4)
            wanted = [np.asarray(t) for t in keras.tree.flatten(model(x, training=False))]
            self._lowered[id(model)] = lower(model), x, wanted
        return self._lowered[id(model)]

    def _run(self, model: Any, strategy: str, kwargs: dict[str, Any], compat: bool, x: Any) -> list[str]:
        import keras
        import numpy as np

        from vqkit.evaluation import predict
        from vqkit.quantization import quantize
        from vqkit.strategy import Strategy

        chosen = Strategy.builtin(strategy).with_kwargs(**kwargs)
        quantized = quantize(model, chosen, x, batch_size=2, vitis_compat=compat)
        quantized.audit()
        self.quantized += 1
        outputs = keras.tree.flatten(predict(quantized.model, x))
        finite = all(bool(np.isfinite(o).all()) for o in outputs)
        return [] if finite else ["the outputs are not finite"]


if __name__ == "__main__":
    sys.exit(main())
