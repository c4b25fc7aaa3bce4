"""How much vqkit itself costs when there is a lot: many variants, many recorded runs, many writers.

    python benchmarks/load.py [--json] [--only NAME ...] [--variants N] [--real N] [--records N]

plan      a sweep of N variants (1,000) of a trivial model: planning, keys, deciding what to resume, the
          table; processor time per variant, and how much the memory grew after the first tenth
sweep     N real variants (1,000) of the same model, one after the other in warm kernels: seconds of each in
          and outside its notebook, processor time of all processes, and what the sweep's process, its worker
          and the kernel hold at most, by tenths
compare   the leaderboard of N recorded runs (10,000) with predictions, and two of them side by side
writers   8 processes that log to one mlflow server at once: runs sent, runs found, runs misfiled

Processor time where that can be told, because the machine may be shared. Prints a line for each; with --json,
one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import psutil  # noqa: E402

from tests.support import records as make  # noqa: E402
from tests.support.server import mlflow_server  # noqa: E402

Result = dict[str, Any]
WRITERS = 8
WRITE = """
import pathlib, sys
from vqkit.runs.mlflow import Tracker
runs = pathlib.Path(sys.argv[1])
tracker = Tracker.open(sys.argv[2], runs_dir=runs)
for folder in sorted(runs.glob("variants/*")):
    tracker.log_variant(folder)
"""


def memory_mb() -> float:
    """Resident memory of this process."""
    return float(psutil.Process().memory_info().rss) / 2**20


def trivial(folder: Path, variants: int) -> Any:
    """A sweep of so many variants of a model with two Dense layers."""
    import keras

    from vqkit.sweeps.spec import Sweep

    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")]
    keras.Sequential(layers).save(folder / "m.keras")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    np.savez(folder / "d.npz", x_calib=x, x_eval=x, y_eval=np.arange(16) % 2)
    seeds = -(-variants // 10)
    value = {
        "name": "load",
        "model": "m.keras",
        "data": {"npz": "d.npz"},
        "strategy": "pof2s",
        "mode": "random",
        "n": variants,
        "axes": {"seed": list(range(seeds)), "weight_bit": [2, 3, 4, 5, 6], "bias_bit": [6, 8]},
    }
    return Sweep.from_dict(value, base_dir=folder)


def plan(folder: Path, variants: int) -> Result:
    """Planning, resuming and listing."""
    from vqkit.cli.console import step_table
    from vqkit.execution.runner import steps
    from vqkit.runs.store import RunRecord, Status, Store
    from vqkit.sweeps.resolve import ResolvedSweep, opened

    sweep = trivial(folder, variants)
    runs = Store.at(folder / "runs")
    shared = opened(sweep, runs.cache)
    points = sweep.points()
    # Planned once before the clock runs: what is imported and compiled once is not a variant's.
    shared.resolved(_part(sweep, points[:2]))
    taken, grown, planned = [], [], []
    for tenth in range(10):
        part = points[tenth * len(points) // 10 : (tenth + 1) * len(points) // 10]
        began = time.process_time()
        planned += shared.resolved(_part(sweep, part)).planned
        taken.append((time.process_time() - began) / len(part))
        grown.append(memory_mb())
    whole = ResolvedSweep(sweep, tuple(planned), shared.model_file, shared.notebook)
    for p in whole.planned:
        v = p.variant
        runs.write(RunRecord(v.key, v.name, Status.FINISHED, v.inputs(), "load", started="2026-01-01T00:00:00+00:00"))
    began = time.process_time()
    todo = steps(whole, runs)
    resumed = time.process_time() - began
    began = time.process_time()
    table = step_table(todo)
    listed = time.process_time() - began
    assert sum(not s.runs for s in todo) == len(todo) == variants
    assert len({p.variant.key for p in whole.planned}) == variants
    return {
        "variants": variants,
        "plan_ms_first_tenth": round(1e3 * taken[0], 2),
        "plan_ms_last_tenth": round(1e3 * taken[-1], 2),
        "resume_ms": round(1e3 * resumed / variants, 3),
        "table_ms": round(1e3 * listed / variants, 3),
        "table_lines": len(table.splitlines()),
        "memory_grew_mb": round(grown[-1] - grown[0], 1),
    }


def _part(sweep: Any, points: list[dict[str, Any]]) -> Any:
    from vqkit.sweeps.spec import Sweep

    kept = {k: v for k, v in sweep.spec.model_dump().items() if k not in ("axes", "n", "mode", "variants")}
    return Sweep.from_dict({**kept, "mode": "list", "variants": points}, base_dir=sweep.base_dir)


def held() -> dict[str, float]:
    """Resident MB of this process, its workers and the kernels they lend; CPU seconds of all so far."""
    own = psutil.Process().cpu_times()
    parts = {"parent": memory_mb(), "worker": 0.0, "kernel": 0.0, "cpu": own.user + own.system}
    for child in psutil.Process().children(recursive=True):
        try:
            kind = "kernel" if "ipykernel_launcher" in " ".join(child.cmdline()) else "worker"
            parts[kind] += child.memory_info().rss / 2**20
            parts["cpu"] += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return parts


def sweep(folder: Path, variants: int) -> Result:
    """Real variants, one after the other in warm kernels."""
    from vqkit.execution.runner import RunOptions, run_sweep
    from vqkit.runs.store import Store

    runs, ends, memory = Store.at(folder / "runs"), [time.perf_counter()], []

    def notify(_: Any) -> None:
        ends.append(time.perf_counter())
        memory.append(held())
        if len(memory) % 100 == 0:
            print(len(memory), *(f"{k}={v:.0f}" for k, v in memory[-1].items()), file=sys.stderr, flush=True)

    outcome = run_sweep(trivial(folder, variants), runs, RunOptions(), notify=notify)
    assert not outcome.failed
    assert len(outcome.ran) == variants
    inside = np.array([r.metrics["seconds_total"] for r in outcome.ran])
    outside = np.diff(ends) - inside
    # A kernel that was ended takes its time with it; the median passes over that.
    cpu = np.diff([m.pop("cpu") for m in memory])
    half, tenths = variants // 2, np.array_split(memory, 10)
    return {
        "variants": variants,
        "wall_s": round(ends[-1] - ends[0]),
        "notebook_ms_first_half": round(1e3 * float(np.median(inside[1:half]))),
        "notebook_ms_second_half": round(1e3 * float(np.median(inside[half:]))),
        "outside_ms_first_half": round(1e3 * float(np.median(outside[1:half]))),
        "outside_ms_second_half": round(1e3 * float(np.median(outside[half:]))),
        "cpu_ms_first_half": round(1e3 * float(np.median(cpu[:half]))),
        "cpu_ms_second_half": round(1e3 * float(np.median(cpu[half:]))),
        **{f"{part}_mb": "/".join(f"{max(m[part] for m in t):.0f}" for t in tenths) for part in memory[0]},
    }


def recorded(folder: Path, n: int, samples: int = 450) -> list[str]:
    """Write so many finished runs with predictions; their keys."""
    rng, keys = random.Random(0), []
    for i in range(n):
        accuracy = round(min(0.985, max(0.05, rng.gauss(0.9, 0.06))), 4)
        chosen = {"weight_bit": rng.randint(2, 8), "/x/y": i}
        made = make.record(
            rng.choice(("pof2s", "fs", "fsx")), chosen, accuracy=accuracy, size=rng.randint(5000, 30_000)
        )
        make.add(folder, made, right=range(int(accuracy * samples)))
        keys.append(str(made["key"]))
    return keys


def compare(folder: Path, n: int) -> Result:
    """The leaderboard, and two runs side by side."""
    from vqkit.comparison.difference import difference
    from vqkit.comparison.leaderboard import render

    keys = recorded(folder, n)
    render(folder, where={"weight_bit": 2}, limit=2)
    began, cpu = time.perf_counter(), time.process_time()
    board = render(folder, limit=20)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    began = time.perf_counter()
    difference(keys[0], keys[-1], runs_dir=folder)
    return {
        "runs": n,
        "leaderboard_cpu_s": round(cpu, 2),
        "leaderboard_wall_s": round(wall, 2),
        "lines": len(board.splitlines()),
        "two_runs_s": round(time.perf_counter() - began, 2),
    }


def writers(folder: Path, each: int) -> Result:
    """Processes that log to one server at once, through a database that none has prepared."""
    from tests.system.robustness.scene import store_runs

    with mlflow_server(folder / "server") as server:
        for i in range(WRITERS):
            for j in range(each):
                make.add(folder / str(i), make.record("fs", {"weight_bit": 4, "/w": 100 * i + j}))
        began = time.perf_counter()
        crowd = [
            subprocess.Popen([sys.executable, "-W", "ignore", "-c", WRITE, str(folder / str(i)), server.uri], cwd=ROOT)
            for i in range(WRITERS)
        ]
        codes = [p.wait(600) for p in crowd]
        wall = time.perf_counter() - began
        found = store_runs(folder, server.uri)
    whole = [r for r in found if r["status"] == "FINISHED" and r["complete"] and "record.json" in r["files"]]
    return {
        "writers": WRITERS,
        "failed": sum(c != 0 for c in codes),
        "sent": WRITERS * each,
        "found": len(whole),
        "double": len(found) - len(Counter(r["key"] for r in found)),
        "misfiled": sum(r["experiment"] != "vqkit" for r in found),
        "wall_s": round(wall, 1),
    }


def main() -> None:
    """Run what was asked for."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=["plan", "sweep", "compare", "writers"], metavar="NAME")
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--real", type=int, default=1000)
    parser.add_argument("--records", type=int, default=10_000)
    told = parser.parse_args()
    cases: dict[str, Callable[[Path], Result]] = {
        "plan": lambda f: plan(f, told.variants),
        "sweep": lambda f: sweep(f, told.real),
        "compare": lambda f: compare(f, told.records),
        "writers": lambda f: writers(f, 10),
    }
    result: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    for name in told.only or cases:
        with tempfile.TemporaryDirectory(prefix="vqkit-load-") as folder:
            result[name] = cases[name](Path(folder))
        print(name, *(f"{k}={v}" for k, v in result[name].items()), flush=True)
    if told.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
