"""Positions for many bit widths from one count of a tensor's values.

A search adds up the squared errors of each candidate over all values. From how many values lie in each of
some ten thousand bins the sums follow to within the width of a bin: a value is as far from the grid as its
bin's middle is, give or take half a bin. Such bounds tell the best candidate almost always, for every
width at once; where they do not, the answer is None, and the values themselves have to be asked.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vqkit.primitives import grid
from vqkit.primitives.affine import position_scale
from vqkit.primitives.spec import QuantizerSpec
from vqkit.primitives.sums import FIRST, REST

Floats = npt.NDArray[np.float32]
Distances = dict[tuple[int, float, int, int], tuple[Floats, Floats]]

BINS_A_STEP = 128
"""Bins in the widest step that is tried; neighbours are joined until there are at most twice as many."""

ROUNDING = 1e-3
"""Relative error that float32 sums of as many terms as there are bins may have."""


class Counted:
    """A tensor as counts in equal bins of |x|.

    Args:
        counts: int64, shape (2, bins): values >= 0, values < 0.
        width: of a bin; the first begins at 0.
        doubt: how far a value may lie outside of its bin, in the values' unit.
        known: distances that were computed for counts in such bins before; extended.
    """

    def __init__(self, counts: npt.NDArray[np.int64], width: float, doubt: float,
                 known: Distances | None = None) -> None:  # fmt: skip
        self.doubt, self.size = doubt, float(counts.sum())
        self._signed = bool(counts[1].any())
        self._known = {} if known is None else known
        self._levels = [(counts.astype(np.float32), width)]

    def best_offset(self, spec: QuantizerSpec, start: float) -> int | None:
        """Which of the positions start, start + 1, … loses least, where the counts tell.

        Args:
            spec: a symmetric pow-2 quantizer that rounds half up or half to even.
            start: the non-overflow position.

        Returns:
            0 … 4, as `sums.best_offset`; None where bounds overlap.
        """
        if start + REST[-1] > grid.POS_MAX or start < grid.POS_MIN:
            return None
        step = float(position_scale(np.float32(-start)))
        counts, width = self._level(step)
        half, bins = 0.5 + self.doubt / width, step / width
        bounds = [self._bounds(counts, half, spec, bins / 2**i) for i in FIRST]
        if not self._hopeless(bounds, bins / 2 ** FIRST[-1]):
            bounds += [self._bounds(counts, half, spec, bins / 2**i) for i in REST]
        lows, highs = np.array(bounds).T
        best = int(np.argmin(highs))
        rivals = np.count_nonzero(lows * (1 - ROUNDING) <= highs[best] * (1 + ROUNDING))
        return best if rivals == 1 else None

    def _level(self, step: float) -> tuple[Floats, float]:
        """The coarsest counts that are fine enough for a step."""
        level = 0
        while step / self._levels[level][1] >= 2 * BINS_A_STEP:
            if level + 1 == len(self._levels):
                counts, width = self._levels[level]
                even = np.pad(counts, ((0, 0), (0, counts.shape[1] % 2)))
                self._levels.append((even[:, ::2] + even[:, 1::2], 2 * width))
            level += 1
        return self._levels[level]

    def _bounds(self, counts: Floats, half: float, spec: QuantizerSpec, step: float) -> tuple[float, float]:
        """Between what the sum of squared errors lies; it and the arguments are in bins."""
        once = twice = 0.0
        ends = ((spec.q_min, spec.q_max), (-spec.q_max, -spec.q_min))
        for of_sign, (lowest, highest) in zip(counts, ends[: 1 + self._signed], strict=False):
            key = (of_sign.size, step, lowest, highest)
            if key not in self._known:
                self._known[key] = _distances(*key)
            lost, squared = self._known[key]
            once += float(of_sign @ lost)
            twice += float(of_sign @ squared)
        return max(twice - 2 * half * once, 0.0), twice + 2 * half * once + half**2 * self.size

    def _hopeless(self, bounds: list[tuple[float, float]], step: float) -> bool:
        """Whether what the last candidate clips alone costs more than the best: finer ones clip that too."""
        rounding = self.size * (step / 2) ** 2
        return bounds[-1][0] * (1 - ROUNDING) - rounding > min(high for _, high in bounds) * (1 + ROUNDING)


def _distances(bins: int, step: float, lowest: int, highest: int) -> tuple[Floats, Floats]:
    """How far the middle of each bin is from the grid, in bins, and the square of it.

    For negative values the grid is mirrored: rounding is symmetric but for ties, which cost the same.
    """
    centres = np.arange(bins) + 0.5
    lost = np.abs(centres - np.clip(np.rint(centres / step), lowest, highest) * step)
    return lost.astype(np.float32), np.square(lost).astype(np.float32)
