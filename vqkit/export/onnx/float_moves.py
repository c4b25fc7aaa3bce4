"""Operations that move, cut, join, repeat or make values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vqkit.export.onnx.floats import Floats, converts
from vqkit.export.program import Constant
from vqkit.export.traced import Op

_FAR = np.iinfo(np.int64).max


def _axis(f: Floats, op: Op, place: int, rank: int) -> int:
    return int(f.static(op.inputs[place], op, "the axis")) % max(rank, 1)


# --- shapes ---


@converts("Shape")
def _shape(f: Floats, op: Op) -> str:
    return f.back(f.op("Shape", f.inputs(op)), f.dtype(op.outputs[0]))


@converts("Size")
def _size(f: Floats, op: Op) -> str:
    return f.back(f.op("Size", f.inputs(op)), f.dtype(op.outputs[0]))


@converts("Reshape")
def _reshape(f: Floats, op: Op) -> str:
    return f.reshape(f.name(op.inputs[0]), f.long(op.inputs[1]))


@converts("Squeeze")
def _squeeze(f: Floats, op: Op) -> str:
    shape = f.shape(op.inputs[0])
    axes = [a % len(shape) for a in op.attrs["squeeze_dims"]] or [i for i, n in enumerate(shape) if n == 1]
    return f.squeeze(f.name(op.inputs[0]), axes)


@converts("ExpandDims")
def _expand_dims(f: Floats, op: Op) -> str:
    return f.unsqueeze(f.name(op.inputs[0]), [_axis(f, op, 1, f.rank(op.inputs[0]) + 1)])


@converts("Transpose")
def _transpose(f: Floats, op: Op) -> str:
    return f.transpose(f.name(op.inputs[0]), f.static(op.inputs[1], op, "the order of axes").tolist())


@converts("BroadcastTo")
def _broadcast(f: Floats, op: Op) -> str:
    return f.op("Expand", [f.name(op.inputs[0]), f.long(op.inputs[1])])


@converts("Fill")
def _fill(f: Floats, op: Op) -> str:
    return f.op("Expand", [f.name(op.inputs[1]), f.long(op.inputs[0])])


@converts("ZerosLike", "OnesLike")
def _like(f: Floats, op: Op) -> str:
    value = f.number(int(op.kind == "OnesLike"), f.dtype(op.outputs[0]))
    return f.op("Expand", [value, f.op("Shape", f.inputs(op), "shape")])


@converts("Range")
def _range(f: Floats, op: Op) -> str:
    return f.op("Range", f.inputs(op))


# --- joining and splitting ---


@converts("ConcatV2")
def _concat(f: Floats, op: Op) -> str:
    *parts, _ = op.inputs
    return f.op("Concat", [f.name(p) for p in parts], axis=_axis(f, op, -1, f.rank(op.outputs[0])))


@converts("Pack")
def _pack(f: Floats, op: Op) -> str:
    axis = op.attrs["axis"] % f.rank(op.outputs[0])
    return f.op("Concat", [f.unsqueeze(f.name(p), [axis]) for p in op.inputs], axis=axis)


def _parts(f: Floats, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
    names = [f"{f.label}/{i}" for i in range(len(sizes))]
    if f.b.opset < 13:
        return list(f.b.ops("Split", [x], names, axis=axis, split=list(sizes)))
    return list(f.b.ops("Split", [x, f.ints(sizes)], names, axis=axis))


@converts("Unpack")
def _unpack(f: Floats, op: Op) -> list[str]:
    axis = op.attrs["axis"] % f.rank(op.inputs[0])
    parts = _parts(f, f.name(op.inputs[0]), axis, [1] * len(op.outputs))
    return [f.squeeze(p, [axis]) for p in parts]


@converts("Split")
def _split(f: Floats, op: Op) -> list[str]:
    axis = _axis(f, op, 0, f.rank(op.inputs[1]))
    whole = f.shape(op.inputs[1])[axis]
    if whole is None:
        raise f.refuse(f"its operation Split cuts axis {axis}, whose size is free")
    return _parts(f, f.name(op.inputs[1]), axis, [whole // len(op.outputs)] * len(op.outputs))


@converts("SplitV")
def _split_v(f: Floats, op: Op) -> list[str]:
    axis = _axis(f, op, 2, f.rank(op.inputs[0]))
    sizes = [int(n) for n in f.static(op.inputs[1], op, "the sizes")]
    whole = f.shape(op.inputs[0])[axis]
    if -1 in sizes and whole is None:
        raise f.refuse(f"its operation SplitV cuts axis {axis}, whose size is free")
    rest = (whole or 0) - sum(n for n in sizes if n >= 0)
    return _parts(f, f.name(op.inputs[0]), axis, [rest if n < 0 else n for n in sizes])


@converts("Tile")
def _tile(f: Floats, op: Op) -> str:
    return f.op("Tile", [f.name(op.inputs[0]), f.long(op.inputs[1])])


# --- cutting ---


def cut(f: Floats, x: str, starts: str, ends: str, axes: Sequence[int], steps: Sequence[int]) -> str:
    """A slice."""
    more = [f.ints(axes), f.ints(steps)]
    return f.moved(x, lambda x, n: str(f.b.op("Slice", [x, starts, ends, *more], n)))


@converts("Slice")
def _slice(f: Floats, op: Op) -> str:
    x, rank = f.name(op.inputs[0]), f.rank(op.inputs[0])
    begin, size = op.inputs[1:]
    if isinstance(begin, Constant) and isinstance(size, Constant):
        pairs = list(zip(begin.value.tolist(), size.value.tolist(), strict=True))
        ends = f.ints([_FAR if n < 0 else b + n for b, n in pairs])
    else:
        if not isinstance(size, Constant) or np.any(size.value < 0):
            raise f.refuse("the sizes of its operation Slice depend on the input")
        ends = f.op("Add", [f.long(begin), f.long(size)], "ends")
    return cut(f, x, f.long(begin), ends, range(rank), [1] * rank)


@converts("StridedSlice")
def _strided_slice(f: Floats, op: Op) -> str:
    x, rank, a = f.name(op.inputs[0]), f.rank(op.inputs[0]), op.attrs
    begin, end = op.inputs[1:3]
    strides = f.static(op.inputs[3], op, "the strides").tolist()
    known = isinstance(begin, Constant) and isinstance(end, Constant)

    def flagged(word: str, i: int) -> bool:
        return bool(a[f"{word}_mask"] >> i & 1)

    entries = range(len(strides))
    taken = sum(not flagged("new_axis", i) and not flagged("ellipsis", i) for i in entries)
    axes: list[int] = []
    places: list[int] = []
    fresh: list[int] = []
    gone: list[int] = []
    axis = out = 0
    for i in entries:
        if flagged("ellipsis", i):
            axis, out = axis + rank - taken, out + rank - taken
        elif flagged("new_axis", i):
            fresh.append(out)
            out += 1
        else:
            axes.append(axis)
            places.append(i)
            if flagged("shrink_axis", i):
                gone.append(axis)
            else:
                out += 1
            axis += 1
    if axes:
        if known:
            first, last = begin.value.tolist(), end.value.tolist()  # type: ignore[union-attr]
            pairs = [
                _ends(
                    first[i],
                    last[i],
                    strides[i],
                    flagged("begin", i),
                    flagged("end", i),
                    flagged("shrink_axis", i),
                )
                for i in places
            ]
            starts, ends = f.ints([p[0] for p in pairs]), f.ints([p[1] for p in pairs])
        else:
            starts, ends = _computed(f, op, places, flagged)
        steps = [1 if flagged("shrink_axis", i) else strides[i] for i in places]
        x = cut(f, x, starts, ends, axes, steps)
    x = f.squeeze(x, gone)
    return f.unsqueeze(x, fresh) if fresh else x


def _ends(first: int, last: int, step: int, from_start: bool, to_end: bool, one: bool) -> tuple[int, int]:
    if one:
        return first, (_FAR if first == -1 else first + 1)
    begin = first if not from_start else (0 if step > 0 else _FAR)
    end = last if not to_end else (_FAR if step > 0 else -_FAR)
    return begin, end


def _computed(f: Floats, op: Op, places: Sequence[int], flagged: object) -> tuple[str, str]:
    """Places of a slice that are known only when it runs."""
    assert callable(flagged)
    found = []
    for word, slot, default in (("begin", op.inputs[1], 0), ("end", op.inputs[2], _FAR)):
        whole, parts = f.long(slot), []
        for i in places:
            one = f.op("Slice", [whole, f.ints([i]), f.ints([i + 1])], f"{word}_{i}")
            if word == "end" and flagged("shrink_axis", i):
                one = f.op("Add", [f.op("Slice", [f.long(op.inputs[1]), f.ints([i]), f.ints([i + 1])]), f.ints([1])])
            parts.append(f.ints([default]) if flagged(word, i) else one)
        found.append(f.op("Concat", parts, f"{word}s", axis=0) if len(parts) > 1 else parts[0])
    return found[0], found[1]


@converts("ReverseV2")
def _reverse(f: Floats, op: Op) -> str:
    x, rank = f.name(op.inputs[0]), f.rank(op.inputs[0])
    axes = [int(a) % rank for a in f.static(op.inputs[1], op, "the axes").reshape(-1)]
    if not axes:
        return x
    return cut(f, x, f.ints([-1] * len(axes)), f.ints([-_FAR] * len(axes)), axes, [-1] * len(axes))


@converts("Roll")
def _roll(f: Floats, op: Op) -> str:
    x, shape = f.name(op.inputs[0]), f.shape(op.inputs[0])
    shifts, axes = (f.static(s, op, "the shifts").reshape(-1).tolist() for s in op.inputs[1:])
    for shift, axis in zip(shifts, axes, strict=True):
        axis %= len(shape)
        if shape[axis] is None:
            raise f.refuse(f"its operation Roll turns axis {axis}, whose size is free")
        at = -shift % shape[axis]
        if at:
            parts = [cut(f, x, f.ints([b]), f.ints([e]), [axis], [1]) for b, e in ((at, _FAR), (0, at))]
            x = f.op("Concat", parts, axis=axis)
    return x


@converts("MatrixBandPart")
def _band(f: Floats, op: Op) -> str:
    f.need(14, "its operation MatrixBandPart")
    x = f.name(op.inputs[0])
    for place, upper, sign in ((1, 0, -1), (2, 1, 1)):
        n = int(f.static(op.inputs[place], op, "the diagonals"))
        if n >= 0:
            # Below the lowest diagonal, then above the highest.
            k = str(f.b.constant(np.int64(sign * n), f"diagonal_{sign * n}"))
            x = f.op("Trilu", [x, k], upper=1 - upper)
    return x


# --- by index ---


@converts("GatherV2")
def _gather(f: Floats, op: Op) -> str:
    x, places = (f.name(s) for s in op.inputs[:2])
    batch, rank = int(op.attrs["batch_dims"]), f.rank(op.inputs[0])
    axis = _axis(f, op, 2, rank)
    if batch < 0:
        batch += f.rank(op.inputs[1])
    if not batch:
        return f.op("Gather", [x, places], axis=axis)
    if axis != batch:
        raise f.refuse(f"its operation GatherV2 takes axis {axis} behind {batch} batch axes")
    f.need(12, "its operation GatherV2 with batch axes")
    indices = f.unsqueeze(f.cast(places, "int64"), [f.rank(op.inputs[1])])
    return f.op("GatherND", [x, indices], batch_dims=batch)


@converts("GatherNd")
def _gather_nd(f: Floats, op: Op) -> str:
    x, places = f.inputs(op)
    return f.op("GatherND", [x, f.cast(places, "int64")])


@converts("TensorScatterUpdate")
def _scatter(f: Floats, op: Op) -> str:
    x, places, values = f.inputs(op)
    return f.op("ScatterND", [x, f.cast(places, "int64"), values])


@converts("ScatterNd")
def _scattered(f: Floats, op: Op) -> str:
    """Values added up at places of an array of zeros."""
    f.need(16, "its operation ScatterNd")
    places, values, size = op.inputs
    blank = f.op("Expand", [f.number(0, f.dtype(values)), f.long(size)], "zeros")
    return f.op("ScatterND", [blank, f.cast(f.name(places), "int64"), f.name(values)], reduction="add")


@converts("BroadcastArgs")
def _broadcast_shape(f: Floats, op: Op) -> str:
    if f.shape(op.inputs[0]) != f.shape(op.inputs[1]):
        raise f.refuse("its operation BroadcastArgs joins shapes of different lengths")
    return f.op("Max", f.inputs(op))


@converts("OneHot")
def _one_hot(f: Floats, op: Op) -> str:
    """By comparing, because ONNX' own counts negative numbers from the end."""
    x, rank = f.name(op.inputs[0]), f.rank(op.inputs[0])
    depth = int(f.static(op.inputs[1], op, "the depth"))
    axis = op.attrs["axis"] % (rank + 1)
    steps = np.arange(depth, dtype=f.dtype(op.inputs[0])).reshape([-1 if i == axis else 1 for i in range(rank + 1)])
    numbers = str(f.b.constant(steps, f"{f.label}/numbers"))
    return f.op(
        "Where",
        [f.op("Equal", [f.unsqueeze(x, [axis]), numbers], "here"), *(f.name(s) for s in op.inputs[2:])],
    )


# --- borders ---


@converts("Pad", "PadV2", "MirrorPad")
def _pad(f: Floats, op: Op) -> str:
    pads = f.static(op.inputs[1], op, "the borders")
    mode = op.attrs.get("mode")
    if mode == "SYMMETRIC":
        raise f.refuse("a border that repeats the edge (symmetric) has no form in ONNX")
    inputs = [f.name(op.inputs[0]), f.ints(np.asarray(pads).T.reshape(-1))]
    if op.kind == "PadV2":
        inputs.append(f.name(op.inputs[2]))
    elif mode is None:
        inputs.append(f.number(0, f.dtype(op.outputs[0])))
    return f.op("Pad", inputs, mode="reflect" if mode else "constant")
