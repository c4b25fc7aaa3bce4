"""Many variants on one `Bench`: what one more costs, what a partial model saves, and how cost grows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed_parts.common import Result, cpu_seconds, float_function, real_case

BATCH = 250


def variants(n: int) -> list[Any]:
    """Different strategies: bits of weights and activations, and how positions are chosen."""
    from vqkit.strategy import Strategy

    pof2s = Strategy.builtin("pof2s")
    grid = [(w, a, m) for w in (8, 7, 6, 5) for a in (8, 7, 6, 5) for m in (1, 0)]
    grid += [(w, a, m) for w in (4, 3, 9, 10) for a in (8, 7, 6, 5) for m in (1, 0)]
    return [pof2s.with_kwargs(weight_bit=w, activation_bit=a, activation_method=m) for w, a, m in grid[:n]]


def bench_of(name: str, n_eval: int | None = None) -> tuple[Any, Any]:
    """A model with its real data on a bench, and the data."""
    import keras

    from vqkit import Bench, Data

    case = real_case(name, n_calib=200, n_eval=n_eval)
    model = keras.saving.load_model(case.model_path, compile=False)
    data = Data(name, case.x_calib, case.x_eval, case.y_eval)
    return Bench(model, data, memory_limit=2 << 30), data


def marginal(calibration: str, wanted: float, n: int = 12) -> Result:
    """CPU seconds of one more variant of ResNet-8 (10,000 images), in float evaluations of the same images.

    Args:
        calibration: "float" or "quantized".
        wanted: the goal.
        n: variants measured after the first two, which trace and fill the memory.
    """
    bench, data = bench_of("resnet8")
    run = float_function(bench.model)

    def one(strategy: Any) -> float:
        return cpu_seconds(lambda: bench.evaluate(bench.quantize(strategy, calibration=calibration)))

    def floats() -> None:
        for i in range(0, data.n_eval, BATCH):
            run(data.x_eval[i : i + BATCH])

    # One method and one structure for each width: the first pass over them traces, the second is measured.
    plans = variants(32)[:: 2 if calibration == "quantized" else 1][:n]
    for strategy in plans:
        one(strategy)
    weights = [s.with_kwargs(weight_bit=11) for s in plans]
    rounds = [(one(s), cpu_seconds(floats)) for s in weights]
    seconds, unit = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    traces = max(bench.traces.values())
    return {
        "seconds": seconds,
        "unit": unit,
        "ratio": seconds / unit,
        "wanted": wanted,
        "more": False,
        "traces": traces,
        "n": len(rounds),
    }


def partial(wanted: float, n: int = 6) -> Result:
    """A partial-model variant of MobileNetV1-0.25 that starts in the last third: with and without sharing.

    Args:
        wanted: the goal.
        n: variants measured.
    """
    from vqkit import Bench

    shared, data = bench_of("mobilenet")
    alone = Bench(shared.model, data, memory_limit=0)
    names = [x.name for x in shared.model.layers if type(x).__name__ == "Conv2D"]
    start = names[-max(2, len(names) // 4)]
    plans = [s.with_kwargs(input_layers=[start]) for s in variants(n + 1)]

    def one(bench: Any, strategy: Any) -> float:
        return cpu_seconds(lambda: bench.evaluate(bench.quantize(strategy, calibration="float")))

    for bench in (shared, alone):
        one(bench, plans[0])
        one(bench, plans[0].with_kwargs(weight_bit=11))
    rounds = [(one(shared, s), one(alone, s)) for s in plans[1:]]
    seconds, unit = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    return {
        "seconds": seconds,
        "unit": unit,
        "ratio": unit / seconds,
        "wanted": wanted,
        "more": True,
        "start": start,
        "n": n,
    }


def chain(depth: int) -> Any:
    """A chain of `depth` small convolutions with batch norm and ReLU."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    x = i = keras.Input((16, 16, 8))
    for _ in range(depth):
        x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def scale() -> Result:
    """CPU seconds over variants (1 to 64), calibration images (50 to 3200) and layers (10 to 200).

    Returns:
        The points, and for each axis the cost per unit at its end over that in its middle: 1 is linear.
    """
    from vqkit import Bench, Data, quantize

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(800, 16, 16, 8)).astype(np.float32), rng.integers(0, 4, 800)
    data = Data("random", x[:64], x, y)
    model = chain(10)
    quantize(model, "pof2s", x[:64])
    many, deep = np.concatenate([x] * 4), {depth: chain(depth) for depth in (10, 50, 100, 200)}

    def sweep(n: int) -> None:
        bench = Bench(model, data)
        for strategy in variants(n):
            bench.evaluate(bench.quantize(strategy))

    curves = {
        "variants": _medians((1, 4, 16, 64), sweep),
        "images": _medians((50, 200, 800, 3200), lambda n: quantize(model, "pof2s", many[:n])),
        "layers": _medians(tuple(deep), lambda depth: quantize(deep[depth], "pof2s", x[:64])),
    }
    growth = {k: _growth(points) for k, points in curves.items()}
    return {"seconds": sum(s for p in curves.values() for _, s in p), "curves": curves, "growth": growth}


def _medians(sizes: tuple[int, ...], work: Callable[[int], object], rounds: int = 3) -> list[tuple[float, float]]:
    """CPU seconds of a work at each size, taken in turns."""
    taken = [[cpu_seconds(lambda n=n: work(n)) for n in sizes] for _ in range(rounds)]
    return [(n, statistics.median(seconds)) for n, seconds in zip(sizes, zip(*taken, strict=True), strict=True)]


def _growth(points: list[tuple[float, float]]) -> float:
    """Slope of the last piece over the slope between the first and the last but one."""
    (a, fa), (b, fb), (c, fc) = points[0], points[-2], points[-1]
    return ((fc - fb) / (c - b)) / ((fb - fa) / (b - a))


def draw(curves: dict[str, list[tuple[float, float]]], picture: Path) -> None:
    """Cost over variants, images and layers.

    Args:
        curves: what `scale` measured.
        picture: where the PNG goes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(10, 3.2), layout="constrained")
    labels = {"variants": "variants on one bench", "images": "calibration images", "layers": "convolutions"}
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        n, seconds = zip(*points, strict=True)
        axis.plot(n, seconds, "o-", color="#0072B2")
        axis.set(xlabel=labels[name], ylabel="CPU time, s", ylim=(0, None), xlim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
