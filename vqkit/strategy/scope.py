"""Change one quantizer, those of a layer type, or all: what a person moves, as edits of the strategy.

    tensor    a name rule for the layer (`layer_config`), narrower than all else
    type      the layer type's entry (`layer_quantize_config`)
    model     the user's global keys (`user_quantize_config`)

Only the format is known here, no model: whether an edit reaches anything is for the plan to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from vqkit.errors import StrategyError, not_allowed
from vqkit.strategy import vocabulary
from vqkit.strategy.document import join, split

if TYPE_CHECKING:
    from vqkit.strategy.strategy import Strategy

PARAMS = ("bit_width", "method", "round_mode", "per_channel", "symmetry")


class Scope(StrEnum):
    """How far a change reaches."""

    TENSOR = "this tensor"
    TYPE = "its layer type"
    MODEL = "everything"


def scope_of(where: str) -> Scope:
    """How far a rule reaches.

    Args:
        where: JSON pointer of something it says.
    """
    section = split(where)[1]
    return {vocabulary.NAMED: Scope.TENSOR, vocabulary.USER: Scope.MODEL}.get(section, Scope.TYPE)


@dataclass(frozen=True)
class Target:
    """The quantizer that a person looks at.

    Attributes:
        layer: name of its layer, or of the layer whose output it quantizes.
        role: "weight", "bias", "activation" or "input": the prefix of the user's keys.
        entry: JSON pointer of its quantizer in the type entry; "" where the layer is left float.
    """

    layer: str
    role: str
    entry: str


def change(strategy: Strategy, target: Target, scope: Scope, param: str, value: Any) -> Strategy:
    """A strategy in which one parameter is changed.

    Args:
        strategy: before.
        target: the quantizer that is looked at.
        scope: how far the change reaches. For `TENSOR`, the tensors of the same role in the same layer.
        param: one of `PARAMS`.
        value: as the JSON has it; words for methods and roundings are understood.

    Returns:
        The new strategy.

    Raises:
        StrategyError: unknown parameter, a value that is not allowed, or no entry to change.
    """
    if param not in PARAMS:
        raise StrategyError(not_allowed("change", param, PARAMS, what="parameter"))
    key = role_key(target.role, param)
    if scope is Scope.TENSOR:
        return strategy.with_overrides({_name_rule(target.layer, key): value}, source="explore")
    if scope is Scope.MODEL:
        return strategy.with_overrides({key: value}, source="explore")
    if not target.entry:
        raise StrategyError(f"{target.layer} is left float: there is no entry to change")
    return strategy.with_overrides({f"{target.entry}/quantizer_params/{param}": value}, source="explore")


def role_key(role: str, param: str) -> str:
    """What the user's keys and name rules call a parameter of a role."""
    return f"{role}_{'bit' if param == 'bit_width' else param}"


def leave_float(strategy: Strategy, target: Target, scope: Scope, left: bool, layer_type: str) -> Strategy:
    """A strategy that leaves layers float, or quantizes them again.

    Args:
        strategy: before.
        target: the quantizer that is looked at.
        scope: its whole layer, all layers of its type, or all layers.
        left: True leaves float.
        layer_type: class name of the layer, for `Scope.TYPE`.

    Returns:
        The new strategy.

    Raises:
        StrategyError: the type has no entry.
    """
    if scope is not Scope.TYPE:
        name = target.layer if scope is Scope.TENSOR else "*"
        return strategy.with_overrides({_name_rule(name, "quantize"): not left}, source="explore")
    if target.role == "input":
        raise StrategyError("the model's inputs have no layer type: leave this tensor float, or everything")
    entry = _entry(strategy.dump(), layer_type)
    if entry is None:
        raise StrategyError(not_allowed("leave float", layer_type, strategy.layer_types, what="layer type"))
    usual = _entry(vocabulary.builtin_document(strategy.base), layer_type)
    changed = {**entry, **(_emptied(entry) if left else _filled(entry, usual or {}))}
    where = join([vocabulary.REGISTRY, vocabulary.LAYERS, layer_type])
    return strategy.with_overrides({f"{where}/{k}": v for k, v in changed.items() if v != entry[k]}, source="explore")


def _name_rule(layer: str, key: str) -> str:
    return join([vocabulary.REGISTRY, vocabulary.NAMED, layer, key])


def _entry(document: dict[str, Any], layer_type: str) -> dict[str, Any] | None:
    entries = document[vocabulary.REGISTRY][vocabulary.LAYERS]
    return next((e for e in entries if vocabulary.short_type(e["layer_type"]) == layer_type), None)


def _emptied(entry: dict[str, Any]) -> dict[str, Any]:
    return {r.quantizers_key: [None] * len(entry.get(r.quantizers_key, [])) for r in _roles(entry)}


def _filled(entry: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """The built-in's quantizers where the entry has none."""
    found = {}
    for role in _roles(entry):
        own, base = entry[role.quantizers_key], usual.get(role.quantizers_key, [])
        padded = [*base, *[None] * len(own)]
        found[role.quantizers_key] = [b if q is None else q for q, b in zip(own, padded[: len(own)], strict=True)]
    return found


def _roles(entry: dict[str, Any]) -> list[vocabulary.QuantizerRole]:
    return [role for role in vocabulary.QuantizerRole if role.quantizers_key in entry]
