"""Models, inputs and clocks that the speed figures share."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
sys.path[:0] = [str(ROOT), str(SHARED)]

Result = dict[str, Any]

LONG_ENOUGH = 6.0
"""CPU seconds over which a work is measured, on average: a shared machine is slow for seconds at a time."""

MOST_ROUNDS = 80


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    packages = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = round(os.getloadavg()[0], 1)
    return {"cpu": cpu_name(), "cores": cores, "load": load, "python": platform.python_version(), **packages}


def cpu_name() -> str:
    """The processor as Linux names it, else as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, all threads, for one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def interleaved(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, taken in turns, so that a slow minute hits all alike.

    Each work is called once before, unmeasured.

    Args:
        works: by name.
        repeats: rounds at least; works shorter than `LONG_ENOUGH` take more of them.
    """
    for work in works.values():
        work()
    rounds: list[dict[str, float]] = []
    while len(rounds) < repeats or (
        len(rounds) < MOST_ROUNDS and sum(sum(r.values()) for r in rounds) < LONG_ENOUGH * len(works)
    ):
        rounds.append({name: cpu_seconds(work) for name, work in works.items()})
    return {name: statistics.median(r[name] for r in rounds) for name in works}


def random_images(n: int, size: int) -> np.ndarray:
    """Uniform in -1..1, float32 (n, size, size, 3)."""
    return np.random.default_rng(0).uniform(-1, 1, (n, size, size, 3)).astype(np.float32)


def model_and_images(name: str, n: int) -> tuple[Any, np.ndarray]:
    """A model of the figures with calibration images.

    Args:
        name: mobilenetv2_224, mobilenetv2_96 or resnet50 (random weights, random images), or resnet8 or
            mobilenet (trained, real images; needs `../shared`).
        n: images.
    """
    import keras

    keras.utils.set_random_seed(0)
    if name == "resnet50":
        return keras.applications.ResNet50(weights=None), random_images(n, 224)
    if name.startswith("mobilenetv2"):
        size = int(name.rpartition("_")[2])
        model = keras.applications.MobileNetV2(input_shape=(size, size, 3), weights=None)
        return model, random_images(n, size)
    case = real_case(name, n_calib=n, n_eval=1)
    return keras.saving.load_model(case.model_path, compile=False), case.x_calib


def real_case(name: str, **kwargs: Any) -> Any:
    """A real model with its data from `../shared`."""
    if not SHARED.is_dir():
        raise SystemExit(f"{name} needs the folder of real models beside the checkout; pass --only to leave it out")
    import assets

    return assets.load(name, **kwargs)


def float_function(model: Any) -> Callable[[Any], Any]:
    """The BN-folded float model in one compiled function: the unit of most figures."""
    from vqkit.graph.copies import make_all_live
    from vqkit.graph.keras_io import compiled, replay
    from vqkit.quantization.prepare import prepare
    from vqkit.strategy import Strategy

    graph = prepare(model, Strategy.builtin("pof2s")).optimized
    live = make_all_live(graph)
    return compiled(graph, lambda inputs: replay(graph, live, inputs))
