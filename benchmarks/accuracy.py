"""Accuracy of real models: float, each strategy at 8 bit, and the shipped int8 TFLite, on the same data.

    python benchmarks/accuracy.py --case resnet8|vww|kws|mobilenet [--json] [--only fsx ...] [--eval N]

Needs the models and data in `../shared` (its `assets.py` loads them). Prints one table; with --json, one JSON
object as the last line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHARED = ROOT.parent / "shared"
TFLITE = {
    "resnet8": {"TFLite int8, shipped": "resnet8_cifar10_int8.tflite"},
    "vww": {"TFLite int8, shipped": "vww_int8.tflite"},
    "mobilenet": {
        "TFLite int8 per channel": "mobilenetv1_025_224_imagenet_int8_perchannel.tflite",
        "TFLite int8 per tensor": "mobilenetv1_025_224_imagenet_int8_pertensor.tflite",
    },
    "kws": {},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fsx": ("fsx", {}),
    "fsx per tensor": ("fsx", {"weight_per_channel": False}),
    "fs": ("fs", {}),
    "pof2s": ("pof2s", {}),
    "pof2s per channel": ("pof2s", {"weight_per_channel": True}),
    "pof2s_tqt": ("pof2s_tqt", {}),
}
HEADER_UNITS = ("%", "float", "float %", "kB", "s", "s")


@dataclass(frozen=True)
class Line:
    """One row of the table; accuracies and agreement are fractions, sizes bytes."""

    name: str
    accuracy: float
    delta: float
    agreement: float
    size_bytes: float | None = None
    seconds_quantize: float | None = None
    seconds_evaluate: float | None = None


def load_case(name: str, n_calib: int, n_eval: int | None) -> Any:
    """A case of the shared assets: model path, calibration inputs, labelled inputs."""
    path = SHARED / "assets.py"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: this benchmark needs the shared models and data")
    spec = importlib.util.spec_from_file_location("shared_assets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.load(name, n_calib=n_calib, n_eval=n_eval)


def tflite_predict(path: Path, x: np.ndarray) -> np.ndarray:
    """Class scores of a TFLite model, one sample at a time, in its own integers.

    Args:
        path: `.tflite` file with one input and one output.
        x: float32 (n, ...).

    Returns:
        (n, classes), integers where the model's output is quantized: good for argmax only.
    """
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = np.empty((len(x), *target["shape"][1:]), target["dtype"])
    for i in range(len(x)):
        interpreter.set_tensor(source["index"], to_input(x[i : i + 1], source))
        interpreter.invoke()
        found[i] = interpreter.get_tensor(target["index"])[0]
    return found


def to_input(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Floats in the type and grid that a TFLite input takes."""
    kind = details["dtype"]
    if np.issubdtype(kind, np.floating):
        return x.astype(kind)
    scale, zero_point = details["quantization"]
    limits = np.iinfo(kind)
    return np.clip(np.rint(x / scale + zero_point), limits.min, limits.max).astype(kind)


def lines(case: Any, only: list[str] | None) -> Iterator[Line]:
    """Every row of the table as soon as it is measured."""
    import keras

    from vqkit.evaluation import evaluate
    from vqkit.quantization import quantize
    from vqkit.strategy import Strategy

    model = keras.saving.load_model(case.model_path, compile=False)
    began = time.perf_counter()
    reference = evaluate(model, case.x_eval, case.y_eval)
    truth = np.argmax(reference.predictions, -1)
    base = reference.metrics["accuracy"]
    size = float(sum(np.prod(w.shape) for w in model.weights) * 4)
    yield Line("float", base, 0.0, 1.0, size, None, time.perf_counter() - began)
    for name, (strategy, changes) in VARIANTS.items():
        if only and name not in only:
            continue
        chosen = Strategy.builtin(strategy).with_kwargs(**changes)
        began = time.perf_counter()
        made = quantize(model, chosen, case.x_calib)
        middle = time.perf_counter()
        result = evaluate(made.model, case.x_eval, case.y_eval)
        same = float(np.mean(np.argmax(result.predictions, -1) == truth))
        accuracy = result.metrics["accuracy"]
        seconds = (middle - began, time.perf_counter() - middle)
        yield Line(name, accuracy, accuracy - base, same, made.size_bytes, *seconds)
    for name, file in TFLITE[case.name].items():
        path = SHARED / "models" / file
        if path.is_file():
            began = time.perf_counter()
            predicted = np.argmax(tflite_predict(path, case.x_eval), -1)
            accuracy, same = float(np.mean(predicted == case.y_eval)), float(np.mean(predicted == truth))
            took = time.perf_counter() - began
            yield Line(name, accuracy, accuracy - base, same, None, None, took)


def text(line: Line) -> str:
    """A row for people: per cent, percentage points, kB, seconds."""
    size, quantizing, evaluating = (
        f"{value / unit:.1f}" if value is not None else "–"
        for value, unit in ((line.size_bytes, 1e3), (line.seconds_quantize, 1), (line.seconds_evaluate, 1))
    )
    numbers = f"{100 * line.accuracy:9.2f} {100 * line.delta:+8.2f} {100 * line.agreement:9.2f}"
    return f"{line.name:<26} {numbers} {size:>9} {quantizing:>10} {evaluating:>10}"


def main(argv: list[str] | None = None) -> None:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=list(TFLITE), default="resnet8")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="these strategies only")
    parser.add_argument("--calib", type=int, default=200, help="calibration images (default 200)")
    parser.add_argument("--eval", type=int, default=None, help="labelled images (default all)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    case = load_case(args.case, args.calib, args.eval)
    print(f"{args.case}: {len(case.x_calib)} calibration and {len(case.x_eval)} labelled samples")
    for words in (("accuracy", "against", "same as", "size", "quantize", "evaluate"), HEADER_UNITS):
        print(f"{'':<26}", "{:>9} {:>8} {:>9} {:>9} {:>10} {:>10}".format(*words))
    found = []
    for line in lines(case, args.only):
        found.append(line)
        print(text(line), flush=True)
    if args.json:
        sizes = {"n_calib": len(case.x_calib), "n_eval": len(case.x_eval)}
        print(json.dumps({"case": args.case, **sizes, "results": [asdict(line) for line in found]}))


if __name__ == "__main__":
    main()
