"""Each kind of step on fixed-point arrays; None where it has no integer form and is computed in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vqkit.export.integer.fixed import (
    SHORT,
    Fixed,
    Ints,
    aligned,
    binary_share,
    convolve,
    convolve_transposed,
    dyadic,
    matmul,
    padded,
    windows,
)
from vqkit.export.layers import same_pads
from vqkit.export.program import Constant, Step
from vqkit.primitives.qparams import QParams

Operands = list[Fixed]
Rule = Callable[[Step, Operands], Fixed | None]

RULES: dict[str, Rule] = {}
_SIXTH, _SIXTH_BITS = 2731, 14


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register the rule of some kinds of steps."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def constant(c: Constant) -> Fixed | None:
    """A constant in fixed point: at its quantizer's position, or as the short binary fraction it is."""
    if c.params is None:
        return dyadic(c.value)
    if c.params.pos is None:
        return None
    return Fixed(c.codes - c.params.zero_point.astype(np.int64), positions(c.params))


def positions(params: QParams) -> Any:
    """Positions as integers: one, or an array with 1s and the channels."""
    assert params.pos is not None
    pos = params.pos.astype(np.int64)
    return pos if pos.ndim else int(pos)


def _per_output(weight: Fixed) -> Fixed | None:
    """A weight whose positions, if several, belong to the last axis."""
    pos = np.asarray(weight.pos)
    if pos.ndim == 0 or pos.size == 1:
        return Fixed(weight.codes, int(pos.reshape(-1)[0]) if pos.size else 0)
    return Fixed(weight.codes, pos.reshape(-1)) if pos.shape[-1] == pos.size else None


def _with_bias(step: Step, codes: Ints, pos: Any) -> Fixed | None:
    total = Fixed(codes, pos)
    if "bias" not in step.constants:
        return total
    bias = constant(step.constants["bias"])
    if bias is None:
        return None
    (total_codes, bias_codes), pos = aligned(total, bias)
    return Fixed(total_codes + bias_codes, pos)


def _pads(step: Step, x: Ints) -> Any:
    if step.attrs["padding"] != "same":
        return step.attrs["pads"]
    reach = [(k - 1) * d + 1 for k, d in zip(step.attrs["window"], step.attrs["dilations"], strict=True)]
    return same_pads(x.shape[1:-1], reach, step.attrs["strides"])


# --- sums of products ---


@rule("conv")
def _conv(step: Step, given: Operands) -> Fixed | None:
    (x,), a = given, step.attrs
    weight = constant(step.constants["kernel"])
    if weight is None or np.ndim(x.pos):
        return None
    if a["depthwise"]:
        # (channels, multiplier) become the outputs.
        flat = np.broadcast_to(weight.pos, weight.codes.shape)[(0,) * (weight.codes.ndim - 2)].reshape(-1)
        pos = flat if np.ndim(weight.pos) else weight.pos
    else:
        kernel = _per_output(weight)
        if kernel is None:
            return None
        pos = kernel.pos
    codes = convolve(
        padded(x.codes, _pads(step, x.codes)),
        weight.codes,
        a["strides"],
        a["dilations"],
        a["groups"],
        depthwise=a["depthwise"],
    )
    return _with_bias(step, codes, x.pos + pos)


@rule("dense")
def _dense(step: Step, given: Operands) -> Fixed | None:
    (x,), weight = given, constant(step.constants["kernel"])
    kernel = None if weight is None else _per_output(weight)
    if kernel is None or np.ndim(x.pos):
        return None
    return _with_bias(step, matmul(x.codes, kernel.codes), x.pos + kernel.pos)


@rule("conv_transpose")
def _conv_transpose(step: Step, given: Operands) -> Fixed | None:
    (x,), weight = given, constant(step.constants["kernel"])
    if weight is None or np.ndim(x.pos) or np.ndim(weight.pos):
        return None
    codes = convolve_transposed(x.codes, weight.codes, step.attrs["strides"])
    cut: list[Any] = [slice(None)]
    pads = [(0, 0)]
    for n, k, s in zip(x.codes.shape[1:-1], step.attrs["window"], step.attrs["strides"], strict=True):
        begin = max(k - s, 0) // 2 if step.attrs["padding"] == "same" else 0
        size = n * s if step.attrs["padding"] == "same" else (n - 1) * s + max(k, s)
        cut.append(slice(begin, begin + size))
        pads.append((0, max(size - ((n - 1) * s + k - begin), 0)))
    codes = np.pad(codes, [*pads, (0, 0)])[tuple(cut)]
    return _with_bias(step, codes, x.pos + weight.pos)


# --- activations ---


@rule("relu")
def _relu(step: Step, given: Operands) -> Fixed | None:
    (x,), a = given, step.attrs
    if a["threshold"]:
        return None
    if a["slope"]:
        slope = dyadic(np.float32(a["slope"]), bits=SHORT)
        if slope is None:
            return None
        up = np.left_shift(x.codes, max(slope.pos, 0))
        codes = np.where(x.codes < 0, x.codes * np.left_shift(slope.codes, max(-slope.pos, 0)), up)
        x = Fixed(codes, x.pos + max(slope.pos, 0))
    else:
        x = x.with_codes(np.maximum(x.codes, 0))
    if a["max_value"] is None:
        return x
    top = dyadic(np.float32(a["max_value"]))
    return None if top is None else _smaller(x, top)


def _smaller(x: Fixed, y: Fixed) -> Fixed:
    (a, b), pos = aligned(x, y)
    return Fixed(np.minimum(a, b), pos)


@rule("ceiling")
def _ceiling(step: Step, given: Operands) -> Fixed | None:
    top = constant(step.constants["ceiling"])
    return None if top is None else _smaller(given[0], top)


@rule("prelu")
def _prelu(step: Step, given: Operands) -> Fixed | None:
    (x,), alpha = given, constant(step.constants["alpha"])
    if alpha is None or np.any(np.asarray(alpha.pos) < 0):
        return None
    return Fixed(np.where(x.codes < 0, x.codes * alpha.codes, np.left_shift(x.codes, alpha.pos)), x.pos + alpha.pos)


@rule("dpu_sigmoid")
def _dpu_sigmoid(_: Step, given: Operands) -> Fixed:
    (x,) = given
    (codes, three), pos = aligned(x, Fixed(np.asarray(3, np.int64), 0))
    return Fixed(np.clip(codes + three, 0, 2 * three) * _SIXTH, pos + _SIXTH_BITS)


# --- pools ---


@rule("max_pool")
def _max_pool(step: Step, given: Operands) -> Fixed:
    (x,) = given
    lowest = padded(x.codes, _pads(step, x.codes), int(np.iinfo(np.int64).min))
    seen = windows(lowest, step.attrs["window"], step.attrs["strides"], step.attrs["dilations"])
    codes = None
    for _, part in seen:
        codes = part.copy() if codes is None else np.maximum(codes, part, out=codes)
    assert codes is not None
    return x.with_codes(codes)


@rule("global_max")
def _global_max(step: Step, given: Operands) -> Fixed:
    (x,) = given
    axes = tuple(range(1, x.codes.ndim - 1))
    return _pooled(x, x.codes.max(axis=axes, keepdims=step.attrs["keepdims"]), 1, 0)


@rule("avg_pool")
def _avg_pool(step: Step, given: Operands) -> Fixed | None:
    (x,), window = given, step.attrs["window"]
    multiplier = binary_share(step.attrs["factor"], int(np.prod(window)))
    pads = _pads(step, x.codes)
    # Windows over a border average fewer elements.
    if multiplier is None or any(p for pair in pads for p in pair):
        return None
    total = sum(part for _, part in windows(x.codes, window, step.attrs["strides"], step.attrs["dilations"]))
    return _pooled(x, np.asarray(total), *multiplier)


@rule("global_avg")
def _global_avg(step: Step, given: Operands) -> Fixed | None:
    (x,) = given
    axes = tuple(range(1, x.codes.ndim - 1))
    multiplier = binary_share(step.attrs["factor"], int(np.prod(x.codes.shape[1:-1])))
    if multiplier is None:
        return None
    return _pooled(x, x.codes.sum(axis=axes, keepdims=step.attrs["keepdims"]), *multiplier)


def _pooled(x: Fixed, total: Ints, k: int, n: int) -> Fixed:
    pos = x.pos if np.ndim(x.pos) == 0 or total.ndim == x.codes.ndim else x.pos.reshape(-1)
    return Fixed(total * k, pos + n)


# --- arithmetic ---


@rule("binary")
def _binary(step: Step, given: Operands) -> Fixed | None:
    a, b = given
    function = step.attrs["function"]
    if function == "mul":
        return Fixed(a.codes * b.codes, a.pos + b.pos)
    known = _JOINED.get(function)
    if known is None:
        return None
    (left, right), pos = aligned(a, b)
    return Fixed(known(left, right), pos)


_JOINED: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "max": np.maximum,
    "min": np.minimum,
}


@rule("affine")
def _affine(step: Step, given: Operands) -> Fixed | None:
    (x,) = given
    scale, offset = (dyadic(step.constants[k].value, bits=SHORT) for k in ("scale", "offset"))
    if scale is None or offset is None:
        return None
    (product, added), pos = aligned(Fixed(x.codes * scale.codes, x.pos + scale.pos), offset)
    return Fixed(product + added, pos)


@rule("concat")
def _concat(step: Step, given: Operands) -> Fixed | None:
    if any(np.ndim(x.pos) for x in given):
        return None
    codes, pos = aligned(*given)
    return Fixed(np.concatenate(codes, axis=step.attrs["axis"]), pos)


# --- moves ---


@rule("identity", "cast")
def _identity(_: Step, given: Operands) -> Fixed:
    return given[0]


@rule("pad")
def _pad(step: Step, given: Operands) -> Fixed:
    return given[0].with_codes(padded(given[0].codes, step.attrs["pads"]))


@rule("crop")
def _crop(step: Step, given: Operands) -> Fixed:
    codes = given[0].codes
    at = [slice(b, n - e) for (b, e), n in zip(step.attrs["crops"], codes.shape[1:-1], strict=True)]
    return given[0].with_codes(codes[(slice(None), *at)])


@rule("resize")
def _resize(step: Step, given: Operands) -> Fixed | None:
    if step.attrs["mode"] != "nearest":
        return None
    codes = given[0].codes
    for axis, factor in enumerate(step.attrs["factors"], start=1):
        codes = np.repeat(codes, factor, axis=axis)
    return given[0].with_codes(codes)


@rule("reshape")
def _reshape(step: Step, given: Operands) -> Fixed | None:
    if np.ndim(given[0].pos):
        return None
    to = [-1 if n is None else n for n in step.attrs["to"]]
    return given[0].with_codes(given[0].codes.reshape(to))


@rule("transpose")
def _transpose(step: Step, given: Operands) -> Fixed | None:
    if np.ndim(given[0].pos):
        return None
    return given[0].with_codes(np.transpose(given[0].codes, step.attrs["perm"]))


@rule("repeat")
def _repeat(step: Step, given: Operands) -> Fixed | None:
    if np.ndim(given[0].pos):
        return None
    return given[0].with_codes(np.repeat(given[0].codes[:, None], step.attrs["n"], axis=1))
