"""What can be wrong, and the sentence that says so with a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit.primitives.qparams import QParams
from vqkit.quantization.plan import QuantizedRow, Role
from vqkit.quantization.refine.outside import ends, outside

Values = NDArray[np.floating[Any]]


class Kind(StrEnum):
    """What is wrong."""

    EVALUATION = "evaluation data"
    LABELS = "labels"
    CALIBRATION = "calibration data"
    FEW = "few calibration samples"
    CONSTANT = "constant calibration data"
    SPREAD = "channel spread"
    DEAD = "dead channel"
    OUTLIER = "outlier"
    CLIPPING = "clipping"
    BITS = "too few bits"
    POSITION = "position moved"
    POW2 = "power-of-two scale"
    SYMMETRY = "one-sided values"
    SOFTMAX = "saturated softmax"
    SUM = "many small errors"

    @property
    def of_data(self) -> bool:
        """Whether no strategy repairs it."""
        return self in (Kind.EVALUATION, Kind.LABELS, Kind.CALIBRATION, Kind.FEW, Kind.CONSTANT)


@dataclass(frozen=True, eq=False)
class Cause:
    """One reason why the metric fell.

    Attributes:
        kind: what is wrong.
        tensor: plan row name, `<layer>/<tensor>`; the worst one where it is wrong everywhere; "" for data.
        sentence: with the figure that shows it.
        everywhere: whether all tensors of the role have it.
        share: of the noise at the output, as far as tensors have a share; NaN for data.
        row: the tensor; None for data.
        values: float, of the tensor, as the picture shows them; None for data.
        params: its grid; None for data.
    """

    kind: Kind
    tensor: str
    sentence: str
    everywhere: bool = False
    share: float = float("nan")
    row: QuantizedRow | None = None
    values: Values | None = field(default=None, repr=False)
    params: QParams | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The cause without arrays."""
        share = None if self.share != self.share else self.share
        said = {"kind": self.kind.value, "tensor": self.tensor, "sentence": self.sentence}
        return {**said, "everywhere": self.everywhere, "share": share}


_ROLES = {Role.INPUT: "input", Role.WEIGHT: "weights", Role.BIAS: "biases", Role.ACTIVATION: "activations"}


def reach(values: Values, axis: int) -> NDArray[np.float64]:
    """Largest magnitude of each channel, shape (channels,)."""
    moved = np.moveaxis(np.abs(np.asarray(values, np.float64)), axis, -1)
    return np.asarray(moved.reshape(-1, moved.shape[-1]).max(axis=0))


def channel_axis(row: QuantizedRow, values: Values) -> int:
    """Axis of the channels: the quantizer's of a weight, the last one of an activation."""
    axis = row.spec.channel_axis
    return axis if row.is_weight and -values.ndim <= axis < values.ndim else -1


def name_of(row: QuantizedRow) -> str:
    """What a person calls the tensor."""
    own = row.tensor if row.is_weight else "input" if row.role is Role.INPUT else row.tensor
    return f"the {own} of {row.origin[0] if row.role is Role.INPUT and row.origin else row.layer}"


def said(kind: Kind, row: QuantizedRow, values: Values, params: QParams, better: QParams | None, note: str = "") -> str:
    """The sentence about one tensor.

    Args:
        kind: what is wrong with it.
        row: the tensor.
        values: float, any shape; of an activation with the samples in front.
        params: its grid.
        better: the grid that takes the noise away; None where there is none.
        note: what else is known: the dead channel, the activation that is computed behind it.
    """
    bits, name = params.spec.bit_width, name_of(row)
    low, high, step = ends(params)
    size = np.abs(np.asarray(values, np.float64))
    if kind in (Kind.SPREAD, Kind.DEAD):
        own = reach(values, channel_axis(row, values))
        least = own[own > 0].min() if own.any() else 1.0
        wide = int(own.argmax())
        text = f"{name} spans {own.max() / least:.3g}:1 between channels under one scale; channel {wide} sets it"
        return (
            f"{text} and gives the same for every sample" if kind is Kind.DEAD else f"{text} ({note})" if note else text
        )
    if kind is Kind.OUTLIER:
        typical = float(np.median(size[size > 0])) if size.any() else 0.0
        return (
            f"{name} has outliers: its range reaches {_end(low, high):.3g}, half of its values lie within {typical:.3g}"
        )
    if kind is Kind.CLIPPING:
        lost = outside(values, params)
        return (
            f"{name} is cut off: {params.spec.method.name} ends its range at {_end(low, high):.3g}, the values reach "
            f"{size.max():.3g}; {100 * lost.values:.3g} % of them and {100 * lost.energy:.3g} % of the energy are lost"
        )
    typical = float(np.sqrt(np.mean(size**2)))
    if kind is Kind.POSITION:
        moved = "" if better is None else f", calibrated {np.ravel(better.scale)[0]:.3g}"
        return f"{name} has a step of {np.max(step):.3g}{moved}: its position was moved to suit other tensors"
    if kind is Kind.POW2:
        finer = "" if better is None else f", a float scale would have {np.max(better.scale):.3g}"
        return f"{name} has the step {np.max(step):.3g} because scales are powers of two{finer}"
    if kind is Kind.SYMMETRY:
        part = f"{np.min(values):.3g} to {np.max(values):.3g}"
        return f"{name} lies within {part}, and half of its codes stand for the other sign"
    if kind is Kind.SOFTMAX:
        one = float(np.max(step))
        odds = f"{np.exp(min(one, 50.0)):.3g}"
        return f"{name} goes into the softmax {note}: one step is {one:.3g}, which changes odds {odds} times"
    return f"{name} has {bits} bits: one step is {np.max(step):.3g}, its values are {typical:.3g} (root mean square)"


def everywhere(kind: Kind, role: Role, count: int, sentence: str, change: str) -> str:
    """The sentence about all tensors of a role.

    Args:
        kind: what is wrong with most of them.
        role: of the tensors.
        count: how many they are.
        sentence: about the worst one.
        change: what takes the noise away.
    """
    return f"all {count} {_ROLES[role]}: {kind.value} ({change} takes it away); worst, {sentence}"


def _end(low: Values, high: Values) -> float:
    return float(max(np.max(np.abs(low)), np.max(np.abs(high))))
