"""Rows of a plan from what a strategy resolved."""

from __future__ import annotations

from typing import Any

from vqkit.flow.plan import Role, Row, Slot
from vqkit.graph.ir import Layer


def float_constant(layer: Layer, name: str, reason: str) -> Row:
    """The row of a weight that stays float."""
    return Row(layer.name, name, Role.WEIGHT, Slot.WEIGHT, None, reason, {}, layer.kind, (layer.name,))


def float_input(name: str, reason: str) -> Row:
    """The row of a model input that stays float."""
    return Row(name, "input", Role.INPUT, Slot.INPUT, None, reason, kind="InputLayer", origin=(name,))


def constant(layer: Layer, name: str, role: Role, quantizer: Any) -> Row:
    """The row of a weight or bias that the strategy names."""
    spec, origins, reason = None, {}, "left float by the strategy"
    if quantizer is not None:
        spec, origins, reason = quantizer.spec, origins_of(quantizer), ""
    return Row(layer.name, name, role, Slot(role.value), spec, reason, origins, layer.kind, (layer.name,))


def tensor_name(index: int) -> str:
    """Name of a layer's output in the plan."""
    return "output" if index == 0 else f"output_{index}"


def origins_of(resolved: Any) -> dict[str, tuple[str, str]]:
    """Parameter -> (source, pointer) of the rule that decided it."""
    return {k: (o.source, o.pointer) for k, o in resolved.origins.items()}
