"""Which pass brings how much: MobileNetV1-0.25 at 8 bits, where naive per-tensor quantization collapses.

    python benchmarks/passes.py [--json] [--only TEXT] [--eval N]

Needs the model and images in `../shared`. Prints one table; with --json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT.parent / "shared")]

MIN_MAX = {"activation_method": "NON_OVERFLOW", "input_method": "NON_OVERFLOW"}
ONE_SIDED = {"activation_symmetry": False}
EQUALIZE = {"cle_to_relu6": True}
WIDE_BIAS = {"bias_bit": 16}
CORRECT = {"include_bias_corr": True}
PER_TENSOR = {"weight_per_channel": False}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("fsx per tensor, as it is", "fsx", PER_TENSOR),
    ("  + min/max ranges", "fsx", PER_TENSOR | MIN_MAX),
    ("  + one-sided activations", "fsx", PER_TENSOR | MIN_MAX | ONE_SIDED),
    ("  + equalization across ReLU6", "fsx", PER_TENSOR | MIN_MAX | ONE_SIDED | EQUALIZE),
    ("  + 16-bit biases", "fsx", PER_TENSOR | MIN_MAX | ONE_SIDED | EQUALIZE | WIDE_BIAS),
    ("  + bias correction", "fsx", PER_TENSOR | MIN_MAX | ONE_SIDED | EQUALIZE | WIDE_BIAS | CORRECT),
    ("fsx per channel, as it is", "fsx", {}),
    ("  + min/max ranges", "fsx", MIN_MAX),
    ("  + one-sided activations", "fsx", MIN_MAX | ONE_SIDED),
    ("  + 16-bit biases", "fsx", MIN_MAX | ONE_SIDED | WIDE_BIAS),
    ("  + bias correction", "fsx", MIN_MAX | ONE_SIDED | WIDE_BIAS | CORRECT),
    ("pof2s per tensor, as it is", "pof2s", {}),
    ("  + equalization across ReLU6", "pof2s", EQUALIZE),
    ("  + 16-bit biases", "pof2s", EQUALIZE | WIDE_BIAS),
    ("  + bias correction", "pof2s", EQUALIZE | WIDE_BIAS | CORRECT),
]


def measure(variants: list[tuple[str, str, dict[str, Any]]], n_eval: int | None) -> list[dict[str, Any]]:
    """Top-1 accuracy of each variant, and of the float model, on the same images.

    Args:
        variants: (name, built-in strategy, keyword arguments).
        n_eval: images to evaluate on; all by default.

    Returns:
        One row for the float model and one for each variant: name, strategy, kwargs, accuracy.
    """
    import assets
    import keras

    from vqkit.evaluation import evaluate
    from vqkit.quantization import quantize
    from vqkit.strategy import Strategy

    case = assets.load("mobilenet", n_eval=n_eval)
    model = keras.saving.load_model(case.model_path, compile=False)
    rows = [_row("float", "", {}, evaluate(model, case.x_eval, case.y_eval))]
    for name, base, kwargs in variants:
        strategy = Strategy.builtin(base).with_kwargs(**kwargs)
        quantized = quantize(model, strategy, case.x_calib)
        rows.append(_row(name, base, kwargs, evaluate(quantized.model, case.x_eval, case.y_eval)))
        print(f"{rows[-1]['name']:40} {100 * rows[-1]['accuracy']:6.2f} %", flush=True)
    return rows


def _row(name: str, base: str, kwargs: dict[str, Any], result: Any) -> dict[str, Any]:
    return {
        "name": name,
        "strategy": base,
        "kwargs": kwargs,
        "accuracy": result.metrics["accuracy"],
        "n": result.n,
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="", help="variants of the strategy with this name")
    parser.add_argument("--eval", type=int, default=None, help="images to evaluate on")
    args = parser.parse_args()
    rows = measure([v for v in VARIANTS if args.only in v[1]], args.eval)
    print(f"{'float':40} {100 * rows[0]['accuracy']:6.2f} %  ({rows[0]['n']} images)")
    if args.json:
        print(json.dumps({"model": "mobilenetv1_025_224", "rows": rows}))


if __name__ == "__main__":
    main()
