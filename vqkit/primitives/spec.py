"""What a strategy asks for one tensor, and its integer grid; no arrays, no TensorFlow.

Both kernels, numpy and TensorFlow, read these constants, so that they multiply by the same float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np


class QuantizerType(StrEnum):
    """The quantizers of the strategy format; values are the names in the JSON."""

    POF2S = "Pof2SQuantizer"
    TQT = "TQTQuantizer"
    FS = "FSQuantizer"
    MAFS = "MAFSQuantizer"

    @property
    def pow2(self) -> bool:
        """Whether the scale is a power of two."""
        return self in (QuantizerType.POF2S, QuantizerType.TQT)


class Method(IntEnum):
    """How a range or position is chosen; values are the integers in the JSON."""

    NON_OVERFLOW = 0
    MIN_MSE = 1
    MIN_KL = 2
    PERCENTILE = 3


class RoundMode(IntEnum):
    """How ties are rounded; values are the integers in the JSON."""

    HALF_TO_EVEN = 0
    HALF_UP = 1
    HALF_AWAY = 2


@dataclass(frozen=True, slots=True)
class QuantizerSpec:
    """One tensor's quantizer as a strategy states it.

    Attributes:
        quantizer_type: which quantizer.
        bit_width: bits of the integer, 1-32, sign included. One signed bit has the codes -1 and 0.
        method: how the range or position is chosen.
        round_mode: how ties round.
        symmetry: zero is at the middle of the grid.
        per_channel: one scale for each slice along `channel_axis`.
        channel_axis: that axis; negative counts from the end.
        narrow_range: drop the lowest code.
        unsigned: codes start at 0.
        use_framework_quant: TensorFlow's fake-quant op instead of our kernel (float scale only).
        method_percentile: percentile of |x|, in percent, for `PERCENTILE`.
    """

    quantizer_type: QuantizerType
    bit_width: int = 8
    method: Method = Method.NON_OVERFLOW
    round_mode: RoundMode = RoundMode.HALF_UP
    symmetry: bool = True
    per_channel: bool = False
    channel_axis: int = -1
    narrow_range: bool = False
    unsigned: bool = False
    use_framework_quant: bool = False
    method_percentile: float = 99.9999

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantizer_type", QuantizerType(self.quantizer_type))
        object.__setattr__(self, "method", Method(self.method))
        object.__setattr__(self, "round_mode", RoundMode(self.round_mode))
        if not 1 <= self.bit_width <= 32:
            raise ValueError(f"bit_width must lie in 1..32, got {self.bit_width}")
        if self.narrow_range and self.bit_width == 1 and not self.unsigned:
            raise ValueError("narrow_range needs at least 2 bits: at bit_width 1 it leaves one code")
        if not 0 < self.method_percentile <= 100:
            raise ValueError(f"method_percentile must lie in (0, 100], got {self.method_percentile}")

    @property
    def pow2(self) -> bool:
        """Whether the scale is a power of two."""
        return self.quantizer_type.pow2

    @property
    def q_min(self) -> int:
        """Lowest code."""
        low = 0 if self.unsigned else -(2 ** (self.bit_width - 1))
        return low + 1 if self.narrow_range and not self.unsigned else low

    @property
    def q_max(self) -> int:
        """Highest code."""
        return 2**self.bit_width - 1 if self.unsigned else 2 ** (self.bit_width - 1) - 1

    def with_(self, **changes: Any) -> QuantizerSpec:
        """A copy with some attributes changed."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The quantizer as JSON values, under the strategy format's names; `from_json` gives an equal one."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: getattr(v, "value", v) for k, v in found.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantizerSpec:
        """The quantizer that `to_json` wrote; method and rounding may also be words, as in encodings.

        Raises:
            KeyError: a word is unknown.
        """
        words = {"method": Method, "round_mode": RoundMode}
        said = {k: kind[data[k]] for k, kind in words.items() if isinstance(data.get(k), str)}
        return cls(**{**data, **said})


DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(QuantizerSpec) if f.default is not MISSING}
"""What a strategy means where it leaves a parameter of a quantizer out."""


TINY_STEP = np.float32(2.0**-52)
"""Smallest step a position search assumes: an all-zero tensor gets position 52."""

POS_MIN, POS_MAX = -126, 126
"""Positions whose scale and its inverse are both normal float32 numbers."""

REACH = np.float32(2.0**125)
"""Ranges end here: beyond it the inverse of a one-bit step is no normal float32."""

MSE_OFFSETS = 5
"""Candidates of the MIN_MSE search: the non-overflow position and four finer ones."""

EMA_DECAY = 0.999
"""What a moving average keeps of the range before."""

SLACK_ULPS = 4
"""A range this many float32 steps above a power of two counts as that power (see `reference.position`)."""


def symmetric_ratio(spec: QuantizerSpec) -> np.float32:
    """How far the lower end of a symmetric range reaches, per unit of the upper end: -128/127 for 8 bits.

    Returns:
        The factor as float32: -1 where both ends reach equally far (narrow range, or one bit, whose
        upper end the caller drops).
    """
    if spec.narrow_range or spec.bit_width == 1:
        return np.float32(-1.0)
    return reciprocal(-(2.0**spec.bit_width - 2) / 2.0**spec.bit_width)


def inverse_ratio(spec: QuantizerSpec) -> np.float32:
    """How far the upper end reaches per unit of the lower end: -127/128 for 8 bits."""
    if spec.narrow_range or spec.bit_width == 1:
        return np.float32(-1.0)
    return np.float32(-(2.0**spec.bit_width - 2) / 2.0**spec.bit_width)


def threshold_ratio(spec: QuantizerSpec) -> np.float32:
    """TQT: the threshold that reaches the upper end, per unit of it: 128/127 for 8 bits."""
    if spec.q_max == 0:
        return np.float32(1.0)
    return np.float32(2.0**spec.bit_width / spec.q_max if spec.unsigned else -spec.q_min / spec.q_max)


def reciprocal(value: float) -> np.float32:
    """1 / value with value and result rounded to float32.

    The reference's graph divides by constants, which TensorFlow's graph optimizer turns into this product;
    writing the product makes eager, graph and numpy agree.
    """
    return np.float32(1.0) / np.float32(value)


def levels(spec: QuantizerSpec) -> int:
    """Number of steps between the lowest and the highest code."""
    return spec.q_max - spec.q_min


def for_errors(spec: QuantizerSpec) -> QuantizerSpec:
    """The quantizer to take error sums with: a tie costs the same both ways, half-to-even is cheaper."""
    even = spec.round_mode == RoundMode.HALF_AWAY
    return spec.with_(round_mode=RoundMode.HALF_TO_EVEN) if even else spec


def framework_kernel(spec: QuantizerSpec) -> bool:
    """Whether TensorFlow's fake-quant op computes this quantizer.

    The op knows 2..16 bits and half-up rounding only; other float-scale quantizers that ask for it get the
    own kernel, whose grid and rounding are what the strategy says.
    """
    fits = 2 <= spec.bit_width <= 16 and spec.round_mode == RoundMode.HALF_UP
    return spec.use_framework_quant and not spec.pow2 and fits


def framework_ends(spec: QuantizerSpec) -> tuple[np.float32, np.float32]:
    """Lowest and highest code of the framework's grid, which starts at 0 (1 for a narrow range)."""
    return np.float32(spec.narrow_range and not spec.unsigned), np.float32(2.0**spec.bit_width - 1)


def require_compat(spec: QuantizerSpec) -> None:
    """Refuse what the reference refuses; called under `vitis_compat` only.

    Raises:
        ValueError: where Vitis AI 2.5 raises, with its reason.
    """
    if refusal := compat_refusal(spec):
        raise ValueError(f"vitis_compat: {spec.quantizer_type}: {refusal}")


def compat_refusal(spec: QuantizerSpec) -> str | None:
    """Why Vitis AI 2.5 has no such quantizer, in words; None where it has."""
    kind = spec.quantizer_type
    if kind == QuantizerType.POF2S and spec.method in (Method.MIN_KL, Method.PERCENTILE):
        return f"Invalid method: {spec.method.name}; the reference knows NON_OVERFLOW and MIN_MSE"
    if kind == QuantizerType.TQT and spec.method != Method.NON_OVERFLOW:
        return f"Invalid method: {spec.method.name}; the reference knows NON_OVERFLOW"
    if kind == QuantizerType.TQT and spec.per_channel:
        return "per_channel is not supported by the reference"
    if spec.use_framework_quant and not spec.pow2 and not framework_kernel(spec):
        return (
            f"the framework kernel supports HALF_UP and 2..16 bits, not {spec.round_mode.name} "
            f"and {spec.bit_width}; set use_framework_quant to false"
        )
    return None
