"""Positions for many bit widths from one count of a tensor's values.

A search adds up the squared errors of each candidate over all values. From how many values lie in each of
some ten thousand bins the sums follow to within the width of a bin: a value is as far from the grid as its
bin's middle is, give or take half a bin. Such bounds leave one candidate almost always, for every width at
once; where they leave more, the values themselves have to be asked about these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vqkit.primitives import grid
from vqkit.primitives.affine import position_scale
from vqkit.primitives.spec import QuantizerSpec
from vqkit.primitives.sums import FIRST, REST

Floats = npt.NDArray[np.float32]
Bounds = list[tuple[float, float]]
Distances = dict[tuple[float, int, int, Sequence[int]], Floats]

BINS_A_STEP = 128
"""Bins in a step at first; neighbours are joined until there are at most twice as many."""

ROUNDING = 1e-3
"""Relative error that float32 sums of as many terms as there are bins may have."""

PLACE_ERROR = 2.0**-22
"""Rounding of a float32 distance from the grid, in bins, for each bin counted from 0."""


class Counted:
    """A tensor as counts in equal bins of |x|.

    Args:
        counts: int64, shape (2, bins): values >= 0, values < 0.
        width: of a bin; the first begins at 0.
        doubt: how far a value may lie outside of its bin, in the values' unit.
        known: distances that were computed for such bins before; extended.
    """

    def __init__(self, counts: npt.NDArray[np.int64], width: float, doubt: float,
                 known: Distances | None = None) -> None:  # fmt: skip
        self.doubt, self.size = doubt, float(counts.sum())
        self._known = {} if known is None else known
        self._levels = [(counts[: 1 + bool(counts[1].any())].astype(np.float32), width)]

    def best_offsets(self, spec: QuantizerSpec, start: float) -> Sequence[int]:
        """Which of the positions start, start + 1, … may lose least.

        Args:
            spec: a symmetric pow-2 quantizer that rounds half up or half to even.
            start: the non-overflow position.

        Returns:
            Of 0 … 4 those that the counts do not rule out, rising.
        """
        if start + REST[-1] > grid.POS_MAX or start < grid.POS_MIN:
            return FIRST + REST
        step = float(position_scale(np.float32(-start)))
        level = self._coarsest(step)
        left = self._left(level, spec, step)
        return left if len(left) == 1 or level == 0 else self._left(0, spec, step)

    def _coarsest(self, step: float) -> int:
        """The coarsest level whose bins are narrow enough for a step."""
        level = 0
        while step / self._levels[level][1] >= 2 * BINS_A_STEP:
            if level + 1 == len(self._levels):
                counts, width = self._levels[level]
                even = counts if counts.shape[1] % 2 == 0 else np.pad(counts, ((0, 0), (0, 1)))
                self._levels.append((even[:, ::2] + even[:, 1::2], 2 * width))
            level += 1
        return level

    def _left(self, level: int, spec: QuantizerSpec, step: float) -> Sequence[int]:
        """What the counts of a level do not rule out."""
        counts, width = self._levels[level]
        half, bins = 0.5 + self.doubt / width + PLACE_ERROR * counts.shape[1], step / width
        bounds = self._bounds(counts, half, spec, bins, FIRST)
        if not self._hopeless(bounds, bins / 2 ** FIRST[-1]):
            bounds += self._bounds(counts, half, spec, bins, REST)
        best = min(high for _, high in bounds)
        return [i for i, (low, _) in enumerate(bounds) if low * (1 - ROUNDING) <= best * (1 + ROUNDING)]

    def _bounds(self, counts: Floats, half: float, spec: QuantizerSpec, step: float,
                offsets: Sequence[int]) -> Bounds:  # fmt: skip
        """Between what the sums of squared errors lie; they and the arguments are in bins."""
        sums = np.zeros(2 * len(offsets))
        for of_sign, ends in zip(
            counts, ((spec.q_min, spec.q_max), (-spec.q_max, -spec.q_min)), strict=False
        ):
            sums += self._distances(of_sign.size, step, *ends, offsets)[:, : of_sign.size] @ of_sign
        once, twice = sums.reshape(2, -1).tolist()
        most = half**2 * self.size
        return [
            (max(t - 2 * half * o, 0.0), t + 2 * half * o + most) for o, t in zip(once, twice, strict=True)
        ]

    def _hopeless(self, bounds: Bounds, step: float) -> bool:
        """Whether what the last candidate clips alone costs more than the best: finer ones clip that too."""
        rounding = self.size * (step / 2) ** 2
        return bounds[-1][0] * (1 - ROUNDING) - rounding > min(high for _, high in bounds) * (1 + ROUNDING)

    def _distances(self, bins: int, step: float, lowest: int, highest: int, offsets: Sequence[int]) -> Floats:
        """How far the middle of each bin is from each grid, in bins, and then the squares.

        For negative values the grid is mirrored: rounding is symmetric but for ties, which cost the same.
        """
        key = (step, lowest, highest, offsets)
        if key not in self._known or self._known[key].shape[1] < bins:
            steps = np.float32(step) / np.float32(2) ** np.array(offsets, np.float32)[:, None]
            centres = np.arange(bins + bins // 2, dtype=np.float32) + np.float32(0.5)
            lost = centres / steps
            np.clip(np.rint(lost, out=lost), lowest, highest, out=lost)
            np.subtract(centres, np.multiply(lost, steps, out=lost), out=lost)
            self._known[key] = np.concatenate([np.abs(lost, out=lost), np.square(lost)])
        return self._known[key]
