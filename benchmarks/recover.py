"""What each way to win accuracy back gets on a net that a strategy hurts, and what it costs.

    python benchmarks/recover.py [--case quickstart] [--bits 4 4] [--json]
    python benchmarks/recover.py --case mobilenet [--epochs 24] [--json]

`quickstart`: the digits net at 4-bit weights and 4-bit activations, from plain post-training quantization
through each entry of the refine pipeline to training with trained thresholds, on the 200 calibration
images, no labels but for the one row that says so. `mobilenet`: MobileNetV1-0.25 / ImageNet (needs
`../shared`), power-of-two scales per tensor at 8 bits, before and after training on the 500 calibration
images, no labels.

"left" is the accuracy missing to float, "won back" the share of what plain quantization lost. Prints one
table; with --json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FLOAT = "float"
RATE = 1e-4


@dataclass(frozen=True)
class Line:
    """One row: accuracy and what is left to float as fractions, cost in seconds."""

    name: str
    accuracy: float
    left: float
    won_back: float | None
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, eq=False)
class Case:
    """A float net, its samples, and the labels of the calibration samples where there are some."""

    net: Any
    x_calib: Any
    x_eval: Any
    y_eval: Any
    y_calib: Any = None


def quickstart() -> Case:
    """The digits net; the calibration images are the first training ones, so their labels are known."""
    from vqkit.models import load_model
    from vqkit.sweeps.quickstart import N_CALIB, _digits, quickstart_data, quickstart_model

    data = quickstart_data()
    net = load_model(quickstart_model(Path(tempfile.gettempdir()) / "vqkit-recover"))
    return Case(net, data.x_calib, data.x_eval, data.y_eval, _digits()[1][:N_CALIB])


def mobilenet() -> Case:
    """MobileNetV1-0.25 at 224 pixels."""
    from benchmarks.accuracy import load_case
    from vqkit.models import load_model

    found = load_case("mobilenet", 500, None)
    return Case(load_model(found.model_path), found.x_calib, found.x_eval, found.y_eval)


def strategy(name: str, bits: tuple[int, int], **changes: Any) -> Any:
    """A built-in at the bit widths of weights and activations."""
    from vqkit.strategy import Strategy

    return Strategy.builtin(name).with_kwargs(weight_bit=bits[0], activation_bit=bits[1], **changes)


def ptq(case: Case, chosen: Any, *, labels: bool = False, n: int | None = None) -> Any:
    """Post-training quantization."""
    from vqkit import quantize

    extra = {"calib_labels": case.y_calib} if labels else {}
    return quantize(case.net, chosen, case.x_calib[:n], **extra)


def qat(
    case: Case,
    chosen: Any,
    *,
    epochs: int,
    rate: float,
    factor: float,
    batch_size: int,
    n_calib: int | None = None,
) -> Any:
    """Training against the float net's outputs."""
    import keras

    from vqkit import deploy_model, qat_model
    from vqkit.qat import Distillation, DistillationData, QATAdam, ends_in_softmax

    keras.utils.set_random_seed(0)
    model = qat_model(case.net, chosen, case.x_calib[:n_calib])
    data = DistillationData(case.net, case.x_calib, batch_size=batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * len(data))
    model.compile(QATAdam(schedule, factor), Distillation(from_logits=not ends_in_softmax(case.net)))
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)
    return deploy_model(model)


Way = Callable[[Case], Any]


def quickstart_ways(bits: tuple[int, int], epochs: int) -> dict[str, Way]:
    """Name -> what it does; the first one is what the others are measured against."""
    chosen = partial(strategy, "pof2s", bits)
    train = partial(qat, epochs=epochs, rate=1e-3, factor=30, batch_size=32)
    search = {"include_threshold_search": True, "threshold_search_loss": "kl"}
    both = {"include_fast_ft": True, "include_adaround": True}
    return {
        "PTQ (pof2s)": partial(ptq, chosen=chosen()),
        "bias correction": partial(ptq, chosen=chosen(include_bias_corr=True)),
        "threshold search": partial(ptq, chosen=chosen(**search)),
        "threshold search, labels": partial(
            ptq, chosen=chosen(**{**search, "threshold_search_loss": "labels"}), labels=True
        ),
        "fast finetuning": partial(ptq, chosen=chosen(include_fast_ft=True)),
        "AdaRound": partial(ptq, chosen=chosen(include_adaround=True)),
        "search, finetuning, AdaRound": partial(ptq, chosen=chosen(**search, **both)),
        "PTQ (pof2s_tqt)": partial(ptq, chosen=strategy("pof2s_tqt", bits)),
        "QAT, thresholds held": partial(train, chosen=chosen()),
        "QAT, trained thresholds": partial(train, chosen=strategy("pof2s_tqt", bits)),
        "QAT, from search": partial(train, chosen=chosen(**search)),
    }


def from_features(case: Case, chosen: Any, *, epochs: int, layers: list[str], warm: int = 0) -> Any:
    """Training against outputs and inner values of the float net, on changed images, with relative steps."""
    import keras

    from vqkit import deploy_model, qat_model
    from vqkit.qat import (
        Distillation,
        DistillationData,
        QATAdam,
        RelativeError,
        ends_in_softmax,
        flips_and_shifts,
        warm_cosine,
        with_features,
    )

    keras.utils.set_random_seed(0)
    model = qat_model(case.net, chosen, case.x_calib[:200])
    teacher, student = (with_features(m, layers) for m in (case.net, model))
    data = DistillationData(teacher, case.x_calib, batch_size=25, augment=flips_and_shifts(8))
    schedule = warm_cosine(1e-3, epochs * len(data), warm * len(data))
    losses = [Distillation(from_logits=not ends_in_softmax(case.net)), *(RelativeError() for _ in layers)]
    student.compile(QATAdam(schedule, 1.0, relative=True), losses)
    student.fit(data, epochs=epochs, shuffle=False, verbose=0)
    return deploy_model(model)


@cache
def balanced(case: Case) -> Case:
    """The same with channels of the sizes that suit power-of-two scales per tensor."""
    from vqkit.qat import balance_channels

    start = strategy("pof2s", (8, 8), cle_to_relu6=True)
    return replace(case, net=balance_channels(case.net, start, case.x_calib[:64]))


def from_balance(case: Case, *, epochs: int, bias_bit: int = 16) -> Any:
    """Training from balanced channels and the positions of least squared error."""
    import keras

    from vqkit import deploy_model, qat_model
    from vqkit.qat import (
        Distillation,
        DistillationData,
        QATAdam,
        RelativeError,
        crops_and_flips,
        ends_in_softmax,
        warm_cosine,
        with_features,
    )

    keras.utils.set_random_seed(0)
    kwargs = {"include_cle": False, "include_bias_corr": True, "bias_bit": bias_bit}
    chosen, start = (strategy(name, (8, 8), **kwargs) for name in ("pof2s_tqt", "pof2s"))
    model = qat_model(balanced(case).net, chosen, case.x_calib[:200], start=start)
    teacher, student = (with_features(m, ["conv_pw_13_relu"]) for m in (case.net, model))
    data = DistillationData(teacher, case.x_calib, batch_size=25, augment=crops_and_flips(0.5))
    losses = [Distillation(from_logits=not ends_in_softmax(case.net)), RelativeError()]
    student.compile(QATAdam(warm_cosine(RATE, epochs * len(data)), 10.0, relative=True), losses)
    student.fit(data, epochs=epochs, shuffle=False, verbose=0)
    return deploy_model(model)


def mobilenet_ways(bits: tuple[int, int], epochs: int) -> dict[str, Way]:
    """The same for MobileNet: channels equalized across ReLU6 in all of them."""
    tqt = partial(strategy, "pof2s_tqt", bits, cle_to_relu6=True)
    corrected = {"include_bias_corr": True, "bias_bit": 16}
    train = partial(from_features, epochs=epochs, layers=["conv_pw_13_relu"])
    return {
        "PTQ (pof2s_tqt)": partial(ptq, chosen=tqt(), n=200),
        "PTQ, 16-bit biases": partial(ptq, chosen=tqt(bias_bit=16), n=200),
        "PTQ, biases corrected": partial(ptq, chosen=tqt(**corrected), n=200),
        "QAT, trained thresholds": partial(train, chosen=tqt(**corrected)),
        "QAT, 8-bit biases": partial(train, chosen=tqt(include_bias_corr=True)),
        "PTQ, balanced (pof2s)": lambda c: ptq(
            balanced(c), strategy("pof2s", bits, include_cle=False, **corrected), n=200
        ),
        "QAT, balanced": partial(from_balance, epochs=epochs),
    }


def lines(case: Case, ways: dict[str, Way], only: list[str] | None) -> Iterator[Line]:
    """Every row as soon as it is measured."""
    from vqkit import evaluate

    def accuracy(model: Any) -> float:
        return float(evaluate(model, case.x_eval, case.y_eval).metrics["accuracy"])

    base, lost = accuracy(case.net), None
    yield Line(FLOAT, base, 0.0, None, 0.0, 0.0)
    for name, way in ways.items():
        if only and name not in only and lost is not None:
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        made = way(case)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        left = base - accuracy(made.model)
        lost = left if lost is None else lost
        yield Line(name, base - left, left, 1 - left / lost if lost else None, wall, cpu)


def text(line: Line) -> str:
    """A row for people: per cent and percentage points."""
    share = "" if line.won_back is None else f"{100 * line.won_back:.0f}"
    numbers = f"{100 * line.accuracy:9.2f} {100 * line.left:9.2f} {share:>9}"
    return f"{line.name:<30} {numbers} {line.seconds:9.1f} {line.cpu_seconds:9.1f}"


def main(argv: list[str] | None = None) -> None:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=["quickstart", "mobilenet"], default="quickstart")
    parser.add_argument("--bits", type=int, nargs=2, metavar=("WEIGHT", "ACTIVATION"))
    parser.add_argument("--epochs", type=int, help="of training (default 40, mobilenet 24)")
    parser.add_argument("--only", nargs="+", help="these rows only, and the first")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    small = args.case == "quickstart"
    bits = tuple(args.bits or ((4, 4) if small else (8, 8)))
    epochs = args.epochs or (40 if small else 24)
    case = quickstart() if small else mobilenet()
    ways = (quickstart_ways if small else mobilenet_ways)(bits, epochs)
    unknown = set(args.only or ()) - set(ways)
    if unknown:
        parser.error(f"--only: {sorted(unknown)[0]!r} is no row; there are: {', '.join(ways)}")
    print(f"{args.case}, {bits[0]}-bit weights, {bits[1]}-bit activations, {len(case.x_eval)} labelled samples")
    for words in (("accuracy", "left", "won back", "wall", "CPU"), ("%", "points", "%", "s", "s")):
        print(f"{'':<30}", *(f"{w:>9}" for w in words))
    found = []
    for line in lines(case, ways, args.only):
        found.append(line)
        print(text(line), flush=True)
    if args.json:
        sizes = {"n_calib": len(case.x_calib), "n_eval": len(np.asarray(case.y_eval))}
        print(json.dumps({"case": args.case, "bits": bits, **sizes, "results": [asdict(f) for f in found]}))


if __name__ == "__main__":
    main()
