"""`Writer`: what the tables of operators use of the writer of a TFLite file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from vqkit.export.program import Constant, Program, Shape
from vqkit.export.tflite.flatbuffer import TfliteBuilder
from vqkit.primitives.qparams import QParams


class Writer(Protocol):
    """Writes steps when their values are asked for.

    Attributes:
        program: what is written.
        exact: whether ties shall round as the strategy says.
        b: the file.
        integers: value id -> its integer tensor, where there is one already.
        grids: value id -> the grid of that tensor.
        memo: what was written beside a tensor: (word, tensor) -> tensor.
    """

    program: Program
    exact: bool
    b: TfliteBuilder
    integers: dict[int, int]
    grids: dict[int, QParams]
    memo: dict[tuple[str, int], int]

    def float(self, value: int) -> int:
        """The float tensor of a value."""

    def moved(self, value: int) -> int | None:
        """The integer tensor of a value on a grid, through steps that only move integers; else None."""

    def on_grid(self, value: int, params: QParams, name: str) -> int:
        """Codes of a value on a grid, by QUANTIZE."""

    def grid_tensor(self, name: str, value: int, params: QParams, shape: Shape | None = None) -> int:
        """A tensor of int8 codes of a grid."""

    def float_constant(self, c: Constant, lay: Callable[[np.ndarray], np.ndarray] = ...) -> int:
        """A constant as floats."""

    def weight_codes(self, c: Constant) -> np.ndarray:
        """Codes of a weight as int8."""
