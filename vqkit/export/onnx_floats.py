"""Layers that are not quantized, in ONNX: each operation that TensorFlow traced them to.

The converters stand in modules by topic and register themselves in `CONVERTERS`; a layer with an operation
that is not there is refused, with the operation's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export.float_forms import KIND
from vqkit.export.onnx_layout import LAST, Writer, writes
from vqkit.export.steps import Constant, Shape, Step
from vqkit.export.traced import Body, Op, Slot, Traced

Made = str | Sequence[str]
Converter = Callable[["Floats", Op], Made]
CONVERTERS: dict[str, Converter] = {}
_TYPES = {"float32", "float64", "float16", "bfloat16", "bool", "int8", "int16", "int32", "int64", "uint8",
          "uint16", "uint32", "uint64"}  # fmt: skip


def converts(*kinds: str) -> Callable[[Converter], Converter]:
    """Register the converter of some types of operations."""

    def register(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(kinds, function))
        return function

    return register


@writes(KIND)
def _float_layer(w: Writer, step: Step) -> list[str]:
    from vqkit.export import onnx_float_loops, onnx_float_math, onnx_float_moves, onnx_float_windows

    assert onnx_float_loops
    assert onnx_float_math
    assert onnx_float_moves
    assert onnx_float_windows
    traced: Traced = step.attrs["traced"]
    given = [w.read(v, LAST) for v in step.values]
    floats = Floats(w, step, traced)
    floats.names.update(zip([v for v in traced.body.inputs if v is not None], given, strict=True))
    return floats.body(traced.body)


class Floats:
    """Writes the operations of one traced call.

    Args:
        writer: of the whole graph.
        step: the call's step.
        traced: the call.
    """

    def __init__(self, writer: Writer, step: Step, traced: Traced) -> None:
        self.w, self.b, self.step, self.traced = writer, writer.b, step, traced
        self.names: dict[int, str] = {}
        self.bits: dict[int, str] = {}
        """Number of a value that is the bits of a float -> name of the float."""
        self.label = step.name

    def body(self, body: Body) -> list[str]:
        """Write operations; returns the names of the results."""
        for op in body.ops:
            converter = CONVERTERS.get(op.kind)
            if converter is None:
                raise self.refuse(f"its operation {op.kind} has no form in ONNX that vqkit knows")
            for s in (*op.inputs, *op.outputs):
                self._check(s, op)
            self.label = f"{self.step.name}/{op.name}"
            made = converter(self, op)
            self.names.update(zip(op.outputs, [made] if isinstance(made, str) else made, strict=True))
        return [self.name(s) for s in body.outputs]

    def refuse(self, why: str) -> ModelError:
        """The error for a call that ONNX does not have."""
        return ModelError(
            f"layer {self.step.layer!r} cannot be exported to ONNX: {why}. Export format keras, h5 or "
            "saved_model instead, or replace the layer"
        )

    def need(self, opset: int, what: str) -> None:
        """Refuse operator sets before this one."""
        if self.b.opset < opset:
            raise self.refuse(f"{what} needs operator set {opset}, {self.b.opset} was asked for")

    def _check(self, slot: Slot, op: Op) -> None:
        dtype = self.dtype(slot)
        if dtype not in _TYPES and dtype != "variant":
            raise self.refuse(f"its operation {op.kind} computes with {dtype}")

    # --- what is known of a value ---

    def name(self, slot: Slot) -> str:
        """Name of a value in the ONNX graph."""
        if slot in self.bits:
            raise self.refuse("it reads the bits of a value")
        if isinstance(slot, int):
            return self.names[slot]
        if slot.params is None:
            return str(self.b.constant(slot.value, slot.name))
        return self.laid(slot, lambda a: a, "")

    def laid(self, constant: Constant, lay: Callable[[np.ndarray], np.ndarray], suffix: str) -> str:
        """A weight as ONNX wants it, behind DequantizeLinear where it has a grid."""
        name = f"{constant.name}{suffix}"
        key = f"{name}/{id(constant)}"
        if key not in self.w.memo:
            self.w.memo[key] = self.w.quant.weight(constant, lay, name)
        return self.w.memo[key]

    def dtype(self, slot: Slot) -> str:
        """numpy name of a value's type."""
        return slot.value.dtype.name if isinstance(slot, Constant) else self.traced.dtypes[slot]

    def shape(self, slot: Slot) -> Shape:
        """Shape of a value, free sizes None."""
        shape = slot.value.shape if isinstance(slot, Constant) else self.traced.shapes[slot]
        if shape is None:
            raise self.refuse("the number of axes of a value inside is not known")
        return shape

    def rank(self, slot: Slot) -> int:
        """Number of axes of a value."""
        return len(self.shape(slot))

    def static(self, slot: Slot, op: Op, what: str) -> np.ndarray:
        """A value that must be known when the file is written."""
        if isinstance(slot, Constant):
            return slot.value
        raise self.refuse(f"{what} of its operation {op.kind} must not depend on the input")

    # --- writing ---

    def inputs(self, op: Op) -> list[str]:
        """Names of all that an operation reads."""
        return [self.name(s) for s in op.inputs]

    def op(self, kind: str, inputs: Sequence[str], word: str = "", **attrs: Any) -> str:
        """A node; its output is named after the operation at hand."""
        return str(self.b.op(kind, list(inputs), f"{self.label}/{word}" if word else self.label, **attrs))

    def number(self, value: Any, dtype: str) -> str:
        """A scalar of a type."""
        array = np.asarray(value).astype(np_type(dtype))
        return str(self.b.constant(array, f"number_{dtype}_{array.item()!r}"))

    def ints(self, values: Sequence[int] | np.ndarray) -> str:
        """A vector of int64."""
        array = np.asarray(values, np.int64).reshape(-1)
        return str(self.b.constant(array, "ints_" + "_".join(map(str, array.tolist()))))

    def cast(self, x: str, dtype: str) -> str:
        """The same numbers in another type."""
        return self.op("Cast", [x], f"as_{dtype}", to=self.b.type_of(dtype))

    def long(self, slot: Slot) -> str:
        """A vector of sizes or places as int64."""
        if isinstance(slot, Constant):
            return self.ints(slot.value)
        name = self.name(slot)
        return name if self.dtype(slot) == "int64" else self.cast(name, "int64")

    def back(self, x: str, dtype: str) -> str:
        """int64 from ONNX as the type that TensorFlow has."""
        return x if dtype == "int64" else self.cast(x, dtype)

    def reduce(self, kind: str, x: str, axes: Sequence[int], *, keep: bool, word: str = "") -> str:
        """A reduction over axes."""
        since = 13 if kind == "ReduceSum" else 18
        name = f"{self.label}/{word}" if word else self.label
        return str(self.b.with_axes(kind, x, list(axes), name, since=since, keepdims=int(keep)))

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        """New axes of size 1."""
        return self.moved(x, lambda x, n: self.b.with_axes("Unsqueeze", x, list(axes), n, since=13))

    def squeeze(self, x: str, axes: Sequence[int]) -> str:
        """Without axes of size 1."""
        if not axes:
            return x
        return self.moved(x, lambda x, n: self.b.with_axes("Squeeze", x, list(axes), n, since=13))

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        """Axes in another order."""
        if list(perm) == list(range(len(perm))):
            return x
        return self.moved(x, lambda x, n: self.b.op("Transpose", [x], n, perm=[int(p) for p in perm]))

    def reshape(self, x: str, shape: str) -> str:
        """The same values in another shape."""
        return self.moved(x, lambda x, n: self.b.op("Reshape", [x, shape], n))

    def moved(self, x: str, move: Callable[[str, str], str], *, bits: int = 16) -> str:
        """What only moves values, done to the integers where there are some."""
        return str(self.w.quant.moved(x, move, self.label, bits=bits))


def np_type(dtype: str) -> np.dtype[Any]:
    """The numpy type of a name, bfloat16 among them."""
    if dtype != "bfloat16":
        return np.dtype(dtype)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
