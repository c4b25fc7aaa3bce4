"""Observe one tensor for many quantizers at once: one count of its values serves methods and bit widths.

Each quantizer's facts are the ones that `observe` gives it on the float model, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.flow.observers import How, Observed, how, observe
from vqkit.primitives import grid, kernels, reference
from vqkit.primitives.affine import Array
from vqkit.primitives.binning import Batch, Histogram
from vqkit.primitives.spec import Method, QuantizerSpec
from vqkit.primitives.sums import FIRST, REST, best_of
from vqkit.primitives.widths import Counted, Distances

FINE = 8
"""Parts of a histogram's bin in which searches for positions count."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """Facts that are wanted of one tensor.

    Attributes:
        spec: for which quantizer.
        seen: where they go.
        compat: whether to observe as the reference does.
    """

    spec: QuantizerSpec
    seen: Observed
    compat: bool

    @property
    def counts_all(self) -> bool:
        """Whether one histogram of the whole tensor is wanted, its bins starting at 0."""
        whole = not (self.compat or self.spec.per_channel)
        return whole and how(self.spec, vitis_compat=self.compat) is How.HISTOGRAM

    @property
    def from_extremes(self) -> bool:
        """Whether extremes and counts of the whole tensor are enough."""
        if self.compat or self.spec.per_channel or how(self.spec, vitis_compat=False) is How.HISTOGRAM:
            return False
        searched = self.spec.pow2 and self.spec.method is Method.MIN_MSE
        return not searched or kernels.v4_is_exact(grid.for_errors(self.spec))


class Tensor:
    """One tensor of the float model and everything that is wanted of it.

    Args:
        wanted: for which quantizers.
    """

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self._alone = [w for w in wanted if not (w.counts_all or w.from_extremes)]
        self._ranged: dict[QuantizerSpec, list[Wanted]] = {}
        for w in wanted:
            if w.from_extremes:
                self._ranged.setdefault(w.spec.with_(method=Method.NON_OVERFLOW), []).append(w)
        counting = [w for w in wanted if w.counts_all]
        self._histogram, self._distances = Histogram(), Distances()
        for w in counting:
            w.seen.histogram = self._histogram
        self._searched = sum(map(_searched, wanted))
        self._counts = bool(counting) or self._searched > 1

    def add(self, x: Any) -> None:
        """Observe one batch.

        Args:
            x: float32 tensor, shape (batch, …).
        """
        for w in self._alone:
            observe(x, w.spec, w.seen, False, w.compat)
        if self._counts:
            self._add_counted(np.asarray(x).reshape(-1))
            return
        for alike in self._ranged.values():
            for w in alike:
                observe(x, w.spec, w.seen, False, False)

    def _add_counted(self, flat: Array) -> None:
        batch = self._histogram.add(flat, fine=FINE if self._searched else 1)
        counted = self._counted(batch)
        for plain, alike in self._ranged.items():
            f_min, f_max = reference.range_from_extremes(batch.low, batch.high, plain)
            if not plain.pow2:
                for w in alike:
                    w.seen.add(_running(np.array([f_min, f_max]), w))
                continue
            start = reference.position(flat, f_min, f_max, plain)
            for w in alike:
                pos = _position(w.spec, flat, start, counted) if w.spec.method is Method.MIN_MSE else start
                w.seen.add(np.array([f_min, f_max, pos]))

    def _counted(self, batch: Batch) -> Counted | None:
        if batch.counts is None or not self._searched:
            return None
        return Counted(batch.counts, self._histogram.width / FINE, self._histogram.doubt, self._distances)


def _searched(w: Wanted) -> bool:
    return w.from_extremes and w.spec.pow2 and w.spec.method is Method.MIN_MSE


def _running(found: Array, w: Wanted) -> Array:
    seen = w.seen
    before = np.array([seen.f_min[-1], seen.f_max[-1]]) if seen.f_min else np.zeros(2, np.float32)
    return reference.running_range(before, found, w.spec, bool(seen.f_min))[1]


def _position(spec: QuantizerSpec, flat: Array, start: Array, counted: Counted | None) -> Array:
    rounding = grid.for_errors(spec)
    offsets = FIRST + REST if counted is None else counted.best_offsets(rounding, float(start))
    return reference.clip_position(start + np.float32(best_of(flat, rounding, start, offsets)))
