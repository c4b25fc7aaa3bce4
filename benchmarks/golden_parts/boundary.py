"""Is a differing position a coin toss? Looks at how close each batch was to deciding otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from vqkit.graph.copies import make_all_live
from vqkit.graph.keras_layers import assign_weights
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import fake_quantize
from vqkit.primitives.spec import Method
from vqkit.quantization.calibrate import Calibrator, entering, observe_batches
from vqkit.quantization.data import batches
from vqkit.quantization.plan import QuantizedRow
from vqkit.quantization.quantized import Quantized
from vqkit.quantization.solve import bake, weights_while_calibrating

MARGIN = 1e-6
"""Relative distance from a boundary within which another TensorFlow build's sums may decide otherwise."""


def explain(
    quantized: Quantized, row: QuantizedRow, wanted: float, calib: Any, batch_size: int, steps: int | None = None
) -> str | None:
    """Say why a recorded activation position may differ from ours, if it may.

    Args:
        quantized: our result.
        row: the activation whose position differs.
        wanted: the recorded position.
        calib: the calibration inputs.
        batch_size: their batch size.
        steps: how many batches; all by default.

    Returns:
        A sentence naming the batches within `MARGIN` of the recorded decision; None when the difference
        cannot be a coin toss.
    """
    fq = next(name for name, r in quantized.rows.items() if r.name == row.name)
    live = make_all_live(quantized.graph)
    plan = weights_while_calibrating(quantized.plan, vitis_compat=quantized.vitis_compat)
    baked = bake(quantized.graph, quantized.calibrated, plan)
    for r in quantized.plan.quantized:
        if r.is_weight:
            assign_weights(live[r.layer], baked.layers[r.layer].weights)
    graph, seen = quantized.graph, []
    calibrator = Calibrator(graph, quantized.rows, live, True, quantized.vitis_compat, aside=[fq])
    plain = calibrator.observers[fq]

    def watch(x: Any, number: int) -> Any:
        y, facts = plain(x, number), calibrator.observed[row.name]
        seen.append((facts.f_min[-1], facts.f_max[-1], facts.pos[-1], np.asarray(x)))
        return y

    source = (entering(graph, batch) for batch in batches(calib, batch_size=batch_size, steps=steps))
    observe_batches(source, calibrator.run, {**calibrator.observers, fq: watch})
    margins = [_margin(row.spec, float(wanted), *facts) for facts in seen]
    close = [f"batch {i} by {m:.1e}" for i, m in enumerate(margins) if m <= MARGIN]
    return f"{row.name} misses position {wanted:g} in {', '.join(close)}" if close else None


def _margin(spec: Any, wanted: float, f_min: Any, f_max: Any, pos: Any, x: Any) -> float:
    """Relative distance of one batch from choosing the wanted position."""
    if float(pos) == wanted:
        return np.inf
    if spec.method is Method.MIN_MSE:
        errors = [_squared_error(spec, f_min, f_max, p, x) for p in (float(pos), wanted)]
        gap = abs(errors[1] - errors[0]) / max(errors[0], 1e-30)
        return min(gap, _distance_to_power(spec, f_min, f_max))
    return _distance_to_power(spec, f_min, f_max) if abs(float(pos) - wanted) == 1 else np.inf


def _squared_error(spec: Any, f_min: Any, f_max: Any, pos: float, x: Any) -> float:
    values = fake_quantize(x, QParams(spec, f_min, f_max, np.float32(pos)))
    return float(np.sum((values.astype(np.float64) - x) ** 2))


def _distance_to_power(spec: Any, f_min: Any, f_max: Any) -> float:
    step = max(float(f_max) / max(spec.q_max, 1), float(f_min) / spec.q_min if spec.q_min else 0.0, 1e-30)
    if not spec.symmetry:
        step = (float(f_max) - float(f_min)) / (spec.q_max - spec.q_min)
    exponent = np.log2(step)
    return float(abs(exponent - round(exponent)) * np.log(2))
