"""Grids in int8 and rounding on them: LiteRT's kernels round ties to even, the strategy's activations mostly up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vqkit.export.program import Shape, Step, framework
from vqkit.export.tflite.writer import Writer
from vqkit.primitives import affine
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import RoundMode

BITS = 8
Nudge = Callable[[np.ndarray], np.ndarray]
_MOST_BITS_DROPPED, _MOST_BITS_OF_A_SHARE = 14, 12
_ADD_REACH = (-10, 7)
"""Where LiteRT's ADD takes its own kernel: binary logarithms of input scale by output scale."""


def rounding_chain(params: QParams) -> list[tuple[str, np.float32 | None]]:
    """The simulation's own operations on a float, where QUANTIZE behind them must change nothing.

    Args:
        params: a per-tensor grid.

    Returns:
        TFLite operators, each with its second operand; none where QUANTIZE computes the same or nearly so.
    """
    one, half = np.float32(1), np.float32(0.5)
    if params.spec.pow2 and params.spec.round_mode == RoundMode.HALF_UP:
        step = np.float32(params.scale)
        return [("MUL", one / step), ("ADD", half), ("FLOOR", None), ("MUL", step)]
    if not framework(params):
        return []
    low, high, step, zero = (np.float32(v) for v in affine.framework_numbers(params.f_min, params.f_max, params.spec))
    return [
        ("MAXIMUM", low),
        ("MINIMUM", high),
        ("SUB", low),
        ("DIV", step),
        ("SUB", zero),
        ("ADD", half),
        ("FLOOR", None),
        ("MUL", step),
    ]


def signed_grid(params: QParams) -> tuple[float, int]:
    """Scale and zero point of a grid in int8: unsigned codes move down by 128."""
    shift = -128 if params.spec.unsigned and params.spec.bit_width == BITS else 0
    return float(params.scale), int(params.zero_point) + shift


def rounds_up(*grids: QParams) -> bool:
    """Whether all grids are powers of two and the last one rounds half up."""
    return all(g.spec.pow2 for g in grids) and grids[-1].spec.round_mode == RoundMode.HALF_UP


class Lift:
    """The result of a sum of products, so made that ties go up, as HALF_UP has them.

    The weight scale grows by one float32 step, which sends positive ties up. With a power-of-two multiplier
    2**-k the nearest sum below a tie is 2**-k away, and the larger scale moves a value in range by at most
    256 * 2**-23: for k <= 14 nothing else changes. A result with negative values is computed as many codes
    higher as its grid has below zero, and put down again by an exact SUB: so all ties are positive.

    Args:
        w: the writer.
        end: the quantize step.
        grid: of what is multiplied.
        params: grid of the result.
        word: activation of the operator.
        scales: of the weights; None where there are none.
        image: shape of the operator's result where the quantized value has another.
    """

    def __init__(
        self,
        w: Writer,
        end: Step,
        grid: QParams,
        params: QParams,
        word: str,
        scales: np.ndarray | None,
        image: Shape | None = None,
    ) -> None:
        self.w, self.params = w, params
        self.shape = w.program.shapes[end.output] if image is None else image
        self.name, self.value = end.name if image is None else f"{end.name}/image", end.output
        self.zero = signed_grid(params)[1]
        unit = _unit(scales, grid, params)
        negative = word == "NONE" and self.zero > -128
        self.on = bool(w.exact and negative and _steps(unit) and _whole((128 + self.zero) * unit))
        self._steps = _steps(unit) if self.on or not negative else 0
        self.offset = (128 + self.zero) * float(params.scale) if self.on else 0.0
        self._drops_bits = self._steps == 1 and bool(np.all(unit >= 2))

    def whole(self, numbers: np.ndarray) -> np.ndarray:
        """Biases in units of the sum as whole ones.

        Where bits of the sum are dropped and ties go up, a part of a unit never decides: it is cut off.
        """
        return np.floor(numbers) if self._drops_bits else np.rint(numbers)

    def nudge(self, scales: np.ndarray) -> np.ndarray:
        """Weight scales that send positive ties up."""
        scales = np.asarray(scales, np.float32)
        for _ in range(self._steps):
            scales = np.nextafter(scales, np.float32(np.inf))
        return scales

    def target(self) -> int:
        """The tensor that the operator writes."""
        if not self.on:
            return int(self.w.grid_tensor(self.name, self.value, self.params, self.shape))
        return int(self.w.b.tensor(f"{self.name}/lifted", self.shape, "int8", scale=self.params.scale, zero_point=-128))

    def lower(self, y: int) -> int:
        """The result, as many codes lower."""
        if not self.on:
            return y
        w, scale, zero = self.w, self.params.scale, np.asarray(self.zero, np.int8)
        height = w.b.tensor(f"{self.name}/height", (), "int8", data=zero, scale=scale, zero_point=-128)
        low = w.grid_tensor(self.name, self.value, self.params, self.shape)
        return w.b.op("SUB", [y, height], [low], "SubOptions", fusedActivationFunction=0)


def _unit(scales: np.ndarray | None, grid: QParams, params: QParams) -> np.ndarray:
    """Steps of the sum in a step of the result, where the result rounds half up; else 0."""
    if scales is None or not rounds_up(grid, params):
        return np.zeros(1)
    return np.asarray(params.scale / (np.asarray(scales, np.float64) * grid.scale))


def _whole(numbers: np.ndarray) -> bool:
    """Whether all are whole numbers, up to the rounding of a float32 scale."""
    return bool(np.all(np.abs(numbers - np.rint(numbers)) <= np.abs(numbers) * 2.0**-23))


def _steps(unit: np.ndarray) -> int:
    """How many float32 steps send positive ties up and change nothing else; 0 where none do or there are no ties.

    A multiplier that is no power of two (an average of 9) is not exact itself: two are needed.
    """
    if np.all(unit <= 1):
        return 0
    exact = np.all(np.frexp(unit)[0] == 0.5)
    return (1 if exact else 2) * int(np.all(unit <= 2.0 ** (_MOST_BITS_DROPPED if exact else _MOST_BITS_OF_A_SHARE)))


def product(w: Writer, end: Step, grids: Sequence[QParams], given: Sequence[int], params: QParams, word: str) -> int:
    """A MUL of two tensors.

    With an output scale one float32 step smaller ties go away from zero, with one a step larger towards it;
    the larger of both results has all ties up.

    Args:
        w: the writer.
        end: the quantize step.
        grids: of the factors.
        given: the factors.
        params: grid of the product.
        word: activation of the operator.
    """
    shape, (scale, zero) = w.program.shapes[end.output], signed_grid(params)

    def times(name: str, scale: Any) -> int:
        y = w.b.tensor(name, shape, "int8", scale=scale, zero_point=zero)
        return w.b.op("MUL", given, [y], "MulOptions", fusedActivationFunction=w.b.activation(word))

    if not (w.exact and rounds_up(*grids, params)):
        return times(end.name, scale)
    away, towards = (
        times(f"{end.name}/ties_{k}", np.nextafter(np.float32(scale), np.float32(to)))
        for k, to in (("away", 0), ("towards", np.inf))
    )
    y = w.grid_tensor(end.name, end.output, params)
    return w.b.op("MAXIMUM", [away, towards], [y], "MaximumMinimumOptions")


def add_is_exact(grids: Sequence[QParams], params: QParams) -> bool:
    """Whether LiteRT's ADD and SUB give what the strategy says, or the grids have float scales."""
    if not all(g.spec.pow2 for g in (*grids, params)):
        return True
    low, high = _ADD_REACH
    return rounds_up(params) and all(low <= np.log2(g.scale / params.scale) <= high for g in grids)
