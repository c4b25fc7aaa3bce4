"""Activation functions in TFLite's float operators, alone or put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.export.program import Shape
from vqkit.export.tflite.flatbuffer import TfliteBuilder

_DIRECT = {
    "sigmoid": ("LOGISTIC", ""),
    "tanh": ("TANH", ""),
    "exponential": ("EXP", "ExpOptions"),
    "hard_silu": ("HARD_SWISH", "HardSwishOptions"),
}
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@dataclass(frozen=True)
class FunctionWriter:
    """Writes a function of one float tensor.

    Attributes:
        b: the file.
        name: of the result; parts are named after it.
        shape: of the tensor.
    """

    b: TfliteBuilder
    name: str
    shape: Shape

    def write(self, function: str, x: int, attrs: Mapping[str, Any]) -> int | None:
        """The function's value.

        Args:
            function: Keras' name.
            x: the tensor.
            attrs: `alpha` of elu, `approximate` of gelu.

        Returns:
            A tensor; None where the function has no form.
        """
        if function in _DIRECT:
            return self.one(*_DIRECT[function], x)
        if function == "gelu":
            return self.one("GELU", "GeluOptions", x, approximate=bool(attrs.get("approximate")))
        known = _CURVES.get(function)
        return None if known is None else known(self, x, attrs)

    def one(self, kind: str, options: str, x: int, word: str = "", **values: Any) -> int:
        """An operator of one tensor."""
        return self.b.op(kind, [x], [self._made(word)], options, **values)

    def two(self, kind: str, x: int, y: int, word: str = "") -> int:
        """An operator of two."""
        options = "MaximumMinimumOptions" if kind in ("MAXIMUM", "MINIMUM") else f"{kind.title()}Options"
        return self.b.op(kind, [x, y], [self._made(word)], options)

    def number(self, value: float) -> int:
        """A constant."""
        return self.b.constant(f"number_{np.float32(value):.9g}", np.float32(value))

    def _made(self, word: str) -> int:
        return self.b.tensor(f"{self.name}/{word}" if word else self.name, self.shape, "float32")


def _elu(c: FunctionWriter, x: int, attrs: Mapping[str, Any]) -> int:
    if attrs["alpha"] == 1.0:
        return c.one("ELU", "", x)
    return _two_sides(c, x, 1.0, attrs["alpha"])


def _two_sides(c: FunctionWriter, x: int, scale: float, alpha: float) -> int:
    """scale * x above 0, scale * alpha * (exp(x) - 1) below."""
    low = c.two("MINIMUM", c.one("ELU", "", x, "elu"), c.number(0.0), "negative")
    low = c.two("MUL", low, c.number(scale * alpha), "bent")
    high = c.two("MUL", c.one("RELU", "", x, "positive"), c.number(scale), "straight")
    return c.two("ADD", high, low)


def _softplus(c: FunctionWriter, x: int, word: str = "") -> int:
    """log(1 + exp(x)), as max(x, 0) + log(1 + exp(-|x|)), which never overflows."""
    low = c.one("NEG", "NegOptions", c.one("ABS", "AbsOptions", x, "magnitude"), "minus")
    tail = c.two("ADD", c.one("EXP", "ExpOptions", low, "tail"), c.number(1.0), "one_plus")
    return c.two("ADD", c.one("RELU", "", x, "positive"), c.one("LOG", "", tail, "log"), word)


def _softsign(c: FunctionWriter, x: int, _: Mapping[str, Any]) -> int:
    return c.two("DIV", x, c.two("ADD", c.one("ABS", "AbsOptions", x, "magnitude"), c.number(1.0), "one_plus"))


def _hard_sigmoid(c: FunctionWriter, x: int, _: Mapping[str, Any]) -> int:
    clipped = c.one("RELU6", "", c.two("ADD", x, c.number(3.0), "shifted"), "clipped")
    return c.two("MUL", clipped, c.number(1 / 6))


_CURVES: Mapping[str, Callable[[FunctionWriter, int, Mapping[str, Any]], int]] = {
    "elu": _elu,
    "hard_sigmoid": _hard_sigmoid,
    "mish": lambda c, x, _: c.two("MUL", x, c.one("TANH", "", _softplus(c, x, "softplus"), "gate")),
    "selu": lambda c, x, _: _two_sides(c, x, _SELU_SCALE, _SELU_ALPHA),
    "softplus": lambda c, x, _: _softplus(c, x),
    "softsign": _softsign,
    "swish": lambda c, x, _: c.two("MUL", x, c.one("LOGISTIC", "", x, "gate")),
}
