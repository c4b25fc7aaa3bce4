"""Which quantizer a layer gets, and which rule decided each of its parameters.

Narrower wins: built-in type entry < user's global key < type entry edited by the user < layer name.
In the reference a global key also beats an edited type entry; `vitis_compat` does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vqkit.errors import StrategyError, not_allowed
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType
from vqkit.strategy import vocabulary
from vqkit.strategy.vocabulary import Role, user_key

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
DEFAULTS = {
    "bit_width": 8,
    "method": Method.NON_OVERFLOW,
    "round_mode": 1,
    "symmetry": True,
    "per_channel": False,
    "channel_axis": -1,
    "narrow_range": False,
    "unsigned": False,
    "use_framework_quant": False,
    "method_percentile": 99.9999,
}


class Origin(NamedTuple):
    """Where a value was said.

    Attributes:
        source: "builtin pof2s", "kwargs", a file's name, or "default".
        pointer: JSON pointer into the strategy.
    """

    source: str
    pointer: str


class Step(NamedTuple):
    """One voice in the decision about a parameter; `note` says why it was not heard."""

    value: Any
    origin: Origin
    note: str = ""


@dataclass(frozen=True)
class ResolvedQuantizer:
    """A quantizer with all its parameters and who decided each.

    Attributes:
        spec: the parameters.
        origins: parameter (also "quantizer_type") to the rule that decided it.
        steps: parameter to every rule that spoke, in order; the last one without a note decided.
    """

    spec: QuantizerSpec
    origins: Mapping[str, Origin]
    steps: Mapping[str, tuple[Step, ...]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Voice:
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
class Ask:
    """How to decide.

    Attributes:
        voices: rules above the type entry, weakest first.
        vitis_compat: keys that the entry lacks reach nothing, even where an extension gives them a meaning.
        relu_like: whether the layer's output is never negative; None when unknown. A symmetric unsigned
            grid has no negative codes, so a global `activation_unsigned` passes over other layers.
    """

    voices: list[Voice]
    vitis_compat: bool = False
    relu_like: bool | None = None


@dataclass(frozen=True)
class Said:
    """A quantizer as its type entry says it.

    Attributes:
        values: what the entry says.
        origins: who said each.
        edited: what the built-in said where the user says otherwise, None where it said nothing.
        pointer: where the quantizer stands.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, Origin]
    edited: Mapping[str, Step | None]
    pointer: str


def quantizer(said: Said, role: Role, ask: Ask) -> ResolvedQuantizer:
    """Decide every parameter of one quantizer.

    Args:
        said: the type entry's quantizer.
        role: what it quantizes.
        ask: the rules above the entry, and how they count.

    Raises:
        StrategyError: the outcome is no quantizer.
    """
    steps: dict[str, tuple[Step, ...]] = {}
    decided: dict[str, Step] = {}
    values: dict[str, Any] = {}
    for param in ("quantizer_type", *PARAMS):
        steps[param] = tuple(_steps(param, said, role, ask, values))
        decided[param] = heard(steps[param])
        values[param] = decided[param].value
    spec = _spec(values, decided)
    return ResolvedQuantizer(spec, {param: step.origin for param, step in decided.items()}, steps)


def heard(chain: tuple[Step, ...]) -> Step:
    """The step that decided."""
    return next(step for step in reversed(chain) if not step.note)


def _steps(param: str, said: Said, role: Role, ask: Ask, decided: Mapping[str, Any]) -> Iterator[Step]:
    entry = _entry_steps(param, said)
    yield from entry
    reachable = param in said.values or (not ask.vitis_compat and _implied(param, decided))
    value = entry[-1].value
    for voice in ask.voices:
        for step in _says(voice, param, role, value):
            note = "" if reachable else f"the quantizer has no {param}"
            note = note or _outranked(voice, param, said) or _no_negatives(step, role, ask, decided)
            yield step._replace(note=note)
            value = value if note else step.value


def _entry_steps(param: str, said: Said) -> list[Step]:
    if param not in said.values:
        return [Step(DEFAULTS[param], Origin("default", f"{said.pointer}/quantizer_params/{param}"))]
    before = said.edited.get(param)
    return [*([] if before is None else [before]), Step(said.values[param], said.origins[param])]


def _implied(param: str, decided: Mapping[str, Any]) -> bool:
    return param == "unsigned" or (param == "method_percentile" and decided["method"] == Method.PERCENTILE)


def _outranked(voice: Voice, param: str, said: Said) -> str:
    outranked = param in said.edited and not voice.over_edited
    return "the type entry was edited, which is narrower" if outranked else ""


def _no_negatives(step: Step, role: Role, ask: Ask, decided: Mapping[str, Any]) -> str:
    if not step.origin.pointer.endswith("/user_quantize_config/activation_unsigned"):
        return ""
    blind = step.value and ask.relu_like is False and decided["symmetry"] and role is not Role.INPUT
    return "the layer's output may be negative, a symmetric unsigned grid cannot" if blind else ""


def _says(voice: Voice, param: str, role: Role, bits: Any) -> Iterator[Step]:
    if param == "bit_width" and voice.integer_bits is not None and voice.word is not None:
        wide = max(bits, voice.integer_bits) if role is Role.BIAS else voice.integer_bits
        yield Step(wide, voice.word)
    key = user_key(role, param)
    if key is not None and voice.keys.get(key) is not None:
        yield Step(vocabulary.value(key, voice.keys[key]), voice.origins[key])


def _spec(values: dict[str, Any], decided: Mapping[str, Step]) -> QuantizerSpec:
    kind, method = QuantizerType(values["quantizer_type"]), Method(values["method"])
    if kind is QuantizerType.TQT and method is not Method.NON_OVERFLOW:
        source, where = decided["method"].origin
        allowed = ["NON_OVERFLOW", 0]
        raise StrategyError(
            f"{not_allowed(f'{source} {where}', method.name, allowed)} (a TQTQuantizer knows no other)"
        )
    try:
        return QuantizerSpec(**values)
    except ValueError as e:
        named = next((param for param in reversed(PARAMS) if param in str(e)), "quantizer_type")
        source, where = decided[named].origin
        raise StrategyError(f"{source} {where}: {e}") from None
