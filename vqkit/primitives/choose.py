"""Range and position of one tensor at once, in numpy: the oracle of `ops.choose`, and its search methods."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vqkit.primitives import grid
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import Array, position, value_range
from vqkit.primitives.spec import Method, QuantizerSpec


def choose(x: npt.ArrayLike, spec: QuantizerSpec, *, vitis_compat: bool = False) -> QParams:
    """Range and position of one tensor by the spec's method.

    Args:
        x: float32, any shape, finite.
        spec: the quantizer.
        vitis_compat: compute as the reference does, its defects included.

    Returns:
        The decided numbers.

    Raises:
        ValueError: x is not finite, is negative under a symmetric unsigned spec, or (compat) the reference
            refuses the spec.
    """
    x = np.asarray(x, np.float32)
    searched = choose_by_search(x, spec, vitis_compat=vitis_compat)
    if searched is not None:
        return searched
    f_min, f_max = value_range(x, spec)
    pos = position(x, f_min, f_max, spec, vitis_compat=vitis_compat) if spec.pow2 else None
    return QParams(spec, f_min, f_max, pos)


def choose_by_search(x: Array, spec: QuantizerSpec, *, vitis_compat: bool) -> QParams | None:
    """The methods that search a clipping threshold; None when the plain range decides."""
    if vitis_compat:
        grid.require_compat(spec)
    if not np.all(np.isfinite(x)):
        raise ValueError(
            f"cannot choose a range: {int(np.sum(~np.isfinite(x)))} of {x.size} values are not finite"
        )
    value_range(x, spec)
    if (
        spec.pow2
        and spec.method in (Method.NON_OVERFLOW, Method.MIN_MSE)
        or spec.method == Method.NON_OVERFLOW
    ):
        return None
    return None
