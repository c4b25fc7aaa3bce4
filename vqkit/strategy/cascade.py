"""The cascade: which quantizer a layer gets, and which rule decided each of its parameters.

Narrower wins: built-in type entry < user's global key < type entry edited by the user < layer name.
In the reference a global key also beats an edited type entry; `vitis_compat` does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vqkit.errors import StrategyError, not_allowed
from vqkit.primitives.spec import DEFAULTS, Method, QuantizerSpec, QuantizerType
from vqkit.strategy import vocabulary
from vqkit.strategy.vocabulary import QuantizerRole, user_key

# Method before percentile: a percentile counts only where the method asks for one.
PARAMS = (
    "bit_width",
    "method",
    "round_mode",
    "symmetry",
    "per_channel",
    "channel_axis",
    "narrow_range",
    "unsigned",
    "use_framework_quant",
    "method_percentile",
)


class Origin(NamedTuple):
    """Where a value was declared.

    Attributes:
        source: "builtin pof2s", "kwargs", a file's name, or "default".
        pointer: JSON pointer into the strategy.
    """

    source: str
    pointer: str


class Declaration(NamedTuple):
    """One override in the decision about a parameter; `note` says why it was not heard."""

    value: Any
    origin: Origin
    note: str = ""


@dataclass(frozen=True)
class ResolvedQuantizer:
    """A quantizer with all its parameters and who decided each.

    Attributes:
        spec: the parameters.
        origins: parameter (also "quantizer_type") to the rule that decided it.
        steps: parameter to every declaration, in order of rank; the last one without a note won.
    """

    spec: QuantizerSpec
    origins: Mapping[str, Origin]
    steps: Mapping[str, tuple[Declaration, ...]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Override:
    """A rule above the type entry that may override parameters.

    Attributes:
        keys: user keys and their values.
        origins: user key to its origin.
        over_edited: whether it also overrides what the user edited in the type entry.
        integer_bits: bits from a data type word; biases keep theirs where wider.
        word: origin of that word.
    """

    keys: Mapping[str, Any]
    origins: Mapping[str, Origin]
    over_edited: bool
    integer_bits: int | None = None
    word: Origin | None = None


@dataclass(frozen=True)
class CascadeRequest:
    """What one quantizer of a layer type's entry is resolved with.

    Attributes:
        overrides: rules above the type entry, weakest first.
        vitis_compat: keys that the entry lacks reach nothing, even where an extension gives them a meaning.
        relu_like: whether the layer's output is never negative; None when unknown. A symmetric unsigned
            grid has no negative codes, so a global `activation_unsigned` passes over other layers.
    """

    overrides: list[Override]
    vitis_compat: bool = False
    relu_like: bool | None = None


@dataclass(frozen=True)
class EntryQuantizer:
    """A quantizer as its layer type's entry states it, before any override.

    Attributes:
        values: what the entry says.
        origins: who declared each.
        edited: what the built-in declared where the user says otherwise, None where it declared nothing.
        pointer: where the quantizer stands.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, Origin]
    edited: Mapping[str, Declaration | None]
    pointer: str


def quantizer(declared: EntryQuantizer, role: QuantizerRole, request: CascadeRequest) -> ResolvedQuantizer:
    """Decide every parameter of one quantizer.

    Args:
        declared: the type entry's quantizer.
        role: what it quantizes.
        request: the rules above the entry, and how they count.

    Raises:
        StrategyError: the outcome is no quantizer.
    """
    steps: dict[str, tuple[Declaration, ...]] = {}
    decided: dict[str, Declaration] = {}
    values: dict[str, Any] = {}
    for param in ("quantizer_type", *PARAMS):
        steps[param] = tuple(_steps(param, declared, role, request, values))
        decided[param] = winner(steps[param])
        values[param] = decided[param].value
    spec = _spec(values, decided)
    return ResolvedQuantizer(spec, {param: step.origin for param, step in decided.items()}, steps)


def winner(chain: tuple[Declaration, ...]) -> Declaration:
    """The declaration that won: the last one without a note."""
    return next(step for step in reversed(chain) if not step.note)


def _steps(
    param: str, declared: EntryQuantizer, role: QuantizerRole, request: CascadeRequest, decided: Mapping[str, Any]
) -> Iterator[Declaration]:
    entry = _entry_steps(param, declared)
    yield from entry
    reachable = param in declared.values or (not request.vitis_compat and _implied(param, decided))
    value = entry[-1].value
    for override in request.overrides:
        for step in _declared(override, param, role, value):
            note = "" if reachable else f"the quantizer has no {param}"
            note = note or _outranked(override, param, declared) or _no_negatives(step, role, request, decided)
            yield step._replace(note=note)
            value = value if note else step.value


def _entry_steps(param: str, declared: EntryQuantizer) -> list[Declaration]:
    if param not in declared.values:
        return [Declaration(DEFAULTS[param], Origin("default", f"{declared.pointer}/quantizer_params/{param}"))]
    before = declared.edited.get(param)
    return [*([] if before is None else [before]), Declaration(declared.values[param], declared.origins[param])]


def _implied(param: str, decided: Mapping[str, Any]) -> bool:
    return param == "unsigned" or (param == "method_percentile" and decided["method"] == Method.PERCENTILE)


def _outranked(override: Override, param: str, declared: EntryQuantizer) -> str:
    outranked = param in declared.edited and not override.over_edited
    return "the type entry was edited, which is narrower" if outranked else ""


def _no_negatives(step: Declaration, role: QuantizerRole, request: CascadeRequest, decided: Mapping[str, Any]) -> str:
    if not step.origin.pointer.endswith("/user_quantize_config/activation_unsigned"):
        return ""
    blind = step.value and request.relu_like is False and decided["symmetry"] and role is not QuantizerRole.INPUT
    return "the layer's output may be negative, a symmetric unsigned grid cannot" if blind else ""


def _declared(override: Override, param: str, role: QuantizerRole, bits: Any) -> Iterator[Declaration]:
    if param == "bit_width" and override.integer_bits is not None and override.word is not None:
        wide = max(bits, override.integer_bits) if role is QuantizerRole.BIAS else override.integer_bits
        yield Declaration(wide, override.word)
    key = user_key(role, param)
    if key is not None and override.keys.get(key) is not None:
        yield Declaration(vocabulary.value(key, override.keys[key]), override.origins[key])


def _spec(values: dict[str, Any], decided: Mapping[str, Declaration]) -> QuantizerSpec:
    kind, method = QuantizerType(values["quantizer_type"]), Method(values["method"])
    if kind is QuantizerType.TQT and method is not Method.NON_OVERFLOW:
        source, where = decided["method"].origin
        allowed = ["NON_OVERFLOW", 0]
        raise StrategyError(f"{not_allowed(f'{source} {where}', method.name, allowed)} (a TQTQuantizer knows no other)")
    try:
        return QuantizerSpec(**values)
    except ValueError as e:
        named = next((param for param in reversed(PARAMS) if param in str(e)), "quantizer_type")
        source, where = decided[named].origin
        raise StrategyError(f"{source} {where}: {e}") from None
