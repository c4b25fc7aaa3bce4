"""Arithmetic, comparisons, functions of one value, reductions and products of matrices."""

from __future__ import annotations

import numpy as np

from vqkit.export.onnx.floats import CONVERTERS, Converter, Floats, converts
from vqkit.export.program import Constant
from vqkit.export.traced import Op

_OWN_NAME = (
    "Sub Mul Neg Exp Log Sqrt Floor Ceil Round Sigmoid Tanh Relu Softplus Softsign Selu Elu Sin Cos Tan Asin "
    "Acos Atan Sinh Cosh Asinh Acosh Atanh Erf Reciprocal Abs Sign Less Greater Equal Pow"
)
_ONE_TO_ONE = {
    **{name: name for name in _OWN_NAME.split()},
    "Add": "Add",
    "AddV2": "Add",
    "BiasAdd": "Add",
    "Rint": "Round",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "LogicalNot": "Not",
    "Maximum": "Max",
    "Minimum": "Min",
    "IsNan": "IsNaN",
    "IsInf": "IsInf",
    "SelectV2": "Where",
    "MatrixDeterminant": "Det",
}
_SINCE = {
    "LessEqual": ("LessOrEqual", 12),
    "GreaterEqual": ("GreaterOrEqual", 12),
    "BitwiseOr": ("BitwiseOr", 18),
    "BitwiseXor": ("BitwiseXor", 18),
    "Invert": ("BitwiseNot", 18),
}


def _direct(kind: str, since: int = 0) -> Converter:
    def convert(f: Floats, op: Op) -> str:
        f.need(since, f"its operation {op.kind}")
        return f.op(kind, f.inputs(op))

    return convert


CONVERTERS.update({name: _direct(kind) for name, kind in _ONE_TO_ONE.items()})
CONVERTERS.update({name: _direct(kind, since) for name, (kind, since) in _SINCE.items()})


def _float(op: Op, f: Floats) -> bool:
    return "float" in f.dtype(op.inputs[0])


def _out(f: Floats, op: Op) -> str:
    return f.dtype(op.outputs[0])


# --- arithmetic ---


@converts("RealDiv", "Div")
def _divide(f: Floats, op: Op) -> str:
    return f.op("Div", f.inputs(op))


@converts("DivNoNan")
def _divide_no_nan(f: Floats, op: Op) -> str:
    x, y = f.inputs(op)
    zero = f.number(0, _out(f, op))
    return f.op("Where", [f.op("Equal", [y, zero], "none"), zero, f.op("Div", [x, y], "quotient")])


@converts("FloorMod")
def _floor_mod(f: Floats, op: Op) -> str:
    return _modulo(f, op)


def _modulo(f: Floats, op: Op) -> str:
    """With the sign of the divisor; ONNX' own for integers only."""
    x, y = f.inputs(op)
    if not _float(op, f):
        return f.op("Mod", [x, y])
    zero = f.number(0, f.dtype(op.inputs[0]))
    rest = f.op("Mod", [x, y], "rest", fmod=1)
    apart = f.op("Not", [f.op("Equal", [rest, zero], "whole")], "part")
    signs = [f.op("Less", [v, zero], f"negative_{i}") for i, v in enumerate((rest, y))]
    other = f.op("And", [apart, f.op("Xor", signs, "signs")], "other_sign")
    return f.op("Where", [other, f.op("Add", [rest, y], "moved"), rest])


@converts("FloorDiv")
def _floor_div(f: Floats, op: Op) -> str:
    x, y = f.inputs(op)
    if _float(op, f):
        return f.op("Floor", [f.op("Div", [x, y], "quotient")])
    whole = f.op("Sub", [x, f.op("Mod", [x, y], "rest")], "whole")
    return f.op("Div", [whole, y])


@converts("TruncateDiv")
def _truncate_div(f: Floats, op: Op) -> str:
    return f.op("Div", f.inputs(op))


@converts("TruncateMod")
def _truncate_mod(f: Floats, op: Op) -> str:
    return f.op("Mod", f.inputs(op), fmod=1)


@converts("Square")
def _square(f: Floats, op: Op) -> str:
    (x,) = f.inputs(op)
    return f.op("Mul", [x, x])


@converts("SquaredDifference")
def _squared_difference(f: Floats, op: Op) -> str:
    apart = f.op("Sub", f.inputs(op), "difference")
    return f.op("Mul", [apart, apart])


@converts("Rsqrt")
def _rsqrt(f: Floats, op: Op) -> str:
    return f.op("Reciprocal", [f.op("Sqrt", f.inputs(op), "root")])


@converts("AddN")
def _add_n(f: Floats, op: Op) -> str:
    return f.op("Sum", f.inputs(op))


@converts("ClipByValue")
def _clip(f: Floats, op: Op) -> str:
    x, low, high = f.inputs(op)
    return f.op("Min", [f.op("Max", [x, low], "from_low"), high])


@converts("Xlogy", "Xdivy")
def _times_log(f: Floats, op: Op) -> str:
    x, y = f.inputs(op)
    zero = f.number(0, _out(f, op))
    made = (
        f.op("Mul", [x, f.op("Log", [y], "log")], "product") if op.kind == "Xlogy" else f.op("Div", [x, y], "quotient")
    )
    return f.op("Where", [f.op("Equal", [x, zero], "none"), zero, made])


# --- functions of one value ---


@converts("Relu6")
def _relu6(f: Floats, op: Op) -> str:
    dtype = _out(f, op)
    return f.op("Clip", [*f.inputs(op), f.number(0, dtype), f.number(6, dtype)])


@converts("LeakyRelu")
def _leaky(f: Floats, op: Op) -> str:
    return f.op("LeakyRelu", f.inputs(op), alpha=float(op.attrs["alpha"]))


@converts("Erfc")
def _erfc(f: Floats, op: Op) -> str:
    return f.op("Sub", [f.number(1, _out(f, op)), f.op("Erf", f.inputs(op), "erf")])


@converts("Log1p")
def _log1p(f: Floats, op: Op) -> str:
    """log(1 + x), for small x by x * log(u) / (u - 1) of u = 1 + x."""
    (x,), one = f.inputs(op), f.number(1, _out(f, op))
    u = f.op("Add", [x, one], "u")
    log, less = f.op("Log", [u], "log"), f.op("Sub", [u, one], "u_less_1")
    small = f.op("Mul", [x, f.op("Div", [log, less], "ratio")], "small")
    near = f.op("Less", [f.op("Abs", [x], "size"), one], "near")
    same = f.op("Equal", [less, f.number(0, _out(f, op))], "same")
    return f.op("Where", [same, x, f.op("Where", [near, small, log], "of_size")])


@converts("Expm1")
def _expm1(f: Floats, op: Op) -> str:
    """exp(x) - 1, for small x by (u - 1) * x / log(u) of u = exp(x)."""
    (x,), one = f.inputs(op), f.number(1, _out(f, op))
    u = f.op("Exp", [x], "u")
    less = f.op("Sub", [u, one], "u_less_1")
    small = f.op("Mul", [less, f.op("Div", [x, f.op("Log", [u], "log")], "ratio")], "small")
    near = f.op("Less", [f.op("Abs", [x], "size"), f.number(0.5, _out(f, op))], "near")
    same = f.op("Equal", [u, one], "same")
    return f.op("Where", [same, x, f.op("Where", [near, small, less], "of_size")])


@converts("Atan2")
def _atan2(f: Floats, op: Op) -> str:
    y, x = f.inputs(op)
    dtype = _out(f, op)
    zero = f.number(0, dtype)
    plain = f.op("Atan", [f.op("Div", [y, x], "ratio")], "plain")
    below = f.op("Less", [y, zero], "below")
    turn = f.op("Where", [below, f.number(-np.pi, dtype), f.number(np.pi, dtype)], "turn")
    left = f.op("Where", [f.op("Less", [x, zero], "left"), f.op("Add", [plain, turn], "turned"), plain], "angle")
    nothing = f.op("And", [f.op("Equal", [x, zero], "x_0"), f.op("Equal", [y, zero], "y_0")], "origin")
    return f.op("Where", [nothing, zero, left])


@converts("IsFinite")
def _is_finite(f: Floats, op: Op) -> str:
    (x,) = f.inputs(op)
    odd = f.op("Or", [f.op("IsInf", [x], "infinite"), f.op("IsNaN", [x], "nan")], "odd")
    return f.op("Not", [odd])


@converts("NotEqual")
def _not_equal(f: Floats, op: Op) -> str:
    return f.op("Not", [f.op("Equal", f.inputs(op), "equal")])


@converts("Select")
def _select(f: Floats, op: Op) -> str:
    if f.rank(op.inputs[0]) != f.rank(op.inputs[1]):
        raise f.refuse("its operation Select chooses whole rows")
    return f.op("Where", f.inputs(op))


@converts("Cast")
def _cast(f: Floats, op: Op) -> str:
    (x,) = f.inputs(op)
    source, target = f.dtype(op.inputs[0]), _out(f, op)
    return x if source == target else f.op("Cast", [x], to=f.b.type_of(target))


@converts("Bucketize")
def _bucketize(f: Floats, op: Op) -> str:
    f.need(12, "its operation Bucketize")
    (x,), rank = f.inputs(op), f.rank(op.inputs[0])
    ends = np.asarray(op.attrs["boundaries"], np.float32)
    if f.dtype(op.inputs[0]) != "float32":
        x = f.cast(x, "float32")
    at = str(f.b.constant(ends, f"{f.label}/boundaries"))
    passed = f.op("GreaterOrEqual", [f.unsqueeze(x, [rank]), at], "passed")
    return f.reduce("ReduceSum", f.cast(passed, _out(f, op)), [rank], keep=False)


@converts("Bitcast")
def _bits(f: Floats, op: Op) -> str:
    """The bits of a float; only its sign can be asked for, see BitwiseAnd."""
    if (f.dtype(op.inputs[0]), _out(f, op)) != ("float32", "int32"):
        raise f.refuse("it reads the bits of a value")
    f.bits[op.outputs[0]] = f.name(op.inputs[0])
    return ""


@converts("BitwiseAnd")
def _bitwise_and(f: Floats, op: Op) -> str:
    mask = [s.value for s in op.inputs if isinstance(s, Constant)]
    number = next((s for s in op.inputs if s in f.bits), None)
    if number is None:
        f.need(18, "its operation BitwiseAnd")
        return f.op("BitwiseAnd", f.inputs(op))
    if not mask or np.any(mask[0] != np.iinfo(np.int32).min):
        raise f.refuse("it reads the bits of a value")
    x, zero = f.bits[number], f.number(0, "float32")
    below = f.op("Less", [f.op("Reciprocal", [x], "turned"), zero], "below_or_minus_0")
    below = f.op("Or", [below, f.op("Less", [x, zero], "below")], "negative")
    return f.op("Where", [below, f.number(np.iinfo(np.int32).min, "int32"), f.number(0, "int32")])


# --- reductions ---


def _axes(f: Floats, op: Op) -> list[int]:
    axes = f.static(op.inputs[1], op, "the axes")
    return [int(a) % f.rank(op.inputs[0]) for a in axes.reshape(-1)]


def _reduction(kind: str) -> Converter:
    def convert(f: Floats, op: Op) -> str:
        x, axes = f.name(op.inputs[0]), _axes(f, op)
        return f.reduce(kind, x, axes, keep=bool(op.attrs["keep_dims"])) if axes else x

    return convert


for _name in ("Mean", "Sum", "Max", "Min", "Prod"):
    CONVERTERS[_name] = _reduction(f"Reduce{_name}")


@converts("All", "Any")
def _all(f: Floats, op: Op) -> str:
    x, axes = f.name(op.inputs[0]), _axes(f, op)
    if not axes:
        return x
    kind = "ReduceMin" if op.kind == "All" else "ReduceMax"
    found = f.reduce(kind, f.cast(x, "int32"), axes, keep=bool(op.attrs["keep_dims"]), word="int")
    return f.op("Cast", [found], to=f.b.type_of("bool"))


@converts("ArgMax", "ArgMin")
def _arg(f: Floats, op: Op) -> str:
    axis = int(f.static(op.inputs[1], op, "the axis"))
    found = f.op(op.kind, [f.name(op.inputs[0])], axis=axis, keepdims=0)
    return f.back(found, _out(f, op))


@converts("Cumsum")
def _cumsum(f: Floats, op: Op) -> str:
    axis = int(f.static(op.inputs[1], op, "the axis"))
    return f.op(
        "CumSum",
        [f.name(op.inputs[0]), str(f.b.constant(np.int64(axis), f"axis_{axis}"))],
        exclusive=int(op.attrs["exclusive"]),
        reverse=int(op.attrs["reverse"]),
    )


def _over_last(kind: str) -> Converter:
    def convert(f: Floats, op: Op) -> str:
        return f.op(kind, f.inputs(op), axis=f.rank(op.inputs[0]) - 1)

    return convert


CONVERTERS["Softmax"], CONVERTERS["LogSoftmax"] = _over_last("Softmax"), _over_last("LogSoftmax")


@converts("TopKV2")
def _top_k(f: Floats, op: Op) -> list[str]:
    x, k = f.name(op.inputs[0]), f.long(op.inputs[1])
    k = k if f.rank(op.inputs[1]) == 0 and not isinstance(op.inputs[1], int) else f.reshape(k, f.ints([1]))
    values, places = f.b.ops("TopK", [x, k], [f"{f.label}/values", f"{f.label}/places"], axis=-1, largest=1, sorted=1)
    return [values, f.back(places, f.dtype(op.outputs[1]))]


# --- products ---


def _matrix(f: Floats, op: Op, place: int, *, turned: bool) -> str:
    slot = op.inputs[place]
    x, rank = f.name(slot), f.rank(slot)
    return f.transpose(x, [*range(rank - 2), rank - 1, rank - 2]) if turned else x


@converts("MatMul", "BatchMatMulV2", "BatchMatMul", "BatchMatMulV3")
def _matmul(f: Floats, op: Op) -> str:
    a = op.attrs
    turned = [bool(a.get(f"transpose_{k}", a.get(f"adj_{v}", False))) for k, v in (("a", "x"), ("b", "y"))]
    return f.op("MatMul", [_matrix(f, op, i, turned=t) for i, t in enumerate(turned)])


@converts("Einsum")
def _einsum(f: Floats, op: Op) -> str:
    f.need(12, "its operation Einsum")
    return f.op("Einsum", f.inputs(op), equation=op.attrs["equation"])


@converts("DenseBincount")
def _bincount(f: Floats, op: Op) -> str:
    """How often (or whether) each number occurs in a row."""
    x, rank, dtype = f.name(op.inputs[0]), f.rank(op.inputs[0]), _out(f, op)
    size = int(f.static(op.inputs[1], op, "the number of bins"))
    bins = str(f.b.constant(np.arange(size, dtype=f.dtype(op.inputs[0])), f"{f.label}/bins"))
    found = f.cast(f.op("Equal", [f.unsqueeze(x, [rank]), bins], "found"), dtype)
    if f.shape(op.inputs[2]) and 0 not in f.shape(op.inputs[2]):
        found = f.op("Mul", [found, f.unsqueeze(f.name(op.inputs[2]), [rank])], "weighed")
    kind = "ReduceMax" if op.attrs["binary_output"] else "ReduceSum"
    return f.reduce(kind, found, [rank - 1], keep=False)
