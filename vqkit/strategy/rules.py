"""From a strategy's document to the rule for one layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from typing import Any

from vqkit.errors import StrategyError
from vqkit.strategy import document as pointer
from vqkit.strategy import vocabulary
from vqkit.strategy.cascade import (
    CascadeRequest,
    Declaration,
    EntryQuantizer,
    Origin,
    Override,
    ResolvedQuantizer,
    quantizer,
)
from vqkit.strategy.schema import (
    ACTIVATIONS_ONLY,
    FLOAT_TYPES,
    INTEGER_TYPES,
    NOTHING,
    WEIGHTS_ONLY,
)
from vqkit.strategy.vocabulary import QuantizerRole

# What the words of a name rule's `quantize` leave float.
_SILENCED = {
    WEIGHTS_ONLY: (QuantizerRole.ACTIVATION, QuantizerRole.OUTPUT),
    ACTIVATIONS_ONLY: (QuantizerRole.WEIGHT, QuantizerRole.BIAS),
    NOTHING: tuple(QuantizerRole),
}
Tensors = tuple[tuple[str, ResolvedQuantizer | None], ...]


@dataclass(frozen=True)
class LayerRule:
    """What a strategy wants for one layer.

    Attributes:
        layer_type: class name.
        pointer: the type entry that speaks.
        weights, biases, activations, outputs, inputs: tensor name (outputs and inputs: index as text) and
            its quantizer, None where it stays float.
        left_float: the rule that keeps the whole layer float, if one does.
        data_type: the floating-point type that rule names, if any.
        only: the word of the name rule that says which tensors are quantized, None for all.
        silenced: origins of what other rules say about the tensors that this word leaves float.
    """

    layer_type: str
    pointer: str
    weights: Tensors = ()
    biases: Tensors = ()
    activations: Tensors = ()
    outputs: Tensors = ()
    inputs: Tensors = ()
    left_float: Origin | None = None
    data_type: str | None = None
    only: str | None = None
    silenced: frozenset[Origin] = frozenset()

    @property
    def gives_float(self) -> bool:
        """Whether what the layer gives stays float for every reader."""
        return self.only in (WEIGHTS_ONLY, NOTHING)

    @property
    def quantizes_nothing(self) -> bool:
        """Whether a name rule's word leaves everything of the layer float."""
        return self.only == NOTHING

    @property
    def transparent(self) -> bool:
        """Whether the entry names nothing to quantize: such a layer only moves values."""
        return not (self.weights or self.biases or self.activations or self.outputs or self.inputs)


@dataclass(frozen=True)
class RuleSet:
    """The rules of a document with their sources: everything that the cascade needs.

    Attributes:
        doc: a whole strategy, valid in form.
        base: the built-in it started from.
        sources: pointer to source; the nearest ancestor of a pointer speaks for it.
    """

    doc: dict[str, Any]
    base: str
    sources: Mapping[str, str]

    def origin(self, where: str) -> Origin:
        """Who declared the value at a pointer."""
        return Origin(next(self.sources[p] for p in pointer.ancestors(where) if p in self.sources), where)

    def built_in(self, where: str) -> Any:
        """What the built-in says at a place in the user's keys, a layer type's entry or the inputs'.

        Raises:
            StrategyError: the built-in has no such entry.
        """
        parts, document = pointer.split(where), vocabulary.builtin_document(self.base)
        if parts[1] == vocabulary.USER:
            return document[vocabulary.REGISTRY][vocabulary.USER].get(parts[2])
        if parts[1] == vocabulary.LAYERS:
            wanted = self.layer_types()[int(parts[2])]
            types = [vocabulary.short_type(e["layer_type"]) for e in document[vocabulary.REGISTRY][vocabulary.LAYERS]]
            parts = [*parts[:2], str(types.index(wanted)) if wanted in types else "", *parts[3:]]
        if not pointer.has(document, parts):
            raise StrategyError(f"{where}: {self.base} says nothing there that could take its place")
        return pointer.get(document, parts)

    def input_rule(self, layer_name: str | None = None, vitis_compat: bool = False) -> ResolvedQuantizer:
        """The quantizer of the model's inputs."""
        where = pointer.join([vocabulary.REGISTRY, vocabulary.INPUT, "input_quantizer"])
        declared = self._entry(self.doc[vocabulary.REGISTRY][vocabulary.INPUT]["input_quantizer"], where, "", where)
        return quantizer(
            declared, QuantizerRole.INPUT, CascadeRequest(self._overrides(layer_name, vitis_compat), vitis_compat)
        )

    def layer_rule(
        self,
        layer_type: str,
        layer_name: str | None = None,
        *,
        vitis_compat: bool = False,
        relu_like: bool | None = None,
    ) -> LayerRule | None:
        """The rule of a layer, None where its type has no entry."""
        index = self.entry_index(layer_type)
        if index is None:
            extra = None if vitis_compat else self._extra(layer_type)
            like = None if extra is None else self.layer_rule(extra.like, layer_name, relu_like=relu_like)
            return None if extra is None or like is None else _lent(like, layer_type, extra)
        where = pointer.join([vocabulary.REGISTRY, vocabulary.LAYERS, index])
        left_float, data_type = self.left_float(layer_name)
        request = (
            None if left_float else CascadeRequest(self._overrides(layer_name, vitis_compat), vitis_compat, relu_like)
        )
        entry = self.doc[vocabulary.REGISTRY][vocabulary.LAYERS][index]
        parts = {role: self._tensors(entry, role, where, request) for role in QuantizerRole}
        only, pattern = self.only(layer_name)
        off = _SILENCED[only] if only else ()
        silenced = _origins(parts[role] for role in off) - self._own_words(pattern)
        parts |= {role: tuple((name, None) for name, _ in parts[role]) for role in off}
        return LayerRule(
            vocabulary.short_type(layer_type),
            where,
            parts[QuantizerRole.WEIGHT],
            parts[QuantizerRole.BIAS],
            parts[QuantizerRole.ACTIVATION],
            parts[QuantizerRole.OUTPUT],
            parts[QuantizerRole.INPUT],
            left_float,
            data_type,
            only,
            silenced,
        )

    def entry_index(self, layer_type: str) -> int | None:
        """Index of the type's entry."""
        return self._indices.get(vocabulary.short_type(layer_type))

    def _extra(self, layer_type: str) -> vocabulary.ExtraEntry | None:
        """The entry that `extra_layers` gives a type that has none of its own."""
        switched_on = self.doc[vocabulary.REGISTRY].get(vocabulary.EXTRA)
        return vocabulary.EXTRA_ENTRIES.get(vocabulary.short_type(layer_type)) if switched_on else None

    def custom_type_origin(self, layer_type: str) -> Origin | None:
        """Where `custom_layer_type` names a class."""
        named = self.doc[vocabulary.REGISTRY].get(vocabulary.CUSTOM, [])
        types = [vocabulary.short_type(t) for t in named]
        if layer_type not in types:
            return None
        return self.origin(pointer.join([vocabulary.REGISTRY, vocabulary.CUSTOM, types.index(layer_type)]))

    def layer_types(self) -> list[str]:
        """Class names that have an entry, in file order."""
        return list(self._types)

    @cached_property
    def _types(self) -> tuple[str, ...]:
        return tuple(vocabulary.short_type(e["layer_type"]) for e in self.doc[vocabulary.REGISTRY][vocabulary.LAYERS])

    @cached_property
    def _indices(self) -> dict[str, int]:
        # Of two entries for a type the first speaks.
        return {name: i for i, name in reversed(list(enumerate(self._types)))}

    def effective(self) -> RuleSet:
        """The same without the user's keys that change no quantizer of any layer.

        A key that says what the built-in says is one. Two strategies that differ in such keys are the same.
        """
        user = self.doc[vocabulary.REGISTRY][vocabulary.USER]
        idle = [k for k in user if k not in vocabulary.LISTS and user[k] is not None]
        if self.doc[vocabulary.REGISTRY].get(vocabulary.NAMED):
            # A rule for a layer may make these count: by its method, or by its symmetry.
            idle = [k for k in idle if not k.endswith(("_method_percentile", "_unsigned"))]
        stated = self._stated() if idle else []
        wanted = self._specs(stated, user)
        for key in idle:
            without = {k: v for k, v in user.items() if k != key}
            user = without if self._specs(stated, without) == wanted else user
        registry = {**self.doc[vocabulary.REGISTRY], vocabulary.USER: user}
        if not registry.get(vocabulary.EXTRA):
            registry.pop(vocabulary.EXTRA, None)
        return replace(self, doc={**self.doc, vocabulary.REGISTRY: registry})

    def _stated(self) -> list[tuple[EntryQuantizer, QuantizerRole]]:
        """Every quantizer that an entry or the inputs' section states; of those that state the same, one."""
        registry, where = (
            self.doc[vocabulary.REGISTRY],
            pointer.join([vocabulary.REGISTRY, vocabulary.INPUT, "input_quantizer"]),
        )
        found = [(self._entry(registry[vocabulary.INPUT]["input_quantizer"], where, "", where), QuantizerRole.INPUT)]
        for i, entry in enumerate(registry[vocabulary.LAYERS]):
            name, at = (
                vocabulary.short_type(entry["layer_type"]),
                pointer.join([vocabulary.REGISTRY, vocabulary.LAYERS, i]),
            )
            for role in QuantizerRole:
                for j, stated in enumerate(entry.get(role.quantizers_key, [])):
                    inside = f"/{role.quantizers_key}/{j}"
                    if stated is not None:
                        found.append((self._entry(stated, at + inside, name, inside), role))
        same = {
            (role, *sorted(declared.values.items()), *sorted(declared.edited)): (declared, role)
            for declared, role in found
        }
        return list(same.values())

    def _specs(self, stated: list[tuple[EntryQuantizer, QuantizerRole]], user: dict[str, Any]) -> list[Any]:
        """What becomes of the stated quantizers under the user's keys, however they are asked for."""
        origins = self._key_origins(user, pointer.join([vocabulary.REGISTRY, vocabulary.USER]))
        specs: list[Any] = []
        for compat, relu_like in product((False, True), (None, False, True)):
            request = CascadeRequest([Override(user, origins, over_edited=compat)], compat, relu_like)
            for declared, role in stated:
                try:
                    specs.append(quantizer(declared, role, request).spec)
                except StrategyError as e:
                    specs.append(str(e))
        return specs

    # --- the type entry ---

    def _tensors(
        self, entry: Mapping[str, Any], role: QuantizerRole, where: str, request: CascadeRequest | None
    ) -> Tensors:
        names = [str(n) for n in entry.get(role.names_key, [])]
        found: list[tuple[str, ResolvedQuantizer | None]] = []
        for i, (name, stated) in enumerate(zip(names, entry.get(role.quantizers_key, []), strict=True)):
            inside = f"/{role.quantizers_key}/{i}"
            if stated is None or request is None:
                found.append((name, None))
            else:
                declared = self._entry(stated, where + inside, vocabulary.short_type(entry["layer_type"]), inside)
                found.append((name, quantizer(declared, role, request)))
        return tuple(found)

    def _entry(self, stated: Mapping[str, Any], where: str, layer: str, inside: str) -> EntryQuantizer:
        built_in = vocabulary.values(self.base)
        values, origins, edited = {}, {}, {}
        pairs = {"quantizer_type": "/quantizer_type"} | {
            p: f"/quantizer_params/{p}" for p in stated["quantizer_params"]
        }
        for param, tail in pairs.items():
            raw = stated[param] if param == "quantizer_type" else stated["quantizer_params"][param]
            values[param] = vocabulary.value(param, raw)
            before = built_in.get((layer, inside + tail))
            own = Origin(f"builtin {self.base}", where + tail)
            origins[param] = own if before == values[param] else self.origin(where + tail)
            if before != values[param]:
                edited[param] = None if before is None else Declaration(before, own)
        return EntryQuantizer(values, origins, edited, where)

    # --- the rules above it ---

    def _overrides(self, layer_name: str | None, vitis_compat: bool) -> list[Override]:
        where = pointer.join([vocabulary.REGISTRY, vocabulary.USER])
        user = self.doc[vocabulary.REGISTRY][vocabulary.USER]
        everyone = Override(user, self._key_origins(user, where), over_edited=vitis_compat)
        return [everyone, *(self._name_override(pattern) for pattern in self.matching(layer_name))]

    def _name_override(self, pattern: str) -> Override:
        rule, where = self._named(pattern)
        bits = INTEGER_TYPES.get(rule.get("data_type", ""))
        word = self.origin(where if self._is_word(pattern) else f"{where}/data_type")
        return Override(rule, self._key_origins(rule, where), True, bits, word)

    def _key_origins(self, declared: Mapping[str, Any], where: str) -> dict[str, Origin]:
        return {k: self.origin(pointer.join([k], where)) for k, v in declared.items() if v is not None}

    def matching(self, layer_name: str | None) -> list[str]:
        """Name rules for a layer, weakest first: globs in file order, then the exact name."""
        named = self.doc[vocabulary.REGISTRY].get(vocabulary.NAMED, {})
        if layer_name is None:
            return []
        globs = [p for p in named if p != layer_name and fnmatchcase(layer_name, p)]
        return [*globs, *([layer_name] if layer_name in named else [])]

    def _named(self, pattern: str) -> tuple[Mapping[str, Any], str]:
        stated = self.doc[vocabulary.REGISTRY][vocabulary.NAMED][pattern]
        where = pointer.join([vocabulary.REGISTRY, vocabulary.NAMED, pattern])
        return ({"data_type": stated} if isinstance(stated, str) else stated), where

    def _is_word(self, pattern: str) -> bool:
        return isinstance(self.doc[vocabulary.REGISTRY][vocabulary.NAMED][pattern], str)

    def left_float(self, layer_name: str | None) -> tuple[Origin | None, str | None]:
        """The name rule that keeps a layer float, and the floating-point type it names."""
        decided: tuple[Origin | None, str | None] = (None, None)
        for pattern in self.matching(layer_name):
            rule, where = self._named(pattern)
            data_type = rule.get("data_type")
            if data_type is not None:
                at = where if self._is_word(pattern) else f"{where}/data_type"
                decided = (self.origin(at), data_type) if data_type in FLOAT_TYPES else (None, None)
            if rule.get("quantize") is not None:
                decided = (None, None) if rule["quantize"] else (self.origin(f"{where}/quantize"), None)
        return decided

    def only(self, layer_name: str | None) -> tuple[str | None, str]:
        """The word that says which tensors of a layer are quantized, and the name rule that says it."""
        decided: tuple[str | None, str] = (None, "")
        for pattern in self.matching(layer_name):
            declared = self._named(pattern)[0].get("quantize")
            if declared is not None:
                decided = (declared, pattern) if isinstance(declared, str) else (None, "")
        return decided

    def _own_words(self, pattern: str) -> frozenset[Origin]:
        """What the rule itself says beside its word: a rule that silences itself says something in vain."""
        if not pattern:
            return frozenset()
        rule, where = self._named(pattern)
        return frozenset(self._key_origins(rule, where).values())


def _lent(rule: LayerRule, layer_type: str, extra: vocabulary.ExtraEntry) -> LayerRule:
    """The rule of one layer type for another: its origins stay, and so do its parameters but for the axis."""

    def named(tensors: Tensors, names: tuple[str, ...]) -> Tensors:
        return tuple((name, _from_the_end(q)) for stated, q in tensors for name in names or (stated,))

    return replace(
        rule,
        layer_type=layer_type,
        weights=named(rule.weights, extra.kernels),
        biases=named(rule.biases, extra.biases),
    )


def _from_the_end(quantizer: ResolvedQuantizer | None) -> ResolvedQuantizer | None:
    """The same with a channel axis that counts from the last one: kernels of images have four."""
    if quantizer is None or quantizer.spec.channel_axis < 0:
        return quantizer
    return replace(quantizer, spec=replace(quantizer.spec, channel_axis=quantizer.spec.channel_axis - 4))


def _origins(parts: Iterable[Tensors]) -> frozenset[Origin]:
    """Everything that was declared about these tensors."""
    return frozenset(o for part in parts for _, q in part if q is not None for o in q.origins.values())
