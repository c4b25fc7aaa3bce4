"""Seconds of what users wait for, as medians of interleaved repeats.

    python benchmarks/speed.py [--json] [--only NAME ...] [--repeats N]

    kl_2048, kl_16k     the KL search for a clipping threshold on a histogram of so many bins, on one core
    ptq_pof2s, ptq_fsx  quantizing MobileNetV2-96 on 200 images, relative to one float predict over them

Prints one table; with --json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# The KL figure is one of a single core; TensorFlow keeps its own threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

IMAGES = 200
BATCH = 32
Result = dict[str, Any]


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu_name(), "cores": cores, "python": platform.python_version(), **packages}


def cpu_name() -> str:
    """The processor as Linux names it, else as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns, so that a slow minute hits all alike.

    Each work is called once before, unmeasured.
    """
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: statistics.median(r[name] for r in rounds) for name in works}


def histogram_counts(bins: int) -> np.ndarray:
    """Counts of |x| of a heavy-tailed tensor, a million values, int64 (bins,)."""
    values = np.abs(np.random.default_rng(0).standard_t(3, 1_000_000)).astype(np.float32)
    return np.histogram(values, bins)[0]


def kl(bins: int, repeats: int) -> Result:
    """Time of one KL search at 8 bits."""
    from vqkit.primitives.divergence import best_width

    counts = histogram_counts(bins)
    taken = interleaved({"search": lambda: best_width(counts, 128)}, repeats)["search"]
    return {"seconds": taken, "bins": bins}


def ptq(strategy: str, repeats: int) -> Result:
    """Time to quantize MobileNetV2-96 with random weights, in float predicts over the same images."""
    import keras

    from vqkit.flow import quantize

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(input_shape=(96, 96, 3), weights=None)
    images = np.random.default_rng(0).uniform(-1, 1, (IMAGES, 96, 96, 3)).astype(np.float32)
    works = {
        "predict": lambda: model.predict(images, batch_size=BATCH, verbose=0),
        "quantize": lambda: quantize(model, strategy, images, batch_size=BATCH),
    }
    taken = interleaved(works, repeats)
    ratio = taken["quantize"] / taken["predict"]
    return {"seconds": taken["quantize"], "seconds_predict": taken["predict"], "predicts": ratio}


CASES: dict[str, tuple[Callable[[int], Result], int]] = {
    "kl_2048": (lambda repeats: kl(2048, repeats), 15),
    "kl_16k": (lambda repeats: kl(16384, repeats), 5),
    "ptq_pof2s": (lambda repeats: ptq("pof2s", repeats), 3),
    "ptq_fsx": (lambda repeats: ptq("fsx", repeats), 3),
}


def text(name: str, found: Result) -> str:
    """A row for people."""
    beside = (
        f"{found['predicts']:.1f} float predicts of {found['seconds_predict']:.2f} s"
        if "predicts" in found
        else ""
    )
    return f"{name:<12} {found['seconds']:>10.4f} s   {beside}".rstrip()


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="these cases only")
    parser.add_argument("--repeats", type=int, default=None, help="measured calls of each (default by case)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    described = machine()
    print(", ".join(f"{k} {v}" for k, v in described.items()))
    results = {}
    for name in args.only or CASES:
        measure, repeats = CASES[name]
        results[name] = {**measure(args.repeats or repeats), "repeats": args.repeats or repeats}
        print(text(name, results[name]), flush=True)
    if args.json:
        print(json.dumps({"machine": described, "results": results}))


if __name__ == "__main__":
    main()
