"""From the architecture that Keras 2 wrote to a live model of Keras 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from vqkit.errors import ModelError
from vqkit.graph.keras_io import name_operation
from vqkit.models.keras2.layers import MODELS, make_layer, short_name
from vqkit.models.keras2.operations import ConstantBudget, call_function, call_raw
from vqkit.models.loading import reason

_LAMBDAS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")
# They add a loss or a metric while training, and give back what they read.
_ASIDE = ("AddLoss", "AddMetric")
_CONSTANT = "_CONSTANT_VALUE"


@dataclass(frozen=True)
class LayerParts:
    """One layer of a model.

    Attributes:
        name: as the file has it.
        kind: its class, as the file has it.
        live: the layer or model of Keras 3; None where none was made (an operation, or no output needs it).
    """

    name: str
    kind: str
    live: Any


@dataclass
class RebuiltModel:
    """What came of an architecture.

    Attributes:
        parts: of each live model (by `id`), its layers in the file's order.
        renamed: name in the file -> name in Keras 3.
        model: the whole.
        constants: what calls on constants took.
    """

    parts: dict[int, list[LayerParts]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    model: Any = None
    constants: ConstantBudget = field(default_factory=ConstantBudget)

    def name(self, written: str, taken: Any = ()) -> str:
        """A name that Keras 3 takes, unlike those of `taken`."""
        name = written.replace("/", "_").strip() or "unnamed"
        while name != written and name in taken:
            name += "_"
        if name != written:
            self.renamed[written] = name
        return name


def rebuild(architecture: Mapping[str, Any], custom_objects: Mapping[str, Any], where: str) -> RebuiltModel:
    """A model whose weights are not set yet.

    Args:
        architecture: `class_name` and `config` of the model.
        custom_objects: class name -> class; name of a Lambda layer -> its function.
        where: the file, for messages.

    Returns:
        A functional or Sequential `keras.Model`, and its layers in the file's order; they have the names they
        had, but where Keras 3 allows no such name.

    Raises:
        ModelError: it cannot be rebuilt.
    """
    made = RebuiltModel()
    made.model = _model(architecture, custom_objects, where, made)
    return made


def _model(
    architecture: Mapping[str, Any],
    custom: Mapping[str, Any],
    where: str,
    made: RebuiltModel,
    *,
    inside: bool = False,
) -> Any:
    if short_name(architecture["class_name"]) == "Sequential":
        return _sequential(architecture["config"], custom, where, made, inside)
    return _Functional(architecture["config"], custom, where, made).model()


def _sequential(config: Any, custom: Mapping[str, Any], where: str, made: RebuiltModel, inside: bool) -> Any:
    entries = config["layers"] if isinstance(config, Mapping) else config
    name = config.get("name") if isinstance(config, Mapping) else None
    if not entries:
        raise ModelError(f"{where}: the Sequential model {name!r} has no layers")
    model = keras.Sequential(name=name and made.name(name))
    first = entries[0]["config"]
    shape = _shape_of(entries[0]) or (isinstance(config, Mapping) and config.get("build_input_shape"))
    if entries[0]["class_name"] != "InputLayer" and (shape or not inside):
        if not shape:
            raise ModelError(f"{where}: the Sequential model {name!r} was saved without its input shape")
        model.add(_input(first, made.name(f"{first['name']}_input"), shape))
    parts = made.parts[id(model)] = []
    names = [entry["config"].get("name") for entry in entries]
    for entry, written in zip(entries, names, strict=True):
        label = f"{where}: layer {written!r}"
        if entry["class_name"] == "InputLayer":
            live = _input(entry["config"], made.name(written, names), shape)
        elif short_name(entry["class_name"]) in MODELS:
            live = _model(entry, custom, where, made, inside=True)
        else:
            live = _layer(entry, custom, label, where, made, names)
        try:
            model.add(live)
        except Exception as error:
            raise ModelError(f"{label} ({entry['class_name']}) cannot be called: {reason(error)}") from error
        parts.append(LayerParts(written, short_name(entry["class_name"]), None if _is_tensor(live) else live))
    return model


def _layer(
    entry: Mapping[str, Any], custom: Mapping[str, Any], label: str, where: str, made: RebuiltModel, names: Any
) -> Any:
    name = made.name(entry["config"]["name"], names)
    named = {**entry, "config": {**entry["config"], "name": name}}
    functions = _with_lambda(custom, entry, name)
    return make_layer(named, functions, label, lambda e: _model(e, custom, where, made, inside=True))


def _with_lambda(custom: Mapping[str, Any], entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The function of a Lambda layer is given by the name in the file."""
    written = entry["config"]["name"]
    return {**custom, name: custom[written]} if written in custom and name != written else custom


def _shape_of(entry: Mapping[str, Any]) -> Any:
    """The input shape that an entry holds; that of a wrapper or model may stand inside it."""
    config = entry["config"]
    if isinstance(config, list):
        return _shape_of(config[0])
    own = config.get("batch_input_shape") or config.get("batch_shape")
    if own is None and short_name(entry["class_name"]) in MODELS and config.get("layers"):
        return _shape_of(config["layers"][0]) or config.get("build_input_shape")
    return own


def _input(config: Any, name: str, shape: Any = None) -> Any:
    given = config if isinstance(config, Mapping) else {}
    shape = given.get("batch_input_shape") or given.get("batch_shape") or shape
    dtype = given.get("dtype") or "float32"
    dtype = dtype["config"].get("name", "float32") if isinstance(dtype, Mapping) else dtype
    return keras.Input(batch_shape=tuple(shape), dtype=dtype, name=name)


class _Functional:
    """Calls the layers of a functional configuration, each when its inputs are there."""

    def __init__(self, config: Mapping[str, Any], custom: Mapping[str, Any], where: str, made: RebuiltModel) -> None:
        self._config, self._custom, self._where, self._made = config, custom, where, made
        self._entries = {entry["name"]: entry for entry in config["layers"]}
        self._values: dict[tuple[str, int], Any] = {}
        self._live: dict[str, Any] = {}

    def model(self) -> Any:
        waiting = [
            (name, number, node)
            for name, entry in self._entries.items()
            for number, node in enumerate(entry["inbound_nodes"], start=self._first_call(name, entry))
        ]
        for name, entry in self._entries.items():
            if entry["class_name"] == "InputLayer":
                self._values[name, 0] = _input(entry["config"], self._made.name(name, self._entries))
        needed = self._needed({(name, number): node for name, number, node in waiting})
        while waiting:
            ready = [call for call in waiting if self._is_ready(call[2])]
            if not ready:
                lost = {c[0] for c in waiting if (c[0], c[1]) in needed}
                if not lost:
                    break
                raise ModelError(f"{self._where}: no layer makes what {sorted(lost)} reads")
            waiting = [call for call in waiting if call not in ready]
            for name, number, node in ready:
                try:
                    self._values[name, number] = self._call(name, node)
                except ModelError:
                    # What only a loss or a metric read is not part of the model.
                    if (name, number) in needed:
                        raise
        inputs, outputs = (_map(self._tensor, self._config[k]) for k in ("input_layers", "output_layers"))
        name = self._config.get("name")
        model = keras.Model(_unpacked(inputs), _unpacked(outputs), name=name and self._made.name(name))
        self._made.parts[id(model)] = [
            LayerParts(name, short_name(entry["class_name"]), self._live.get(name))
            for name, entry in self._entries.items()
        ]
        return model

    def _first_call(self, name: str, entry: Mapping[str, Any]) -> int:
        """Keras 2 counts the calls of a model in a model from 1: building it was the first.

        A Sequential model that was built by being called has none before that; who reads it tells.
        """
        if short_name(entry["class_name"]) not in MODELS:
            return 0
        ends: list[Any] = []
        _map(ends.append, self._config["output_layers"])
        ends += [r for e in self._entries.values() for node in e["inbound_nodes"] for r in self._refs(node)]
        read = [r[1] for r in ends if r[0] == name]
        return int(0 not in read)

    def _needed(self, nodes: Mapping[tuple[str, int], Any]) -> set[tuple[str, int]]:
        """The calls that the outputs depend on."""
        ends: list[Any] = []
        _map(ends.append, self._config["output_layers"])
        found, waiting = set(), [(r[0], r[1]) for r in ends]
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting += [(r[0], r[1]) for r in self._refs(nodes.get(key, []))]
        return found

    def _is_ready(self, node: Any) -> bool:
        return all((r[0], r[1]) in self._values for r in self._refs(node))

    def _refs(self, structure: Any) -> list[Any]:
        if self._is_ref(structure):
            own = [] if structure[0] == _CONSTANT else [structure]
            return own + (self._refs(structure[3]) if len(structure) == 4 else [])
        inner = structure.values() if isinstance(structure, Mapping) else structure
        return [r for s in inner for r in self._refs(s)] if isinstance(structure, Mapping | list) else []

    def _is_ref(self, value: Any) -> bool:
        """Whether a list is (layer, number of its call, number of its output[, keyword arguments])."""
        return (
            isinstance(value, list)
            and len(value) in (3, 4)
            and isinstance(value[0], str)
            and isinstance(value[1], int)
            and (isinstance(value[2], int) or value[0] == _CONSTANT)
        )

    def _tensor(self, ref: Any) -> Any:
        if ref[0] == _CONSTANT:
            return ref[2]
        value = self._values[ref[0], ref[1]]
        return value[ref[2]] if isinstance(value, list | tuple) and _is_tensors(value) else value

    def _arguments(self, structure: Any) -> Any:
        """References become tensors, the rest stays as it is."""
        return _map(self._tensor, structure, self._is_ref)

    def _call(self, name: str, node: Any) -> Any:
        entry, where = self._entries[name], f"{self._where}: layer {name!r}"
        refs = [node] if self._is_ref(node) else keras.tree.flatten(_map(_Held, node, self._is_ref))
        with_kwargs = [r if self._is_ref(r) else r.value for r in refs]
        kwargs: dict[str, Any] = next((self._arguments(r[3]) for r in with_kwargs if len(r) == 4 and r[3]), {})
        args = self._arguments(node)
        kind, config = entry["class_name"], entry["config"]
        if kind in _ASIDE:
            return args[0] if isinstance(args, list) else args
        if kind in _LAMBDAS:
            return name_operation(
                call_function(config["function"], args, kwargs, where, self._made.constants),
                self._made.name(name, self._entries),
                (args, kwargs),
            )
        if kind == "TensorFlowOpLayer":
            made = call_raw(config, _listed(args), where, self._made.constants)
            return name_operation(made, self._made.name(name, self._entries), args)
        if isinstance(args, list) and len(args) == 1:
            (args,) = args
        if name not in self._live:
            # In a functional model the entry's name is the layer's.
            named = config if isinstance(config, list) else {**config, "name": config.get("name", name)}
            self._live[name] = (
                _model(entry, self._custom, self._where, self._made, inside=True)
                if short_name(kind) in MODELS
                else _layer({**entry, "config": named}, self._custom, where, self._where, self._made, self._entries)
            )
        try:
            return self._live[name](args, **kwargs)
        except Exception as error:
            raise ModelError(f"{where} ({kind}) cannot be called: {reason(error)}") from error


class _Held:
    """A reference that a tree of references does not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _map(function: Any, structure: Any, is_leaf: Any = None) -> Any:
    leaf = is_leaf or (lambda v: isinstance(v, list) and len(v) >= 3 and isinstance(v[0], str))
    if leaf(structure):
        return function(structure)
    if isinstance(structure, Mapping):
        return {k: _map(function, v, leaf) for k, v in structure.items()}
    if isinstance(structure, list):
        return [_map(function, v, leaf) for v in structure]
    return structure


def _is_tensors(values: Any) -> bool:
    return any(isinstance(v, keras.KerasTensor) for v in values)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _listed(args: Any) -> list[Any]:
    return args if isinstance(args, list) else [args]


def _unpacked(structure: Any) -> Any:
    return structure[0] if isinstance(structure, list) and len(structure) == 1 else structure
