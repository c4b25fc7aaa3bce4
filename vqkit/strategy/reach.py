"""Overrides that reach nothing: what a plan must not keep to itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from vqkit.errors import StrategyError, nearest
from vqkit.strategy import keys, pointer
from vqkit.strategy.form import FLOAT_TYPES
from vqkit.strategy.keys import Role, user_key
from vqkit.strategy.resolve import PARAMS, Step
from vqkit.strategy.rules import Book, LayerRule


@dataclass(frozen=True)
class Unused:
    """An override without effect.

    Attributes:
        source: who said it.
        pointer: where.
        value: what.
        why: the reason, as far as the strategy alone shows it.
    """

    source: str
    pointer: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.source} {self.pointer}: {self.value!r} reached no quantizer: {self.why}"


class UnusedError(StrategyError):
    """Overrides of a strategy reach nothing in a model.

    Attributes:
        unused: which.
    """

    def __init__(self, unused: Sequence[Unused]) -> None:
        super().__init__("; ".join(str(u) for u in unused[:3]))
        self.unused = tuple(unused)


def unused(book: Book, used: Set[str]) -> list[Unused]:
    """Overrides whose pointer is not among the used ones.

    Args:
        book: the strategy.
        used: pointers of everything that was applied.
    """
    found = [*_global(book), *_named(book)]
    return [Unused(*book.origin(where), value, why) for where, value, why in found if where not in used]


def _global(book: Book) -> Iterator[tuple[str, Any, str]]:
    base = [keys.REGISTRY, keys.USER]
    for key, value in book.doc[keys.REGISTRY][keys.USER].items():
        if key not in keys.LISTS and value is not None:
            yield pointer.join([*base, key]), value, _why(book, key, pointer.join([*base, key]))


def _named(book: Book) -> Iterator[tuple[str, Any, str]]:
    for pattern, rule in book.doc[keys.REGISTRY].get(keys.NAMED, {}).items():
        base = pointer.join([keys.REGISTRY, keys.NAMED, pattern])
        said = (
            {base: rule} if isinstance(rule, str) else {pointer.join([k], base): v for k, v in rule.items()}
        )
        for where, value in said.items():
            if _asks_for_a_quantizer(where, value):
                missing = "a float32 tensor" if value in FLOAT_TYPES else "a quantizer"
                yield where, value, f"no layer that {pattern!r} matches has {missing} that takes it"


def _asks_for_a_quantizer(where: str, value: Any) -> bool:
    """Leaving a layer float shows in no tensor, so it cannot be missed there."""
    return value is not None and not where.endswith("/quantize") and value != "float32"


def _why(book: Book, key: str, where: str) -> str:
    steps = [step for step in _all_steps(book) if step.origin.pointer == where]
    notes = list(dict.fromkeys(step.note for step in steps if step.note))
    if not steps:
        roles = ", ".join(sorted({role.user_prefix for role in _roles(book)}))
        return f"this strategy has quantizers only for {roles}{_hint(book, key)}"
    if len(notes) == 1 and all(step.note for step in steps):
        return notes[0] + (
            "; it counts only with the method PERCENTILE"
            if key.endswith("method_percentile")
            else _hint(book, key)
        )
    return "this model has no tensor it speaks for, or a narrower rule decides everywhere"


def _hint(book: Book, key: str) -> str:
    """The nearest key that would reach something in some model."""
    reaching = {step.origin.pointer.rpartition("/")[2] for step in _all_steps(book) if not step.note}
    possible = {k for role in _roles(book) for p in PARAMS if (k := user_key(role, p)) is not None} - {key}
    return nearest(key, sorted(possible | (reaching & set(keys.USER_KEYS))))


def _roles(book: Book) -> set[Role]:
    filled = {role for rule in _rules(book) for role, tensors in _parts(rule) if tensors}
    return filled | {Role.INPUT}


def _rules(book: Book) -> list[LayerRule]:
    return [rule for t in book.layer_types() if (rule := book.layer_rule(t)) is not None]


def _parts(rule: LayerRule) -> list[tuple[Role, Any]]:
    return [
        (Role.WEIGHT, rule.weights),
        (Role.BIAS, rule.biases),
        (Role.ACTIVATION, rule.activations),
        (Role.OUTPUT, rule.outputs),
        (Role.INPUT, rule.inputs),
    ]


def _all_steps(book: Book) -> Iterator[Step]:
    resolved = [
        q for rule in _rules(book) for _, tensors in _parts(rule) for _, q in tensors if q is not None
    ]
    for q in (book.input_rule(), *resolved):
        for chain in q.steps.values():
            yield from chain
