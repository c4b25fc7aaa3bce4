"""Which tensors the noise at the output comes from, and what change of a tensor's quantizer takes it away.

Each tensor is quantized alone, and the output is compared with float: so the question is exact, and one walk over
the samples answers it for all tensors. Its grid is the one that its float values get: behind a tensor that is broken,
the grid of the whole model is a consequence. Where a position was moved after calibration, the moved one counts. The
suspects are then asked again under other quantizers; what helps without more bits says what is wrong with the tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from vqkit.primitives.choose import choose
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, compat_refusal
from vqkit.quantization.plan import Plan, QuantizedRow, Role
from vqkit.quantization.prepare import PreparedModel
from vqkit.quantization.quantized import Quantized
from vqkit.quantization.refine.outside import ends
from vqkit.search.diagnosis.causes import Kind
from vqkit.search.engine import Engine
from vqkit.search.probe import Probes

ENOUGH, POW2_ENOUGH = 0.75, 0.6
"""Share of a tensor's noise that a change must take away to say what is wrong: what one bit more would (6 dB); and of
a float scale, which is never worth more than that."""
HEEDED = 0.1
"""Share of all noise from which on a tensor, or a role, is looked at."""
SUSPECTS = 4
"""At most so many tensors are looked at, and as many of each role."""
CHEAPER = 2.0
"""A simpler change is preferred that leaves at most so many times the noise of the best one."""
PERCENTILE = 99.9


@dataclass(frozen=True)
class Contribution:
    """What one tensor alone does to the output.

    Attributes:
        row: the tensor.
        noise: divergence in nats, or noise by signal where the model has no classes.
        share: of the sum over all tensors.
    """

    row: QuantizedRow
    noise: float
    share: float


@dataclass(frozen=True)
class Alternative:
    """Another quantizer for a tensor.

    Attributes:
        words: what changes, for people.
        kind: what is wrong where this helps; None where that depends on which way the range moves.
        change: key of a rule without its role -> value; empty where no rule says it.
        spec: the quantizer; None for what calibration had decided.
        wider: whether it takes more bits.
    """

    words: str
    kind: Kind | None
    change: Mapping[str, Any] = field(hash=False)
    spec: QuantizerSpec | None = field(hash=False)
    wider: bool = False


def noise_of(answer: Mapping[str, float]) -> float:
    """The noise of an answer: its divergence, without classes noise by signal."""
    divergence = answer["kl"]
    return max(divergence, 0.0) if divergence == divergence else float(10 ** (-answer["sqnr_db"] / 10))


def contributions(engine: Engine, prepared: PreparedModel, made: Quantized) -> list[Contribution]:
    """The tensors by what each of them alone does to the output, most noise first.

    Args:
        engine: asks; its samples count.
        prepared: the model, under the strategy.
        made: quantized with it.

    Returns:
        All tensors but those that some readers get in float.
    """
    rows = {r.name: r for r in prepared.plan.quantized}
    decided = {name: {name: made.encodings[name]} for name, row in rows.items() if is_moved(row, made)}
    asked = Probes(engine, made.strategy, {n: alone(r) for n, r in rows.items()}, prepared.graph, decided)
    found = {name: noise_of(answer) for name, answer in asked.answers().items()}
    whole = sum(found.values()) or 1.0
    return sorted((Contribution(rows[n], v, v / whole) for n, v in found.items()), key=lambda c: -c.noise)


def is_moved(row: QuantizedRow, made: Quantized) -> bool:
    """Whether something after calibration decided about a tensor's grid."""
    searched = made.strategy.refine.include_threshold_search and not row.is_weight
    return searched or made.calibrated[row.name] != made.encodings[row.name]


def alone(row: QuantizedRow, spec: QuantizerSpec | None = None) -> Plan:
    """The plan that quantizes one tensor and leaves all else float."""
    return Plan((row if spec is None else replace(row, spec=spec),), "", "", "")


def alternatives(row: QuantizedRow, made: Quantized) -> list[Alternative]:
    """Quantizers that a tensor might have instead, those first that are simpler to have.

    Args:
        row: the tensor.
        made: the quantized model.
    """
    spec, weight = row.spec, row.role is Role.WEIGHT
    found: list[Alternative] = []
    if is_moved(row, made):
        found.append(Alternative("as it was calibrated", Kind.POSITION, {}, None))
    if spec.quantizer_type is not QuantizerType.TQT:
        found += [_by(m, spec) for m in (Method.NON_OVERFLOW, Method.MIN_MSE, Method.PERCENTILE) if m != spec.method]
    if not row.is_weight and spec.symmetry and not spec.unsigned and not spec.pow2:
        found.append(Alternative("one-sided", Kind.SYMMETRY, {"symmetry": False}, spec.with_(symmetry=False)))
    if not spec.per_channel and row.role is not Role.BIAS and _shape(row, made):
        # No device has a scale for each channel of an activation; here it only says what is wrong.
        own = spec if weight else spec.with_(method=Method.NON_OVERFLOW)
        change = {"per_channel": True} if weight else {}
        found.append(Alternative("per channel", Kind.SPREAD, change, own.with_(per_channel=True)))
    if spec.pow2:
        floats = spec.with_(quantizer_type=QuantizerType.FS)
        found.append(Alternative("a float scale", Kind.POW2, {}, floats))
    found += [
        Alternative(f"{bits} bits", Kind.BITS, {"bit": bits}, spec.with_(bit_width=bits), wider=True)
        for bits in ((16, 32) if row.role is Role.BIAS else (8, 16))
        if bits > spec.bit_width
    ]
    return [a for a in found if not (made.vitis_compat and a.spec is not None and compat_refusal(a.spec))]


def _by(method: Method, spec: QuantizerSpec) -> Alternative:
    change: dict[str, Any] = {"method": method.name}
    if method == Method.PERCENTILE:
        change["method_percentile"] = PERCENTILE
        return Alternative(method.name, None, change, spec.with_(method=method, method_percentile=PERCENTILE))
    return Alternative(method.name, None, change, spec.with_(method=method))


def _shape(row: QuantizedRow, made: Quantized) -> tuple[int | None, ...]:
    if row.is_weight:
        return tuple(made.graph.layers[row.layer].weights[row.tensor].shape)
    assert row.value is not None
    return tuple(made.graph.values[row.value].shape)[1:]


@dataclass(frozen=True)
class Tried:
    """What a tensor alone does under another quantizer.

    Attributes:
        noise: as in `Contribution`.
        params: what was decided.
    """

    noise: float
    params: QParams


def tried(
    engine: Engine, prepared: PreparedModel, made: Quantized, rows: Iterable[QuantizedRow]
) -> dict[str, dict[Alternative, Tried]]:
    """Each tensor alone under each of its alternatives.

    Args:
        engine: asks; its samples count.
        prepared: the model, under the strategy.
        made: quantized with it.
        rows: tensors of its plan.

    Returns:
        Name of the tensor -> alternative -> what it does, in the order of `alternatives`.
    """
    asked = {(row.name, a): row for row in rows for a in alternatives(row, made)}
    plans = {key: alone(row, key[1].spec) for key, row in asked.items()}
    decided = {(name, a): {name: made.calibrated[name]} for name, a in asked if a.spec is None}
    probes = Probes(engine, made.strategy, plans, prepared.graph, decided)
    answers = probes.answers()
    found: dict[str, dict[Alternative, Tried]] = {row.name: {} for row in asked.values()}
    for key, row in asked.items():
        if key in answers:
            params = probes.probes[key].params
            if params is None:
                weights = prepared.graph.layers[row.layer].weights[row.tensor]
                params = made.calibrated[row.name] if key[1].spec is None else choose(weights, key[1].spec)
            found[row.name][key[1]] = Tried(noise_of(answers[key]), params)
    return found


def explanation(own: float, answers: Mapping[Alternative, float], narrow: bool = False) -> Alternative | None:
    """The change that says what is wrong: without more bits where such a one is worth more than a bit.

    Args:
        own: the noise as it is, above 0.
        answers: alternative -> the noise that it leaves, simpler ones first.
        narrow: whether the tensor has fewer bits than others of its role; bits are then what is looked at first.

    Returns:
        None where nothing takes enough of the noise away.
    """
    for wider in (True, False) if narrow else (False, True):
        some = {a: noise for a, noise in answers.items() if a.wider == wider and 1 - noise / own >= _enough(a)}
        if some:
            least = min(some.values())
            return next(a for a, noise in some.items() if noise <= max(CHEAPER * least, 0.02 * own))
    return None


def _enough(alternative: Alternative) -> float:
    return POW2_ENOUGH if alternative.kind is Kind.POW2 else ENOUGH


def is_narrow(row: QuantizedRow, plan: Plan) -> bool:
    """Whether a tensor has fewer bits than most others of its kind: weights, biases, or values."""

    def kind(r: QuantizedRow) -> Role:
        return Role.ACTIVATION if r.role is Role.INPUT else r.role

    return row.spec.bit_width < median(r.spec.bit_width for r in plan.quantized if kind(r) is kind(row))


def moved_range(before: QParams, after: QParams) -> Kind:
    """What was wrong with a range that another method helps: it cut values off, or had to hold outliers."""
    widths = [float(np.max(high - low)) for low, high, _ in map(ends, (before, after))]
    return Kind.CLIPPING if widths[1] > widths[0] else Kind.OUTLIER


def suspects(found: Sequence[Contribution]) -> list[Contribution]:
    """The tensors that are looked at."""
    return [c for c in found if c.share >= HEEDED][:SUSPECTS]


def by_role(found: Sequence[Contribution]) -> dict[Role, list[Contribution]]:
    """The tensors of each role whose share together is large enough, the largest role first."""
    roles = {role: [c for c in found if c.row.role is role] for role in Role}
    shares = {role: sum(c.share for c in own) for role, own in roles.items()}
    return {role: roles[role] for role in sorted(Role, key=lambda r: -shares[r]) if shares[role] >= HEEDED}
