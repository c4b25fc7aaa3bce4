"""Loops and branches: what Keras' recurrent layers and `keras.ops.map` are made of.

TensorFlow keeps the results of a loop's turns in a list of tensors. A loop of ONNX gives the results of all
turns joined along a new axis: that is the list. A list that is only read is the tensor that it was made from.
"""

from __future__ import annotations

from vqkit.export.onnx_floats import Floats, converts
from vqkit.export.steps import Constant, Shape
from vqkit.export.traced import Body, Op, Slot


@converts("If")
def _if(f: Floats, op: Op) -> list[str]:
    graphs = {}
    for word in ("then", "else"):
        body, name = op.bodies[word], f"{f.label}/{word}"
        graphs[word] = f.b.subgraph(name, {}, lambda body=body: f.body(body))
    names = [f"{f.label}/{i}" for i in range(len(op.outputs))]
    return list(f.b.ops("If", [f.name(op.inputs[0])], names, then_branch=graphs["then"],
                        else_branch=graphs["else"]))  # fmt: skip


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
