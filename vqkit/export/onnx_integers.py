"""Steps that add integers, in ONNX: floats that hold whole numbers, so that no runtime's order matters.

    DequantizeLinear (scale 1) -> Conv | Gemm | ReduceSum -> Round -> Add -> Mul -> Round -> Mul

Float kernels are exact on such numbers on every processor; `QLinearConv` is not on x86 without VNNI, where
its 16-bit sums of two products saturate. The first Round also keeps optimizers from moving the factor behind
it into the weights, which would no longer be whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.export.steps import Constant, Step, Sums

Writer = Any
_BASE = 16
"""Wide sums are added in two parts: weights = _BASE * high + low."""
_DEQUANTIZE_SCALAR = np.float32(1)


def input_codes(w: Writer, step: Step) -> str:
    """The codes of a step's input as floats, zero point taken off, in the step's layout."""
    value = step.values[0]
    x = w.read(value)
    if x in w.quant.codes:
        codes, (_, zero), _ = w.quant.codes[x]
        name = f"{codes}/codes"
        if name not in w.memo:
            one = w.b.constant(_DEQUANTIZE_SCALAR, "one")
            w.memo[name] = w.b.op("DequantizeLinear", [codes, one, zero], name)
        return str(w.memo[name])
    scale = w.b.constant(np.float32(w.program.grids[value].scale), f"{x}/step")
    return str(w.b.op("Round", [w.b.op("Div", [x, scale], f"{x}/steps")], f"{x}/codes"))


def weighted(w: Writer, step: Step, sums: Sums, lay: Callable[[np.ndarray], np.ndarray],
             product: Callable[[str, str], str]) -> str:  # fmt: skip
    """A convolution or dense step.

    Args:
        w: the writer.
        step: the step.
        sums: its numbers.
        lay: lays the kernel out as ONNX wants it.
        product: from the name of the kernel and of the result to the result.

    Returns:
        Name of the values, on the output's grid, not clipped yet.
    """
    kernel = step.constants["kernel"]
    codes = lay(kernel.codes)
    if not sums.wide:
        total = w.b.op("Round", [product(_kernel(w, kernel, codes, ""), f"{step.name}/sum")],
                       f"{step.name}/whole")  # fmt: skip
        return scaled(w, step, sums, total)
    low = (codes + _BASE // 2) % _BASE - _BASE // 2
    parts = {"high": (codes - low) // _BASE, "low": low}
    done = {k: product(_kernel(w, kernel, v, f"/{k}"), f"{step.name}/{k}") for k, v in parts.items()}
    high, rest = (w.b.cast(done[k], "DOUBLE", f"{step.name}/{k}/double") for k in ("high", "low"))
    high = w.b.op("Mul", [high, w.b.constant(np.float64(_BASE), "base")], f"{step.name}/high/shifted")
    return scaled(w, step, sums, w.b.op("Add", [high, rest], f"{step.name}/whole"))


def _kernel(w: Writer, kernel: Constant, codes: np.ndarray, suffix: str) -> str:
    name = f"{kernel.name}{suffix}"
    given = [w.b.integers(codes, 8, False, f"{name}/q"), w.b.constant(_DEQUANTIZE_SCALAR, "one")]
    return str(w.b.op("DequantizeLinear", given, f"{name}/codes"))


def scaled(w: Writer, step: Step, sums: Sums, total: str) -> str:
    """From whole sums to values on the output's grid."""
    b, name, rank = w.b, step.name, w.rank(step.output)
    if sums.bias is not None:
        dtype = np.float64 if sums.wide else np.float32
        bias = b.constant(w.beside(sums.bias.astype(dtype), rank), f"{step.layer}/bias/int32")
        total = b.op("Add", [total, bias], f"{name}/with_bias")
    if sums.wide:
        total = b.cast(total, "FLOAT", f"{name}/float")
    factor = b.constant(w.beside(sums.multiplier, rank), f"{name}/multiplier")
    codes = b.op("Round", [b.op("Mul", [total, factor], f"{name}/scaled")], f"{name}/codes")
    return str(b.op("Mul", [codes, b.constant(sums.output_scale, f"{name}/output_scale")], name))


def average(w: Writer, step: Step, sums: Sums, mean: Callable[[str, str], str], area: int) -> str:
    """An average pool: the sum of the codes in a window.

    Args:
        w: the writer.
        step: the step.
        sums: its numbers.
        mean: from the names of codes and result to the mean of a window.
        area: elements of a window.
    """
    found = mean(input_codes(w, step), f"{step.name}/mean")
    total = w.b.op("Mul", [found, w.b.constant(np.float32(area), f"number_{area}")], f"{step.name}/sum")
    return scaled(w, step, sums, w.b.op("Round", [total], f"{step.name}/whole"))
