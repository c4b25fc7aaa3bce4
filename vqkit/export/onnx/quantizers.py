"""Quantizers in ONNX: the exact chain before QuantizeLinear, and integer weights behind DequantizeLinear.

QuantizeLinear divides by the scale and rounds ties to even. The simulation multiplies (or subtracts and
divides) in float32 and rounds ties as the strategy says. With `rounding="exact"` the simulation's own
operations stand in front:

    pow-2, HALF_TO_EVEN   nothing: QuantizeLinear computes the same
    pow-2, HALF_UP        Floor(x * 2**pos + 0.5) * 2**-pos
    pow-2, HALF_AWAY      Where(x - Floor(x) == 0.5, away from zero, Round(x)), between the same products
    framework float scale Floor((Clip(x, min, max) - min) / step - code_of_zero + 0.5) * step
    own float scale       round(x * s) / s, codes through Quantize/DequantizeLinear of scale 1

Then QuantizeLinear and DequantizeLinear follow with the tensor's scale and change nothing, as every value is
on the grid: they carry the encoding in the standard form. With `rounding="qdq"` they stand alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.export.program import Constant, framework
from vqkit.primitives import affine
from vqkit.primitives import spec as grid
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import RoundMode

ONE = np.float32(1)
HALF = np.float32(0.5)
_MOVES_INTEGERS = 13
_FLOAT32_BITS = 24
"""Codes of more bits do not come back from float32 values on a float scale."""


class Quantizing:
    """Writes quantizers through a builder.

    Args:
        builder: of the graph.
        exact: put the simulation's rounding in front of QuantizeLinear.
    """

    def __init__(self, builder: Any, *, exact: bool) -> None:
        self.b, self.exact = builder, exact
        self.codes: dict[str, tuple[str, list[str], int]] = {}
        """Name of a dequantized tensor with one scale -> its integers, scale and zero point, bits."""

    # --- activations ---

    def value(self, x: str, params: QParams, name: str, spread: Any) -> str:
        """A quantized and dequantized activation.

        Args:
            x: name of the tensor.
            params: its quantizer.
            name: of the result.
            spread: a function that reshapes a per-channel array to the tensor's layout.

        Returns:
            Name of the result.
        """
        if not np.all(params.scale > 0):
            return self._without_width(x, params, name, spread)
        if not self.exact:
            return self._pair(self._clipped(x, params, name, spread), params, params.scale, name, spread)
        if params.spec.pow2:
            return self._pow2(x, params, name, spread)
        if framework(params):
            return self._pair(self._framework(x, params, name, spread), params, params.scale, name, spread)
        return self._own(x, params, name, spread)

    def _number(self, array: Any, name: str, spread: Any) -> str:
        return str(self.b.constant(spread(np.asarray(array, np.float32)), name))

    def _without_width(self, x: str, params: QParams, name: str, spread: Any) -> str:
        """A float range without width: everything there becomes 0."""
        alive, levels = params.scale > 0, np.float32(params.spec.q_max - params.spec.q_min)
        ends = np.where(alive, params.f_min, 0), np.where(alive, params.f_max, levels)
        wide = QParams(params.spec, *ends, params.pos)
        y = self.value(x, wide, f"{name}/wide", spread)
        return str(self.b.op("Mul", [y, self._number(alive, f"{name}/alive", spread)], name))

    def _pow2(self, x: str, params: QParams, name: str, spread: Any) -> str:
        spec, step = params.spec, params.scale
        if spec.symmetry and spec.round_mode == RoundMode.HALF_TO_EVEN and self._has_pair(params):
            return self._pair(self._clipped(x, params, name, spread), params, step, name, spread)
        base = np.float32(0) if spec.symmetry else (np.float32(spec.q_min) - params.zero_point) * step
        if np.any(base):
            x = self.b.op("Sub", [x, self._number(base, f"{name}/base", spread)], f"{name}/above")
        codes = self.b.op("Mul", [x, self._number(ONE / step, f"{name}/per_step", spread)], f"{name}/scaled")
        codes = self.round_(codes, spec.round_mode, name)
        if not np.any(base) and self._native(params):
            y = self.b.op("Mul", [codes, self._number(step, f"{name}/step", spread)], f"{name}/rounded")
            return self._pair(y, params, step, name, spread)
        low = np.float32(0 if np.any(base) else spec.q_min)
        codes = self._clip(codes, low, low + np.float32(grid.levels(spec)), f"{name}/clipped")
        y = self.b.op("Mul", [codes, self._number(step, f"{name}/step", spread)], f"{name}/rounded")
        if np.any(base):
            y = self.b.op("Add", [y, f"{name}/base"], f"{name}/back")
        return self._pair(y, params, step, name, spread)

    def _framework(self, x: str, params: QParams, name: str, spread: Any) -> str:
        """TensorFlow's op, in its order of operations; per channel with the reciprocal, see `affine`."""
        *ends, step, code_of_zero = affine.framework_numbers(params.f_min, params.f_max, params.spec)
        b = self.b
        for op, end, word in (("Max", ends[0], "low"), ("Min", ends[1], "high")):
            x = b.op(op, [x, self._number(end, f"{name}/{word}", spread)], f"{name}/to_{word}")
        above = b.op("Sub", [x, f"{name}/low"], f"{name}/above")
        if params.spec.per_channel:
            codes = b.op("Mul", [above, self._number(ONE / step, f"{name}/per_step", spread)], f"{name}/codes")
        else:
            codes = b.op("Div", [above, self._number(step, f"{name}/step", spread)], f"{name}/codes")
        codes = b.op("Sub", [codes, self._number(code_of_zero, f"{name}/zero", spread)], f"{name}/centred")
        codes = self.round_(codes, RoundMode.HALF_UP, name)
        return str(b.op("Mul", [codes, self._number(step, f"{name}/step", spread)], f"{name}/rounded"))

    def _own(self, x: str, params: QParams, name: str, spread: Any) -> str:
        spec = params.spec
        s = affine.multiplier(spec, params.f_min, params.f_max, None)
        base = np.float32(0) if spec.symmetry else (np.float32(spec.q_min) - params.zero_point) / s
        low = np.float32(spec.q_min)
        b = self.b
        if not spec.symmetry:
            x = b.op("Sub", [x, self._number(base, f"{name}/base", spread)], f"{name}/above")
        codes = b.op("Mul", [x, self._number(s, f"{name}/per_step", spread)], f"{name}/scaled")
        codes = self.round_(codes, spec.round_mode, name)
        first, last = (low, low + np.float32(grid.levels(spec))) if spec.symmetry else (0, grid.levels(spec))
        codes = self._clip(codes, np.float32(first), np.float32(last), f"{name}/clipped")
        unit = QParams(spec.with_(symmetry=True, per_channel=False), params.f_min, params.f_max)
        if not spec.symmetry:
            codes = b.op("Add", [codes, self._number(low, f"{name}/first", lambda a: a)], f"{name}/codes")
        codes = self._pair(codes, unit, ONE, f"{name}/unit", lambda a: a, zero=np.float32(0))
        if not spec.symmetry:
            codes = b.op("Sub", [codes, f"{name}/first"], f"{name}/from_first")
            y = b.op("Div", [codes, f"{name}/per_step"], f"{name}/values")
            return str(b.op("Add", [y, f"{name}/base"], name))
        return str(b.op("Div", [codes, f"{name}/per_step"], name))

    def round_(self, x: str, mode: RoundMode, name: str) -> str:
        """Round to integers as the simulation does."""
        b = self.b
        if mode == RoundMode.HALF_TO_EVEN:
            return str(b.op("Round", [x], f"{name}/even"))
        half = b.constant(HALF, "half")
        if mode == RoundMode.HALF_UP:
            return str(b.op("Floor", [b.op("Add", [x, half], f"{name}/plus_half")], f"{name}/floor"))
        below = b.op("Floor", [x], f"{name}/floor")
        tie = b.op("Equal", [b.op("Sub", [x, below], f"{name}/fraction"), half], f"{name}/tie")
        above = b.op("Add", [below, b.constant(ONE, "one")], f"{name}/ceil")
        positive = b.op("Greater", [x, b.constant(np.float32(0), "nought")], f"{name}/positive")
        away = b.op("Where", [positive, above, below], f"{name}/away")
        return str(b.op("Where", [tie, away, b.op("Round", [x], f"{name}/nearest")], f"{name}/half_away"))

    def _clip(self, x: str, low: Any, high: Any, name: str) -> str:
        ends = [self.b.constant(np.float32(v), f"{name}/{w}") for v, w in ((low, "low"), (high, "high"))]
        return str(self.b.op("Clip", [x, *ends], name))

    def _native(self, params: QParams) -> bool:
        """Whether saturation of the ONNX type is the clipping of the grid."""
        spec = params.spec
        kind = self.b.integer_type(spec.bit_width, spec.unsigned)
        exact_width = int(kind.removeprefix("U").removeprefix("INT")) == spec.bit_width
        whole = not (spec.narrow_range and not spec.unsigned)
        return exact_width and whole and self.b.quantizes_to(spec.bit_width)

    def _has_pair(self, params: QParams) -> bool:
        spec, b = params.spec, self.b
        reads = b.dequantizes(spec.bit_width, spec.unsigned, per_channel=spec.per_channel)
        return bool(b.quantizes_to(spec.bit_width) and reads)

    def _clipped(self, x: str, params: QParams, name: str, spread: Any) -> str:
        """Clip to the grid where the ONNX type is wider than it."""
        if self._native(params):
            return x
        spec = params.spec
        for op, code, word in (("Max", spec.q_min, "low"), ("Min", spec.q_max, "high")):
            end = (np.float32(code) - params.zero_point) * params.scale
            x = self.b.op(op, [x, self._number(end, f"{name}/{word}", spread)], f"{name}/to_{word}")
        return x

    def _pair(self, x: str, params: QParams, scale: Any, name: str, spread: Any, zero: Any = None) -> str:
        """QuantizeLinear and DequantizeLinear; no pair where the opset has no integers of that width."""
        spec, b = params.spec, self.b
        scale, zero = np.asarray(scale, np.float32), params.zero_point if zero is None else zero
        bits, axis = spec.bit_width, None
        if not self._has_pair(params):
            return str(b.rename(x, name) if self.exact else b.rename(self._nearest(x, params, name, spread), name))
        if spec.per_channel and scale.ndim:
            laid = spread(scale)
            axis = next((i for i, n in enumerate(laid.shape) if n > 1), laid.ndim - 1)
            scale, zero = laid.ravel(), spread(np.asarray(zero, np.float32)).ravel()
        names = [
            b.constant(scale, f"{name}/scale"),
            b.integers(np.asarray(zero).astype(np.int64), bits, spec.unsigned, f"{name}/zero_point"),
        ]
        codes = b.op("QuantizeLinear", [x, *names], f"{name}/q", axis=axis)
        y = str(b.op("DequantizeLinear", [codes, *names], name, axis=axis))
        if axis is None:
            self.codes[y] = (codes, names, bits)
        return y

    def moved(self, x: str, move: Callable[[str, str], str], name: str, *, bits: int = 16) -> str:
        """Apply a step that only moves values to the integers behind a tensor, where it has some.

        ONNX Runtime before and in 1.32 breaks `DequantizeLinear -> Transpose, Reshape, MaxPool` from opset 21
        on (onnxruntime issue 27845): it puts a QuantizeLinear to uint8 behind them.

        Args:
            x: the tensor.
            move: from the name of a tensor and of the result to the result.
            name: of the result.
            bits: widest integers the step takes.
        """
        known = self.codes.get(x)
        if known is None or known[2] > bits or self.b.opset < _MOVES_INTEGERS:
            return move(x, name)
        codes, names, width = known
        codes = move(codes, f"{name}/q")
        y = str(self.b.op("DequantizeLinear", [codes, *names], name))
        self.codes[y] = (codes, names, width)
        return y

    def _nearest(self, x: str, params: QParams, name: str, spread: Any) -> str:
        """Round in floats where the opset has no integers of that width; x is clipped already."""
        step = self._number(params.scale, f"{name}/step", spread)
        codes = self.b.op("Round", [self.b.op("Div", [x, step], f"{name}/codes")], f"{name}/even")
        return str(self.b.op("Mul", [codes, step], f"{name}/rounded"))

    # --- constants ---

    def weight(self, constant: Constant, laid: Any, name: str) -> str:
        """A weight or bias: integers behind DequantizeLinear, or floats where it has no quantizer.

        Args:
            constant: the weight.
            laid: a function that lays an array out as ONNX wants it; it may only transpose and reshape
                so that the channels stay one axis.
            name: of the result.

        Returns:
            Name of the tensor.
        """
        value = laid(constant.value)
        if constant.params is None:
            return str(self.b.constant(value, name))
        params = constant.params
        spec, b = params.spec, self.b
        if spec.bit_width > _FLOAT32_BITS and not spec.pow2:
            return str(b.constant(value, name))
        scale = np.broadcast_to(np.asarray(params.scale, np.float32), constant.value.shape)
        zero = np.broadcast_to(np.asarray(params.zero_point), constant.value.shape)
        scale, zero, codes = laid(scale), laid(zero), laid(constant.codes)
        axis = channel_axis(laid(channel_numbers(params, constant.value.shape))) if spec.per_channel else None
        scale, zero = (along(v, axis) for v in (scale, zero))
        integers = b.integers(codes, spec.bit_width, spec.unsigned, f"{name}/q", packed=True)
        shaped = _beside(scale, axis, value.ndim)
        exact = np.array_equal(reread(codes, shaped, zero, axis), value)
        known = b.dequantizes(spec.bit_width, spec.unsigned, per_channel=axis is not None)
        if known and (exact or not self.exact):
            inputs = [integers, b.constant(scale, f"{name}/scale")]
            if spec.bit_width <= 16:
                codes_of_zero, name_of_zero = zero.astype(np.int64), f"{name}/zero_point"
                inputs.append(b.integers(codes_of_zero, spec.bit_width, spec.unsigned, name_of_zero, packed=True))
            return str(b.op("DequantizeLinear", inputs, name, axis=axis))
        if exact:
            floats = b.cast(integers, "FLOAT", f"{name}/float")
            if np.any(zero):
                floats = b.op(
                    "Sub",
                    [floats, b.constant(_beside(zero, axis, value.ndim), f"{name}/zero")],
                    f"{name}/centred",
                )
            return str(b.op("Mul", [floats, b.constant(shaped, f"{name}/scale")], name))
        return self._divided(params, integers, laid, constant, name)

    def _divided(self, params: QParams, integers: str, laid: Any, constant: Constant, name: str) -> str:
        """The own float-scale kernel divides by s, which is not always the product with 1 / s."""
        spec, b = params.spec, self.b
        s = affine.multiplier(spec, params.f_min, params.f_max, params.pos)
        s = np.where(np.isfinite(s), s, ONE)
        spread = {
            "s": laid(np.broadcast_to(s, constant.value.shape)),
            "base": laid(np.broadcast_to((np.float32(spec.q_min) - params.zero_point) / s, constant.value.shape)),
        }
        floats = b.cast(integers, "FLOAT", f"{name}/float")
        if spec.symmetry:
            return str(b.op("Div", [floats, b.constant(spread["s"], f"{name}/s")], name))
        low = b.constant(np.float32(spec.q_min), f"{name}/first")
        floats = b.op("Sub", [floats, low], f"{name}/from_first")
        y = b.op("Div", [floats, b.constant(spread["s"], f"{name}/s")], f"{name}/values")
        return str(b.op("Add", [y, b.constant(spread["base"], f"{name}/base")], name))


def channel_numbers(params: QParams, shape: tuple[int, ...]) -> np.ndarray:
    """The number of its channel, for each element of a tensor with a per-channel quantizer."""
    axis = params.spec.channel_axis % len(shape)
    numbers = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(numbers, shape)


def channel_axis(numbers: np.ndarray) -> int:
    """The axis along which `channel_numbers`, transposed and reshaped, change."""
    found = [a for a in range(numbers.ndim) if numbers.shape[a] > 1 and np.any(np.diff(numbers, axis=a))]
    return found[0] if found else 0


def along(v: np.ndarray, axis: int | None) -> np.ndarray:
    """A broadcast array as its values along one axis, or as one number."""
    if axis is None:
        return np.asarray(v.reshape(-1)[0] if v.size else 0, v.dtype)
    return np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1)[:, 0].copy()


def _beside(v: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    v = np.asarray(v, np.float32)
    return v if axis is None else v.reshape([-1 if i == axis else 1 for i in range(rank)])


def reread(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None) -> np.ndarray:
    """What DequantizeLinear makes of integers, in float32."""
    return (codes - _beside(zero, axis, codes.ndim)).astype(np.float32) * np.asarray(scale, np.float32)
