"""The decided numbers of one tensor's quantizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.primitives import affine
from vqkit.primitives.affine import Array
from vqkit.primitives.spec import QuantizerSpec


@dataclass(frozen=True, slots=True, eq=False)
class QParams:
    """A spec with its range and, for pow-2 scales, its position.

    Convention: x ≈ (q - zero_point) * scale.

    Attributes:
        spec: the quantizer.
        f_min: lower end of the range; shape () per tensor, or 1 everywhere but on the channel axis.
        f_max: upper end, same shape.
        pos: position (fractional bits), same shape; None for a float scale.
    """

    spec: QuantizerSpec
    f_min: Array
    f_max: Array
    pos: Array | None = None

    def __post_init__(self) -> None:
        for name in ("f_min", "f_max", "pos"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, np.float32))
        if self.spec.pow2 != (self.pos is not None):
            wants = "needs a position" if self.spec.pow2 else "has a float scale and takes no position"
            raise ValueError(f"{self.spec.quantizer_type} {wants}")

    @property
    def scale(self) -> Array:
        """The step of the grid, float32; 0 where a float-scale range has no width (everything becomes 0)."""
        if self.pos is not None:
            return affine.position_scale(-self.pos)
        step = (self.f_max - self.f_min) / np.float32(self.spec.q_max - self.spec.q_min)
        return np.where(np.isfinite(self._multiplier()), step, np.float32(0))

    @property
    def zero_point(self) -> Array:
        """The code of 0, as float32 integers."""
        return affine.zero_point(self.spec, self.f_min, self._multiplier())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QParams) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.spec, self.f_min.tobytes(), self.f_max.tobytes()))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and words; `from_json` gives an equal object."""
        words = {"method": self.spec.method.name, "round_mode": self.spec.round_mode.name}
        pos = None if self.pos is None else self.pos.tolist()
        return {
            "spec": self.spec.to_json() | words,
            "f_min": self.f_min.tolist(),
            "f_max": self.f_max.tolist(),
            "pos": pos,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> QParams:
        """The inverse of `to_json`.

        Args:
            data: what `to_json` gave.

        Returns:
            An equal object.

        Raises:
            KeyError: a key is missing or a word unknown.
        """
        spec = QuantizerSpec.from_json(data["spec"])
        return cls(spec=spec, f_min=data["f_min"], f_max=data["f_max"], pos=data["pos"])

    def _multiplier(self) -> Array:
        return affine.multiplier(self.spec, self.f_min, self.f_max, self.pos)
