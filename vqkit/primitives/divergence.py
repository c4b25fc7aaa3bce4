"""The KL search for a clipping threshold on a histogram of |x|, by cumulative sums.

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
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
