"""Specs and inputs that the primitives are compared on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vqkit.primitives.spec import QuantizerSpec, QuantizerType, RoundMode

Array = npt.NDArray[np.float32]

POF2S, TQT, FS = QuantizerType.POF2S, QuantizerType.TQT, QuantizerType.FS
EXTREME = np.float32(
    [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1e-40,
        -1e-40,
        1.2e-38,
        -1.2e-38,
        1e30,
        -1e30,
        3.4e38,
        -3.4e38,
        0.49999997,
        -0.49999997,
    ]
)


def grids(*, bits: Iterable[int] = (2, 3, 4, 8), kind: QuantizerType = POF2S) -> list[QuantizerSpec]:
    """Every combination of grid and rounding at the given widths."""
    flags = itertools.product(bits, RoundMode, (True, False), ("signed", "narrow", "unsigned"))
    return [
        QuantizerSpec(
            kind,
            bit_width=width,
            round_mode=mode,
            symmetry=symmetry,
            narrow_range=form == "narrow",
            unsigned=form == "unsigned",
        )
        for width, mode, symmetry, form in flags
    ]


def name(spec: QuantizerSpec) -> str:
    """A short test id."""
    flags = [f for f in ("per_channel", "narrow_range", "unsigned", "use_framework_quant") if getattr(spec, f)]
    form = "sym" if spec.symmetry else "asym"
    return "-".join(
        [
            spec.quantizer_type.removesuffix("Quantizer"),
            str(spec.bit_width),
            spec.round_mode.name,
            form,
            *flags,
        ]
    )


def every_code(spec: QuantizerSpec, step: float) -> Array:
    """Each code's value, the ties between codes, one float32 step around each, and what lies beyond."""
    codes = np.arange(spec.q_min - 2, spec.q_max + 3, dtype=np.float64)
    exact = np.float32(np.concatenate([codes, codes + 0.5]) * step)
    around = [np.nextafter(exact, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([exact, *around, EXTREME])


def range_for(spec: QuantizerSpec, step: float) -> tuple[Array, Array]:
    """The range that a grid with this step covers, as float32."""
    return np.float32(spec.q_min * step), np.float32(spec.q_max * step)
