"""One quantization: CPU seconds from the call to the ready model, and ratios to a float pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.speed_parts.common import (
    ROOT,
    Result,
    cpu_seconds,
    float_function,
    interleaved,
    model_and_images,
)

# CPU seconds of the reference (Vitis AI 2.5 on TensorFlow 2.8, two cores) and how many times less is wanted.
REFERENCE: dict[tuple[str, str], tuple[float, float, int, int]] = {
    ("mobilenetv2_224", "pof2s"): (113, 15, 100, 10),
    ("mobilenetv2_224", "fsx"): (255, 30, 100, 10),
    ("resnet50", "pof2s"): (102, 8, 100, 10),
    ("resnet50", "fsx"): (331, 20, 100, 10),
    ("resnet8", "pof2s"): (9.2, 10, 200, 32),
    ("resnet8", "fsx"): (47, 10, 200, 32),
    ("mobilenet", "pof2s"): (22.9, 10, 200, 32),
}


def ptq(name: str, strategy: str) -> Result:
    """CPU seconds of one `quantize` in a fresh process, tracing included.

    Args:
        name: of the model.
        strategy: built-in.

    Returns:
        seconds, the reference's, how many times less that is, and what is wanted.
    """
    seconds = in_a_process("alone", name, strategy)
    reference, wanted, *_ = REFERENCE[name, strategy]
    return {
        "seconds": seconds,
        "reference": reference,
        "ratio": reference / seconds,
        "wanted": wanted,
        "more": True,
    }


def in_a_process(function: str, *args: Any, **environment: str) -> Any:
    """What a function of this module prints as JSON, run in a fresh process.

    Args:
        function: its name.
        args: literals.
        environment: variables that are set there.
    """
    code = f"from benchmarks.speed_parts import single; single.{function}(*{args!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def alone(name: str, strategy: str) -> None:
    """Quantize once and print the CPU seconds; what `ptq` starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import vqkit.strategy  # noqa: F401 (imports are no part of a quantization; the reference's are left out too)
    from vqkit.quantization import quantize

    _, _, n, batch = REFERENCE[name, strategy]
    model, images = model_and_images(name, n)
    print(json.dumps(cpu_seconds(lambda: quantize(model, strategy, images, batch_size=batch))))


def calibration(name: str, method: int, wanted: float, repeats: int, mode: str = "quantized") -> Result:
    """Calibration, compiled already, in float passes over the same images.

    Args:
        name: of the model.
        method: 0 min/max, 1 min-MSE.
        wanted: the goal.
        repeats: measured passes.
        mode: "float" observes ranges on the float model, "quantized" puts each tensor on its grid as well.
    """
    from vqkit.graph.copies import make_all_live
    from vqkit.quantization.calibrate import Calibrator, entering, observe_batches
    from vqkit.quantization.prepare import instrument, prepare
    from vqkit.strategy import Strategy

    n, batch = (64, 8) if name == "mobilenetv2_224" else (256, 32)
    model, images = model_and_images(name, n)
    strategy = Strategy.builtin("pof2s").with_kwargs(activation_method=method, input_method=method)
    prepared = prepare(model, strategy)
    graph, rows = instrument(prepared.graph, prepared.plan)
    step = Calibrator(graph, rows, make_all_live(graph), mode == "quantized", False)
    run = float_function(model)
    cut = [images[i : i + batch] for i in range(0, n, batch)]

    def calibrate() -> None:
        step.restart()
        observe_batches((entering(graph, x) for x in cut), step.run, step.observers)

    taken = interleaved({"float": lambda: [run(x) for x in cut], "calibrate": calibrate}, repeats)
    return _ratio(taken["calibrate"], taken["float"], wanted)


def union(name: str, wanted: float, repeats: int) -> Result:
    """One float-mode pass for all methods and five bit widths, compiled already, in float passes.

    Planning, which every variant does anyway, is left out.

    Args:
        name: of the model.
        wanted: the goal.
        repeats: measured passes.
    """
    from vqkit import Bench, Data
    from vqkit.bench.calibration import SharedCalibration
    from vqkit.quantization.data import batches
    from vqkit.strategy import Strategy

    n, batch = 256, 32
    model, images = model_and_images(name, n)
    bench = Bench(model, Data(name, images, images[:1], np.zeros(1, np.int64)))
    pof2s = Strategy.builtin("pof2s")
    strategies = [
        pof2s.with_kwargs(activation_method=m, input_method=m, activation_bit=b, input_bit=b)
        for m in range(4)
        for b in (8, 7, 6, 5, 4)
    ]

    settings = {"batch_size": batch, "steps": None}
    (requests,) = bench._alike(strategies, settings, False)

    def observe() -> None:
        facts = SharedCalibration(bench._activations)
        facts.observe(requests, batches(images, **settings))
        assert facts.passes == 1

    run, cut = float_function(model), [images[i : i + batch] for i in range(0, n, batch)]
    taken = interleaved({"float": lambda: [run(x) for x in cut], "observe": observe}, repeats)
    return {**_ratio(taken["observe"], taken["float"], wanted), "variants": len(strategies)}


def inference(name: str, wanted: float, repeats: int) -> Result:
    """The quantized model in one compiled function, in passes of the float one; in a fresh process.

    A process can tell TensorFlow only once how many cores it has.

    Args:
        name: of the model.
        wanted: the goal.
        repeats: measured passes, at least.

    Returns:
        The ratio; `predict` is the ratio to `predict` of the user's own float model, `one core` the ratio
        where TensorFlow has one, as in a sweep with a worker for each, `without own operations` the ratio
        where no C++ compiler is found.
    """
    taken = in_a_process("passes", name, repeats, ("float", "fake", "predict"))
    single = in_a_process("passes", name, repeats, ("float", "fake"), TF_NUM_INTRAOP_THREADS="1")
    plain = in_a_process("passes", name, repeats, ("float", "fake"), VQKIT_NATIVE="0")
    return {
        **_ratio(taken["fake"], taken["float"], wanted),
        "predict": taken["fake"] / taken["predict"],
        "one core": single["fake"] / single["float"],
        "without own operations": plain["fake"] / plain["float"],
    }


def passes(name: str, repeats: int, kinds: tuple[str, ...]) -> None:
    """Measure passes and print the CPU seconds of each kind; what `inference` starts."""
    from vqkit.evaluation import in_one_function
    from vqkit.quantization import quantize

    batch = {"resnet8": 250, "resnet50": 8, "mobilenetv2_96": 32}.get(name, 16)
    model, images = model_and_images(name, 2 * batch if batch < 100 else 1000)
    quantized = quantize(model, "pof2s", images[:batch], batch_size=batch).model
    run, fake = float_function(model), in_one_function(quantized, images)
    cut = [images[i : i + batch] for i in range(0, len(images), batch)]
    works: dict[str, Any] = {
        "float": lambda: [run(x) for x in cut],
        "fake": lambda: [fake(x) for x in cut],
        "predict": lambda: model.predict(images, batch_size=batch, verbose=0),
    }
    print(json.dumps(interleaved({kind: works[kind] for kind in kinds}, repeats)))


def _ratio(seconds: float, unit: float, wanted: float) -> Result:
    return {"seconds": seconds, "unit": unit, "ratio": seconds / unit, "wanted": wanted, "more": False}
