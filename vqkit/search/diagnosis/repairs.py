"""Single changes of a strategy that may repair it: what each costs, and what it brings when it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vqkit import statistics
from vqkit.errors import VqkitError
from vqkit.graph.ir import Graph
from vqkit.primitives.spec import Method, QuantizerType
from vqkit.quantization.plan import Plan, QuantizedRow, Role, Slot
from vqkit.search.diagnosis.causes import Kind
from vqkit.search.diagnosis.tensors import Alternative
from vqkit.search.engine import Engine, Measured
from vqkit.search.questions import with_rules
from vqkit.strategy import Strategy
from vqkit.strategy.fit import UnusedError
from vqkit.tables import Measure

ALPHA = 1 - statistics.CONFIDENCE
ONE, ALL, PASS, TRAINED = 1.0, 2.0, 4.0, 20.0
"""What a change costs before bytes and operations: of one tensor, of all of a role, another pass over the data,
training."""
FIXED = ("adjust_dpu_sigmoid", "adjust_dpu_shift_cut", "adjust_dpu_shift_bias", "adjust_dpu_shift_read",
         "adjust_dpu_shift_write", "adjust_dpu_shift_swish", "adjust_dpu_shift_bias_leakyrelu", "align_concat",
         "align_pool")  # fmt: skip
"""Keys that move positions after calibration."""


@dataclass(frozen=True, eq=False)
class Repair:
    """A change of the strategy.

    Attributes:
        name: what changes, for people.
        change: makes the changed strategy.
        effort: what it costs beside bytes and operations.
        strategy: what `change` made of the strategy that is repaired; None before it was measured.
        measured: what that does.
        cost: `effort`, and what bytes of weights and bit-operations grow by, in per cent.
        gain: of the metric against the strategy that is repaired, in its unit; positive is better.
        removed: share of the noise at the output that it takes away.
        p_value: of such a gain by chance.
    """

    name: str
    change: Callable[[Strategy], Strategy]
    effort: float
    strategy: Strategy | None = None
    measured: Measured | None = None
    cost: float = float("nan")
    gain: float = 0.0
    removed: float = 0.0
    p_value: float = 1.0

    @property
    def helps(self) -> bool:
        """Whether the gain is more than chance."""
        return self.gain > 0 and self.p_value <= ALPHA

    @property
    def rank(self) -> tuple[float, float]:
        """Gain for its cost, as far as it is more than chance, and then the noise that it takes away for it."""
        return (self.gain / self.cost if self.helps else 0.0), self.removed / self.cost

    def to_json(self) -> dict[str, Any]:
        """What was measured, as JSON values."""
        m = self.measured
        assert m is not None
        low, high = m.evidence.interval
        value = {m.measure.name: m.value, "low": low, "high": high, "gain": self.gain, "p_value": self.p_value}
        return {"repair": self.name, **value, "noise_removed": self.removed, "cost": self.cost}


def noise(measured: Measured) -> float:
    """The noise at the output: divergence in nats, without classes noise by signal."""
    own = measured.kl
    return max(own, 0.0) if own == own else float(10 ** (-measured.sqnr_db / 10))


def ask(repair: Repair, engine: Engine, base: Strategy, before: Measured) -> Repair | None:
    """The repair with what it brings; None where the strategy cannot be changed so, or is not changed by it.

    Args:
        repair: not yet measured.
        engine: measures.
        base: the strategy that is repaired.
        before: what it does.
    """
    try:
        changed = _heard(repair.change(base), engine, base)
        if changed == base:
            return None
        found = engine.measure(changed)
    except VqkitError:
        return None
    grown = [
        100 * max(0.0, new / old - 1) if old and old == old else 0.0
        for new, old in ((found.size_bytes, before.size_bytes), (found.bit_operations, before.bit_operations))
    ]
    gain = found.measure.sign * (found.value - before.value)
    was = noise(before)
    return replace(
        repair,
        strategy=changed,
        measured=found,
        cost=repair.effort + sum(grown),
        gain=float(gain),
        removed=1 - noise(found) / was if was else 0.0,
        p_value=found.evidence.p_value(before.evidence),
    )


def _heard(changed: Strategy, engine: Engine, base: Strategy) -> Strategy:
    """The changed strategy without wider rules that the change leaves nothing to decide."""
    compat = engine.settings.vitis_compat
    try:
        engine.bench.plan(changed, vitis_compat=compat)
    except UnusedError as e:
        said = {u.pointer for u in e.unused}
        before = {where for r in engine.bench.plan(base, vitis_compat=compat).rows for _, where in r.origins.values()}
        if not said <= before:
            raise
        return changed.without(said)
    return changed


def for_tensor(row: QuantizedRow, alternative: Alternative) -> Repair | None:
    """The repair that gives one tensor another quantizer; None where no rule says it.

    Args:
        row: the tensor.
        alternative: its quantizer.
    """
    if alternative.kind is Kind.POSITION:
        return unmoved()
    if not alternative.change:
        return None
    rule = {f"{_key(row.role)}_{k}": v for k, v in alternative.change.items()}
    if "bit" in alternative.change:
        rule[f"{_key(row.role)}_method"] = Method.NON_OVERFLOW.name
    layer = _layer(row)
    return Repair(f"{layer}: {_words(row.role, alternative)}", lambda s: with_rules(s, {layer: rule}), ONE)


def for_role(role: Role, alternative: Alternative) -> Repair | None:
    """The repair that gives all tensors of a role another quantizer; None where no key says it."""
    if alternative.kind is Kind.POSITION:
        return unmoved()
    if not alternative.change:
        return None
    return _keys(_words(role, alternative), {f"{_key(role)}_{k}": v for k, v in alternative.change.items()}, ALL)


def _words(role: Role, alternative: Alternative) -> str:
    what = {Role.WEIGHT: "weights", Role.BIAS: "biases", Role.INPUT: "inputs", Role.ACTIVATION: "activations"}[role]
    method = alternative.change.get("method")
    return f"{what} {'by ' if method else ''}{alternative.words}"


def _key(role: Role) -> str:
    return role.value


def _layer(row: QuantizedRow) -> str:
    """What a name rule calls the layer."""
    if row.slot is not Slot.INPUT:
        return row.layer
    return row.origin[0] if row.reason == "model input" else row.layer.removeprefix("quant_")


def unmoved() -> Repair:
    """Positions as they were calibrated."""
    return _keys("positions as calibrated", dict.fromkeys(FIXED, False), ALL)


def _keys(name: str, keys: Mapping[str, Any], effort: float) -> Repair:
    return Repair(name, lambda s: s.with_kwargs(**keys), effort)


def general(plan: Plan, graph: Graph, base: Strategy, roles: Iterable[Role]) -> Iterator[Repair]:
    """Repairs of the whole model that apply to a plan, cheap ones first.

    Args:
        plan: of the strategy.
        graph: the prepared model.
        base: the strategy.
        roles: the tensors that matter.
    """
    rows = {role: [r for r in plan.quantized if r.role is role] for role in Role}
    wanted = set(roles)
    if Role.BIAS in wanted and any(r.spec.bit_width < 16 for r in rows[Role.BIAS]):
        yield _keys("biases 16 bits", {"bias_bit": 16}, ALL)
    if Role.WEIGHT in wanted:
        yield from _of_weights(rows[Role.WEIGHT], graph, base)
    values = [r for r in rows[Role.ACTIVATION] if r.spec.quantizer_type is not QuantizerType.TQT]
    if Role.ACTIVATION in wanted and values:
        yield from _of_values(values)
    if not base.refine.include_bias_corr:
        yield _keys("bias correction", {"include_bias_corr": True}, PASS)


def _of_weights(rows: Sequence[QuantizedRow], graph: Graph, base: Strategy) -> Iterator[Repair]:
    if any(not r.spec.per_channel for r in rows):
        yield _keys("weights per channel", {"weight_per_channel": True}, ALL)
        bounded = any(n.layer and _is_relu6(graph, n.layer) for n in graph.nodes)
        if base.optimize.include_cle and bounded and not base.optimize.cle_to_relu6:
            yield _keys("equalization across ReLU6", {"cle_to_relu6": True}, ALL)
        if not base.optimize.include_cle:
            yield _keys("equalization", {"include_cle": True, "cle_to_relu6": True}, ALL)
    if any(r.spec.bit_width < 8 for r in rows):
        yield _keys("weights 8 bits", {"weight_bit": 8}, ALL)
    methods = {r.spec.method for r in rows if r.spec.quantizer_type is not QuantizerType.TQT}
    for method in (Method.NON_OVERFLOW, Method.MIN_MSE):
        if methods - {method}:
            yield _keys(f"weights by {method.name}", {"weight_method": method.name}, ALL)


def _of_values(rows: Sequence[QuantizedRow]) -> Iterator[Repair]:
    for method in (Method.NON_OVERFLOW, Method.MIN_MSE):
        if {r.spec.method for r in rows} - {method}:
            yield _keys(f"activations by {method.name}", {"activation_method": method.name}, ALL)
    if any(r.spec.symmetry and not r.spec.pow2 for r in rows):
        yield _keys("activations one-sided", {"activation_symmetry": False}, ALL)
    if any(r.spec.bit_width < 8 for r in rows):
        yield _keys("activations 8 bits", {"activation_bit": 8}, ALL)
    if any(r.spec.bit_width < 16 for r in rows):
        yield _keys("activations 16 bits", {"activation_bit": 16}, ALL)


def _is_relu6(graph: Graph, layer: str) -> bool:
    own = graph.layers[layer]
    return (own.kind == "ReLU" and bool(own.config.get("max_value"))) or own.config.get("activation") == "relu6"


def reconstruction() -> Repair:
    """Block reconstruction, which costs most."""
    return _keys("block reconstruction", {"include_block_reconstruction": True}, TRAINED)


def rows_of(repairs: Sequence[Repair], measure: Measure) -> list[list[str]]:
    """Cells of a table of measured repairs; `HEADER` names its columns."""
    found = []
    for r in repairs:
        assert r.measured is not None
        low, high = (measure.plain(v) for v in r.measured.evidence.interval)
        value = f"{measure.plain(r.measured.value)} ({low}–{high})"
        noise_removed = f"{100 * r.removed:.0f} %"
        found.append(
            [r.name, value, measure.signed(measure.sign * r.gain), f"{r.p_value:.2g}", noise_removed, f"{r.cost:.3g}"]
        )
    return found


def header(measure: Measure) -> tuple[str, ...]:
    """Headings of the columns of `rows_of`."""
    return ("repair", f"{measure.label} (95 %)", "Δ", "p", "noise removed", "cost")
