"""Whether vqkit's float graph computes what the model computes, for all of `keras.applications`.

    python benchmarks/float_check.py [--only NAME ...] [--json]

Random weights, batch norms with statistics of their own, images as small as the architecture takes, logits.
For each the largest difference, of the largest value: of the graph as it was read (`lower`), and after the
optimize pipeline of `pof2s` (batch norm folded, channels equalized), where rounding differs; beside it, how
far one rounding of the input moves the model itself: random deep nets amplify it (EfficientNetV2M to 0.6).
The process ends with 1 if a graph as read differs by more than the bound of `vqkit.quantization.float_model`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.applications import architectures, build  # noqa: E402

IMAGES = 2


def lively(model: Any, seed: int = 0) -> None:
    """Give batch norms and normalizations statistics, scales and offsets of their own, at any depth."""
    import keras

    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                positive = weight.name in ("gamma", "moving_variance")
                value = rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(0, 0.2, weight.shape)
                weight.assign(value)
        elif isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.adapt(rng.uniform(0, 200, (16, *layer._build_input_shape[1:])).astype("float32"))


def distances(name: str) -> dict[str, Any]:
    """The differences of one architecture."""
    import keras

    from vqkit.graph.keras_io import lower, raise_model
    from vqkit.quantization.float_model import check_float, distance
    from vqkit.quantization.prepare import as_strategy, graphs

    keras.utils.set_random_seed(0)
    model, size = build(name, classifier_activation=None)
    lively(model)
    x = np.random.default_rng(0).uniform(0, 255, (IMAGES, size, size, 3)).astype("float32")
    graph = lower(model)
    start = time.perf_counter()
    notes = check_float(model, graph, x)
    seconds = time.perf_counter() - start
    want = np.asarray(model(x, training=False))
    read = np.asarray(raise_model(graph)(x, training=False))
    optimized = np.asarray(raise_model(graphs(graph, as_strategy("pof2s")).optimized)(x, training=False))
    return {
        "sway": distance(want, np.asarray(model(x * np.float32(1 + 1.2e-7), training=False))),
        "name": name,
        "size": size,
        "spread": float(np.ptp(want)),
        "read": distance(want, read),
        "optimized": distance(want, optimized),
        "seconds": round(seconds, 2),
        "notes": notes,
    }


def main() -> int:
    """Print a line for each architecture, and the largest differences."""
    from vqkit.quantization.float_model import BOUND

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    lines = []
    for name in args.only or architectures():
        line = distances(name)
        lines.append(line)
        shown = "read {read:.1e}  optimized {optimized:.1e}  one rounding {sway:.1e}  {seconds:.1f} s"
        print(f"{name:24s} {line['size']:3d}  {shown.format(**line)}", flush=True)
        import keras

        keras.backend.clear_session()
    worst = {k: max(line[k] for line in lines) for k in ("read", "optimized")}
    found = f"largest difference {worst['read']:.1e}, optimized {worst['optimized']:.1e}"
    print(f"{len(lines)} architectures; {found}")
    if args.json:
        print(json.dumps({"lines": lines, **worst}))
    return int(worst["read"] > BOUND)


if __name__ == "__main__":
    sys.exit(main())
