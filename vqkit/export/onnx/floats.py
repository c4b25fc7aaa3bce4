"""Layers that are not quantized, in ONNX; loops and branches of them.

Layers that are not quantized, in ONNX: each operation that TensorFlow traced them to.

The converters stand in modules by topic and register themselves in `CONVERTERS`; a layer with an operation
that is not there is refused, with the operation's name.

Loops and branches: what Keras' recurrent layers and `keras.ops.map` are made of.

TensorFlow keeps the results of a loop's turns in a list of tensors. A loop of ONNX gives the results of all
turns joined along a new axis: that is the list. A list that is only read is the tensor that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export.float_layers import KIND
from vqkit.export.onnx.graph import LAST, Writer, writes
from vqkit.export.program import Constant, Shape, Step
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
            raise ModelError(
                f"layer {self.step.layer!r} cannot be exported to ONNX: {what} needs operator set {opset}, "
                f"{self.b.opset} was asked for. Set opset, or onnx_opset_version in the strategy, to {opset} or more"
            )

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
            # ONNX Runtime 1.32 refuses a DequantizeLinear inside a loop that reads a constant around it.
            with self.b.outside():
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


@converts("If")
def _if(f: Floats, op: Op) -> list[str]:
    graphs = {}
    for word in ("then", "else"):
        body, name = op.bodies[word], f"{f.label}/{word}"
        graphs[word] = f.b.subgraph(name, {}, lambda body=body: f.body(body))
    names = [f"{f.label}/{i}" for i in range(len(op.outputs))]
    return list(f.b.ops("If", [f.name(op.inputs[0])], names, then_branch=graphs["then"], else_branch=graphs["else"]))


@converts("TensorListFromTensor", "TensorListStack")
def _as_it_is(f: Floats, op: Op) -> str:
    return f.name(op.inputs[0])


@converts("TensorListGetItem")
def _get_item(f: Floats, op: Op) -> str:
    return f.op("Gather", [f.name(op.inputs[0]), f.name(op.inputs[1])], axis=0)


@converts("TensorListLength")
def _length(f: Floats, op: Op) -> str:
    shape = f.op("Shape", [f.name(op.inputs[0])], "shape")
    return f.back(f.squeeze(f.op("Slice", [shape, f.ints([0]), f.ints([1])], "first"), [0]), "int32")


@converts("TensorListReserve")
def _reserve(_: Floats, __: Op) -> str:
    """Nothing: a loop fills it."""
    return ""


@converts("While")
def _while(f: Floats, op: Op) -> list[str]:
    # ONNX Runtime 1.32 aborts the process on some loops of operator set 11.
    f.need(13, "its loop over the steps")
    test, body = op.bodies["cond"], op.bodies["body"]
    kept = [i for i, s in enumerate(op.inputs) if f.dtype(s) != "variant"]
    written = [i for i in range(len(op.inputs)) if i not in kept]
    items = {i: _item(f, op, body, i) for i in written}
    label = f.label
    first = _tested(f, test, {i: f.name(op.inputs[i]) for i in kept})
    given = [f.name(op.inputs[i]) for i in kept]
    f.label = label
    arguments = {f.b.fresh(f"{label}/in_{i}"): i for i in kept}
    turn, going = (f.b.fresh(f"{label}/{w}") for w in ("turn", "going"))
    inputs: dict[str, tuple[Shape, str]] = {turn: ((), "int64"), going: ((), "bool")}
    inputs |= {k: (_loose(f, body, op, i), f.dtype(op.inputs[i])) for k, i in arguments.items()}

    def write() -> list[str]:
        for name, i in arguments.items():
            number = body.inputs[i]
            assert number is not None
            f.names[number] = name
        for i in written:
            number = body.inputs[i]
            assert number is not None
            f.names[number] = ""
        results = f.body(body)
        more = _tested(f, test, {i: results[i] for i in kept})
        return [more, *(results[i] for i in kept), *(results[i] for i in written)]

    graph = f.b.subgraph(f"{label}/body", inputs, write)
    names = [f"{label}/out_{i}" for i in (*kept, *written)]
    made = f.b.ops("Loop", ["", first, *given], names, body=graph)
    f.label = label
    found = dict(zip((*kept, *written), made, strict=True))
    for i, only in items.items():
        if only:
            # One place that each turn writes over: what the last turn left there.
            far = f.ints([2**31 - 1])
            found[i] = f.op("Slice", [found[i], f.ints([-1]), far, f.ints([0])], f"last_{i}")
    return [found[i] for i in range(len(op.inputs))]


@converts("TensorListSetItem")
def _set_item(f: Floats, op: Op) -> str:
    """What a turn adds to its list."""
    return f.name(op.inputs[2])


def _loose(f: Floats, body: Body, op: Op, i: int) -> Shape:
    """What holds of a carried value's shape in all turns."""
    number = body.inputs[i]
    assert number is not None
    known = f.traced.shapes[number]
    return (None,) * f.rank(op.inputs[i]) if known is None else known


def _tested(f: Floats, test: Body, names: dict[int, str]) -> str:
    for i, name in names.items():
        number = test.inputs[i]
        assert number is not None
        f.names[number] = name
    return f.body(test)[0]


def _item(f: Floats, op: Op, body: Body, i: int) -> bool:
    """Whether a list that a loop fills has one place; else each turn must write the next one."""
    makers = {v: o for o in body.ops for v in o.outputs}
    result = body.outputs[i]
    writer = makers.get(result) if isinstance(result, int) else None
    if writer is None or writer.kind != "TensorListSetItem" or writer.inputs[0] != body.inputs[i]:
        raise f.refuse("its loop keeps a list that not every turn adds to")
    place = writer.inputs[1]
    if isinstance(place, Constant):
        return True
    if _counts(op, body, place, makers):
        return False
    raise f.refuse("its loop writes a list in another order than that of its turns")


def _counts(op: Op, body: Body, place: Slot, makers: dict[int, Op]) -> bool:
    """Whether a value counts the turns from 0."""
    if place not in body.inputs:
        return False
    i = body.inputs.index(place)
    start, result = op.inputs[i], body.outputs[i]
    adder = makers.get(result) if isinstance(result, int) else None
    steps = [s for s in adder.inputs if isinstance(s, Constant)] if adder and adder.kind == "AddV2" else []
    begins = isinstance(start, Constant) and start.value == 0
    return begins and len(steps) == 1 and steps[0].value == 1 and place in (adder.inputs if adder else ())
