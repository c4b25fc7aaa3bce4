"""What a strategy says that a model does not have, or that reaches nothing there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from vqkit.errors import StrategyError, nearest, not_allowed
from vqkit.strategy import document, vocabulary
from vqkit.strategy.cascade import PARAMS, Declaration
from vqkit.strategy.rules import LayerRule, RuleSet
from vqkit.strategy.schema import FLOAT_TYPES
from vqkit.strategy.vocabulary import QuantizerRole, user_key


def unknown_names(book: RuleSet, layer_names: list[str]) -> list[str]:
    """One message for each name or glob in the strategy that no layer has.

    Args:
        book: the strategy.
        layer_names: the model's layers.
    """
    registry = book.doc[vocabulary.REGISTRY]
    said = [
        (document.join([vocabulary.REGISTRY, section, key, i]), name)
        for section, key in [
            *((vocabulary.USER, k) for k in vocabulary.LISTS),
            (vocabulary.INPUT, "input_layers"),
        ]
        for i, name in enumerate(registry[section].get(key, []))
    ]
    patterns = [
        (document.join([vocabulary.REGISTRY, vocabulary.NAMED, p]), p) for p in registry.get(vocabulary.NAMED, {})
    ]
    missing = [(where, name) for where, name in said if name not in layer_names]
    missing += [(where, p) for where, p in patterns if p not in layer_names and not _matches(p, layer_names)]
    return [not_allowed(f"{book.origin(w).source} {w}", n, layer_names, what="layer name") for w, n in missing]


def _matches(pattern: str, names: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def unknown_types(book: RuleSet, present: Sequence[str], offered: Set[str]) -> list[str]:
    """One message for each custom layer type, or entry of an unheard-of type, that the model does not have.

    Args:
        book: the strategy.
        present: class names of the model's layers.
        offered: class names that an entry may have although the model lacks them, such as Keras' own.
    """
    registry = book.doc[vocabulary.REGISTRY]
    expected = {*present, *offered, *vocabulary.layer_types()}
    custom = [
        (document.join([vocabulary.REGISTRY, vocabulary.CUSTOM, i]), t)
        for i, t in enumerate(registry.get(vocabulary.CUSTOM, []))
    ]
    entries = [
        (document.join([vocabulary.REGISTRY, vocabulary.LAYERS, i, "layer_type"]), entry["layer_type"])
        for i, entry in enumerate(registry[vocabulary.LAYERS])
    ]
    missing = [(where, t) for where, t in custom if vocabulary.short_type(t) not in present]
    missing += [(where, t) for where, t in entries if vocabulary.short_type(t) not in expected]
    return [
        not_allowed(f"{book.origin(w).source} {w}", vocabulary.short_type(t), present, what="layer type")
        for w, t in missing
    ]


def unknown_tensors(book: RuleSet, layer_type: str, variables: Sequence[str], inputs: int, outputs: int) -> list[str]:
    """One message for each variable, input or output that a user's own entry names and no such layer has.

    A variable may be missing (a layer without bias) as long as the entry names all that are there: a
    misspelt name leaves one over.

    Args:
        book: the strategy.
        layer_type: class name.
        variables: names of the variables of all layers of the type.
        inputs: the most inputs that a layer of the type has.
        outputs: the most outputs that a layer of the type has.
    """
    index = None if layer_type in vocabulary.layer_types() else book.entry_index(layer_type)
    if index is None:
        return []
    entry = book.doc[vocabulary.REGISTRY][vocabulary.LAYERS][index]
    named = [
        (r, i, n) for r in (QuantizerRole.WEIGHT, QuantizerRole.BIAS) for i, n in enumerate(entry.get(r.names_key, []))
    ]
    left_over = set(variables) - {name for _, _, name in named}
    wrong = [(r, i, n, variables) for r, i, n in named if left_over and n not in variables]
    for role, count in ((QuantizerRole.INPUT, inputs), (QuantizerRole.OUTPUT, outputs)):
        listed = enumerate(entry.get(role.names_key, []))
        wrong += [(role, i, n, [*range(count)]) for i, n in listed if n >= count]
    at = [vocabulary.REGISTRY, vocabulary.LAYERS, index]
    places = [(document.join([*at, r.names_key, i]), r, n, allowed) for r, i, n, allowed in wrong]
    return [
        not_allowed(f"{book.origin(w).source} {w}", n, allowed, what=f"{r.value} of {layer_type}")
        for w, r, n, allowed in places
    ]


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


def unused(book: RuleSet, used: Set[str]) -> list[Unused]:
    """Overrides whose pointer is not among the used ones.

    Args:
        book: the strategy.
        used: pointers of everything that was applied.
    """
    found = [*_global(book), *_named(book)]
    return [Unused(*book.origin(where), value, why) for where, value, why in found if where not in used]


def _global(book: RuleSet) -> Iterator[tuple[str, Any, str]]:
    base = [vocabulary.REGISTRY, vocabulary.USER]
    for key, value in book.doc[vocabulary.REGISTRY][vocabulary.USER].items():
        if key not in vocabulary.LISTS and value is not None:
            yield document.join([*base, key]), value, _why(book, key, document.join([*base, key]))


def _named(book: RuleSet) -> Iterator[tuple[str, Any, str]]:
    for pattern, rule in book.doc[vocabulary.REGISTRY].get(vocabulary.NAMED, {}).items():
        base = document.join([vocabulary.REGISTRY, vocabulary.NAMED, pattern])
        said = {base: rule} if isinstance(rule, str) else {document.join([k], base): v for k, v in rule.items()}
        for where, value in said.items():
            if _asks_for_a_quantizer(where, value):
                missing = "a float32 tensor" if value in FLOAT_TYPES else "a quantizer"
                yield where, value, f"no layer that {pattern!r} matches has {missing} that takes it"


def _asks_for_a_quantizer(where: str, value: Any) -> bool:
    """Leaving a layer float shows in no tensor, so it cannot be missed there."""
    return value is not None and not where.endswith("/quantize") and value != "float32"


def _why(book: RuleSet, key: str, where: str) -> str:
    steps = [step for step in _all_steps(book) if step.origin.pointer == where]
    notes = list(dict.fromkeys(step.note for step in steps if step.note))
    if not steps:
        roles = ", ".join(sorted({role.user_prefix for role in _roles(book)}))
        return f"this strategy has quantizers only for {roles}{_hint(book, key)}"
    if len(notes) == 1 and all(step.note for step in steps):
        return notes[0] + (
            "; it counts only with the method PERCENTILE" if key.endswith("method_percentile") else _hint(book, key)
        )
    return "this model has no tensor it speaks for, or a narrower rule decides everywhere"


def _hint(book: RuleSet, key: str) -> str:
    """The nearest key that would reach something in some model."""
    reaching = {step.origin.pointer.rpartition("/")[2] for step in _all_steps(book) if not step.note}
    possible = {k for role in _roles(book) for p in PARAMS if (k := user_key(role, p)) is not None} - {key}
    return nearest(key, sorted(possible | (reaching & set(vocabulary.USER_KEYS))))


def _roles(book: RuleSet) -> set[QuantizerRole]:
    filled = {role for rule in _rules(book) for role, tensors in _parts(rule) if tensors}
    return filled | {QuantizerRole.INPUT}


def _rules(book: RuleSet) -> list[LayerRule]:
    return [rule for t in book.layer_types() if (rule := book.layer_rule(t)) is not None]


def _parts(rule: LayerRule) -> list[tuple[QuantizerRole, Any]]:
    return [
        (QuantizerRole.WEIGHT, rule.weights),
        (QuantizerRole.BIAS, rule.biases),
        (QuantizerRole.ACTIVATION, rule.activations),
        (QuantizerRole.OUTPUT, rule.outputs),
        (QuantizerRole.INPUT, rule.inputs),
    ]


def _all_steps(book: RuleSet) -> Iterator[Declaration]:
    resolved = [q for rule in _rules(book) for _, tensors in _parts(rule) for _, q in tensors if q is not None]
    for q in (book.input_rule(), *resolved):
        for chain in q.steps.values():
            yield from chain
