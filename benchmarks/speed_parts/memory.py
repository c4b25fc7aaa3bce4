"""Peak memory of calibrating on a stream: a set larger than memory must not be held."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.speed_parts.common import ROOT, Result

SIZE = 96
BATCH = 32


def stream(wanted: float, short: int = 4, long: int = 80) -> Result:
    """Peak memory of a process that calibrates on `long` generated batches, over one with `short`.

    Args:
        wanted: the goal.
        short: batches.
        long: batches; together they are several times larger than what one of them needs.
    """
    peaks = [_peak(n) for n in (short, long)]
    held = long * BATCH * SIZE * SIZE * 3 * 4 / 2**20
    megabytes = {"short": peaks[0], "long": peaks[1], "set": held}
    return {
        "seconds": 0.0,
        "ratio": peaks[1] / peaks[0],
        "wanted": wanted,
        "more": False,
        "megabytes": megabytes,
    }


def _peak(batches: int) -> float:
    code = f"from benchmarks.speed_parts import memory; memory.alone({batches})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(json.loads(done.stdout.splitlines()[-1]))


def alone(batches: int) -> None:
    """Quantize on generated batches and print the peak in MiB; what `stream` starts."""
    import resource

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np
    from keras import layers

    from vqkit.quantization import quantize

    i = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(i)
    model = keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    images = (rng.uniform(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32) for _ in range(batches))
    quantize(model, "pof2s", images)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
