"""Histograms of |x| over batches, and thresholds, ranges and positions read from them.

By default bins start at 0, so no value is lost, and the number of bins is bounded by joining neighbours.
With `vitis_compat` the bins start at the first batch's smallest |x|, values below it are lost in later
batches, and bins are added without bound, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vqkit.primitives import kl
from vqkit.primitives.affine import Array
from vqkit.primitives.counting import GUESS_ERROR, Counts, count_by_sign, extremes
from vqkit.primitives.kl import Grids, bearable
from vqkit.primitives.mse import mse_range
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import position, range_from_extremes
from vqkit.primitives.spec import Method, QuantizerSpec, require_compat

__all__ = [
    "CLIPPING",
    "ChannelHistograms",
    "Histogram",
    "choose_from_histogram",
    "float_mse",
    "histogram_for",
    "range_from_threshold",
    "threshold",
]

FIRST_BINS = 2048
MOST_BINS = 1 << 15


@dataclass(frozen=True, eq=False)
class Batch:
    """What one batch adds to a histogram.

    Attributes:
        low: smallest value.
        high: largest value.
        counts: int64, shape (2, parts of bins): values >= 0, values < 0; coarse bins are counted exactly,
            their parts up to rounding.
    """

    low: np.float32
    high: np.float32
    counts: Counts | None


class Histogram:
    """Counts of |x| in equal bins, negative and positive values apart.

    Attributes:
        vitis_compat: whether bins start and grow as in the reference.
        counts_by_sign: int64, shape (2, bins): values >= 0, values < 0.
        edges: float32, shape (bins + 1,), rising.
        seen_min: smallest value so far.
        seen_max: largest value so far.
    """

    def __init__(self, *, vitis_compat: bool = False) -> None:
        self.vitis_compat = vitis_compat
        self.counts_by_sign: Counts = np.zeros((2, 0), np.int64)
        self.edges: Array = np.zeros(1, np.float32)
        self.seen_min: np.float32 = np.float32(np.inf)
        self.seen_max: np.float32 = np.float32(-np.inf)
        self._zeros = 0

    @property
    def counts(self) -> Counts:
        """Counts per bin, signs together; shape (bins,)."""
        return self.counts_by_sign.sum(axis=0)

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts_by_sign.sum()) + self._zeros

    @property
    def centres(self) -> Array:
        """Middle of each bin, float32, shape (bins,)."""
        return (self.edges[:-1] + self.edges[1:]) / np.float32(2)

    @property
    def abs_max(self) -> np.float32:
        """Largest |x| so far."""
        return np.maximum(-self.seen_min, self.seen_max)

    def add(self, batch: npt.ArrayLike, *, fine: int = 1) -> Batch:
        """Count one batch; the order of batches matters, since the first one sets the bin width.

        Args:
            batch: float32 of any shape, signed, finite, not empty.
            fine: parts of a bin that the batch is counted in; a power of two.

        Returns:
            What the batch alone adds; no counts where there is no bin yet, because all values were 0.

        Raises:
            ValueError: the batch is empty or holds a value that is not finite.
        """
        x = np.asarray(batch, np.float32).ravel()
        low, high = extremes(x) if x.size else (np.float32(np.nan), np.float32(np.nan))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"a histogram needs finite values, got {low} to {high} of {x.size}")
        self.seen_min, self.seen_max = min(self.seen_min, low), max(self.seen_max, high)
        self._make_room(np.abs(x).min() if self.vitis_compat else np.float32(0), max(-low, high))
        if len(self.edges) < 2:
            self._zeros += x.size
            return Batch(low, high, None)
        parts = count_by_sign(x, self.edges, fine)
        self.counts_by_sign += np.einsum("sbf->sb", parts.reshape(2, -1, fine))
        return Batch(low, high, parts)

    @property
    def width(self) -> float:
        """Of a bin whose first edge is 0, up to rounding; the same while bins are added."""
        return float(self.edges[1])

    @property
    def doubt(self) -> float:
        """How far a value may lie outside of the part of a bin in which it is counted."""
        return float(self.edges[-1]) * 2 * GUESS_ERROR

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All that it knows, for a file."""
        ends = np.array([self.seen_min, self.seen_max])
        more = np.array([self._zeros, self.vitis_compat])
        return {"counts": self.counts_by_sign, "edges": self.edges, "ends": ends, "more": more}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Histogram:
        """The histogram that gave such arrays."""
        zeros, compat = arrays["more"].tolist()
        made = cls(vitis_compat=bool(compat))
        made.counts_by_sign, made.edges, made._zeros = arrays["counts"], arrays["edges"], zeros
        made.seen_min, made.seen_max = arrays["ends"]
        return made

    def percentile(self, percent: float) -> np.float32:
        """The threshold that `percent` of all |x| do not exceed.

        Args:
            percent: in (0, 100].

        Returns:
            The upper edge of the bin that reaches the share, at most the largest |x| seen; with
            `vitis_compat` its lower edge.
        """
        if self._empty():
            return np.float32(0)
        counts = self.counts
        if self.vitis_compat:
            return self.edges[np.searchsorted(np.cumsum(counts / counts.sum()), percent / 100)]
        bin_ = np.searchsorted(np.cumsum(counts), counts.sum() * (percent / 100))
        return np.minimum(self.edges[min(bin_, len(counts) - 1) + 1], self.abs_max)

    def kl(
        self, bit_width: int, *, unsigned: bool = False, grids: Callable[[Array], Grids] | None = None
    ) -> np.float32:
        """The threshold that distorts the histogram least when quantized; see `divergence`.

        Args:
            bit_width: bits of the code; with `vitis_compat` 8 whatever is asked.
            unsigned: all codes serve |x|, instead of one half.
            grids: the grids that thresholds lead to; among them only those count whose squared error is
                bearable (see `clipping`). By default those of a symmetric float scale. Not read with
                `vitis_compat`.

        Returns:
            A bin edge, at most the largest |x| seen.
        """
        if self._empty():
            return np.float32(0)
        if self.vitis_compat:
            return self.edges[kl.best_width(self.counts, 2**7, vitis_compat=True)]
        levels = 2 ** (bit_width - (not unsigned))
        widths = kl.candidates(len(self.edges) - 1, levels)
        if not len(widths):
            return self.abs_max
        ends = np.minimum(self.edges[widths], self.abs_max)
        tried = Grids.symmetric(ends, bit_width, unsigned=unsigned) if grids is None else grids(ends)
        allowed = bearable(self.counts_by_sign, self.width, tried)
        counts = kl.without_spikes(self.counts)
        width = kl.best_width(counts, levels, allowed=allowed)
        return np.minimum(self.edges[width], self.abs_max)

    def values(self) -> tuple[Array, Counts]:
        """The histogram as signed values and how often each occurs, for error sums.

        Returns:
            (values, counts): bin centres with their sign, float32, and int64 counts; only bins in use.
        """
        values = np.concatenate([self.centres, -self.centres, np.zeros(1, np.float32)])
        counts = np.append(self.counts_by_sign.ravel(), self._zeros)
        return values[counts > 0], counts[counts > 0]

    def _empty(self) -> bool:
        if self.total == 0:
            raise ValueError("no batch was added to this histogram")
        return self._zeros > 0

    def _make_room(self, smallest: np.float32, largest: np.float32) -> None:
        if len(self.edges) < 2:
            self.edges = self._first_edges(smallest, largest)
        elif largest > self.edges[-1]:
            self._grow(largest)
        missing = len(self.edges) - 1 - self.counts_by_sign.shape[1]
        if missing:
            self.counts_by_sign = np.pad(self.counts_by_sign, ((0, 0), (0, missing)))
            self.counts_by_sign[0, 0] += self._zeros
            self._zeros = 0

    def _first_edges(self, smallest: np.float32, largest: np.float32) -> Array:
        low, high = (float(smallest), float(largest)) if self.vitis_compat else (0.0, float(largest))
        if low == high:
            if not self.vitis_compat:
                return self.edges
            low, high = low - 0.5, high + 0.5
        return np.linspace(low, high, FIRST_BINS + 1).astype(np.float32)

    def _grow(self, largest: np.float32) -> None:
        last, width = self.edges[-1], self.edges[1] - self.edges[0]
        if self.vitis_compat:
            self.edges = np.hstack([self.edges, np.arange(last + width, largest + width, width, dtype=np.float32)])
            return
        step = float(last) / (len(self.edges) - 1)
        while largest > MOST_BINS * step:
            self._join_neighbours()
            step *= 2
        bins = max(len(self.edges) - 1, int(np.ceil(float(largest) / step)))
        self.edges = (np.arange(bins + 1) * step).astype(np.float32)
        self.edges[-1] = max(self.edges[-1], largest)

    def _join_neighbours(self) -> None:
        counts = np.pad(self.counts_by_sign, ((0, 0), (0, self.counts_by_sign.shape[1] % 2)))
        self.counts_by_sign = counts[:, ::2] + counts[:, 1::2]
        step = float(self.edges[-1]) / (len(self.edges) - 1)
        self.edges = (np.arange(counts.shape[1] // 2 + 1) * (2 * step)).astype(np.float32)


class ChannelHistograms:
    """One histogram for each slice along the spec's channel axis."""

    def __init__(self, spec: QuantizerSpec, *, vitis_compat: bool = False) -> None:
        self._spec = spec
        self._compat = vitis_compat
        self.channels: list[Histogram] = []
        self.shape: tuple[int, ...] = ()

    def add(self, batch: npt.ArrayLike) -> None:
        """Count one batch, each channel into its own histogram; as `Histogram.add`.

        Args:
            batch: float32, signed, finite, with the channel axis.

        Raises:
            ValueError: the batch is empty, not finite, or has other channels than the first one.
        """
        x = np.asarray(batch, np.float32)
        axis = self._spec.channel_axis % x.ndim
        if not self.channels:
            self.channels = [Histogram(vitis_compat=self._compat) for _ in range(x.shape[axis])]
            self.shape = tuple(x.shape[axis] if a == axis else 1 for a in range(x.ndim))
        if len(self.channels) != x.shape[axis]:
            raise ValueError(f"the first batch had {len(self.channels)} channels, this one {x.shape[axis]}")
        for channel, values in zip(self.channels, np.moveaxis(x, axis, 0), strict=True):
            channel.add(values)


CLIPPING = (Method.MIN_KL, Method.PERCENTILE)
"""Methods that clip |x| at a threshold read from a histogram."""


def histogram_for(spec: QuantizerSpec, *, vitis_compat: bool = False) -> Histogram | ChannelHistograms:
    """An empty histogram, or one for each channel when the spec asks for it.

    Args:
        spec: the quantizer.
        vitis_compat: count as the reference does, which always takes the whole tensor.

    Returns:
        Something to `add` batches to and to give to `choose_from_histogram`.
    """
    if spec.per_channel and not vitis_compat:
        return ChannelHistograms(spec)
    return Histogram(vitis_compat=vitis_compat)


def float_mse(spec: QuantizerSpec) -> bool:
    """Whether MIN_MSE means searching the clip of a float scale, not a position."""
    return spec.method == Method.MIN_MSE and not spec.pow2


def choose_from_histogram(
    seen: Histogram | ChannelHistograms, spec: QuantizerSpec, *, vitis_compat: bool = False
) -> QParams:
    """Range and position from the values of all batches.

    NON_OVERFLOW takes the range seen, MIN_KL and PERCENTILE clip it, MIN_MSE searches the clip (float scale)
    or the position (pow-2 scale) on the bins' centres.

    Args:
        seen: the histogram, or one for each channel.
        spec: the quantizer.
        vitis_compat: the range is -threshold..threshold whatever was asked and seen, and MIN_MSE is the
            range seen.

    Returns:
        The decided numbers; arrays shaped () for a `Histogram`, keepdims-channel for `ChannelHistograms`.

    Raises:
        ValueError: no batch was added, or (compat) the reference refuses the spec.
    """
    if vitis_compat:
        require_compat(spec)
    if isinstance(seen, Histogram):
        return _choose_one(seen, spec.with_(per_channel=False), spec, vitis_compat=vitis_compat)
    one = spec.with_(per_channel=False)
    found = [_choose_one(h, one, one, vitis_compat=vitis_compat) for h in seen.channels]
    f_min, f_max = (np.reshape(ends, seen.shape) for ends in ([q.f_min for q in found], [q.f_max for q in found]))
    pos = np.reshape([q.pos for q in found], seen.shape) if spec.pow2 else None
    return QParams(spec, f_min, f_max, pos)


def _choose_one(seen: Histogram, one: QuantizerSpec, spec: QuantizerSpec, *, vitis_compat: bool) -> QParams:
    values, counts = seen.values()
    if float_mse(one) and not vitis_compat:
        return QParams(spec, *mse_range(values, one, counts))
    if one.method in CLIPPING:
        f_min, f_max = range_from_threshold(
            threshold(seen, one), seen.seen_min, seen.seen_max, one, vitis_compat=vitis_compat
        )
    else:
        f_min, f_max = range_from_extremes(seen.seen_min, seen.seen_max, one)
    pos = position(values, f_min, f_max, one, counts=counts, vitis_compat=vitis_compat) if one.pow2 else None
    return QParams(spec, f_min, f_max, pos)


def threshold(seen: Histogram, spec: QuantizerSpec) -> np.float32:
    """Where MIN_KL or PERCENTILE clips |x|.

    Args:
        seen: the histogram.
        spec: gives method, percentile and bits.

    Returns:
        The threshold, float32, >= 0.
    """
    if spec.method == Method.PERCENTILE:
        return seen.percentile(spec.method_percentile)
    one_sided = spec.unsigned or not (spec.symmetry or (seen.seen_min < 0 < seen.seen_max))

    def grids(ends: Array) -> Grids:
        f_min, f_max = range_from_threshold(ends, seen.seen_min, seen.seen_max, spec)
        pos = position(ends, f_min, f_max, spec) if spec.pow2 else None
        return Grids.of_ranges(f_min, f_max, pos, spec)

    return seen.kl(spec.bit_width, unsigned=one_sided, grids=grids)


def range_from_threshold(
    amax: npt.ArrayLike,
    seen_min: npt.ArrayLike,
    seen_max: npt.ArrayLike,
    spec: QuantizerSpec,
    *,
    vitis_compat: bool = False,
) -> tuple[Array, Array]:
    """The range after clipping |x| at a threshold, in the form the spec asks for.

    Args:
        amax: the threshold, float32, >= 0.
        seen_min: smallest value seen.
        seen_max: largest value seen.
        spec: symmetric, unsigned, narrow or not.
        vitis_compat: -amax..amax whatever the spec says and the data are.

    Returns:
        (f_min, f_max), float32.

    Raises:
        ValueError: negative values under a symmetric unsigned spec.
    """
    amax = np.asarray(amax, np.float32)
    if vitis_compat:
        return -amax, amax
    low = np.maximum(np.asarray(seen_min, np.float32), -amax)
    return range_from_extremes(low, np.minimum(np.asarray(seen_max, np.float32), amax), spec)
