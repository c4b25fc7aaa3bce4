"""Which thresholds a search may clip at: those that the squared error of a tensor bears.

The divergence compares shapes of histograms and knows no distance: a candidate that throws everything into
one bin has lost nothing by that measure. So a search by divergence chooses only among thresholds whose
squared error, on the very grid that they lead to, is near the least of all and that of clipping nothing.

A bin tells where its values are to within half its width, so by the triangle inequality the root of the mean
squared error is known to within that: `Errors` holds it, in bins, and `bearable` counts on the worse case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqkit.primitives import affine
from vqkit.primitives.affine import Array
from vqkit.primitives.reference import range_from_extremes
from vqkit.primitives.spec import QuantizerSpec, QuantizerType

NEAR_BEST = 1.5
"""A threshold may cost this many times the least squared error of all (1.8 dB)."""

NEAR_WHOLE = 2.0
"""And surely no more than this many times what the whole range costs (3 dB)."""

UNSURE = 0.5
"""How far a value may lie from the middle of its bin, in bins."""

_BLOCK = 1 << 20

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grids:
    """Candidate grids of one tensor, one for each threshold.

    Attributes:
        low: smallest value, float64, shape (n,).
        step: between neighbouring values, > 0, same shape.
        codes: how many values.
    """

    low: Floats
    step: Floats
    codes: int

    @classmethod
    def of_ranges(cls, f_min: Array, f_max: Array, pos: Array | None, spec: QuantizerSpec) -> Grids:
        """The grids that a quantizer makes of ranges.

        Args:
            f_min: lower ends, float32, shape (n,).
            f_max: upper ends.
            pos: positions of a pow-2 scale; None for a float scale.
            spec: the quantizer, per tensor.
        """
        s = affine.multiplier(spec, f_min, f_max, pos)
        zero = affine.zero_point(spec, f_min, s).astype(np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            step = 1 / s.astype(np.float64)
        return cls((spec.q_min - zero) * step, step, spec.q_max - spec.q_min + 1)

    @classmethod
    def symmetric(cls, ends: Array, bit_width: int, *, unsigned: bool = False) -> Grids:
        """The grids of a symmetric float scale that reach to some thresholds.

        Args:
            ends: thresholds, float32, > 0, shape (n,).
            bit_width: of the codes.
            unsigned: whether codes start at 0.
        """
        spec = QuantizerSpec(QuantizerType.FS, bit_width, unsigned=unsigned)
        return cls.of_ranges(*range_from_extremes(0 * ends, ends, spec), None, spec)


def bearable(counts: Counts, width: float, grids: Grids) -> Flags:
    """Which grids the squared error of the tensor bears.

    Args:
        counts: int64, shape (2, bins): values >= 0, values < 0, in equal bins of |x| from 0.
        width: of a bin.
        grids: candidates; the last one clips nothing.

    Returns:
        bool, shape (n,). The last one is true where no other is.
    """
    if not grids.step.min() > 0:  # Steps below float32: whatever is chosen, all becomes 0.
        return np.arange(len(grids.step)) == len(grids.step) - 1
    found = rms_errors(counts, width, grids)
    whole = max(found[-1] - UNSURE, 0.0)
    fit = (found**2 <= NEAR_BEST * found.min() ** 2) & ((found + UNSURE) ** 2 <= NEAR_WHOLE * whole**2)
    fit[-1] |= not fit.any() or bool(found[-1] ** 2 <= NEAR_BEST * found.min() ** 2)
    return fit


def rms_errors(counts: Counts, width: float, grids: Grids) -> Floats:
    """Root of the mean squared error of each grid on the bins' middles, in bins.

    The bins next to 0 do not count where the last grid is so coarse that it makes 0 of their values: no other
    makes more of an error there, and the many zeros behind a ReLU would hide what the others cost.

    Args:
        counts: as of `bearable`.
        width: of a bin.
        grids: candidates, the last one that of the whole range.

    Returns:
        float64, shape (n,); 0 where no value counts.
    """
    line = np.concatenate([counts[1, ::-1], counts[0]])
    bins = counts.shape[1]
    if grids.step[-1] >= 2 * width:
        line[bins - 1 : bins + 1] = 0
    used = np.flatnonzero(line)
    if not used.size:
        return np.zeros(len(grids.step))
    first, line = int(used[0]), line[used[0] : used[-1] + 1]
    middles = np.arange(first - bins, first - bins + len(line)) + 0.5
    sums = [np.concatenate([[0.0], np.cumsum(line * middles**power)]) for power in range(3)]
    low, step = grids.low / width, grids.step / width
    # Only codes that some value may be rounded to.
    begin = np.clip(np.floor((middles[0] - low) / step), 0, grids.codes - 1)
    end = np.clip(np.ceil((middles[-1] - low) / step), 0, grids.codes - 1)
    most = int((end - begin).max()) + 1
    block = max(1, _BLOCK // most)
    parts = [
        _squares(low[i : i + block] + begin[i : i + block] * step[i : i + block], step[i : i + block],
                 (end - begin)[i : i + block], most, middles, sums)
        for i in range(0, len(step), block)
    ]  # fmt: skip
    return np.sqrt(np.maximum(np.concatenate(parts), 0) / line.sum())


def _squares(
    low: Floats, step: Floats, last: Floats, most: int, middles: Floats, sums: list[Floats]
) -> Floats:
    """Sum of squared errors of some grids: each of their values stands for the bins that are nearest."""
    code = np.arange(most)
    value = low[:, None] + code * step[:, None]
    ends = value + step[:, None] / 2
    ends[code >= last[:, None]] = np.inf
    cut = np.clip(np.ceil(ends - middles[0]), 0, len(middles)).astype(np.int64)
    within = [np.diff(total[cut], axis=1, prepend=0.0) for total in sums]
    return np.sum(within[2] - 2 * value * within[1] + value**2 * within[0], axis=1)
