"""Observe one tensor for many quantizers at once: one count of its values serves methods and bit widths.

Each quantizer's facts are the ones that `observe` gives it on the float model, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.flow.observers import EMA_DECAY, How, Observed, how, observe
from vqkit.primitives import grid, kernels, reference
from vqkit.primitives.affine import Array
from vqkit.primitives.binning import Batch, Histogram
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType
from vqkit.primitives.sums import best_offset
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
        self._ranged = [w for w in wanted if w.from_extremes]
        self._counting = [w for w in wanted if w.counts_all]
        self._histogram, self._distances = Histogram(), Distances()
        for w in self._counting:
            w.seen.histogram = self._histogram
        self._plain = [w.spec.with_(method=Method.NON_OVERFLOW) for w in self._ranged]
        self._rounding = [grid.for_errors(w.spec) for w in self._ranged]
        self._searched = sum(w.spec.pow2 and w.spec.method is Method.MIN_MSE for w in self._ranged)

    def add(self, x: Any) -> None:
        """Observe one batch.

        Args:
            x: float32 tensor, shape (batch, …).
        """
        for w in self._alone:
            observe(x, w.spec, w.seen, False, w.compat)
        if self._counting or self._searched > 1:
            flat = np.asarray(x).reshape(-1)
            batch = self._histogram.add(flat, fine=FINE if self._searched else 1)
            counted = self._counted(batch)
            at: dict[QuantizerSpec, tuple[Array, Array | None]] = {}
            for w, plain, rounding in zip(self._ranged, self._plain, self._rounding, strict=True):
                if plain not in at:
                    ends = np.stack(reference.range_from_extremes(batch.low, batch.high, plain))
                    start = reference.position(flat, ends[0], ends[1], plain) if plain.pow2 else None
                    at[plain] = ends, start
                self._range(w, rounding, flat, *at[plain], counted)
        else:
            for w in self._ranged:
                observe(x, w.spec, w.seen, False, False)

    def _counted(self, batch: Batch) -> Counted | None:
        if batch.counts is None or not self._searched:
            return None
        width = float(self._histogram.edges[-1]) / batch.counts.shape[1]
        return Counted(batch.counts, width, self._histogram.doubt, self._distances)

    def _range(self, w: Wanted, rounding: QuantizerSpec, flat: Array, ends: Array, start: Array | None,
               counted: Counted | None) -> None:  # fmt: skip
        spec, seen = w.spec, w.seen
        if start is not None:
            if spec.method is Method.MIN_MSE:
                start = self._position(rounding, flat, start, counted)
            seen.add(np.stack([*ends, start]))
            return
        if seen.f_min:
            before = np.stack([seen.f_min[-1], seen.f_max[-1]])
            if spec.quantizer_type is QuantizerType.MAFS:
                ends = before * np.float32(EMA_DECAY) + ends * np.float32(1 - EMA_DECAY)
            else:
                ends = np.stack([np.minimum(before[0], ends[0]), np.maximum(before[1], ends[1])])
        elif spec.quantizer_type is not QuantizerType.MAFS:
            ends = np.stack([np.minimum(np.float32(0), ends[0]), np.maximum(np.float32(0), ends[1])])
        seen.add(ends)

    def _position(self, rounding: QuantizerSpec, flat: Array, start: Array,
                  counted: Counted | None) -> Array:  # fmt: skip
        best = None if counted is None else counted.best_offset(rounding, float(start))
        if best is None:
            best = int(best_offset(flat, rounding, start))
        return reference.clip_position(start + np.float32(best))
