"""Simulation, ONNX Runtime, LiteRT and the integer interpreter side by side on real models.

    python benchmarks/runtimes.py [--case resnet8|mobilenet|kws|vww ...] [--eval N] [--layers N] [--json]
                                  [--strategy pof2s|fsx|fsx-floats ...]

Top-1 of each on the same labelled samples; agreement of their answers with the simulation's; elements
of the last quantized tensor (the logits) within one code; and of all quantized tensors. `fsx` is the built-in
with `integer_arithmetic`, so that the simulation adds integers as the runtimes do; `fsx-floats` is the
built-in alone, of which nothing is required; its rows "litert i32" compare LiteRT with a simulation whose
biases are multiples of the accumulator's step, as in its file. Needs the models and data in `../shared`.
With --json, one JSON object as the last line.
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
# oneDNN's convolutions add in an order of their own; without it runs repeat.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import load_case  # noqa: E402

CASES = ("resnet8", "kws", "vww", "mobilenet")
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "pof2s": ("pof2s", {}),
    "fsx": ("fsx", {"integer_arithmetic": True}),
    "fsx-floats": ("fsx", {}),
}
REQUIRED = ("pof2s", "fsx")
AGREEMENT, WITHIN = 0.995, 0.99


@dataclass(frozen=True)
class Line:
    """One runtime on one case.

    Attributes:
        case, strategy, runtime: what ran.
        samples: labelled samples.
        top1: accuracy.
        agreement: share of samples with the simulation's answer.
        logits_within_1: share of elements of the last quantized tensor within one code of the simulation's.
        logits_equal: share that is equal.
        tensors_within_1: the worst quantized tensor's share within one code.
        worst_tensor: its name.
        checked: samples that the tensors were compared on.
        seconds: of running the labelled samples.
        passes: whether it holds what is required of it.
        notes: what to know about its file.
    """

    case: str
    strategy: str
    runtime: str
    samples: int
    top1: float
    agreement: float
    logits_within_1: float
    logits_equal: float
    tensors_within_1: float
    worst_tensor: str
    checked: int
    seconds: float
    passes: bool
    notes: tuple[str, ...] = ()


def answers(run: Any, x: np.ndarray, name: str, batch: int) -> tuple[np.ndarray, float]:
    """Class of each sample, and the seconds it took."""
    began, found = time.perf_counter(), []
    for at in range(0, len(x), batch):
        found.append(run({name: x[at : at + batch]})["output"].argmax(-1))
    return np.concatenate(found), time.perf_counter() - began


def lines(case: Any, strategy: str, n_layers: int, batch: int) -> Iterator[Line]:
    """The simulation's row, then one for each runtime, as soon as it is measured."""
    import vqkit
    from vqkit.export.lowering import lower
    from vqkit.export.program import with_int32_biases

    base, changes = STRATEGIES[strategy]
    chosen = vqkit.build_strategy(base, changes)
    quantized = vqkit.quantize(vqkit.load_model(case.model_path), chosen, case.x_calib)
    program = lower(quantized)
    runtimes = ["onnxruntime", "litert", *(["integer"] if base == "pof2s" else [])]
    rest = (n_layers, batch, strategy)
    yield from compared(case, quantized, program, runtimes, *rest)
    if strategy == "fsx-floats":
        yield from compared(case, quantized, with_int32_biases(program), ["litert"], *rest, " i32")


def compared(
    case: Any,
    quantized: Any,
    program: Any,
    runtimes: list[str],
    n_layers: int,
    batch: int,
    strategy: str,
    suffix: str = "",
) -> Iterator[Line]:
    """The rows of one simulation and the runtimes beside it."""
    from vqkit.export.crosscheck import cross_check
    from vqkit.export.runtimes import MAKERS, simulation

    name, y, few = next(iter(program.inputs)), case.y_eval, case.x_eval[:n_layers]
    truth, seconds = answers(simulation(quantized, False, program), case.x_eval, name, batch)
    common = (case.name, strategy)
    right = float(np.mean(truth == y))
    yield Line(*common, f"simulation{suffix}", len(y), right, 1, 1, 1, 1, "", 0, seconds, True)
    checked = cross_check(quantized, few, runtimes, batch_size=batch, strict=False, int32_biases=bool(suffix))
    logits = list(program.quantizers)[-1].row
    for runtime in runtimes:
        table = checked.table[checked.table.runtime == runtime].set_index("tensor").drop(index="output")
        x = case.x_eval if runtime != "integer" else few
        found, seconds = answers(MAKERS[runtime](quantized, program, False, {}).run, x, name, batch)
        near, same = 1 - table.beyond_1, float(np.mean(found == truth[: len(found)]))
        holds = same >= AGREEMENT and near[logits] >= WITHIN
        passes = table.different.max() == 0 if runtime == "integer" else holds
        worst, right = near.idxmin(), float(np.mean(found == y[: len(x)]))
        equal, notes = 1 - float(table.different[logits]), tuple(checked.notes.get(runtime, ()))
        who = (*common, f"{runtime}{suffix}", len(x))
        inner = (float(near[logits]), equal, float(near[worst]), "" if near[worst] == 1 else str(worst))
        yield Line(*who, right, same, *inner, len(few), seconds, bool(passes), notes)


def text(line: Line) -> str:
    """A row for people: per cent and seconds."""
    shares = (line.top1, line.agreement, line.logits_within_1, line.logits_equal, line.tensors_within_1)
    numbers = " ".join(f"{100 * v:9.3f}" for v in shares)
    verdict = "yes" if line.passes else "NO"
    who = f"{line.case:<10} {line.strategy:<10} {line.runtime:<12} {line.samples:>6}"
    return f"{who} {numbers} {line.seconds:8.1f}  {verdict}"


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--strategy", nargs="+", choices=list(STRATEGIES), default=list(REQUIRED))
    parser.add_argument("--calib", type=int, default=200, help="calibration samples (default 200)")
    parser.add_argument("--eval", type=int, default=None, help="labelled samples (default all)")
    parser.add_argument("--layers", type=int, default=200, help="samples of the comparison by tensor (default 200)")
    parser.add_argument("--batch", type=int, default=50, help="samples at once")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    words = ("top-1", "same as", "logits", "logits", "tensors", "")
    print(f"{'':<42}" + " ".join(f"{w:>9}" for w in words))
    words = ("%", "sim. %", "±1 %", "equal %", "±1 %", "s")
    print(f"{'case':<10} {'':<10} {'runtime':<12} {'n':>6} " + " ".join(f"{w:>9}" for w in words) + "  holds")
    found = []
    for name in args.case:
        case = load_case(name, args.calib, args.eval)
        for strategy in args.strategy:
            for line in lines(case, strategy, args.layers, args.batch):
                found.append(line)
                print(text(line), flush=True)
    if args.json:
        required = {"agreement": AGREEMENT, "within_1": WITHIN}
        hold = all(x.passes for x in found if x.strategy in REQUIRED)
        rows = [asdict(x) for x in found]
        print(json.dumps({"required": required, "all_hold": hold, "results": rows}))


if __name__ == "__main__":
    main()
