"""Ten tasks from float to a recommended strategy, each judged by its own metric.

    python benchmarks/tasks.py [--only NAME ...] [--keep DIR] [--minutes 3] [--json] [--write]

The nine examples of `vqkit.examples` (models trained here; data that the code makes or scikit-learn ships) and keyword
spotting from `../shared`. For each: the float model, `fsx` and `pof2s` at 8 bits, `pof2s` at 4, and what `recommend`
chooses when at most 1 % of the float metric (of an error: of it again) may be lost and at most 30 % of float's bytes
are left; its interval, the paired test against float, and how its ONNX file agrees with the simulation. "perfect" is
the metric of predictions that are right by construction; the process ends with 1 where one is not perfect.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "tasks.md"
SMALL, LOST = 0.3, "1%"
KEYWORDS = "keyword_spotting"


@dataclass(frozen=True)
class Row:
    """One task; metrics as their values count, of accuracy a fraction."""

    task: str
    metric: str
    better: str
    perfect: float
    float_value: float
    values: Mapping[str, float | str]
    recommended: str
    value: float
    low: float
    high: float
    p_float: float
    share: float
    kept: bool
    why: str
    onnx: str
    seconds: float
    cpu_seconds: float


def scores(labels: np.ndarray, n: int) -> np.ndarray:
    """Scores of a model that is right: the class far above the others."""
    return np.where(np.arange(n) == np.asarray(labels)[..., None], 9.0, -9.0).astype(np.float32)


def perfect(name: str, samples: Any) -> Any:
    """What a model that is right would give for the samples of an example."""
    x, y = samples.x, samples.y
    if name == "detection":
        return np.concatenate([np.where(y[..., :1] > 0, 9.0, -9.0), y[..., 1:]], axis=-1)
    if name == "anomaly":
        return x + samples.labels[:, None]
    if name == "two_answers":
        return {"digit": scores(y["digit"], 10), "ink": y["ink"]}
    return scores(y, {"segmentation": 4, "sequences": 10}[name]) if y.dtype.kind == "i" else y


def value(engine: Any, predictions: Any) -> float:
    """The metric that decides, of given predictions for an engine's data."""
    from vqkit.evaluation.judgement import Evidence

    outputs = engine.outputs_of(predictions)
    return Evidence.of(engine.metric, outputs, engine.labels, *engine.beside(slice(None))).value


def is_perfect(value: float, better: str) -> bool:
    """Whether a metric has the best value there is."""
    return abs(value - (1.0 if better == "higher" else 0.0)) < 1e-6


@dataclass(frozen=True, eq=False)
class Task:
    """A model, its data, its metrics, and predictions that are right."""

    name: str
    model: Any
    data: Any
    metrics: list[Any] | None
    perfect: Any


def tasks(names: list[str], folder: Path) -> Iterator[Task]:
    """The tasks with these names, one after the other."""
    from vqkit.evaluation import metrics_of
    from vqkit.examples import TASKS, example
    from vqkit.sweeps.source import load_data, load_model

    for name, made in TASKS.items():
        if name not in names:
            continue
        place = example(name, folder / name).parent
        data = load_data({"npz": str(place / "data.npz")})
        metrics = None if made.metrics is None else [m.source for m in metrics_of(list(made.metrics), place)]
        yield Task(name, load_model(place / "model.keras"), data, metrics, perfect(name, made.samples(made.n[1], 1)))
    if KEYWORDS not in names:
        return
    from benchmarks.accuracy import SHARED, load_case
    from vqkit.quantization.data import Data

    if not (SHARED / "assets.py").is_file():
        print(f"{KEYWORDS} is left out: {SHARED} is not there", file=sys.stderr)
        return
    case = load_case("kws", 200, None)
    data = Data("kws", case.x_calib, case.x_eval, case.y_eval)
    yield Task(KEYWORDS, load_model(case.model_path), data, None, scores(case.y_eval, 12))


def row_of(task: Task, minutes: float, say: Callable[[str], None]) -> Row:
    """All figures of one task."""
    from vqkit.errors import VqkitError
    from vqkit.search.engine import Engine
    from vqkit.search.recommend import Bounds, advise
    from vqkit.strategy import Strategy

    began, cpu = time.perf_counter(), time.process_time()
    engine = Engine(task.model, task.data, metrics=task.metrics)
    measure = engine.metric.measure
    say(f"{task.name}: {engine.judged_by}")
    values: dict[str, float | str] = {}
    for base, bits in (("fsx", 8), ("pof2s", 8), ("pof2s", 4)):
        strategy = Strategy.builtin(base).with_kwargs(weight_bit=bits, activation_bit=bits)
        try:
            values[f"{base} {bits}"] = engine.measure(strategy).value
        except VqkitError as e:
            values[f"{base} {bits}"] = str(e)
    full = engine.quantize(Strategy.builtin("fsx")).float_size_bytes
    bounds = Bounds(SMALL * full, engine.bound(LOST), minutes)
    advice = advise(engine, engine, bounds, say=say)
    kept = advice.chosen is not None
    point = advice.chosen or advice.points[0]
    m = point.measured
    return Row(
        task.name,
        measure.name,
        measure.better,
        value(engine, task.perfect),
        engine.reference.value,
        values,
        point.name,
        m.value,
        *m.evidence.interval,
        float(m.evidence.p_value(engine.reference)),
        m.size_bytes / full,
        kept,
        "" if kept else advice.sentence,
        agreement(engine, point.strategy, task),
        time.perf_counter() - began,
        time.process_time() - cpu,
    )


def agreement(engine: Any, strategy: Any, task: Task) -> str:
    """How the ONNX file of a strategy agrees with its simulation."""
    import vqkit as vq
    from vqkit.errors import VqkitError
    from vqkit.quantization.data import map_inputs

    few = map_inputs(lambda a, _: a[:64], task.data.x_eval)
    try:
        found = vq.cross_check(engine.quantize(strategy), few, ["onnxruntime"], strict=False)
    except VqkitError as e:
        return str(e).splitlines()[0]
    return "; ".join(f"{k} {v:.4g}" for k, v in found.metrics.items())


def text(rows: list[Row]) -> str:
    """The table for people, as Markdown."""
    head = ("task", "metric", "float", "fsx 8", "pof2s 8", "pof2s 4", "recommended", "its value (95 %)", "p", "bytes")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        three = [f"{v:.4g}" if isinstance(v, float) else "refused" for v in row.values.values()]
        own = f"{row.value:.4g} ({row.low:.4g} to {row.high:.4g})"
        what = row.recommended if row.kept else f"none ({row.recommended} is nearest)"
        cells = [row.task, f"{row.metric} ({row.better})", f"{row.float_value:.4g}", *three, what, own]
        lines.append(f"| {' | '.join([*cells, f'{row.p_float:.2g}', f'{100 * row.share:.0f} %'])} |")
    return "\n".join(lines)


def main() -> int:
    from vqkit.examples import TASKS

    every = [*TASKS, KEYWORDS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="these tasks (default: all)")
    parser.add_argument("--keep", type=Path, help="folder where models and rows stay, and are not made again")
    parser.add_argument("--minutes", type=float, default=3, help="for the search of each task")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--write", action="store_true", help="write docs/tasks.md")
    args = parser.parse_args()
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if args.json else print
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.stem: Row(**json.loads(path.read_text("utf-8"))) for path in folder.glob("*.json")}
        for task in tasks([name for name in args.only if name not in found], folder):
            row = found[task.name] = row_of(task, args.minutes, say)
            (folder / f"{task.name}.json").write_text(json.dumps(asdict(row)), "utf-8")
    rows = [found[name] for name in args.only if name in found]
    print(text(rows))
    print(notes(rows))
    wrong = [row.task for row in rows if not is_perfect(row.perfect, row.better)]
    if wrong:
        print(f"predictions that are right are not perfect: {', '.join(wrong)}")
    if args.write:
        PAGE.write_text(page(rows), "utf-8")
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "not_perfect": wrong}))
    return int(bool(wrong))


def notes(rows: list[Row]) -> str:
    """What the table has no room for, a line for each task."""
    return "\n".join(f"- {row.task}: ONNX: {row.onnx}.{' ' + row.why if row.why else ''}" for row in rows)


def page(rows: list[Row]) -> str:
    """The document that `--write` writes."""
    kept = sum(row.kept for row in rows)
    return (
        "# Ten tasks\n\nWritten by `python benchmarks/tasks.py --write`. At most 1 % of the float metric may be lost "
        f"and 30 % of float's bytes kept; {kept} of {len(rows)} tasks have a strategy that does both. p: paired test "
        "of the recommended strategy against float on the same samples. The search ends after `--minutes`, so "
        f"another machine may come to another strategy.\n\n{text(rows)}\n\n{notes(rows)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
