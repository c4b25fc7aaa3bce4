"""Does it find the strategy: mixed precision on real models, against random search, killed and taken up.

    python benchmarks/search.py [--json] [--only resnet8 mobilenet random kill sensitivity] [--eval N]

`resnet8` and `mobilenet` (bits by layer), `random` (hypervolume of the search against random search) and
`sensitivity` (time against asking one by one, same numbers) need the models and data in `../shared`; `kill`
needs nothing. With --json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import load_case  # noqa: E402

# Widths above 8 cost little in small layers, and buy a lot in those where noise starts.
BITS = (10, 8, 7, 6, 5, 4)
# The quantizers of `fsx`, weights clipped where that lowers their error, biases corrected.
CHANGES = {"weight_method": "MIN_MSE", "include_bias_corr": True}
# What brings most at 8 bits per channel (docs/benchmarks.md).
MOBILE = {
    "activation_method": "NON_OVERFLOW",
    "input_method": "NON_OVERFLOW",
    "activation_symmetry": False,
    "bias_bit": 16,
}
SEEDS, CHECKPOINTS = 5, (10, 15, 20, 25, 30)
PICTURE = ROOT / "docs" / "search-hypervolume.png"
FRONT = ROOT / "docs" / "search-mobilenet.png"


def engines(name: str, n_calib: int, n_eval: int | None, asked: int = 1000) -> tuple[Any, Any, Any]:
    """Engine on all labelled samples, one on `asked` for sensitivities, and the model."""
    import keras

    from vqkit.quantization.data import Data
    from vqkit.search import Engine

    case = load_case(name, n_calib, n_eval)
    model = keras.saving.load_model(case.model_path, compile=False)
    data = Data(name, case.x_calib, case.x_eval, case.y_eval)
    return Engine(model, data), Engine(model, data, images=asked), model


def front(
    name: str,
    sizes: tuple[int, int | None, int],
    points: int,
    share: float | None,
    changes: dict[str, Any],
    bits: tuple[int, ...] = BITS,
) -> dict[str, Any]:
    """Mixed strategies by size against uniform ones, from one call; with `share`, none above that size."""
    from vqkit.search import mixed
    from vqkit.strategy import Strategy

    engine, asker, _ = engines(name, *sizes)
    base = Strategy.builtin("fsx").with_kwargs(**changes)
    began = time.perf_counter()
    largest = None if share is None else share * engine.measure(base).size_bytes
    found = mixed(
        engine,
        base,
        bits=bits,
        points=points,
        max_size=largest,
        sensitivity_engine=asker,
        uniform=(8, 6, 4) if share is None else (8,),
        progress=True,
    )
    seconds = time.perf_counter() - began
    print(f"{found}\n{seconds:.0f} s", flush=True)
    rows = [{k: v for k, v in r.items() if k != "bits"} for r in found.table.to_dict("records")]
    if share is None:
        draw_front(rows, found.reference.value, len(found.reference), FRONT)
    eight = found.uniform[0].measured.size_bytes
    best = found.best(max_size=0.6 * eight)
    return {
        "rows": rows,
        "seconds": seconds,
        "float_accuracy": found.reference.value,
        "on_front": len(found.pareto()),
        "dominates": dominated(found),
        "share_of_8_bit": None if best is None else best.measured.size_bytes / eight,
        "drop_at_60_percent": None if best is None else best.measured.drop,
        "bits": None if best is None else best.bits,
    }


def dominated(found: Any) -> dict[str, bool]:
    """Uniform strategy -> whether a mixed one is no larger and at least as accurate, and better in one."""

    def beaten(u: Any) -> bool:
        return any(
            p.measured.size_bytes <= u.measured.size_bytes
            and p.measured.value >= u.measured.value
            and (p.measured.size_bytes, p.measured.value) != (u.measured.size_bytes, u.measured.value)
            for p in found.points
        )

    return {u.name: beaten(u) for u in found.uniform}


def draw_front(rows: list[dict[str, Any]], float_accuracy: float, n: int, path: Path) -> None:
    """Accuracy against size of mixed and of uniform strategies, with 95 % intervals."""
    from matplotlib.figure import Figure

    from vqkit.statistics import wilson

    fig = Figure(figsize=(7, 4), layout="constrained")
    ax = fig.subplots()
    for name, marker, colour in (("mixed", "o", "#0072B2"), ("uniform", "s", "#D55E00")):
        chosen = [r for r in rows if r["name"].startswith(name)]
        size = [r["size_bytes"] / 1000 for r in chosen]
        accuracy = np.array([r["accuracy"] for r in chosen])
        low, high = (np.asarray(edge) for edge in wilson(accuracy, n))
        bars = 100 * np.array([accuracy - low, high - accuracy])
        ax.errorbar(size, 100 * accuracy, bars, fmt=marker, color=colour, ms=6, lw=1, label=f"{name} bits")
        for row, x, y in zip(chosen, size, 100 * accuracy, strict=True):
            if name == "uniform":
                ax.annotate(
                    row["name"].removeprefix("uniform-") + " bit",
                    (x, y),
                    (-4, -24),
                    ha="right",
                    textcoords="offset points",
                    color=colour,
                )
    ax.axhline(100 * float_accuracy, color="0.4", ls="--", lw=1, label="float")
    ax.set(xlabel="size of weights, kB", ylabel=f"top-1, % of {n} images", ylim=(0, None))
    ax.legend(frameon=False, loc="lower right")
    fig.savefig(path, dpi=110)


def resnet8(n_eval: int | None) -> dict[str, Any]:
    """Weights at most 60 % of the 8-bit size, within one point of float."""
    return front("resnet8", (200, n_eval, 1000), 2, 0.6, {**CHANGES, "include_fast_ft": True})


def mobilenet(n_eval: int | None) -> dict[str, Any]:
    """At least 8 points that dominate uniform 8, 6 and 4 bits at every size."""
    return front("mobilenet", (200, n_eval, 256), 14, None, {**CHANGES, **MOBILE}, bits=(8, 7, 6, 5, 4, 3))


# --- against random search ---


class Measured:
    """Points of a search, measured in this process; shared by all searches."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.known: dict[str, Any] = {}

    def answers(self, points: list[dict[str, Any]]) -> list[Any]:
        """One answer for each point."""
        return [self.answer(p) for p in points]

    def answer(self, point: dict[str, Any]) -> Any:
        """Bits of each layer's weights to accuracy and size."""
        from vqkit.search.loop import Answer
        from vqkit.search.questions import with_rules
        from vqkit.strategy import Strategy

        rules = {pointer.split("/")[-2]: {"weight_bit": bits} for pointer, bits in point.items()}
        found = self.engine.measure(with_rules(Strategy.builtin("fsx"), rules))
        metrics = {"accuracy": found.value, "size_bytes": found.size_bytes, "n_eval": len(found.evidence)}
        return Answer(metrics, found.digest)

    def strategy(self, trial: Any) -> None:
        """Not kept here."""


def hypervolume(points: list[tuple[float, float]], worst: float) -> float:
    """Area that points dominate: accuracy above 0, size below `worst`, as a share of the whole."""
    area, best = 0.0, 0.0
    left = sorted(points)
    for i, (size, accuracy) in enumerate(left):
        best = max(best, accuracy)
        until = left[i + 1][0] if i + 1 < len(left) else worst
        area += best * max(0.0, min(until, worst) - min(size, worst))
    return area / worst


def random(n_eval: int | None) -> dict[str, Any]:
    """Hypervolume by number of trials, five seeds each: the search, and random search on the same axes.

    The search begins with points that integer programming gives from sensitivities; the time these take is
    taken off its budget as trials that find nothing.
    """
    from vqkit.quantization.prepare import prepare
    from vqkit.search import allocation
    from vqkit.search.mixed_precision import LayerOptions
    from vqkit.search.questions import units
    from vqkit.strategy import Strategy

    engine, asker, model = engines("resnet8", 100, n_eval or 1000)
    base = Strategy.builtin("fsx")
    prepared = prepare(model, base)
    evaluator = Measured(engine)
    names = [u.weights for u in units(prepared) if u.weights]
    pointers = {n: f"/quantize_registry_config/layer_config/{n}/weight_bit" for n in names}
    began = time.perf_counter()
    largest = evaluator.answer(dict.fromkeys(pointers.values(), 8)).metrics["size_bytes"]
    per_trial = time.perf_counter() - began
    began = time.perf_counter()
    options = LayerOptions(asker, base, prepared, (8, 6, 4, 3, 2), "kl", (), False, False)
    problem = options.problem(("weights",), largest)
    chosen = allocation.front(problem, 8)
    lost = int(np.ceil((time.perf_counter() - began) / per_trial))
    starts = [{pointers[s.layer]: o.bits for s, o in c.items()} for c in chosen]
    curves: dict[str, list[list[float]]] = {"search": [], "random": []}
    for seed in range(SEEDS):
        for kind, start, skip in (("search", starts, lost), ("random", [], 0)):
            sizes = trials_of(evaluator, list(pointers.values()), kind, seed, start, CHECKPOINTS[-1] - skip)
            before = [0.0] * skip
            curves[kind].append(before + [hypervolume(sizes[: n + 1], largest) for n in range(len(sizes))])
            line = curves[kind][-1]
            print(kind, seed, [round(line[min(c, len(line)) - 1], 3) for c in CHECKPOINTS], flush=True)
    draw(curves, PICTURE)
    at = {str(c): {k: [v[min(c, len(v)) - 1] for v in vs] for k, vs in curves.items()} for c in CHECKPOINTS}
    better = all(min(v["search"]) > max(v["random"]) for v in at.values())
    mean = {c: {k: float(np.mean(v)) for k, v in kinds.items()} for c, kinds in at.items()}
    return {
        "trials_for_sensitivities": lost,
        "mean": mean,
        "every_seed_better_everywhere": better,
        "better_in_the_mean": all(m["search"] > m["random"] for m in mean.values()),
    }


def trials_of(
    evaluator: Measured, axes: list[str], kind: str, seed: int, start: list[dict[str, Any]], trials: int
) -> list[tuple[float, float]]:
    """(size, accuracy) of each trial in order."""
    from vqkit.search.loop import run
    from vqkit.search.spec import Search

    value = {
        "name": f"{kind}-{seed}",
        "model": "resnet8.keras",
        "data": "digits",
        "strategy": "fsx",
        "trials": trials,
        "axes": {a: {"low": 2, "high": 8} for a in axes},
        "seed": seed,
        "start": start,
        "sampler": "tpe" if kind == "search" else "random",
    }
    with tempfile.TemporaryDirectory() as folder:
        found = run(Search.from_dict(value), Path(folder), evaluator)
    return [(t.values[1], t.values[0]) for t in found.trials if t.values is not None]


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Mean and range of the curves."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7, 4), layout="constrained")
    ax = fig.subplots()
    for (kind, lines), colour in zip(curves.items(), ("#0072B2", "#E69F00"), strict=True):
        n = min(map(len, lines))
        values = np.array([line[:n] for line in lines])
        x = np.arange(1, n + 1)
        ax.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.25, lw=0)
        ax.plot(x, values.mean(0), color=colour, label=f"{kind}: mean and range of {len(lines)} seeds")
    ax.set(xlabel="trials", ylabel="hypervolume, share of accuracy x size", ylim=(0, None))
    ax.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


# --- killed, and taken up ---


def kill(n_eval: int | None) -> dict[str, Any]:
    """The same study whether or not the search was killed with SIGKILL, at several moments."""
    del n_eval
    from tests.support.counting import Counting, searched

    def numbers(found: Any) -> list[Any]:
        return [(t.number, dict(t.point), t.values, t.reason, t.violations) for t in found.trials]

    kills = 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = numbers(searched(Path(scratch, "whole"), 24, Counting()))
        for moment in (1.0, 2.5, 4.0):
            folder = Path(scratch, f"killed-{moment}")
            command = [sys.executable, "-m", "tests.support.counting", str(folder), "24", "0.3"]
            child = subprocess.Popen(command, cwd=ROOT)
            while not (folder / "best.json").exists():
                time.sleep(0.05)
            time.sleep(moment)
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
            child.wait()
            same = numbers(searched(folder, 24, Counting())) == whole
            print(f"killed {moment} s after the first trial: same study {same}", flush=True)
            if not same:
                return {"kills": kills, "same": False}
    return {"kills": kills, "same": True}


# --- sensitivities ---


def sensitivity(n_eval: int | None) -> dict[str, Any]:
    """Weights and activations of all layers at three widths: at once, and one by one, to the same table.

    At once is measured before and after, with an engine that knows nothing, and both times count half: so a
    machine's load that changes meanwhile does not favour either. What a process pays once (TensorFlow makes
    its kernels) neither pays: a run at once goes ahead, and its seconds are told beside the ratio.
    """
    from vqkit.evaluation import evaluate
    from vqkit.quantization import quantize
    from vqkit.quantization.prepare import prepare
    from vqkit.search import sensitivity as ask
    from vqkit.search.engine import tallied
    from vqkit.search.questions import questions, strategy_for, units
    from vqkit.strategy import Strategy

    images, kinds = n_eval or 1000, ("weights", "activations")
    results = {}
    for base in ("pof2s", "fsx"):
        strategy = Strategy.builtin(base)
        taken, found = {}, []
        for part in ("first", "before", "one by one", "after"):
            engine, _, model = engines("resnet8", 200, images)
            began = clocks()
            if part == "one by one":
                asked = questions(units(prepare(model, strategy)), (8, 6, 4), kinds, ("only",))
                alone = []
                for question in asked:
                    made = quantize(model, strategy_for(strategy, question), engine.data.x_calib)
                    outputs = evaluate(made.model, engine.data.x_eval, engine.data.y_eval).predictions
                    alone.append(tallied(engine.sums(), outputs, engine.float_outputs(), engine.labels).numbers())
            else:
                found.append(ask(model, engine.data, strategy, bits=(8, 6, 4), kinds=kinds, engine=engine).rows)
            taken[part] = clocks() - began
        at_once, one_by_one = (taken["before"] + taken["after"]) / 2, taken["one by one"]
        same = sum(
            all(rows[i][k] == a[k] for rows in found for k in a) and rows_name(found[0][i]) == name_of(q)
            for i, (q, a) in enumerate(zip(asked, alone, strict=True))
        )
        ratio, cpu_ratio = one_by_one / at_once
        results[base] = {
            "questions": len(asked),
            "images": images,
            "seconds": at_once[0],
            "cpu_seconds": at_once[1],
            "first_seconds": taken["first"][0],
            "one_by_one_seconds": one_by_one[0],
            "one_by_one_cpu_seconds": one_by_one[1],
            "ratio": ratio,
            "cpu_ratio": cpu_ratio,
            "same": same,
            "load": os.getloadavg()[0],
        }
        print(
            f"{base}: {len(asked)} questions on {images} images in {at_once[0]:.1f} s "
            f"({at_once[1]:.1f} s CPU; {taken['first'][0]:.1f} s at first), one by one {one_by_one[0]:.1f} s "
            f"({one_by_one[1]:.1f} s): {ratio:.1f} x ({cpu_ratio:.1f} x), same accuracy, SQNR, KL in {same};"
            f" load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return results


def clocks() -> np.ndarray:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def rows_name(row: Any) -> tuple[str, str, int]:
    """The question of a table's row."""
    return row["layer"], row["kind"], row["bits"]


def name_of(question: Any) -> tuple[str, str, int]:
    """A question as its row names it."""
    return question.unit.layer, question.kind, question.bits


PARTS = {
    "resnet8": resnet8,
    "mobilenet": mobilenet,
    "random": random,
    "kill": kill,
    "sensitivity": sensitivity,
}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument(
        "--eval", type=int, default=None, help="labelled images (default all; random, sensitivity: 1000)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    results = {}
    for name in args.only or PARTS:
        print(f"--- {name}", flush=True)
        results[name] = PARTS[name](args.eval)
    if args.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
