"""A quantize strategy: what the user wants, as data that never changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vqkit import digest
from vqkit.errors import StrategyError, not_allowed
from vqkit.files import write_text
from vqkit.strategy import document, edit, fit, validation, vocabulary
from vqkit.strategy.cascade import Origin, ResolvedQuantizer
from vqkit.strategy.edit import Edited
from vqkit.strategy.rules import LayerRule, RuleSet
from vqkit.strategy.schema import (
    NOTHING,
    WEIGHTS_ONLY,
    FinalizePipelineConfig,
    OptimizePipelineConfig,
    QuantizePipelineConfig,
    RefinePipelineConfig,
    StrategyDocument,
)

_MOST_KNOWN = 256


@dataclass(frozen=True, eq=False)
class Strategy:
    """The 2.5 strategy JSON with its sources; every change returns a new one.

    Attributes:
        name: the built-in's name, or the file's without suffix.

    Example:
        >>> import vqkit
        >>> strategy = vqkit.Strategy.builtin("pof2s").with_kwargs(weight_bit=4)
        >>> strategy.layer_rule("Conv2D").weights[0][1].spec.bit_width
        4
    """

    name: str
    _edited: Edited = field(repr=False)
    _form: StrategyDocument = field(repr=False)

    # --- where it is from ---

    @classmethod
    def builtin(cls, name: str) -> Strategy:
        """One of pof2s (8bit), pof2s_tqt (8bit_tqt), fs, fsx, or a preset: int8, w4a4, …

        Raises:
            StrategyError: no built-in has this name.
        """
        own = vocabulary.canonical(name)
        return _checked(own, Edited(vocabulary.builtin_document(own), {"": f"builtin {own}"}), f"builtin {own}")

    @classmethod
    def load(cls, path: str | Path) -> Strategy:
        """Read a whole strategy, such as a verbosity-2 dump of vqkit or of the original.

        Raises:
            StrategyError: no such file, not JSON, or malformed; a part of a strategy needs `update`.
        """
        value = _read(path)
        return _checked(Path(path).stem, Edited(value, {"": Path(path).name}), str(path))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], source: str = "dict") -> Strategy:
        """A strategy from plain values, which are copied.

        Args:
            value: a whole strategy.
            source: what to call it in messages and origins.

        Raises:
            StrategyError: malformed.
        """
        return _checked(source, Edited(document.plain(value, source), {"": source}), source)

    # --- changes ---

    def with_kwargs(self, **kwargs: Any) -> Strategy:
        """With 2.5's keyword arguments on top, such as weight_bit=4 or include_cle=False; old names work too.

        Raises:
            StrategyError: unknown key, or a value that is not allowed.
        """
        return self.with_overrides(kwargs)

    def with_value(self, pointer: str, value: Any) -> Strategy:
        """With one value changed at a JSON pointer that exists or that the format defines.

        A layer entry may be named by its class instead of its index, as in
        /quantize_registry_config/layer_quantize_config/Dense/weight_quantizers/0/quantizer_params/bit_width.

        Raises:
            StrategyError: the pointer leads nowhere, or the value is not allowed.
        """
        if not pointer.startswith("/"):
            raise StrategyError(f"with_value: a JSON pointer starts with '/', got {pointer!r}; names go to with_kwargs")
        return self.with_overrides({pointer: value}, source="with_value")

    def with_overrides(self, values: Mapping[str, Any], source: str = "kwargs") -> Strategy:
        """With several names or JSON pointers set and checked together, as a sweep's axes give them.

        Raises:
            StrategyError: one leads nowhere, or the outcome is not allowed.
        """
        plain = document.plain(dict(values), source)
        sections = {k: v for k, v in plain.items() if k in edit.SECTION_NAMES}
        single = {k: v for k, v in plain.items() if k not in sections}
        edited = edit.update(self._edited, sections, self.base, source)
        return _checked(self.name, edit.overrides(edited, single, self.base, source), source)

    def takes(self, name: str) -> bool:
        """Whether `with_overrides` takes a name or JSON pointer, whatever its value.

        Args:
            name: such as "weight_bit".
        """
        try:
            return name in edit.SECTION_NAMES or bool(edit.address(self._edited.doc, name, self.base, ""))
        except StrategyError:
            return False

    def without(self, pointers: Iterable[str]) -> Strategy:
        """Without what is said at some places: a name rule's value goes, others become the built-in's.

        Args:
            pointers: JSON pointers, as the plan gives the origins of what decided.

        Raises:
            StrategyError: the outcome is not allowed.
        """
        edited = self._edited
        for where in pointers:
            parts = document.split(where)
            if parts[:2] == [vocabulary.REGISTRY, vocabulary.NAMED]:
                edited = edit.without(edited, parts)
            else:
                value = self._book.built_in(where)
                edited = edit.overrides(edited, {where: value}, self.base, f"builtin {self.base}")
        return _checked(self.name, edited, "without")

    def with_name_rules(self, rules: Mapping[str, Any], source: str = "dict") -> Strategy:
        """With other name rules than it has; what they say nothing about is checked already.

        Args:
            rules: layer name or glob -> rule; an empty mapping leaves none.
            source: who says so.

        Raises:
            StrategyError: malformed.
        """
        edited = edit.set_at(
            self._edited, [vocabulary.REGISTRY, vocabulary.NAMED], document.plain({**rules}, source), source
        )
        made = Strategy(self.name, edited, validation.document(edited.doc, source))
        vars(made)["base"] = self.base  # No built-in has name rules to share.
        return made

    def update(self, new: Mapping[str, Any] | str | Path) -> Strategy:
        """With another, possibly partial, strategy on top, as the original's set_quantize_strategy does.

        Args:
            new: plain values or a file; left as it is.

        Raises:
            StrategyError: unknown key, or a value that is not allowed.
        """
        is_path = isinstance(new, str | Path)
        source = str(new) if is_path else "dict"
        value = _read(source) if is_path else document.plain(new, source)
        if not isinstance(value, dict):
            raise StrategyError(f"{source}: a strategy is a JSON object, got {value!r}")
        label = Path(source).name if is_path else source
        return _checked(self.name, edit.update(self._edited, value, self.base, label), source)

    # --- out ---

    def dump(self, path: str | Path | None = None, verbose: int = 2) -> dict[str, Any]:
        """The strategy as plain values; values and key order are those that were read.

        Args:
            path: also write it there, atomically.
            verbose: 0 the user's part of the registry, 1 also the pipelines, 2 everything.

        Raises:
            StrategyError: another verbosity.
        """
        if verbose not in (0, 1, 2):
            raise StrategyError(not_allowed("dump verbose", verbose, (0, 1, 2)))
        value: dict[str, Any] = document.plain(self._edited.doc, self.name)
        if verbose < 2:
            registry = value[vocabulary.REGISTRY]
            kept = (vocabulary.USER, vocabulary.CUSTOM, vocabulary.NAMED, vocabulary.EXTRA)
            value[vocabulary.REGISTRY] = {k: v for k, v in registry.items() if k in kept}
        if verbose < 1:
            value = {vocabulary.REGISTRY: value[vocabulary.REGISTRY]}
        if path is not None:
            write_text(path, document.to_text(value))
        return value

    @cached_property
    def digest(self) -> str:
        """Same for strategies that mean the same, in any spelling and whatever in them changes nothing."""
        stages = self._form.model_dump(mode="json", include=set(vocabulary.PIPELINES))
        if not self.refine.include_block_reconstruction:
            refine = stages["refine_pipeline_config"]
            stages["refine_pipeline_config"] = {k: v for k, v in refine.items() if k not in vocabulary.BLOCK_KEYS}
        return digest.of_json({**vocabulary.document(self._book.effective().doc), **stages})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strategy) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        changes = "".join(f", {k}={v!r}" for k, v in self.overrides().items())
        return f"Strategy({self.name!r}{changes})"

    def overrides(self) -> dict[str, Any]:
        """What differs from its built-in: by name where a value has one, else by JSON pointer."""
        from vqkit.strategy.vocabulary import flat_overrides

        return flat_overrides(self._edited.doc, self.base)

    # --- what it says ---

    @cached_property
    def base(self) -> str:
        """The built-in it started from: the one that shares most values with it."""
        return vocabulary.nearest_base(self._edited.doc)

    @property
    def optimize(self) -> OptimizePipelineConfig:
        """Rewrites of the float model."""
        return self._form.optimize_pipeline_config

    @property
    def quantize(self) -> QuantizePipelineConfig:
        """Device forms and merging."""
        return self._form.quantize_pipeline_config

    @property
    def refine(self) -> RefinePipelineConfig:
        """Adjustments after calibration."""
        return self._form.refine_pipeline_config

    @property
    def finalize(self) -> FinalizePipelineConfig:
        """What is written at the end."""
        return self._form.finalize_pipeline_config

    @property
    def user(self) -> dict[str, Any]:
        """The user's global overrides that say something, in file order."""
        said = self._edited.doc[vocabulary.REGISTRY][vocabulary.USER]
        return {k: v for k, v in said.items() if k not in vocabulary.LISTS and v is not None}

    @property
    def name_rules(self) -> dict[str, Any]:
        """The rules for layers by name or glob, in file order."""
        return dict(document.plain(self._edited.doc[vocabulary.REGISTRY].get(vocabulary.NAMED, {}), self.name))

    @property
    def input_layers(self) -> tuple[str, ...]:
        """Where quantization starts; the user's list, else the one of the input quantizer."""
        registry = self._form.quantize_registry_config
        return registry.user_quantize_config.input_layers or registry.input_quantize_config.input_layers

    @property
    def output_layers(self) -> tuple[str, ...]:
        """Where quantization ends."""
        return self._form.quantize_registry_config.user_quantize_config.output_layers

    @property
    def ignore_layers(self) -> tuple[str, ...]:
        """Layers left out."""
        return self._form.quantize_registry_config.user_quantize_config.ignore_layers

    @property
    def extra_layers(self) -> bool:
        """Whether layer types that version 2.5 does not know have the entries of `vocabulary.EXTRA_ENTRIES`."""
        return self._form.quantize_registry_config.extra_layers

    @property
    def custom_layer_types(self) -> tuple[str, ...]:
        """Custom layers that are wrapped and left float."""
        return self._form.quantize_registry_config.custom_layer_type

    def custom_type_origin(self, layer_type: str) -> Origin | None:
        """Where `custom_layer_type` names this class, if it does."""
        return self._book.custom_type_origin(layer_type)

    @property
    def layer_types(self) -> tuple[str, ...]:
        """Class names of the layers that have an entry."""
        return tuple(self._book.layer_types())

    def input_rule(self, layer_name: str | None = None, *, vitis_compat: bool = False) -> ResolvedQuantizer:
        """The quantizer of the model's inputs and who decided it.

        Args:
            layer_name: name of the input, for name rules.
            vitis_compat: a global key also beats an edited entry.
        """
        return self._book.input_rule(layer_name, vitis_compat)

    def input_left_float(self, layer_name: str) -> Origin | None:
        """The name rule that keeps this input float, if there is one."""
        only, pattern = self._book.only(layer_name)
        if only in (WEIGHTS_ONLY, NOTHING):
            return self._book.origin(document.join([vocabulary.REGISTRY, vocabulary.NAMED, pattern, "quantize"]))
        return self._book.left_float(layer_name)[0]

    def gives_float(self, layer_name: str) -> bool:
        """Whether a name rule's word leaves what this layer or input gives float for every reader."""
        return self._book.only(layer_name)[0] in (WEIGHTS_ONLY, NOTHING)

    def named_float(self, layer_name: str) -> tuple[Origin | None, str | None]:
        """The name rule that keeps a layer or input float, and the floating-point type it names."""
        return self._book.left_float(layer_name)

    def speaks_of(self, layer_name: str) -> bool:
        """Whether some name rule matches this layer."""
        return bool(self._book.matching(layer_name))

    def layer_rule(
        self,
        layer_type: str,
        layer_name: str | None = None,
        *,
        vitis_compat: bool = False,
        relu_like: bool | None = None,
    ) -> LayerRule | None:
        """What is quantized in a layer, with which quantizers, and who decided.

        Args:
            layer_type: class name, such as "Conv2D"; a dotted path counts by its last part.
            layer_name: the layer's name, for name rules.
            vitis_compat: a global key also beats an edited entry.
            relu_like: whether the layer's output is never negative; a global `activation_unsigned` passes
                over symmetric quantizers of layers where it is False.

        Returns:
            The rule, or None where the strategy has no entry for the type.

        Raises:
            StrategyError: a name rule makes an invalid quantizer.
        """
        named = tuple(self._book.matching(layer_name))
        key = (layer_type, named, vitis_compat, relu_like)
        if key not in self._rules:
            self._rules[key] = self._book.layer_rule(
                layer_type, layer_name, vitis_compat=vitis_compat, relu_like=relu_like
            )
        return self._rules[key]

    def unused_overrides(self, used: Iterable[tuple[str, str]]) -> list[fit.Unused]:
        """The overrides that reached no quantizer.

        Args:
            used: origins (source, where) of everything that was applied.
        """
        return fit.unused(self._book, {where for _, where in used})

    def unknown_names(self, layer_names: Iterable[str]) -> list[str]:
        """One message for each layer name or glob that a model with these layers does not have."""
        return fit.unknown_names(self._book, list(layer_names))

    def unknown_types(self, present: Iterable[str], offered: Iterable[str] = ()) -> list[str]:
        """One message for each layer type that a model with these lacks; entries may name offered ones."""
        return fit.unknown_types(self._book, list(dict.fromkeys(present)), set(offered))

    def unknown_tensors(self, layer_type: str, variables: Iterable[str], inputs: int, outputs: int) -> list[str]:
        """One message for each variable, input or output that the user's entry of this type names in vain."""
        named = list(dict.fromkeys(variables))
        return fit.unknown_tensors(self._book, layer_type, named, inputs, outputs)

    @cached_property
    def _rules(self) -> dict[tuple[Any, ...], LayerRule | None]:
        """Rules already resolved: a layer's name counts only by the name rules that match it."""
        return {}

    @cached_property
    def _book(self) -> RuleSet:
        return RuleSet(self._edited.doc, self.base, self._edited.sources)


def resolve_name_or_path(name_or_path: str | Path) -> Strategy:
    """A strategy from what people type: a built-in's name or a JSON file.

    Raises:
        StrategyError: neither.
    """
    given = str(name_or_path)
    if given in (*vocabulary.NAMES, *vocabulary.ALIASES):
        return Strategy.builtin(given)
    if Path(given).suffix == ".json" or os.path.isfile(given):
        return Strategy.load(given)
    allowed = [*vocabulary.NAMES, *vocabulary.ALIASES, "a .json file"]
    raise StrategyError(not_allowed("strategy", given, allowed, what="name"))


def _read(path: str | Path) -> Any:
    return document.parse(document.text_of(path), str(path))


_KNOWN: dict[str, Strategy] = {}
"""Strategies that were checked in this process, by content: what they say, who says it, and their name."""


def _checked(name: str, edited: Edited, source: str) -> Strategy:
    key = digest.of_bytes(json.dumps([name, edited.doc, edited.sources]).encode())
    strategy = _KNOWN.get(key)
    if strategy is None:
        strategy = Strategy(name, edited, validation.document(edited.doc, source))
        validation.check(strategy._book, source)
        while len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)), None)
        _KNOWN[key] = strategy
    return strategy
