"""From the values of all batches to range and position."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vqkit.primitives import grid
from vqkit.primitives.affine import Array
from vqkit.primitives.binning import ChannelHistograms, Histogram
from vqkit.primitives.clipping import Grids
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import position, range_from_extremes
from vqkit.primitives.search import mse_range
from vqkit.primitives.spec import Method, QuantizerSpec

__all__ = [
    "CLIPPING", "ChannelHistograms", "Histogram", "choose_from_histogram", "float_mse", "histogram_for",
    "range_from_threshold", "threshold",
]  # fmt: skip

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
        grid.require_compat(spec)
    if isinstance(seen, Histogram):
        return _choose_one(seen, spec.with_(per_channel=False), spec, vitis_compat=vitis_compat)
    one = spec.with_(per_channel=False)
    found = [_choose_one(h, one, one, vitis_compat=vitis_compat) for h in seen.channels]
    f_min, f_max = (
        np.reshape(ends, seen.shape) for ends in ([q.f_min for q in found], [q.f_max for q in found])
    )
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
