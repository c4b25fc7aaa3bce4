"""What a model file of Keras 2 holds: the architecture as JSON, and the weights."""

from __future__ import annotations

import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqkit.errors import ModelError
from vqkit.models.keras2.checkpoint import from_checkpoint
from vqkit.models.keras2.rebuild import RebuiltModel
from vqkit.models.keras2.weights import from_groups, from_h5
from vqkit.models.loading import subclassed


@dataclass(frozen=True)
class Archive:
    """A model file.

    Attributes:
        architecture: `class_name` and `config` of the model.
        version: of Keras, as the file has it ("2.2.4-tf"); empty where it does not say.
        assign: puts the weights into a model that was rebuilt from the architecture.
    """

    architecture: Mapping[str, Any]
    version: str
    assign: Callable[[RebuiltModel], None]


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
    # By content: before 2.12, Keras wrote HDF5 under the name `.keras` too.
    return _zip(path) if zipfile.is_zipfile(path) else _h5(path)


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
        version = _text(file.attrs.get("keras_version", ""))
        if version.startswith("3"):
            return None
        text = _text(file.attrs["model_config"])
        architecture = json.loads(text)
    if '"bilinear"' in text and version.startswith("2.") and version < "2.4" and "tf" not in version:
        warnings.warn(
            f"{path}: Keras {version} wrote it, whose bilinear UpSampling2D resized at the corners of "
            "pixels; here, as in every tf.keras since TensorFlow 1.14, it resizes at their centers",
            UserWarning,
            stacklevel=2,
        )
    return Archive(_with_layers(architecture, path), version, lambda made: _assign_h5(made, path))


def _assign_h5(made: RebuiltModel, path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        from_h5(file, made, path)


def _with_layers(architecture: Any, path: Path) -> Mapping[str, Any]:
    """The architecture, which says how its layers are connected."""
    kind = architecture.get("class_name") if isinstance(architecture, Mapping) else None
    config = architecture.get("config") if isinstance(architecture, Mapping) else None
    if isinstance(config, list) or (isinstance(config, Mapping) and isinstance(config.get("layers"), list)):
        return architecture
    raise ModelError(f"{path}: {subclassed(kind)}")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# --- .keras ---


def _zip(path: Path) -> Archive | None:
    with zipfile.ZipFile(path) as file:
        if not {"metadata.json", "config.json"} <= set(file.namelist()):
            return None
        version = str(json.loads(file.read("metadata.json")).get("keras_version", ""))
        if not version.startswith("2"):
            return None
        architecture = json.loads(file.read("config.json"))
    return Archive(_with_layers(architecture, path), version, lambda made: _assign_zip(made, path))


def _assign_zip(made: RebuiltModel, path: Path) -> None:
    import h5py

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as file:
        names = {name.replace("\\", "/"): name for name in file.namelist()}

        def assets(place: str) -> Path | None:
            start = f"assets/{place}/"
            inside = [n for n in names if n.startswith(start) and "/" not in n[len(start) :] and n != start]
            target = Path(tempfile.mkdtemp(dir=folder))
            for name in inside:
                (target / Path(name).name).write_bytes(file.read(names[name]))
            return target if inside else None

        with h5py.File(file.extract("model.weights.h5", folder), "r") as weights:
            from_groups(weights, made, path, assets)


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
    # Where it has the layers, its own configuration has their vocabularies too.
    whole = isinstance(config := metadata.get("config"), Mapping) and "layers" in config
    architecture = metadata if whole else metadata.get("model_config") or metadata
    version = str(metadata.get("keras_version", ""))
    return Archive(_with_layers(architecture, path), version, lambda made: from_checkpoint(made, path))


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
