"""Range and position of one tensor at once, in numpy; the oracle of `ops.choose`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vqkit.primitives.affine import Array
from vqkit.primitives.histogram import CLIPPING, choose_from_histogram, float_mse, histogram_for
from vqkit.primitives.mse import mse_range
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import position, reduction_axes, value_range
from vqkit.primitives.spec import QuantizerSpec, require_compat


def choose(x: npt.ArrayLike, spec: QuantizerSpec, *, vitis_compat: bool = False) -> QParams:
    """Range and position of one tensor by the spec's method.

    Args:
        x: float32, any shape, finite.
        spec: the quantizer.
        vitis_compat: compute as the reference does, its defects included.

    Returns:
        The decided numbers.

    Raises:
        ValueError: x is empty or not finite, is negative under a symmetric unsigned spec, or (compat) the
            reference refuses the spec.
    """
    x = checked(x, spec, vitis_compat=vitis_compat)
    if needs_search(spec, vitis_compat=vitis_compat):
        return choose_by_search(x, spec, vitis_compat=vitis_compat)
    f_min, f_max = value_range(x, spec)
    pos = position(x, f_min, f_max, spec, vitis_compat=vitis_compat) if spec.pow2 else None
    return QParams(spec, f_min, f_max, pos)


def checked(x: npt.ArrayLike, spec: QuantizerSpec, *, vitis_compat: bool) -> Array:
    """The tensor as float32, or why no range can be chosen for it.

    Args:
        x: any array.
        spec: the quantizer.
        vitis_compat: also refuse what the reference refuses.

    Returns:
        float32, same shape.

    Raises:
        ValueError: as `choose`.
    """
    if vitis_compat:
        require_compat(spec)
    x = np.asarray(x, np.float32)
    if x.size == 0 or not np.all(np.isfinite(x)):
        bad = int(np.sum(~np.isfinite(x)))
        raise ValueError(f"cannot choose a range: {bad} of {x.size} values are not finite, shape {x.shape}")
    if spec.unsigned:
        value_range(x, spec)
    return x


def needs_search(spec: QuantizerSpec, *, vitis_compat: bool) -> bool:
    """Whether a clipping threshold is searched, rather than range and position computed directly."""
    return spec.method in CLIPPING or (float_mse(spec) and not vitis_compat)


def choose_by_search(x: Array, spec: QuantizerSpec, *, vitis_compat: bool) -> QParams:
    """Range and position by MIN_KL, PERCENTILE or a float scale's MIN_MSE; see `needs_search`.

    Under `vitis_compat` MIN_KL and PERCENTILE give the empty range: the reference collects the histogram of
    a weight and never reads it, so such a weight becomes zero.

    Args:
        x: float32, any shape, finite.
        spec: the quantizer.
        vitis_compat: compute as the reference does.

    Returns:
        The decided numbers.
    """
    if vitis_compat:
        nothing = np.zeros_like(np.min(x, axis=reduction_axes(x.ndim, spec), keepdims=spec.per_channel))
        return QParams(spec, nothing, nothing)
    if float_mse(spec):
        return QParams(spec, *mse_range(x, spec))
    seen = histogram_for(spec)
    seen.add(x)
    return choose_from_histogram(seen, spec)
