"""How the error of one tensor depends on its scale, and where each method would put it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vqkit.flow.preview import cost_of, own_sqnr
from vqkit.primitives.choose import choose
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType

# Beyond these a search over many channels takes seconds, too long for a picture that follows a control.
MANY_CHANNELS = 8
SHARES = np.linspace(1.2, 0.1, 23)
AROUND = np.arange(-3, 7)


@dataclass(frozen=True, eq=False)
class Curve:
    """Signal-to-noise ratio of one tensor over the choice of its grid.

    Attributes:
        x: positions (power-of-two scales), or shares of the full range (float scales); per channel, positions
            are counted from the one that just avoids overflow.
        sqnr_db: the ratio at each x, dB.
        picks: method -> (x, dB) of its own choice.
        chosen: the method of the quantizer.
        x_label: what x is.
    """

    x: np.ndarray
    sqnr_db: np.ndarray
    picks: Mapping[str, tuple[float, float]]
    chosen: str
    x_label: str


def error_curve(values: np.ndarray, spec: QuantizerSpec) -> Curve:
    """Try grids around the one that covers the range, and let each method choose.

    Args:
        values: float32, any shape.
        spec: the quantizer; its method counts only for `chosen`.

    Returns:
        The curve. MIN_KL is left out for more than a few channels, where its search takes seconds.

    Raises:
        ValueError: as `primitives.choose`.
    """
    plain = choose(values, spec.with_(method=Method.NON_OVERFLOW))
    tried = [_moved(plain, step) for step in _steps(plain)]
    x = np.array([_place(q, plain) for q in tried])
    ratios = np.array([own_sqnr(values, q) for q in tried])
    order = np.argsort(x)
    picks = {}
    for method in _methods(spec, values.shape):
        cost = cost_of(values, spec.with_(method=method))
        picks[method.name] = (_place(cost.qparams, plain), cost.sqnr_db)
    return Curve(x[order], ratios[order], picks, spec.method.name, _label(plain))


def _methods(spec: QuantizerSpec, shape: tuple[int, ...]) -> list[Method]:
    if spec.quantizer_type is QuantizerType.TQT:
        return [Method.NON_OVERFLOW]
    channels = shape[spec.channel_axis] if spec.per_channel else 1
    slow = channels > MANY_CHANNELS and spec.method is not Method.MIN_KL
    return [m for m in Method if not (slow and m is Method.MIN_KL)]


def _steps(plain: QParams) -> np.ndarray:
    return AROUND if plain.spec.pow2 else SHARES


def _moved(plain: QParams, step: float) -> QParams:
    if plain.pos is not None:
        return QParams(plain.spec, plain.f_min, plain.f_max, plain.pos + np.float32(step))
    share = np.float32(step)
    return QParams(plain.spec, plain.f_min * share, plain.f_max * share)


def _place(chosen: QParams, plain: QParams) -> float:
    """Where a choice stands on the axis; per channel, the mean over the channels."""
    if chosen.pos is not None and plain.pos is not None:
        return float(chosen.pos if chosen.pos.ndim == 0 else np.mean(chosen.pos - plain.pos))
    widths = [np.asarray(q.f_max - q.f_min, np.float64) for q in (chosen, plain)]
    return float(np.mean(widths[0] / np.maximum(widths[1], np.finfo(np.float32).tiny)))


def _label(plain: QParams) -> str:
    if plain.pos is None:
        return "share of the full range"
    return "position (fractional bits)" if plain.pos.ndim == 0 else "position, from no overflow"
