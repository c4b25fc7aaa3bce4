"""What a variant costs in a sweep, beside separate runs and beside one evaluation pass.

    python benchmarks/sweep_speed.py [--json] [--only NAME ...] [--variants N] [--separate N] [-j N]

    float    N variants of ResNet-8 (10,000 images of CIFAR-10), calibrated on the float model
    exact    the same, each tensor observed behind quantized layers
    partial  N variants of MobileNetV1-0.25 (1,300 images) that start in its last third, beside whole ones

Unit: the float model in one compiled function over the same images, in a process of its own with as many
threads as a worker has. Separate runs are `vqkit run` processes, of which a sample is timed before and after
the sweep. Seconds are of the processor, of all processes together, because the machine may be shared;
wall-clock seconds stand beside them. Memory is the peak of the summed resident sets, sampled.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path[:0] = [str(ROOT), str(SHARED)]
# As it was given: benchmarks.speed, imported below, sets threads for its own figures.
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

Result = dict[str, Any]
UNIT = """
import json, os, resource, sys, time
import vqkit as vq
from vqkit.environment import for_workers, load_tensorflow
os.environ.update(for_workers(int(sys.argv[3])))
load_tensorflow()
import tensorflow as tf
net, data = vq.load_model(sys.argv[1]), vq.load_data(json.loads(sys.argv[2]))
run = tf.function(lambda x: net(x, training=False), autograph=False)
taken = []
for _ in range(4):
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for i in range(0, data.n_eval, 250):
        run(tf.constant(data.x_eval[i : i + 250]))
    now = resource.getrusage(resource.RUSAGE_SELF)
    taken.append((time.perf_counter() - began, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime))
print(json.dumps(sorted(taken[1:])[1]))
"""


def measured(command: list[str]) -> Result:
    """Wall and processor seconds of a process and its descendants, and their peak memory.

    Processor time is read while they live: a warm kernel is killed in the end, and whoever is not waited for
    is missing from what the system reports about children.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = _Seen()
    watcher = threading.Thread(target=seen.watch, args=(process.pid,), daemon=True)
    watcher.start()
    out, err = process.communicate()
    wall = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{out.decode()[-2000:]}\n{err.decode()[-2000:]}")
    return {"wall": wall, "cpu": sum(seen.seconds.values()), "bytes": seen.bytes, "out": out.decode()}


class _Seen:
    """What a family of processes has used so far, looked at ten times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self.seconds: dict[tuple[int, float], float] = {}

    def watch(self, pid: int) -> None:
        """Look until the process is gone."""
        while True:
            try:
                first = psutil.Process(pid)
                if first.status() == psutil.STATUS_ZOMBIE:
                    return
                family = [first, *first.children(recursive=True)]
            except psutil.Error:
                return
            self.bytes = max(self.bytes, sum(self._look(p) for p in family))
            time.sleep(0.1)

    def _look(self, process: psutil.Process) -> int:
        try:
            with process.oneshot():
                used = process.cpu_times()
                self.seconds[process.pid, process.create_time()] = used.user + used.system
                return int(process.memory_info().rss)
        except psutil.Error:
            return 0


def case_files(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Model path, and data as a sweep file names them."""
    from assets import load

    case = load(name)
    path = folder / f"{name}.npz"
    if not path.exists():
        np.savez(path, x_calib=case.x_calib, x_eval=case.x_eval, y_eval=case.y_eval)
    return case.model_path, {"npz": str(path)}


def grid(n: int) -> list[dict[str, Any]]:
    """Variants that differ in strategy, widths and granularity; the first ones are spread over all."""
    bits = itertools.product(("pof2s", "fsx"), (8, 6, 5, 4), (8, 7, 6, 5), (False, True))
    points = [{"strategy": s, "weight_bit": w, "activation_bit": a, "weight_per_channel": c} for s, w, a, c in bits]
    return points[:: max(1, len(points) // n)][:n]


def sweep(folder: Path, name: str, model: Path, data: Any, points: list[dict[str, Any]], **settings: Any) -> Path:
    """A sweep file."""
    path = folder / f"{name}.json"
    value = {"model": str(model), "data": data, "mode": "list", "variants": points, **settings}
    path.write_text(json.dumps(value))
    return path


def vqkit(*arguments: Any) -> list[str]:
    """A command line of this checkout."""
    return [sys.executable, "-m", "vqkit.cli", *map(str, arguments)]


def unit(model: Path, data: Any, jobs: int) -> tuple[float, float]:
    """Wall and processor seconds of one pass of the float model, on as many threads as a worker has."""
    command = [sys.executable, "-c", UNIT, str(model), json.dumps(data), str(jobs)]
    wall, cpu = json.loads(measured(command)["out"].strip().splitlines()[-1])
    return wall, cpu


def separate(folder: Path, model: Path, data: Any, points: list[dict[str, Any]], calibration: str) -> Iterator[Result]:
    """Single runs, one process each, in a store of their own."""
    for i, point in enumerate(points):
        pairs = [f"{k}={json.dumps(v)}" for k, v in point.items() if k != "strategy"]
        yield measured(
            vqkit(
                "run",
                model,
                *pairs,
                "-s",
                point["strategy"],
                "--data",
                json.dumps(data),
                "--calibration",
                calibration,
                "--no-track",
                "--runs",
                folder / f"separate-{calibration}-{i}",
            )
        )


def variants(runs: Path) -> list[float]:
    """Seconds of each variant that found its kernel warm."""
    from vqkit.runs.store import Store

    records = Store.at(runs).records()
    return [r.metrics["seconds_total"] for r in records if r.environment["kernel"].startswith("warm")]


def resnet8(calibration: str, n: int, sample: int, jobs: int, folder: Path) -> Result:
    """A sweep against separate runs and against evaluation passes."""
    model, data = case_files("resnet8", folder)
    points = grid(n)
    file = sweep(folder, f"resnet8-{calibration}", model, data, points, calibration=calibration)
    runs = folder / f"sweep-{calibration}"
    chosen = points[:: max(1, n // sample)][:sample]
    half = max(1, sample // 2)
    single = list(separate(folder, model, data, chosen[:half], calibration))
    before = unit(model, data, jobs)
    few = measured(
        vqkit(
            "sweep",
            sweep(folder, "one", model, data, points[:1], calibration=calibration),
            "--no-track",
            "-j",
            jobs,
            "--runs",
            folder / f"one-{calibration}",
        )
    )
    whole = measured(vqkit("sweep", file, "--no-track", "-j", jobs, "--runs", runs))
    after = unit(model, data, jobs)
    single += separate(folder, model, data, chosen[half:], calibration)
    one, alone = (statistics.median(r[k] for r in single) for k in ("wall", "cpu"))
    passes = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
    marginal = [(whole[k] - few[k]) / (n - 1) for k in ("wall", "cpu")]
    return {
        "variants": n,
        "separate_sample": len(single),
        "jobs": jobs,
        "separate_wall": one,
        "separate_cpu": alone,
        "sweep_wall": whole["wall"],
        "sweep_cpu": whole["cpu"],
        "times_faster_wall": one * n / whole["wall"],
        "times_faster_cpu": alone * n / whole["cpu"],
        "pass_wall": passes[0],
        "pass_cpu": passes[1],
        "marginal_wall": marginal[0],
        "marginal_cpu": marginal[1],
        "marginal_passes_wall": marginal[0] / passes[0],
        "marginal_passes_cpu": marginal[1] / passes[1],
        "warm_variants": len(variants(runs)),
        "seconds_variant": statistics.median(variants(runs)),
        "peak_sweep_MiB": whole["bytes"] >> 20,
        "peak_single_MiB": max(r["bytes"] for r in single) >> 20,
        "peak_ratio": whole["bytes"] / max(r["bytes"] for r in single),
    }


def partial(n: int, jobs: int, folder: Path) -> Result:
    """Variants that start in the last third of a network beside variants of the whole network."""
    model, data = case_files("mobilenet", folder)
    points = grid(n)
    late = [{**p, "input_layers": ["conv_pw_10"]} for p in points]
    found: Result = {"variants": n, "start": "conv_pw_10 of 27 convolutions"}
    for name, chosen in (("whole", points), ("late", late)):
        few, all_ = (
            measured(
                vqkit(
                    "sweep",
                    sweep(folder, f"{name}-{k}", model, data, some, calibration="float"),
                    "--no-track",
                    "-j",
                    jobs,
                    "--runs",
                    folder / f"{name}-{k}",
                )
            )
            for k, some in (("one", chosen[:1]), ("all", chosen))
        )
        for k in ("cpu", "wall"):
            found[f"{name}_marginal_{k}"] = (all_[k] - few[k]) / (n - 1)
    for k in ("cpu", "wall"):
        found[f"times_faster_{k}"] = found[f"whole_marginal_{k}"] / found[f"late_marginal_{k}"]
    return found


CASES = {
    "float": lambda o, folder: resnet8("float", o.variants, o.separate, o.jobs, folder),
    "exact": lambda o, folder: resnet8("quantized", o.variants, o.separate, o.jobs, folder),
    "partial": lambda o, folder: partial(o.variants, o.jobs, folder),
}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    from benchmarks.speed_parts.common import machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="these cases only")
    parser.add_argument("--variants", type=int, default=64, help="variants of a sweep")
    parser.add_argument("--separate", type=int, default=4, help="separate runs that are timed")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="variants at once")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    described = {**machine(), "load": os.getloadavg()[0]}
    print(", ".join(f"{k} {v}" for k, v in described.items()), flush=True)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only or CASES:
            results[name] = CASES[name](args, Path(folder))
            for key, value in results[name].items():
                shown = f"{value:.2f}" if isinstance(value, float) else value
                print(f"{name:<8} {key:<22} {shown}", flush=True)
    described["load_after"] = os.getloadavg()[0]
    if args.json:
        print(json.dumps({"machine": described, "results": results}))


if __name__ == "__main__":
    main()
