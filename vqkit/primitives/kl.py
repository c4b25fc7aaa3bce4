"""KL search for a clipping threshold, and which thresholds it may choose.

The KL search for a clipping threshold on a histogram of |x|, by cumulative sums.

For each candidate width of i bins the counts are clipped to those bins (the tail is added to the last one),
quantized to `levels` groups in which all non-empty bins share their mean, and compared:

    P = first i counts, the last one plus everything beyond it
    Q = each non-empty bin replaced by the mean of the non-empty bins of its group
    KL(i) = sum(p * log(p / q)),  p = P / sum(P),  q = Q / sum(Q)

Written out, with S and N the sum and the number of non-empty bins of a group and T the total,

    KL(i) = (sum(P log P) - sum(S' log(S / N))) / T - log(T) + log(sum(Q)),   S' = S plus the tail in the last

so prefix sums give every term. The smallest divergence wins, the last one of equals.

Source: the behaviour of the reference's entropy calibration; the idea is from Migacz, 8-bit inference with
TensorRT, GTC 2017.

Which thresholds a search may clip at: those that the squared error of a tensor bears.

The divergence compares shapes of histograms and knows no distance: a candidate that throws everything into
one bin has lost nothing by that measure. So a search by divergence chooses only among thresholds whose
squared error, on the very grid that they lead to, is near the least of all and that of clipping nothing.

A bin tells where its values are to within half its width, so by the triangle inequality the root of the mean
squared error is known to within that: `Errors` holds it, in bins, and `bearable` counts on the worse case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vqkit.primitives import affine
from vqkit.primitives.affine import Array
from vqkit.primitives.reference import range_from_extremes
from vqkit.primitives.spec import QuantizerSpec, QuantizerType

FIRST_WIDTH = 128
"""Narrowest candidate, in bins."""

SPIKE_WINDOW, SPIKE_RATIO = 33, 8
"""A bin is a spike above this multiple of the median of this many bins around it."""

_BLOCK = 1 << 21
_NEAR = 1e-10

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def without_spikes(counts: Counts) -> Counts:
    """Counts with lone high bins cut down to their surroundings.

    A constant channel or a saturated input fills a single bin. Its group's mean smears that count over bins
    that hold next to nothing, so every wide candidate looks distorted and the search clips far too tightly.

    Args:
        counts: counts per bin, shape (bins,).

    Returns:
        At most `SPIKE_RATIO` times the running median (and at least that many counts stay), shape (bins,).
    """
    around = np.pad(counts, SPIKE_WINDOW // 2, mode="edge")
    median = np.median(np.lib.stride_tricks.sliding_window_view(around, SPIKE_WINDOW), axis=1)
    return np.minimum(counts, np.maximum(SPIKE_RATIO * median, SPIKE_RATIO).astype(np.int64))


def candidates(bins: int, levels: int) -> npt.NDArray[np.int64]:
    """The widths that a search tries, rising; none where there is nothing to choose.

    Args:
        bins: of the histogram.
        levels: codes available for |x|.
    """
    return np.arange(max(FIRST_WIDTH, levels), bins + 1)


def best_width(
    counts: npt.ArrayLike,
    levels: int,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    vitis_compat: bool = False,
) -> int:
    """How many bins to keep so that `levels` groups distort the histogram least.

    Args:
        counts: counts of |x| per bin; bin 0 takes the count of bin 1 first, since zeros cost nothing.
        levels: codes available for |x|, a power of two.
        allowed: which of the `candidates` count; all by default.
        vitis_compat: a candidate that keeps no count at all divides 0 by 0, and wins, as in the reference.

    Returns:
        Number of bins; all of them where no candidate exists (fewer than `FIRST_WIDTH` bins, or no more
        bins than levels).
    """
    kept = np.array(counts, np.int64)
    kept[:1] = kept[1:2]
    widths = candidates(len(kept), 1 if vitis_compat else levels)
    widths = widths if allowed is None else widths[allowed]
    if len(widths) == 0 or not kept.any():
        return len(kept)
    within = np.cumsum(kept)
    empty = widths[within[widths - 1] == 0]
    if vitis_compat and len(empty):
        return int(empty[-1])
    return _last_minimum(kept, widths, divergences(kept, widths, levels), levels)


def divergences(counts: Counts, widths: npt.NDArray[np.int64], levels: int) -> Floats:
    """KL(i) for each width i, to about 1e-13.

    Args:
        counts: int64, the histogram; at least one count.
        widths: int64, candidate numbers of bins, each in 1..len(counts).
        levels: number of groups, a power of two.

    Returns:
        float64 of the widths' shape; infinite where a kept empty bin would have to carry the tail.
    """
    block = max(1, _BLOCK // levels)
    parts = [_block(counts, widths[i : i + block], levels) for i in range(0, len(widths), block)]
    return np.concatenate(parts)


def _block(counts: Counts, widths: npt.NDArray[np.int64], levels: int) -> Floats:
    total = counts.sum()
    below, filled = _prefix(counts), _prefix(counts > 0)
    own = _prefix(_xlogx(counts))
    last = counts[widths - 1]
    tail = total - below[widths]
    bounds = -((-widths[:, None] * np.arange(levels + 1)) // levels)
    sums = np.diff(below[bounds], axis=1)
    logs = _log(sums / np.maximum(np.diff(filled[bounds], axis=1), 1))
    of_last = logs[np.arange(len(widths)), _group_of_last(widths, levels)]
    exact = own[widths - 1] + _xlogx(last + tail)
    shared = np.einsum("ij,ij->i", sums.astype(np.float64), logs) + tail * of_last
    found = (exact - shared) / total - np.log(total) + _log(below[widths])
    impossible = (below[widths] == 0) | ((last == 0) & (tail > 0))
    return np.where(impossible, np.inf, found)


def _group_of_last(widths: npt.NDArray[np.int64], levels: int) -> npt.NDArray[np.int64]:
    return ((widths - 1) * levels) // widths


def _last_minimum(counts: Counts, widths: npt.NDArray[np.int64], found: Floats, levels: int) -> int:
    """Decide between candidates that the fast formula cannot tell apart by computing each term by term."""
    if np.isinf(found.min()):
        return int(widths[-1])
    near = np.flatnonzero(found <= found.min() + _NEAR)[::-1]
    best, least = widths[near[0]], np.inf
    for i in near if len(near) > 1 else ():
        value = exact_divergence(counts, int(widths[i]), levels)
        if value < least:
            best, least = widths[i], value
        if least == 0:
            break
    return int(best)


def exact_divergence(counts: Counts, width: int, levels: int) -> float:
    """KL(width), term by term as the module's head defines it.

    Args:
        counts: int64, the histogram.
        width: number of bins kept.
        levels: number of groups.

    Returns:
        The divergence in nats; infinite where the last kept bin is empty but a tail lies beyond it.
    """
    kept = counts[:width]
    group = (np.arange(width) * levels) // width
    filled = kept > 0
    sums = np.bincount(group, weights=kept, minlength=levels)
    sizes = np.bincount(group, weights=filled, minlength=levels)
    q = np.where(filled, (sums / np.maximum(sizes, 1))[group], 0.0)
    p = kept.astype(np.float64)
    p[-1] += counts[width:].sum()
    p, q = p / p.sum(), q / q.sum()
    if np.any((p > 0) & (q == 0)):
        return np.inf
    used = p > 0
    terms = np.zeros(width)
    terms[used] = p[used] * np.log(p[used] / q[used])
    return float(terms.sum())


def _prefix(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([[0], np.cumsum(values)])


def _log(values: npt.NDArray[Any]) -> Floats:
    """log, with log(0) = 0: such terms carry no count."""
    return np.log(np.where(values > 0, values, 1).astype(np.float64))


def _xlogx(values: npt.NDArray[Any]) -> Floats:
    return values * _log(values)


NEAR_BEST = 1.5
"""A threshold may cost this many times the least squared error of all (1.8 dB)."""

NEAR_WHOLE = 2.0
"""And surely no more than this many times what the whole range costs (3 dB)."""

UNSURE = 0.5
"""How far a value may lie from the middle of its bin, in bins."""

_CLIPPING_BLOCK = 1 << 20

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
    block = max(1, _CLIPPING_BLOCK // most)
    parts = [
        _squares(
            low[i : i + block] + begin[i : i + block] * step[i : i + block],
            step[i : i + block],
            (end - begin)[i : i + block],
            most,
            middles,
            sums,
        )
        for i in range(0, len(step), block)
    ]
    return np.sqrt(np.maximum(np.concatenate(parts), 0) / line.sum())


def _squares(low: Floats, step: Floats, last: Floats, most: int, middles: Floats, sums: list[Floats]) -> Floats:
    """Sum of squared errors of some grids: each of their values stands for the bins that are nearest."""
    code = np.arange(most)
    value = low[:, None] + code * step[:, None]
    ends = value + step[:, None] / 2
    ends[code >= last[:, None]] = np.inf
    cut = np.clip(np.ceil(ends - middles[0]), 0, len(middles)).astype(np.int64)
    within = [np.diff(total[cut], axis=1, prepend=0.0) for total in sums]
    return np.sum(within[2] - 2 * value * within[1] + value**2 * within[0], axis=1)
