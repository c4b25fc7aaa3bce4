"""Why a layer's quantizers are as they are: every parameter with all rules that spoke about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from vqkit.errors import StrategyError, not_allowed
from vqkit.primitives.spec import Method, RoundMode
from vqkit.strategy.cascade import Declaration, ResolvedQuantizer, winner
from vqkit.strategy.rules import LayerRule

if TYPE_CHECKING:
    from vqkit.strategy.strategy import Strategy


@dataclass(frozen=True)
class ExplainedParameter:
    """One parameter of one tensor.

    Attributes:
        tensor: "weight kernel", "activation activation", "output 0", …
        param: parameter, such as "bit_width".
        value: what was decided.
        steps: every rule that spoke, weakest first.
    """

    tensor: str
    param: str
    value: object
    steps: tuple[Declaration, ...]

    def __str__(self) -> str:
        value = shown(self.param, self.value)
        told = "  →  ".join(_told(self.param, step) for step in self.steps)
        return f"{self.tensor:<24} {self.param:<20} {value:<18} {told}"


@dataclass(frozen=True)
class Explanation:
    """All lines of a layer; prints as a table."""

    title: str
    lines: tuple[ExplainedParameter, ...]

    def __str__(self) -> str:
        return "\n".join([self.title, *map(str, self.lines)])


def explain(
    strategy: Strategy, layer_type: str, layer_name: str | None = None, *, vitis_compat: bool = False
) -> Explanation:
    """Tell who decided what for a layer, and who was overruled.

    Args:
        strategy: the strategy.
        layer_type: class name, such as "Conv2D"; "InputLayer" for the model's inputs.
        layer_name: the layer's name, for name rules.
        vitis_compat: a global key also beats an edited entry.

    Raises:
        StrategyError: the strategy has no entry for the type.
    """
    title = f"{layer_type} {layer_name or ''}".strip()
    if layer_type == "InputLayer":
        resolved = strategy.input_rule(layer_name, vitis_compat=vitis_compat)
        return Explanation(title, tuple(_lines("input", resolved)))
    rule = strategy.layer_rule(layer_type, layer_name, vitis_compat=vitis_compat)
    if rule is None:
        allowed = [*strategy.layer_types, "InputLayer"]
        raise StrategyError(not_allowed(strategy.name, layer_type, allowed, what="layer type"))
    return Explanation(f"{title}: {_summary(rule)}", tuple(_layer_lines(rule)))


def _summary(rule: LayerRule) -> str:
    if rule.left_float is not None:
        return f"left float by {rule.left_float.source} {rule.left_float.pointer}"
    return "nothing to quantize" if rule.transparent else rule.pointer


def _layer_lines(rule: LayerRule) -> Iterator[ExplainedParameter]:
    for role in ("weights", "biases", "activations", "outputs", "inputs"):
        singular = {"biases": "bias"}.get(role, role.removesuffix("s"))
        for name, resolved in getattr(rule, role):
            if resolved is not None:
                yield from _lines(f"{singular} {name}", resolved)


def _lines(tensor: str, resolved: ResolvedQuantizer) -> Iterator[ExplainedParameter]:
    for param, steps in resolved.steps.items():
        yield ExplainedParameter(tensor, param, winner(steps).value, steps)


def shown(param: str, value: Any) -> str:
    """A parameter's value in words."""
    kinds: dict[str, type[IntEnum]] = {"method": Method, "round_mode": RoundMode}
    return kinds[param](value).name if param in kinds else str(value)


def _told(param: str, step: Declaration) -> str:
    name = step.origin.pointer.rpartition("/")[2]
    told = f"{shown(param, step.value)} ({step.origin.source}: {name})"
    return f"{told}, not heard: {step.note}" if step.note else told
