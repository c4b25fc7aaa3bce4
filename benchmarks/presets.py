"""Accuracy and cost of the presets, and of a few bits more or less, on the real models.

    python benchmarks/presets.py --case resnet8|vww|kws|mobilenet [--only w4a4 ...] [--seeds 0 1 2]
                                 [--set KEY=VALUE ...] [--json]

Needs the models and data in `../shared`. Calibration images have no labels. Prints one row for each strategy
and seed; with --json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

POW2 = {"weight_bit": 4, "activation_bit": 4, "cle_to_relu6": False}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "w4a4 pow2": ("int8_pow2", POW2),
    "w4a4 pow2 per channel": ("int8_pow2", POW2 | {"weight_per_channel": True}),
    "w3a8": ("w4a8", {"weight_bit": 3}),
    "w2a8": ("w4a8", {"weight_bit": 2}),
}
ENDS = "w4a4 ends 8"
"""W4A4 with the weights of the first and the last layer at 8 bits."""


@dataclass(frozen=True)
class Line:
    """One row; the accuracy is a fraction, times are seconds of quantizing."""

    name: str
    seed: int
    accuracy: float
    cpu_seconds: float
    seconds: float


def strategies(net: Any) -> dict[str, Any]:
    """Name -> strategy for this model."""
    from vqkit.strategy import Strategy, vocabulary

    found = {name: Strategy.builtin(name) for name in vocabulary.PRESETS}
    found |= {name: Strategy.builtin(base).with_kwargs(**changes) for name, (base, changes) in MORE.items()}
    weighted = [layer.name for layer in net.layers if any(w.path.endswith("kernel") for w in layer.weights)]
    rules = {weighted[i]: {"weight_bit": 8} for i in (0, -1)}
    return found | {ENDS: found["w4a4"].with_name_rules(rules)}


def lines(case: Any, only: list[str] | None, seeds: list[int], changes: dict[str, Any]) -> Iterator[Line]:
    """Every row as soon as it is measured; the seed counts where something is trained."""
    import keras

    from vqkit.evaluation import evaluate
    from vqkit.quantization import quantize

    net = keras.saving.load_model(case.model_path, compile=False)
    for name, chosen in strategies(net).items():
        if only and name not in only:
            continue
        for seed in seeds if chosen.refine.include_block_reconstruction else seeds[:1]:
            wall, cpu = time.perf_counter(), time.process_time()
            made = quantize(net, chosen.with_kwargs(block_seed=seed, **changes), case.x_calib)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            accuracy = evaluate(made.model, case.x_eval, case.y_eval).metrics["accuracy"]
            yield Line(name, seed, float(accuracy), cpu, wall)


def main(argv: list[str] | None = None) -> None:
    """Measure one case and print it."""
    from benchmarks.accuracy import TFLITE, load_case

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=list(TFLITE), default="resnet8")
    parser.add_argument("--only", nargs="+", help="these rows only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--calib", type=int, default=500, help="calibration images (default 500)")
    parser.add_argument("--eval", type=int, default=None, help="labelled images (default all)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of a strategy, for all rows")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    case = load_case(args.case, args.calib, args.eval)
    print(f"{args.case}: {len(case.x_calib)} calibration and {len(case.x_eval)} labelled samples")
    print(f"{'':<24} {'seed':>4} {'accuracy %':>10} {'CPU s':>8} {'s':>8}")
    found = []
    changes = {key: yaml.safe_load(value) for key, value in (one.split("=", 1) for one in args.set)}
    for line in lines(case, args.only, args.seeds, changes):
        found.append(line)
        numbers = f"{line.seed:>4} {100 * line.accuracy:>10.2f} {line.cpu_seconds:>8.1f} {line.seconds:>8.1f}"
        print(f"{line.name:<24} {numbers}", flush=True)
    if args.json:
        sizes = {"n_calib": len(case.x_calib), "n_eval": len(np.asarray(case.y_eval))}
        print(json.dumps({"case": args.case, **sizes, "results": [asdict(f) for f in found]}))


if __name__ == "__main__":
    main()
