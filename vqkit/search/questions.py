"""Units of a model that can have bits of their own, and the strategies that ask about one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from vqkit.quantization.plan import Plan, Role

if TYPE_CHECKING:
    from vqkit.graph.ir import Graph
    from vqkit.quantization.prepare import PreparedModel
    from vqkit.strategy import Strategy

Rules = dict[str, dict[str, Any]]
KINDS = ("weights", "activations", "both")
MODES = ("only", "all_but")


@dataclass(frozen=True)
class Unit:
    """A layer with what it gives, as a person thinks of it.

    Attributes:
        layer: its name in tables: the weighted layer's, else that of the layer behind which is quantized.
        weights: layer whose weights are quantized, "" for none.
        activation: layer or input behind which is quantized, "" for none.
        is_input: whether that is an input of the model.
        parameters: number of its quantized weights without biases.
    """

    layer: str
    weights: str = ""
    activation: str = ""
    is_input: bool = False
    parameters: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be asked about it."""
        if self.weights and self.activation:
            return KINDS
        return ("weights",) if self.weights else ("activations",)


@dataclass(frozen=True)
class Question:
    """What happens when a unit's tensors, or all but they, are quantized to so many bits.

    Attributes:
        unit: whose tensors.
        kind: one of `KINDS`.
        bits: width.
        mode: one of `MODES`.
        per_channel: of the unit's weights; None leaves it to the base strategy.
    """

    unit: Unit
    kind: str
    bits: int
    mode: str
    per_channel: bool | None = None


def units(prepared: PreparedModel) -> list[Unit]:
    """The units of a prepared model, in graph order.

    Args:
        prepared: under the strategy whose quantizers count.
    """
    plan, graph = prepared.plan, prepared.graph
    behind = {r.layer for r in plan.quantized if r.role is Role.ACTIVATION}
    sizes = {
        r.layer: int(graph.layers[r.layer].weights[r.tensor].size) for r in plan.quantized if r.role is Role.WEIGHT
    }
    found = [Unit(name, "", name, is_input=True) for name in _inputs(plan)]
    taken: set[str] = set()
    for node in graph.nodes:
        weights = node.layer if node.layer in sizes and node.name == node.layer else ""
        tail = _behind(graph, node.name, behind) if weights else node.name if node.name in behind else ""
        if tail in taken:
            tail = ""
        if weights or tail:
            taken.add(tail)
            found.append(Unit(weights or tail, weights, tail, parameters=sizes.get(weights, 0)))
    return found


def _inputs(plan: Plan) -> list[str]:
    return [r.origin[0] for r in plan.quantized if r.role is Role.INPUT and r.reason == "model input"]


def _behind(graph: Graph, name: str, behind: set[str]) -> str:
    """Where the output of a weighted node is quantized: behind itself, or behind the activation after it."""
    node, readers = graph.node(name), graph.consumers()
    while node.name not in behind:
        after = readers[node.output]
        if (
            len(after) != 1
            or len(after[0].inputs) != 1
            or (after[0].name in graph.layers and _weighted(graph, after[0].layer))
        ):
            return ""
        node = after[0]
    return node.name


def _weighted(graph: Graph, layer: str) -> bool:
    return "kernel" in graph.layers[layer].weights


def strategy_for(base: Strategy, question: Question) -> Strategy:
    """The strategy that answers a question; what a user would write to get that model.

    Args:
        base: gives quantizers, passes and everything the question does not name.
        question: what is asked.
    """
    unit, kind, bits = question.unit, question.kind, question.bits
    if question.mode == "only":
        rules = quantized_alone(unit, kind, bits)
        if question.per_channel is not None:
            rules[unit.weights]["weight_per_channel"] = question.per_channel
        return with_rules(base, {"*": {"quantize": "nothing"}, **rules})
    return with_rules(base, {**left_float(unit, kind)}, everything=bits)


def quantized_alone(unit: Unit, kind: str, bits: int) -> Rules:
    """Name rules that quantize a unit's tensors of one kind where "*" leaves all else float."""
    rules: Rules = {}
    if kind != "activations":
        rules[unit.weights] = {"quantize": "weights", "weight_bit": bits}
    if kind != "weights":
        own: dict[str, Any] = {"input_bit" if unit.is_input else "activation_bit": bits}
        whole = unit.activation in rules
        before = rules.get(unit.activation, {})
        rules[unit.activation] = {**before, **own, "quantize": True if whole else "activations"}
    return rules


def left_float(unit: Unit, kind: str) -> Rules:
    """Name rules that leave a unit's tensors of one kind float."""
    weights = {} if kind == "activations" else {unit.weights: {"quantize": "activations"}}
    if kind == "weights":
        return dict(weights)
    word = "nothing" if unit.activation in weights else "weights"
    return {**weights, unit.activation: {"quantize": word}}


def with_rules(base: Strategy, rules: Rules, *, everything: int | None = None) -> Strategy:
    """A strategy with name rules put over those it has.

    Args:
        base: may have rules; what they say about the named layers stays where the new ones say nothing.
        rules: name or "*" -> what to say; "*" silences the rules that `base` has.
        everything: bits of all weights, activations and inputs; None leaves them.
    """
    old = base.name_rules
    kept = {} if "*" in rules else old
    merged = {name: {**_said(old, name), **rule} if name != "*" else rule for name, rule in rules.items()}
    if everything is not None:
        kept = {p: _without_bits(rule) for p, rule in kept.items()}
        merged = {n: _without_bits(rule) for n, rule in merged.items()}
        base = base.with_kwargs(**dict.fromkeys(_bit_keys(base), everything))
    every = {**{p: r for p, r in kept.items() if p not in merged}, **merged}
    return base.with_name_rules(every, source=base.name)


def _said(rules: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What rules say about a layer, weakest first: globs in order, then its own."""
    globs = [p for p in rules if p != name and fnmatchcase(name, p)]
    said: dict[str, Any] = {}
    for pattern in [*globs, *([name] if name in rules else [])]:
        said |= {"data_type": rules[pattern]} if isinstance(rules[pattern], str) else rules[pattern]
    return said


def _without_bits(rule: Any) -> Any:
    return {k: v for k, v in rule.items() if not k.endswith("_bit")} if isinstance(rule, dict) else rule


def _bit_keys(base: Strategy) -> list[str]:
    rules = [r for t in base.layer_types if (r := base.layer_rule(t)) is not None]
    has = {
        "weight_bit": any(r.weights for r in rules),
        "input_bit": True,
        "activation_bit": any(r.activations or r.outputs for r in rules),
    }
    return [key for key, yes in has.items() if yes]


def questions(found: Sequence[Unit], bits: Sequence[int], kinds: Sequence[str], modes: Sequence[str]) -> list[Question]:
    """Every question about these units, unit by unit."""
    return [
        Question(unit, kind, width, mode)
        for unit in found
        for kind in unit.kinds
        if kind in kinds
        for mode in modes
        for width in bits
    ]
