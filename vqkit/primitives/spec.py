"""The integer grid of one tensor and how to place it: pure data, no arrays, no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Any


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
