"""The clipping threshold of a float scale that loses least, found by search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vqkit.primitives.affine import Array
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import fake_quantize, range_from_extremes, reduction_axes
from vqkit.primitives.spec import QuantizerSpec

COARSE = np.linspace(1.0, 0.05, 20).astype(np.float32)
"""Shares of the full range tried first."""

FINE = np.linspace(0.045, -0.045, 19).astype(np.float32)
"""Offsets tried around the best of them."""

Range = tuple[Array, Array]
Errors = npt.NDArray[np.float64]
ErrorOf = Callable[[Array, Array], Errors]


def mse_range(x: npt.ArrayLike, spec: QuantizerSpec, counts: npt.ArrayLike | None = None) -> Range:
    """The range whose fake-quantization has the smallest sum of squared errors.

    A symmetric or unsigned range is searched over its one threshold; an asymmetric one over its upper end,
    then over its lower end. Shares of the full range are tried in steps of 5 %, then of 0.5 % around the
    best; the first of equals wins, so a range is clipped only where that helps.

    Args:
        x: float32, any shape, finite.
        spec: a float-scale quantizer.
        counts: how often each value occurs, same shape; once each by default.

    Returns:
        (f_min, f_max), float32; shape () per tensor, else 1 everywhere but on the channel axis.
    """
    x = np.asarray(x, np.float32)
    axes = reduction_axes(x.ndim, spec)
    low, high = (f(x, axis=axes, keepdims=spec.per_channel) for f in (np.min, np.max))

    def error(f_min: Array, f_max: Array) -> Errors:
        lost = np.square(x - fake_quantize(x, QParams(spec, f_min, f_max)), dtype=np.float64)
        return np.sum(lost if counts is None else lost * counts, axis=axes, keepdims=spec.per_channel)

    if spec.symmetry:
        return _one_threshold(low, high, spec, error)
    return _two_ends(low, high, spec, error)


def _one_threshold(low: Array, high: Array, spec: QuantizerSpec, error: ErrorOf) -> Range:
    reach = np.maximum(np.abs(low), np.abs(high))

    def at(share: Array) -> Range:
        return range_from_extremes(np.maximum(low, -share * reach), np.minimum(high, share * reach), spec)

    return at(_best_share(reach, lambda share: error(*at(share))))


def _two_ends(low: Array, high: Array, spec: QuantizerSpec, error: ErrorOf) -> Range:
    f_min, f_max = range_from_extremes(low, high, spec)
    f_max = f_max * _best_share(f_max, lambda share: error(f_min, share * f_max))
    return f_min * _best_share(f_min, lambda share: error(share * f_min, f_max)), f_max


def _best_share(like: Array, error: Callable[[Array], Errors]) -> Array:
    """The share in (0, 1] with the smallest error, for each entry of a range."""
    coarse = [np.full_like(like, share) for share in COARSE]
    best = _first_best(coarse, error)
    return _first_best([np.clip(best + offset, np.float32(0.005), np.float32(1)) for offset in FINE], error)


def _first_best(shares: list[Array], error: Callable[[Array], Errors]) -> Array:
    winner = np.argmin([error(share) for share in shares], axis=0)
    return np.choose(winner, shares)
