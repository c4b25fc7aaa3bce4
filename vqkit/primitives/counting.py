"""How many values of an array lie in each of many equal bins of |x|: exact, in one pass over memory.

A place among the bins is computed in float32, in ticks, of which a bin has many. Only values within a few
ticks of an edge, where rounding could have moved them across, are looked up among the edges.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqkit.primitives.affine import Array

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
    ruler = _Ruler.along(edges, fine)
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
class _Ruler:
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
    def along(cls, edges: Array, fine: int) -> _Ruler:
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


def _count_block(x: Array, ruler: _Ruler, rows: Counts) -> Array:
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


def _in_ticks(size: Array, ruler: _Ruler, out: Array) -> Array:
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


def _near_edges(index: npt.NDArray[np.int32], ruler: _Ruler) -> npt.NDArray[np.int64]:
    """Which places are unsure. The sign bit keeps out the first edge, below which no place is left."""
    ticks, flags = _ROOM.ticks[: index.size], _ROOM.flags[: index.size]
    np.subtract(index, ruler.unsure, out=ticks)
    np.bitwise_and(ticks, ruler.ticks - 1 - (1 << 31), out=ticks)
    np.greater_equal(ticks, ruler.ticks - 2 * ruler.unsure, out=flags)
    return np.flatnonzero(flags)
