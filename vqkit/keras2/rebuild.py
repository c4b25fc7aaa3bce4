"""From the architecture that Keras 2 wrote to a live model of Keras 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from vqkit.errors import ModelError
from vqkit.graph.keras_io import name_operation
from vqkit.keras2.functions import call_function
from vqkit.keras2.layers import make_layer
from vqkit.keras2.raw_ops import call_raw

_MODELS = ("Functional", "Model", "Sequential")
_LAMBDAS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")
_CONSTANT = "_CONSTANT_VALUE"


def rebuild(architecture: Mapping[str, Any], custom_objects: Mapping[str, Any], where: str) -> Any:
    """A model with random weights.

    Args:
        architecture: `class_name` and `config` of the model.
        custom_objects: class name -> class; name of a Lambda layer -> its function.
        where: the file, for messages.

    Returns:
        A functional or Sequential `keras.Model`; its layers have the names they had.

    Raises:
        ModelError: it cannot be rebuilt.
    """
    if architecture["class_name"] == "Sequential":
        return _sequential(architecture["config"], custom_objects, where)
    return _Functional(architecture["config"], custom_objects, where).model()


def _sequential(config: Any, custom: Mapping[str, Any], where: str) -> Any:
    entries = config["layers"] if isinstance(config, Mapping) else config
    name = config.get("name") if isinstance(config, Mapping) else None
    model = keras.Sequential(name=name)
    first = entries[0]["config"]
    shape = first.get("batch_input_shape") or (
        isinstance(config, Mapping) and config.get("build_input_shape")
    )
    if entries[0]["class_name"] != "InputLayer":
        if not shape:
            raise ModelError(f"{where}: the Sequential model {name!r} was saved without its input shape")
        model.add(_input(first, f"{first['name']}_input", shape))
    for entry in entries:
        label = f"{where}: layer {entry['config'].get('name')!r}"
        if entry["class_name"] == "InputLayer":
            model.add(_input(entry["config"], entry["config"]["name"], shape))
        elif entry["class_name"] in _MODELS:
            model.add(rebuild(entry, custom, where))
        else:
            model.add(make_layer(entry, custom, label))
    return model


def _input(config: Mapping[str, Any], name: str, shape: Any = None) -> Any:
    shape = config.get("batch_input_shape") or config.get("batch_shape") or shape
    dtype = config.get("dtype") or "float32"
    dtype = dtype["config"].get("name", "float32") if isinstance(dtype, Mapping) else dtype
    return keras.Input(batch_shape=tuple(shape), dtype=dtype, name=name)


class _Functional:
    """Calls the layers of a functional configuration, each when its inputs are there."""

    def __init__(self, config: Mapping[str, Any], custom: Mapping[str, Any], where: str) -> None:
        self._config, self._custom, self._where = config, custom, where
        self._entries = {entry["name"]: entry for entry in config["layers"]}
        self._values: dict[tuple[str, int], Any] = {}
        self._live: dict[str, Any] = {}

    def model(self) -> Any:
        waiting = [
            (name, number, node)
            for name, entry in self._entries.items()
            for number, node in enumerate(entry["inbound_nodes"], start=_first_node(entry))
        ]
        for name, entry in self._entries.items():
            if entry["class_name"] == "InputLayer":
                self._values[name, 0] = _input(entry["config"], name)
        while waiting:
            ready = [call for call in waiting if self._is_ready(call[2])]
            if not ready:
                raise ModelError(
                    f"{self._where}: no layer makes what {sorted({c[0] for c in waiting})} reads"
                )
            for name, number, node in ready:
                self._values[name, number] = self._call(name, node)
            waiting = [call for call in waiting if (call[0], call[1]) not in self._values]
        inputs, outputs = (_map(self._tensor, self._config[k]) for k in ("input_layers", "output_layers"))
        return keras.Model(_unpacked(inputs), _unpacked(outputs), name=self._config.get("name"))

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
            isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str)
            and isinstance(value[1], int) and (isinstance(value[2], int) or value[0] == _CONSTANT)
        )  # fmt: skip

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
        kwargs: dict[str, Any] = next(
            (self._arguments(r[3]) for r in with_kwargs if len(r) == 4 and r[3]), {}
        )
        args = self._arguments(node)
        kind, config = entry["class_name"], entry["config"]
        if kind in _LAMBDAS:
            return name_operation(
                call_function(config["function"], args, kwargs, where), name, (args, kwargs)
            )
        if kind == "TensorFlowOpLayer":
            return name_operation(call_raw(config, _listed(args), where), name, args)
        if isinstance(args, list) and len(args) == 1:
            (args,) = args
        if name not in self._live:
            is_model = kind in _MODELS
            self._live[name] = (
                rebuild(entry, self._custom, self._where) if is_model
                else make_layer(entry, self._custom, where)
            )  # fmt: skip
        try:
            return self._live[name](args, **kwargs)
        except Exception as error:
            raise ModelError(f"{where} ({kind}) cannot be called: {str(error)[:300]}") from error


class _Held:
    """A reference that a tree of references does not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _first_node(entry: Mapping[str, Any]) -> int:
    """Keras 2 counts the calls of a model in a model from 1: building it was the first."""
    if entry["class_name"] in ("Functional", "Model"):
        return 1
    if entry["class_name"] == "Sequential":
        layers = entry["config"]["layers"] if isinstance(entry["config"], Mapping) else entry["config"]
        return int(layers[0]["class_name"] == "InputLayer")
    return 0


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


def _listed(args: Any) -> list[Any]:
    return args if isinstance(args, list) else [args]


def _unpacked(structure: Any) -> Any:
    return structure[0] if isinstance(structure, list) and len(structure) == 1 else structure
