"""Whether calibration and evaluation inputs are in one unit: pixels beside fractions are a mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vqkit.errors import DataError

# No choice of samples explains more, where one part holds whole numbers and the other fractions.
APART = 16
_PIECE = 1 << 20


def same_unit(calib: Any, other: Any, names: tuple[str, str]) -> None:
    """Raise where two parts of one data set are certainly not prepared alike.

    Certain are: whole numbers beside fractions at most a sixteenth as large (0..255 beside 0..1), and an
    unsigned type beside negative fractions. Everything else may be a choice of samples.

    Args:
        calib: inputs, one array or a list or dict of them, before they are converted to a common type.
        other: likewise.
        names: what the message calls the two parts.

    Raises:
        DataError: naming both types and ranges.
    """
    for at, a, b in _pairs(calib, other):
        if _apart(a, b) or _apart(b, a):
            one, two = (f"{n}{at} is {_told(x)}" for n, x in zip(names, (a, b), strict=True))
            raise DataError(
                f"{one}, but {two}: they are not on one scale. Prepare both as the model wants them"
            )


def _pairs(calib: Any, other: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    if isinstance(calib, Mapping) and isinstance(other, Mapping):
        found = [(f"[{k!r}]", calib[k], other[k]) for k in calib if k in other]
    elif isinstance(calib, (list, tuple)) and isinstance(other, (list, tuple)):
        found = [(f"[{i}]", *pair) for i, pair in enumerate(zip(calib, other, strict=False))]
    else:
        found = [("", calib, other)]
    arrays = [(at, np.asarray(a), np.asarray(b)) for at, a, b in found]
    return [(at, a, b) for at, a, b in arrays if a.dtype.kind in "fiub" and b.dtype.kind in "fiub"]


def _apart(whole: np.ndarray, fractions: np.ndarray) -> bool:
    if fractions.dtype.kind != "f" or _whole(fractions) or not _whole(whole):
        return False
    if whole.dtype.kind == "u" and _range(fractions)[0] < 0:
        return True
    largest, reach = (max(map(abs, _range(a))) for a in (whole, fractions))
    return bool(np.isfinite(largest) and largest >= APART * reach)


def _whole(array: np.ndarray) -> bool:
    """Piece by piece, because the first piece nearly always decides."""
    if array.dtype.kind != "f":
        return True
    flat = array.reshape(-1)
    pieces = (flat[i : i + _PIECE] for i in range(0, flat.size, _PIECE))
    return all(bool(np.all(p == np.floor(p))) for p in pieces)


def _range(array: np.ndarray) -> tuple[float, float]:
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)


def _told(array: np.ndarray) -> str:
    low, high = _range(array)
    return f"{array.dtype} in {low:.6g}..{high:.6g}"
