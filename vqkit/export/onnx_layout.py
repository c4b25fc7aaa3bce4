"""Values of a program as tensors of an ONNX graph, and their layout.

Keras keeps channels last, ONNX's convolutions and pools want them first. A value is transposed where a step
needs the other layout and not before, and keeps the layout it has through steps that do not care.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.export.onnx_quant import Quantizing
from vqkit.export.steps import Constant, Program, Step

LAST, FIRST = "last", "first"
FREE = {"quantize", "binary", "affine", "relu", "unary", "ceiling", "dpu_sigmoid", "identity",
        "round_to_type",
        "prelu", "concat", "pad", "crop"}  # fmt: skip
"""Steps that work in either layout."""
SPATIAL = {"conv", "conv_transpose", "max_pool", "avg_pool", "global_max", "global_avg", "resize"}
"""Steps that want channels first."""


class Writer:
    """Writes steps through a builder.

    Args:
        program: what to write.
        builder: the graph in the making.
        exact: see `onnx_quant`.
    """

    def __init__(self, program: Program, builder: Any, *, exact: bool) -> None:
        self.program, self.b, self.exact = program, builder, exact
        self.quant = Quantizing(builder, exact=exact)
        self.names: dict[tuple[int, str], str] = {}
        self.home: dict[int, str] = {}
        self.layout = LAST
        self.memo: dict[str, str] = {}

    def write(self) -> None:
        """All steps, in order."""
        for name, value in self.program.inputs.items():
            self.names[value, LAST] = self.b.fresh(name)
            self.home[value] = LAST
        from vqkit.export import onnx_floats, onnx_ops  # They register the writers.

        assert onnx_ops
        assert onnx_floats
        for step in self.program.steps:
            self.layout = self._layout(step)
            made = WRITERS[step.kind](self, step)
            for value, name in zip(step.outputs, [made] if isinstance(made, str) else made, strict=True):
                layout = self.layout if self.rank(value) > 2 else LAST
                self.names[value, layout] = name
                self.home[value] = layout

    # --- values and their layout ---

    def rank(self, value: int) -> int:
        """Number of axes of a value."""
        return len(self.program.shapes[value])

    def _layout(self, step: Step) -> str:
        if step.kind in SPATIAL:
            return FIRST
        same_rank = all(self.rank(v) == self.rank(step.output) for v in step.values)
        if step.kind not in FREE or not same_rank or self.rank(step.output) < 3:
            return LAST
        return self.home[step.values[0]]

    def read(self, value: int, layout: str | None = None) -> str:
        """Name of a value in a layout; transposes it once where it has the other one."""
        layout = (self.layout if layout is None else layout) if self.rank(value) > 2 else LAST
        if (value, layout) not in self.names:
            other = self.names[value, self.home[value]]
            perm = self._perm(self.rank(value), layout)
            self.names[value, layout] = self.quant.moved(
                other,
                lambda x, name: self.b.op("Transpose", [x], name, perm=perm),
                f"{other}/channels_{layout}",
            )
        return self.names[value, layout]

    @staticmethod
    def _perm(rank: int, layout: str) -> list[int]:
        """From the other layout to this one."""
        if layout == FIRST:
            return [0, rank - 1, *range(1, rank - 1)]
        return [0, *range(2, rank), 1]

    def operand(self, operand: int | Constant, rank: int) -> str:
        """Name of a step's input, a constant laid out beside a value of that rank."""
        if isinstance(operand, Constant):
            return str(self.b.constant(self.beside(operand.value, rank), operand.name))
        return self.read(operand)

    def beside(self, array: np.ndarray, rank: int) -> np.ndarray:
        """An array that broadcasts from the right in Keras' layout, in the current layout."""
        array = np.asarray(array)
        if array.ndim == 0 or self.layout == LAST or rank < 3:
            return array
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return np.moveaxis(array, -1, 1)

    def axis(self, axis: int, rank: int) -> int:
        """An axis of Keras' layout in the current one."""
        axis %= rank
        if self.layout == LAST or rank < 3 or axis == 0:
            return axis
        return 1 if axis == rank - 1 else axis + 1

    def spatial(self, rank: int) -> list[int]:
        """The axes between batch and channels in the current layout."""
        return list(range(2, rank)) if self.layout == FIRST else list(range(1, rank - 1))


Written = Callable[[Writer, Step], str | list[str]]
WRITERS: dict[str, Written] = {}
"""Kind of step -> what writes it and gives the name of its output, or the names of all."""


def writes(*kinds: str) -> Callable[[Written], Written]:
    """Register the writer of some kinds of steps."""

    def register(function: Written) -> Written:
        WRITERS.update(dict.fromkeys(kinds, function))
        return function

    return register
