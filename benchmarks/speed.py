"""How much computing vqkit takes: each figure as a ratio, measured in turns in one run.

    python benchmarks/speed.py [--json] [--only NAME ...] [--repeats N] [--write]

    ptq_*          one quantization in a fresh process, CPU seconds from call to model, against the original
    calibrate_*    calibration in float passes over the same images
    inference_*    simulated quantized inference in float passes, each in a fresh process
    marginal_*     one more variant of ResNet-8 on a bench, in float evaluations of 10,000 images
    partial        variants that quantize the last layers only: without shared float prefix / with
    memory         peak memory of calibrating on a stream, long over short
    scale          cost over variants, images and layers
    kl_*           the search for a clipping threshold on a histogram

The unit is the BN-folded float model in one compiled function. Times are CPU seconds of the process, which
other work on the machine disturbs less than it disturbs wall time. Prints one table; with --json, one JSON
object as the last line; --write puts the table into docs/benchmarks.md and draws docs/speed-scale.png.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

# The KL figure is one of a single core; TensorFlow keeps its own threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed_parts import many, memory, single
from benchmarks.speed_parts.common import ROOT, Result, interleaved, machine

INFERENCE = {"resnet8": 1.25, "resnet50": 1.25, "mobilenetv2_96": 1.25, "mobilenetv2_224": 1.5}
DOCS, PICTURE = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "speed-scale.png"
BEGIN, END = "<!-- speed: written by benchmarks/speed.py -->", "<!-- /speed -->"


def kl(bins: int, repeats: int) -> Result:
    """CPU time of one KL search at 8 bits on a heavy-tailed histogram of a million values."""
    from vqkit.primitives.kl import best_width

    values = np.abs(np.random.default_rng(0).standard_t(3, 1_000_000)).astype(np.float32)
    counts = np.histogram(values, bins)[0]
    return {"seconds": interleaved({"search": lambda: best_width(counts, 128)}, repeats)["search"]}


CASES: dict[str, Callable[[int], Result]] = {
    **{f"ptq_{m}_{s}": (lambda _, m=m, s=s: single.ptq(m, s)) for m, s in single.REFERENCE},
    **{
        f"calibrate_minmax_{m}": (lambda r, m=m: single.calibration(m, 0, 1.4, r, "float"))
        for m in ("resnet8", "mobilenetv2_96")
    },
    **{f"calibrate_mse_{m}": (lambda r, m=m: single.calibration(m, 1, 4, r)) for m in ("resnet8", "mobilenetv2_96")},
    **{f"calibrate_all_{m}": (lambda r, m=m: single.union(m, 7, r)) for m in ("resnet8", "mobilenetv2_96")},
    **{f"inference_{m}": (lambda r, m=m, w=w: single.inference(m, w, r)) for m, w in INFERENCE.items()},
    "marginal_float": lambda _: many.marginal("float", 1.3),
    "marginal_quantized": lambda _: many.marginal("quantized", 1.7),
    "partial": lambda _: many.partial(2),
    "memory": lambda _: memory.stream(1.2),
    "scale": lambda _: many.scale(),
    "kl_2048": lambda r: kl(2048, max(r, 15)),
    "kl_16k": lambda r: kl(16384, r),
}


def row(name: str, found: Result) -> str:
    """A line of the table."""
    goal = "" if "wanted" not in found else f"{'≥' if found['more'] else '≤'} {found['wanted']:g}"
    ratio = f"{found['ratio']:.2f}" if "ratio" in found else ""
    shown = (
        "reference",
        "unit",
        "predict",
        "one core",
        "without own operations",
        "traces",
        "start",
        "growth",
        "megabytes",
    )
    beside = ", ".join(f"{k} {_short(found[k])}" for k in shown if k in found)
    return f"| `{name}` | {found['seconds']:.3g} | {ratio} | {goal} | {beside} |"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write(lines: list[str]) -> None:
    """Put the table between its marks in docs/benchmarks.md."""
    text = DOCS.read_text("utf-8")
    block = "\n".join([BEGIN, *lines, END])
    DOCS.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, text, flags=re.S), "utf-8")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="these cases only")
    parser.add_argument("--repeats", type=int, default=3, help="measured passes of each")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    args = parser.parse_args(argv)
    described = machine()
    lines = ["| figure | CPU s | ratio | goal | beside |", "|---|---:|---:|---:|---|"]
    print(", ".join(f"{k} {v}" for k, v in described.items()), *lines, sep="\n")
    results = {}
    for name in args.only or CASES:
        results[name] = CASES[name](args.repeats)
        lines.append(row(name, results[name]))
        print(lines[-1], flush=True)
    if args.write:
        if "scale" in results:
            many.draw(results["scale"]["curves"], PICTURE)
        write([", ".join(f"{k} {v}" for k, v in described.items()) + ".", "", *lines])
    if args.json:
        print(json.dumps({"machine": described, "results": results}))


if __name__ == "__main__":
    main()
