"""It holds no more: peak memory of evaluating a generator of images, many beside few.

    python benchmarks/memory.py [--json] [--many N] [--few N] [--size PIXELS]

Each figure is the largest resident memory of a process of its own that evaluates a small net on images (PIXELS x
PIXELS x 3, float32) from a generator, in batches of 32. `accuracy` and `mae` follow from sums over samples; `auc` needs
all predictions at once. The ratio of many to few is to be at most 1.3.

Prints a table; with --json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH = 32
MOST = 1.3
Row = dict[str, Any]


def measure(images: int, size: int, metrics: list[str]) -> Row:
    """Evaluate in this process; its peak so far is what the evaluation needed, with all that was imported."""
    import keras
    import numpy as np

    import vqkit

    keras.utils.set_random_seed(0)
    x = keras.Input((size, size, 3))
    small = keras.layers.Conv2D(4, 3, strides=16)(x)
    net = keras.Model(x, keras.layers.Dense(4, "sigmoid")(keras.layers.GlobalAveragePooling2D()(small)))
    few = np.random.default_rng(0).random((BATCH, size, size, 3), np.float32)

    def batches() -> Iterator[tuple[Any, Any]]:
        for start in range(0, images, BATCH):
            n = min(BATCH, images - start)
            yield few[:n] * np.float32(1 - start / images), np.eye(4)[np.arange(start, start + n) % 4]

    began = time.perf_counter()
    found = vqkit.evaluate(net, batches, metrics=metrics)
    if found.n != images:
        raise SystemExit(f"{found.n} of {images} images were evaluated")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": images, "peak_mb": round(peak, 1), "seconds": round(time.perf_counter() - began, 1)}


def apart(images: int, size: int, metrics: list[str]) -> Row:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", str(images), "--size", str(size), "--metrics", *metrics]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--few", type=int, default=500)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--metrics", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.size, args.metrics)))
        return
    rows = []
    for metrics in (["accuracy", "mae"], ["auc"]):
        few, many = (apart(n, args.size, metrics) for n in (args.few, args.many))
        ratio = round(many["peak_mb"] / few["peak_mb"], 3)
        rows.append({"metrics": metrics, "few": few, "many": many, "ratio": ratio, "holds": ratio <= MOST})
    from vqkit.tables import text_table

    names = ("metrics", f"{args.few} images: MB", f"{args.many} images: MB", "ratio", "seconds")
    cells = [
        (", ".join(r["metrics"]), r["few"]["peak_mb"], r["many"]["peak_mb"], r["ratio"], r["many"]["seconds"])
        for r in rows
    ]
    print(text_table(names, [[str(c) for c in row] for row in cells]))
    if args.json:
        print(json.dumps({"size": args.size, "rows": rows}))


if __name__ == "__main__":
    main()
