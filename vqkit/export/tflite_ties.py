"""Ties in TFLite: its kernels round them to even, the strategy's activations mostly up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.export.steps import Shape, Step
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import RoundMode

Writer = Any
Nudge = Callable[[np.ndarray], np.ndarray]
_MOST_BITS_DROPPED = 14


def ties_up(w: Writer, source: int, params: QParams, *, positive: bool) -> Nudge:
    """A change of the weight scales that sends positive ties up, as HALF_UP does.

    The scale grows by one float32 step. With a power-of-two multiplier 2**-k the nearest sum below a tie is
    2**-k away, and the larger scale moves a value in range by at most 128 * 2**-23 (256 * 2**-23 where `Lift`
    is on): for k <= 14 nothing else changes.

    Args:
        w: the writer.
        source: the value that is multiplied.
        params: grid of the result.
        positive: whether every result that is not cut off is positive.

    Returns:
        A function of the weight scales.
    """
    grid = w.grids[source]

    def nudge(scales: np.ndarray) -> np.ndarray:
        scales = np.asarray(scales, np.float32)
        apply = positive and _drops_bits(grid, scales, params)
        return np.nextafter(scales, np.float32(np.inf)) if apply else scales

    return nudge


def _drops_bits(grid: QParams, scales: np.ndarray, params: QParams) -> bool:
    """Whether requantizing is a shift by at most `_MOST_BITS_DROPPED` bits that rounds half up."""
    if not (params.spec.pow2 and grid.spec.pow2 and params.spec.round_mode == RoundMode.HALF_UP):
        return False
    share = np.log2(np.asarray(scales, np.float64) * grid.scale / params.scale)
    return bool(np.all(share == np.rint(share)) and np.all(share >= -_MOST_BITS_DROPPED))


class Lift:
    """A result with negative values, computed 128 codes higher and put down again by an exact SUB.

    So all ties are positive, and `ties_up` can send them up. `image` is the shape of the operator's result
    where the quantized value has another.
    """

    def __init__(
        self, w: Writer, step: Step, end: Step, params: QParams, word: str, image: Shape | None = None
    ) -> None:
        self.w, self.params = w, params
        self.shape = w.program.shapes[end.output] if image is None else image
        self.name, self.value = end.name if image is None else f"{end.name}/image", end.output
        kernel = step.constants["kernel"].params
        self.on = bool(
            w.exact and word == "NONE" and params.spec.bit_width == 8 and not params.zero_point.any()
            and not params.spec.unsigned and kernel is not None
            and _drops_bits(w.grids[step.values[0]], kernel.scale, params)
        )  # fmt: skip
        self.offset = 128 * float(params.scale) if self.on else 0.0

    def target(self) -> int:
        """The tensor that the operator writes."""
        if not self.on:
            return int(self.w.grid_tensor(self.name, self.value, self.params, self.shape))
        return int(
            self.w.b.tensor(
                f"{self.name}/lifted", self.shape, "int8", scale=self.params.scale, zero_point=-128
            )
        )

    def lower(self, y: int) -> int:
        """The result, 128 codes lower."""
        if not self.on:
            return y
        w, scale = self.w, self.params.scale
        height = w.b.tensor(f"{self.name}/height", (), "int8", data=np.int8(0), scale=scale, zero_point=-128)
        low = w.grid_tensor(self.name, self.value, self.params, self.shape)
        return int(w.b.op("SUB", [y, height], [low], "SubOptions", fusedActivationFunction=0))
