"""Biases as an integer runtime has them: int32 on the grid of the accumulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vqkit.export.steps import Constant, Program, Step
from vqkit.graph.copies import make_live


def with_int32_biases(program: Program) -> Program:
    """The program with each bias at the nearest multiple of its accumulator's step.

    On power-of-two grids most biases are such multiples already. On float scales they move by at most half a
    step of the accumulator.

    Args:
        program: from `lower`.

    Returns:
        A new program; moved biases have no quantizer of their own any more.
    """
    steps = tuple(_moved(program, s) for s in program.steps)
    return replace(program, steps=steps)


def _moved(program: Program, step: Step) -> Step:
    bias, kernel = step.constants.get("bias"), step.constants.get("kernel")
    grid = program.grids.get(step.values[0]) if step.values else None
    if bias is None or kernel is None or kernel.params is None or grid is None:
        return step
    scales = np.asarray(kernel.params.scale, np.float64).reshape(-1)
    if scales.size not in (1, bias.value.size) or not np.all(scales > 0):
        return step
    unit = float(grid.scale) * scales
    value = (np.rint(bias.value.astype(np.float64) / unit) * unit).astype(np.float32)
    if np.array_equal(value, bias.value):
        return step
    return replace(step, constants={**step.constants, "bias": Constant(bias.name, value)})


def live_with_biases(quantized: Any, program: Program) -> Mapping[str, Any]:
    """The live layers of a quantized model with a program's biases; the model keeps its own.

    Args:
        quantized: a `Quantized`.
        program: whose biases.

    Returns:
        Layer name -> live object.
    """
    live = dict(quantized.live)
    for step in program.steps:
        bias = step.constants.get("bias")
        if bias is None:
            continue
        old = live[step.layer]
        if np.array_equal(np.asarray(old.bias), bias.value):
            continue
        layer = quantized.graph.layers[step.layer]
        live[step.layer] = make_live(layer)
        live[step.layer].set_weights([np.asarray(w) for w in old.get_weights()])
        live[step.layer].bias.assign(bias.value)
    return live
