"""Bin counts in one pass, and positions for many bit widths from one count.

How many values of an array lie in each of many equal bins of |x|: exact, in one pass over memory.

A place among the bins is computed in float32, in ticks, of which a bin has many. Only values within a few
ticks of an edge, where rounding could have moved them across, are looked up among the edges.

Positions for many bit widths from one count of a tensor's values.

A search adds up the squared errors of each candidate over all values. From how many values lie in each of
some ten thousand bins the sums follow to within the width of a bin: a value is as far from the grid as its
bin's middle is, give or take half a bin. Such bounds leave one candidate almost always, for every width at
once; where they leave more, the values themselves have to be asked about these.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqkit.primitives.affine import Array, position_scale
from vqkit.primitives.mse import FIRST, REST
from vqkit.primitives.spec import POS_MAX, POS_MIN, QuantizerSpec

Counts = npt.NDArray[np.int64]

GUESS_ERROR = 5e-7
"""Rounding of a float32 place, in bins, for each bin counted from the first edge."""

_BLOCK = 1 << 16
"""Values that are counted at once: what is computed of them stays in a core's cache."""

_MOST_TICKS = 1 << 23
"""Ticks of all bins together: float32 has these whole numbers."""

_NARROWEST = 1e-30
"""Bins narrower than this are always looked up: their density leaves float32."""


def count_by_sign(x: Array, edges: Array, fine: int = 1) -> Counts:
    """How many values lie in each bin of |x|: edges[i] <= |x| < edges[i + 1], the last bin closed above.

    Args:
        x: float32, signed, shape (n,).
        edges: float32, rising, evenly spaced up to rounding, shape (bins + 1,).
        fine: into how many parts each bin is divided, up to rounding within the bin; a power of two.

    Returns:
        int64, shape (2, bins * fine): values >= 0, values < 0; values beyond the edges are not counted.
    """
    ruler = _BinRule.along(edges, fine)
    rows: Counts = np.zeros((3, ruler.parts), np.int64)
    again = x
    if 2 * ruler.unsure < ruler.ticks:
        blocks = [x[at : at + _BLOCK] for at in range(0, x.size, _BLOCK)]
        again = np.concatenate([_count_block(block, ruler, rows) for block in blocks])
    np.add.at(rows.reshape(-1), ruler.look_up(again), 1)
    rows[0] += rows[2]
    return rows[:2]


def extremes(x: Array) -> tuple[np.float32, np.float32]:
    """Smallest and largest value in one pass over memory.

    Args:
        x: float32, shape (n,), not empty.

    Returns:
        (smallest, largest); not a number if x holds one.
    """
    lows, highs = [], []
    for at in range(0, x.size, _BLOCK):
        lows.append(x[at : at + _BLOCK].min())
        highs.append(x[at : at + _BLOCK].max())
    return np.min(lows), np.max(highs)


@dataclass(frozen=True, eq=False)
class _BinRule:
    """How places are computed.

    Attributes:
        edges: of the bins.
        width: of a bin.
        fine: parts of a bin.
        ticks: of a bin; a power of two.
        unsure: how many ticks from an edge a computed place may be on the wrong side of it.
    """

    edges: Array
    width: float
    fine: int
    ticks: int
    unsure: int

    @property
    def parts(self) -> int:
        return (len(self.edges) - 1) * self.fine

    @classmethod
    def along(cls, edges: Array, fine: int) -> _BinRule:
        bins, ticks, first = len(edges) - 1, fine, float(edges[0])
        while 2 * ticks * bins <= _MOST_TICKS:
            ticks *= 2
        width, unsure = (float(edges[-1]) - first) / bins, ticks
        if width > _NARROWEST:
            even = first + width * np.arange(bins + 1)
            doubt = 2 * np.abs(edges - even).max() / width + GUESS_ERROR * bins
            unsure = int(np.ceil(doubt * ticks))
        return cls(edges, width, fine, ticks, unsure)

    def look_up(self, x: Array) -> Counts:
        """The parts that values lie in, those of negative values behind the others; none beyond the edges."""
        bins, size = len(self.edges) - 1, np.abs(x)
        place = np.searchsorted(self.edges, size, side="right") - 1
        place[size == self.edges[-1]] = bins - 1
        inside = (place >= 0) & (place < bins)
        part = first = place[inside] * self.fine
        if self.fine > 1:
            beyond = size[inside].astype(np.float64) - float(self.edges[0])
            part = np.clip((beyond * (self.fine / self.width)).astype(np.int64), first, first + self.fine - 1)
        return part + self.parts * (x[inside] < 0)


class _Room(threading.local):
    """A thread's memory for a block; to allocate it for each array would take longer than to use it."""

    def __init__(self) -> None:
        self.index, self.row = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.int32)
        self.wide, self.flags = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.bool_)
        # Both are needed no more when the wide index is written.
        self.places, self.ticks = self.wide.view(np.float32), self.wide.view(np.int32)
        self._lanes, self._parts = np.zeros(_BLOCK, np.int32), 0

    def lanes(self, parts: int) -> npt.NDArray[np.int32]:
        """Where rows begin that take every second value each: the first and the third."""
        if parts != self._parts:
            self._parts, self._lanes[1::2] = parts, 2 * parts
        return self._lanes


_ROOM = _Room()


def _count_block(x: Array, ruler: _BinRule, rows: Counts) -> Array:
    """Count into rows what is sure: values >= 0 in the first and third, values < 0 in the second.

    Returns:
        The values that are unsure.
    """
    n = x.size
    places, index, row, wide = _ROOM.places[:n], _ROOM.index[:n], _ROOM.row[:n], _ROOM.wide[:n]
    size = x
    if x.min() < 0:
        np.add(x, np.float32(0), out=places)  # turns -0 into 0
        np.right_shift(places.view(np.int32), 31, out=row)
        np.bitwise_and(row, ruler.parts, out=row)
        size = np.abs(places, out=places)
    else:
        # A counter that is raised twice in a row has to wait, as with the zeros behind a ReLU.
        row = _ROOM.lanes(ruler.parts)[:n]
    np.copyto(index, _in_ticks(size, ruler, places), casting="unsafe")
    again = _near_edges(index, ruler)
    np.right_shift(index, (ruler.ticks // ruler.fine).bit_length() - 1, out=index)
    np.add(index, row, out=wide)
    wide[again] = 0
    np.add.at(rows.reshape(-1), wide, 1)
    rows[0, 0] -= again.size
    return x[again]


def _in_ticks(size: Array, ruler: _BinRule, out: Array) -> Array:
    """Places; what lies beyond the edges is put on the last one, where it is unsure."""
    first, last = ruler.edges[0], np.float32(ruler.ticks * (len(ruler.edges) - 1))
    if first:
        size = np.subtract(size, first, out=out)
    np.multiply(size, np.float32(ruler.ticks / ruler.width), out=out)
    if out.max() > last:
        np.minimum(out, last, out=out)
    if first:
        out[out < 0] = last
    return out


def _near_edges(index: npt.NDArray[np.int32], ruler: _BinRule) -> npt.NDArray[np.int64]:
    """Which places are unsure. The sign bit keeps out the first edge, below which no place is left."""
    ticks, flags = _ROOM.ticks[: index.size], _ROOM.flags[: index.size]
    np.subtract(index, ruler.unsure, out=ticks)
    np.bitwise_and(ticks, ruler.ticks - 1 - (1 << 31), out=ticks)
    np.greater_equal(ticks, ruler.ticks - 2 * ruler.unsure, out=flags)
    return np.flatnonzero(flags)


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

    def __init__(
        self, counts: npt.NDArray[np.int64], width: float, doubt: float, known: Distances | None = None
    ) -> None:
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
        if start + REST[-1] > POS_MAX or start < POS_MIN:
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

    def _bounds(self, counts: Floats, half: float, spec: QuantizerSpec, step: float, offsets: Sequence[int]) -> Bounds:
        """Between what the sums of squared errors lie; they and the arguments are in bins."""
        sums = np.zeros(2 * len(offsets))
        for of_sign, ends in zip(counts, ((spec.q_min, spec.q_max), (-spec.q_max, -spec.q_min)), strict=False):
            sums += self._distances(of_sign.size, step, *ends, offsets)[:, : of_sign.size] @ of_sign
        once, twice = sums.reshape(2, -1).tolist()
        most = half**2 * self.size
        return [(max(t - 2 * half * o, 0.0), t + 2 * half * o + most) for o, t in zip(once, twice, strict=True)]

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
