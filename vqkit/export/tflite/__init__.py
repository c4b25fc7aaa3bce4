"""A quantized model as a full-integer TFLite file, with our scales: nothing is calibrated again.

A value is written when it is needed: as integers when a quantizer reads it and all that it is made of are
integers, else in float between DEQUANTIZE and QUANTIZE. A convolution, its ReLU and its quantizer become one
integer operator with an int32 bias on the grid of the accumulator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import ModelError, not_allowed
from vqkit.export.golden import encodings_of
from vqkit.export.lowering import lower
from vqkit.export.program import Constant, Program, Shape, Step
from vqkit.export.tflite.flatbuffer import TfliteBuilder
from vqkit.export.tflite.rounding import BITS, rounding_chain, rounds_up, signed_grid
from vqkit.files import write_bytes
from vqkit.primitives.qparams import QParams

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

LOWEST_WEIGHTS = ("keep", "clip", "error")
ROUNDINGS = ("exact", "fused")
_NOTHING = np.float32(2.0**-16)
"""Step of a grid on which all is 0."""


@dataclass(frozen=True, eq=False)
class TfliteModel:
    """A TFLite file with what is needed to compare it.

    Attributes:
        content: the file.
        tensors: plan row name -> name of the output that holds its codes (intermediate files only).
        in_float: names of steps that run in float.
        lowest_weights: constant name -> number of weights with the code -128.
    """

    content: bytes
    tensors: Mapping[str, str]
    in_float: tuple[str, ...]
    lowest_weights: Mapping[str, int]


def to_tflite(
    quantized: Quantized,
    *,
    rounding: str = "exact",
    lowest_weight: str = "keep",
    intermediate: bool = False,
    program: Program | None = None,
) -> TfliteModel:
    """Write a quantized model as a TFLite flatbuffer.

    Args:
        quantized: a `Quantized` with activations of at most 8 bits.
        rounding: LiteRT rounds ties to even. "exact" lets them go up on power-of-two grids, as the strategy
            says, which costs one SUB behind each layer without ReLU, and one MUL and a MAXIMUM more for a product
            of two tensors; "fused" leaves those ties as they are.
        lowest_weight: what becomes of a weight with the code -128, which TFLite's specification leaves out
            ([-127, 127]) although the kernels of LiteRT compute with it: "keep" it, "clip" it to -127, or
            "error".
        intermediate: give the codes of every quantized tensor as outputs as well.
        program: the lowered model, if it is at hand.

    Returns:
        The file.

    Raises:
        ModelError: a layer or a bit width has no form in TFLite, or `ai-edge-litert` is missing.
    """
    if lowest_weight not in LOWEST_WEIGHTS:
        raise ModelError(not_allowed("lowest_weight", lowest_weight, LOWEST_WEIGHTS))
    if rounding not in ROUNDINGS:
        raise ModelError(not_allowed("rounding", rounding, ROUNDINGS))
    program = lower(quantized) if program is None else program
    writer = TfliteWriter(program, lowest_weight, exact=rounding == "exact")
    outputs = writer.write()
    tensors = {}
    if intermediate:
        for step in writer.program.quantizers:
            tensors[step.row] = f"codes of {step.row}"
            outputs[tensors[step.row]] = writer.integers[step.output]
    metadata = {"vqkit.encodings": json.dumps(encodings_of(quantized)).encode()}
    content = writer.b.finish(writer.program.name, writer.inputs, outputs, metadata)
    return TfliteModel(content, tensors, tuple(writer.in_float), writer.lowest)


def write_tflite(quantized: Quantized, path: Path, **options: Any) -> None:
    """Write the file; options as `to_tflite`."""
    write_bytes(path, to_tflite(quantized, **options).content)


class TfliteWriter:
    """Writes steps when their values are asked for.

    Args:
        program: what to write.
        lowest_weight: see `to_tflite`.
        exact: likewise.
    """

    def __init__(self, program: Program, lowest_weight: str, *, exact: bool) -> None:
        self.program, self.lowest_weight, self.exact, self.b = program, lowest_weight, exact, TfliteBuilder()
        self.floats: dict[int, int] = {}
        self.integers: dict[int, int] = {}
        self.grids: dict[int, QParams] = {}
        self.in_float: list[str] = []
        self.lowest: dict[str, int] = {}
        self.inputs: dict[str, int] = {}
        self.memo: dict[tuple[str, int], int] = {}

    def write(self) -> dict[str, int]:
        """All that the outputs need; returns output name -> tensor."""
        for name, value in self.program.inputs.items():
            self.floats[value] = self.inputs[name] = self.b.tensor(
                name, self.program.shapes[value], self.program.dtypes[value]
            )
        for step in self.program.quantizers:
            self.quantize(step)
        return {name: self._own(self.float(v)) for name, v in self.program.outputs.items()}

    def _own(self, tensor: int) -> int:
        """An output needs a tensor of its own, also where it is an input."""
        return tensor

    # --- values ---

    def float(self, value: int) -> int:
        """The float tensor of a value."""
        if value not in self.floats:
            if value in self.integers or self.moved(value) is not None:
                y = self.b.tensor(f"{self.name(value)}/float", self.program.shapes[value], "float32")
                self.floats[value] = self.b.op("DEQUANTIZE", [self.integers[value]], [y], "DequantizeOptions")
            else:
                step = self.program.producers[value]
                self.in_float.append(step.name)
                made = _table("FLOATS", step)(self, step)
                self.floats.update(zip(step.outputs, [made] if isinstance(made, int) else made, strict=True))
        return self.floats[value]

    def moved(self, value: int) -> int | None:
        """The integer tensor of a value on a grid, through steps that only move integers; else None."""
        from vqkit.export.tflite.integer_ops import MOVES

        if value in self.integers:
            return self.integers[value]
        step = self.program.producers.get(value)
        if step is None or step.kind not in MOVES or self.moved(step.values[0]) is None:
            return None
        source = step.values[0]
        self.grids[value] = self.grids[source]
        found = MOVES[step.kind](self, step, self.integers[source])
        if found is None:
            return None
        self.integers[value] = found
        return found

    def name(self, value: int) -> str:
        """Name of the step that makes a value."""
        step = self.program.producers.get(value)
        return step.name if step else next(k for k, v in self.program.inputs.items() if v == value)

    def quantize(self, step: Step) -> None:
        """Write a quantizer, with the integer operator in front of it where there is one."""
        from vqkit.export.tflite.integer_ops import fused

        params = self._checked(step)
        if not params.scale > 0:
            self._without_width(step, params)
            return
        self.grids[step.output] = params
        whole = params.spec.bit_width == BITS and not (params.spec.narrow_range and not params.spec.unsigned)
        y = fused(self, step, params)
        if y is None:
            y = self.on_grid(step.values[0], params, step.name)
        self.integers[step.output] = y if whole else self._clipped(y, step, params)

    def _without_width(self, step: Step, params: QParams) -> None:
        """A range without width: everything there becomes 0, on a grid that is fine enough for any bias."""
        ends = np.asarray([params.spec.q_min, params.spec.q_max], np.float32) * _NOTHING
        fine = QParams(params.spec, ends[0], ends[1])
        source, shape = step.values[0], self.program.shapes[step.output]
        zeros = self.b.tensor(f"{step.name}/zeros", shape, "float32")
        nought = self.b.constant("number_0", np.float32(0))
        self.b.op("MUL", [self.float(source), nought], [zeros], "MulOptions")
        self.grids[step.output] = fine
        y = self.grid_tensor(step.name, step.output, fine)
        self.integers[step.output] = self.b.op("QUANTIZE", [zeros], [y], "QuantizeOptions")

    def on_grid(self, value: int, params: QParams, name: str) -> int:
        """Codes of a value on a grid, by QUANTIZE.

        From integers on one grid to integers on another LiteRT's QUANTIZE multiplies by a number of 8 bits and
        rounds half up; where it shall be exact the way to other grids leads through floats.
        """
        source = self.moved(value)
        inexact = (
            self.exact
            and source is not None
            and self.grids[value] != params
            and not rounds_up(self.grids[value], params)
        )
        x = source if source is not None and not inexact else self._rounded(value, params, name)
        y = self.grid_tensor(name, value, params)
        return int(self.b.op("QUANTIZE", [x], [y], "QuantizeOptions"))

    def _rounded(self, value: int, params: QParams, name: str) -> int:
        """A float value, rounded as the strategy says where QUANTIZE rounds ties otherwise."""
        x = self.float(value)
        shape, b = self.program.shapes[value], self.b
        for kind, number in rounding_chain(params) if self.exact else ():
            y = b.tensor(f"{name}/{kind.lower()}", shape, "float32")
            if number is None:
                x = b.op(kind, [x], [y])
            else:
                constant = b.constant(f"number_{number.tobytes().hex()}", number)
                x = b.op(kind, [x, constant], [y], _OPTIONS[kind])
        return x

    def grid_tensor(self, name: str, value: int, params: QParams, shape: Shape | None = None) -> int:
        """A tensor of int8 codes of a grid."""
        scale, zero = signed_grid(params)
        shape = self.program.shapes[value] if shape is None else shape
        return self.b.tensor(name, shape, "int8", scale=scale, zero_point=zero)

    def _clipped(self, x: int, step: Step, params: QParams) -> int:
        """A grid narrower than int8 ends where it says."""
        scale, zero = signed_grid(params)
        shift = zero - int(params.zero_point)
        for kind, code in (("MAXIMUM", params.spec.q_min), ("MINIMUM", params.spec.q_max)):
            end = self.b.tensor(
                f"{step.name}/{kind.lower()}",
                (),
                "int8",
                data=np.asarray(code + shift, np.int8),
                scale=scale,
                zero_point=zero,
            )
            y = self.grid_tensor(f"{step.name}/{kind.lower()}_of", step.output, params)
            x = self.b.op(kind, [x, end], [y], "MaximumMinimumOptions")
        return x

    def _checked(self, step: Step) -> QParams:
        params: QParams = step.attrs["params"]
        where = f"{step.row}: TFLite"
        if params.spec.bit_width > BITS:
            raise ModelError(
                f"{where} files of vqkit have activations of up to {BITS} bits, this one has "
                f"{params.spec.bit_width}. Export onnx"
            )
        if params.spec.per_channel:
            raise ModelError(f"{where} has one scale for an activation, this one has one for each channel. Export onnx")
        return params

    # --- constants ---

    def float_constant(self, c: Constant, lay: Callable[[np.ndarray], np.ndarray] = lambda a: a) -> int:
        """A constant as floats."""
        return self.b.constant(f"{c.name}/float", np.ascontiguousarray(lay(c.value)), "float32")

    def weight_codes(self, c: Constant) -> np.ndarray:
        """Codes of a weight as int8, the lowest ones treated as asked."""
        codes = c.codes
        low = int(np.sum(codes == -128))
        if low:
            self.lowest[c.name] = low
            if self.lowest_weight == "error":
                raise ModelError(
                    f"{c.name}: {low} weights have the code -128, which TFLite's specification leaves out. "
                    "Set narrow_range of its quantizer to true, or lowest_weight to keep or clip"
                )
            if self.lowest_weight == "clip":
                codes = np.maximum(codes, -127)
        return codes.astype(np.int8)


_OPTIONS = {
    "MUL": "MulOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "DIV": "DivOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
}


def _table(name: str, step: Step) -> Any:
    from vqkit.export.tflite import float_ops

    table = getattr(float_ops, name)
    if step.kind not in table:
        raise ModelError(
            f"layer {step.layer!r} cannot be exported to TFLite: {step.kind} has no form there that vqkit "
            "knows. Export onnx, or keras, h5, saved_model"
        )
    return table[step.kind]
