"""What a model file of Keras 2 holds: the architecture as JSON, and the weights."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqkit.errors import ModelError

# A variable of a Keras 2 layer that has another attribute name in Keras 3.
_RENAMED = {"depthwise_kernel": "kernel"}
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_OPTIMIZER = ("optimizer", "keras_api", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH")


@dataclass(frozen=True)
class Archive:
    """A model file.

    Attributes:
        architecture: `class_name` and `config` of the model.
        assign: puts the weights into a model that was rebuilt from the architecture.
    """

    architecture: Mapping[str, Any]
    assign: Callable[[Any], None]


def read(path: Path) -> Archive | None:
    """Open a model file.

    Args:
        path: an existing file, or the folder of a SavedModel.

    Returns:
        What it holds, or None where Keras 2 did not write it (nor can it be told).

    Raises:
        ModelError: it holds weights only, or no architecture.
    """
    if path.is_dir():
        return _saved_model(path)
    if zipfile.is_zipfile(path):
        return _zip(path)
    return _h5(path) if path.suffix in (".h5", ".hdf5") else None


# --- .h5 ---


def _h5(path: Path) -> Archive | None:
    import h5py

    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise ModelError(
                f"{path}: holds weights only, no architecture. Build the model in code, call "
                "model.load_weights(path), and pass the model itself"
            )
        if _text(file.attrs.get("keras_version", "")).startswith("3"):
            return None
        architecture = json.loads(_text(file.attrs["model_config"]))
    return Archive(architecture, lambda model: _assign_h5(model, path))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _assign_h5(model: Any, path: Path) -> None:
    import h5py

    with h5py.File(path) as file:
        groups = file["model_weights"]
        stored = {name: _arrays(groups[name]) for name in _names(groups, "layer_names")}
    stored = {name: arrays for name, arrays in stored.items() if arrays}
    layers = {layer.name: _variables(layer) for layer in model.layers if layer.weights}
    if set(stored) != set(layers):
        _refuse(path, f"weights of {sorted(set(stored) ^ set(layers))} have no counterpart")
    for name, arrays in stored.items():
        if len(arrays) != len(layers[name]):
            _refuse(path, f"layer {name!r} has {len(arrays)} weights, Keras 3 has {len(layers[name])}")
        for variable, (label, array) in zip(layers[name], arrays, strict=True):
            ours, theirs = variable.path.rpartition("/")[2], label.rpartition("/")[2].split(":")[0]
            if ours != _RENAMED.get(theirs, theirs) and ours != theirs:
                _refuse(path, f"layer {name!r}: weight {label!r} meets {variable.path!r}")
            _set(variable, array, path)


def _names(group: Any, key: str) -> list[str]:
    """A list in the attributes of a group, which is cut into pieces where it is long."""
    if key in group.attrs:
        return [_text(n) for n in group.attrs[key]]
    pieces: list[str] = []
    while f"{key}{len(pieces)}" in group.attrs:
        pieces.append(f"{key}{len(pieces)}")
    return [_text(n) for piece in pieces for n in group.attrs[piece]]


def _arrays(group: Any) -> list[tuple[str, np.ndarray]]:
    return [(name, np.asarray(group[name])) for name in _names(group, "weight_names")]


def _variables(layer: Any) -> list[Any]:
    """In the order of an `.h5` file."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _set(variable: Any, array: np.ndarray, path: Path) -> None:
    if tuple(variable.shape) != array.shape:
        _refuse(path, f"{variable.path!r} has shape {tuple(variable.shape)}, the file {array.shape}")
    variable.assign(array)


def _refuse(path: Path, why: str) -> None:
    raise ModelError(
        f"{path}: its weights do not fit the model rebuilt from it: {why}. Build the model anew in Keras 3 "
        "and copy the weights layer by layer with set_weights"
    )


# --- .keras ---


def _zip(path: Path) -> Archive | None:
    with zipfile.ZipFile(path) as file:
        if not {"metadata.json", "config.json"} <= set(file.namelist()):
            return None
        if not str(json.loads(file.read("metadata.json")).get("keras_version", "")).startswith("2"):
            return None
        architecture = json.loads(file.read("config.json"))
    return Archive(architecture, lambda model: _assign_zip(model, path))


def _assign_zip(model: Any, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as file:
        file.extract("model.weights.h5", folder)
        try:
            model.load_weights(Path(folder) / "model.weights.h5")
        except Exception as error:
            _refuse(path, f"{type(error).__name__}: {str(error)[:300]}")


# --- SavedModel ---


def _saved_model(path: Path) -> Archive:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(f"{path}: a folder without saved_model.pb is not a SavedModel")
    metadata = _root_metadata(path)
    if metadata is None:
        raise ModelError(
            f"{path}: a SavedModel with functions only, without the layers that they were made of "
            "(tf.saved_model.save, model.export or TensorFlow 1 wrote it). It runs, but there is no layer to "
            "quantize: save the model itself, with model.save('model.keras'), where its code is"
        )
    architecture = metadata.get("model_config") or metadata
    if "config" not in architecture or "layers" not in (architecture["config"] or {}):
        raise ModelError(
            f"{path}: holds a subclassed model ({metadata.get('class_name')}), whose layers are known to its "
            "Python code only. Build it in code as a functional model and copy the weights"
        )
    return Archive(architecture, lambda model: _assign_checkpoint(model, path))


def _root_metadata(path: Path) -> Any:
    """What Keras noted about the model: beside the graph since TensorFlow 2.5, inside it before."""
    beside = path / "keras_metadata.pb"
    if beside.is_file():
        for node in _fields(beside.read_bytes(), 1):
            if _first(node, 3) == b"root":
                return json.loads(_first(node, 5) or b"null", object_hook=_plain)
        return None
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graph = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].object_graph_def
    # user_object.metadata: field 3, which TensorFlow still names but no longer writes.
    raw = graph.nodes[0].user_object.metadata if graph.nodes else ""
    return json.loads(raw, object_hook=_plain) if raw else None


def _plain(value: dict[str, Any]) -> Any:
    """A SavedModel's JSON says which lists were tuples and shapes."""
    return value["items"] if value.get("class_name") in ("__tuple__", "TensorShape") else value


def _first(message: bytes, field: int) -> bytes | None:
    return next(_fields(message, field), None)


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """The byte strings of one field of a protocol buffer message, whose schema Keras 3 no longer ships."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            size = varint()
            if key >> 3 == wanted:
                yield message[at : at + size]
            at += size
        elif key & 7 == 0:
            varint()
        else:
            at += {1: 8, 5: 4}[key & 7]


def _assign_checkpoint(model: Any, path: Path) -> None:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    stored = {k.removesuffix(_SUFFIX) for k in reader.get_variable_to_shape_map()}
    stored = {k for k in stored if k.split("/")[0] not in _OPTIMIZER and k.startswith("layer_with_weights-")}
    done: set[int] = set()
    for key in sorted(stored):
        variable = _at(model, key.split("/"))
        if variable is None or id(variable) in done:
            _refuse(path, f"{key!r} has no counterpart")
        done.add(id(variable))
        _set(variable, reader.get_tensor(key + _SUFFIX), path)
    left = [v.path for v in model.weights if id(v) not in done]
    if left:
        _refuse(path, f"nothing is stored for {left}")


def _at(owner: Any, steps: list[str]) -> Any:
    """The variable at the end of a path of attributes; `layer_with_weights-<n>` is the n-th with weights."""
    for step in steps:
        if step.startswith("layer_with_weights-"):
            weighted = [layer for layer in owner.layers if layer.weights]
            number = int(step.rpartition("-")[2])
            owner = weighted[number] if number < len(weighted) else None
        else:
            owner = getattr(owner, step, getattr(owner, _RENAMED.get(step, step), None))
        if owner is None:
            return None
    return owner if hasattr(owner, "assign") else None
