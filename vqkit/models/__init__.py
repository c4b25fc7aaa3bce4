"""Read a Keras model file: vqkit's own layers known, other people's code refused, failures explained."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqkit.errors import ModelError, no_such_file
from vqkit.graph.keras_io import DEEPEST, room_for
from vqkit.limits import MemoryBudget, check_h5, check_zip
from vqkit.models.loading import reason, subclassed, weights_within

_UNKNOWN = re.compile(r"Could not locate (?:class|function) '([^']+)'|Unknown (?:layer|object): '([^']+)'")
_GIVE = "Give the trained float model as Keras saved it: a .keras or .h5 file, or a SavedModel folder"
_OTHER_FORMATS = {
    ".pb": "a graph without layers, of TensorFlow 1 or of a SavedModel (then give its folder)",
    ".tflite": "a TFLite file is already converted, often already quantized",
    ".onnx": "an ONNX file holds no Keras layers",
    ".xmodel": "a model compiled for the DPU",
    ".pt": "a PyTorch file",
    ".pth": "a PyTorch file",
    ".ckpt": "a checkpoint holds weights only",
}


def load_model(path: str | Path, custom_objects: Mapping[str, Any] | None = None, *, safe_mode: bool = True) -> Any:
    """A Keras model for inference, float or quantized by vqkit.

    Code inside the file (Lambda layers, graph functions) is not run.

    Args:
        path: a `.keras` or `.h5` file, or a SavedModel folder; of Keras 3 or Keras 2.
        custom_objects: class name -> class, for the model's own layers; registered ones need only be
            imported. A Lambda layer of Keras 2 gets its function here, by the layer's name.
        safe_mode: False runs the Lambda functions in a file of Keras 3; only for files that you trust.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ModelError: no such file, or it cannot be read; the message says what is missing, and the way out.
    """
    import keras

    from vqkit.models import keras2

    path = Path(path)
    if not os.path.exists(path):
        raise ModelError(f"model: {no_such_file(Path(path))}")
    if path.suffix in _OTHER_FORMATS:
        raise ModelError(f"model: {path}: {_OTHER_FORMATS[path.suffix]}. {_GIVE}")
    try:
        room = MemoryBudget(path)
        check_zip(path, room)
        if _is_h5(path):
            check_h5(path, room)
        with weights_within(room, zeros=True):
            rebuilt = keras2.load(path, custom_objects or {})
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path}: cannot be read as a model, it is damaged or of another kind: {reason(error)}. {_GIVE}"
        ) from error
    if rebuilt is not None:
        return rebuilt

    def read() -> Any:
        objects = dict(custom_objects or {})
        with weights_within(room):
            return keras.saving.load_model(path, custom_objects=objects, compile=False, safe_mode=safe_mode)

    try:
        try:
            return read()
        except RecursionError:
            with room_for(DEEPEST):
                return read()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_explained(path, error)) from error


def _subclassed(path: Path) -> str | None:
    """Class of the model in a `.keras` file, where its layers are known to code only."""
    with contextlib.suppress(OSError, ValueError, KeyError), zipfile.ZipFile(path) as archive:
        architecture = json.loads(archive.read("config.json"))
        config = architecture.get("config") or {}
        if architecture.get("class_name") not in ("Functional", "Sequential", "Model") and "layers" not in config:
            return str(architecture.get("class_name"))
    return None


def _is_h5(path: Path) -> bool:
    """By content, or by a name that says it is one."""
    import h5py

    return os.path.isfile(path) and (path.suffix in (".h5", ".hdf5") or bool(h5py.is_hdf5(path)))


def _explained(path: str | Path, error: Exception) -> str:
    text, where = str(error), f"{path}: Keras cannot load the model"
    unknown = next((a or b for a, b in _UNKNOWN.findall(text)), None)
    if unknown is not None:
        name = unknown.rpartition(">")[2]
        if name == _subclassed(Path(path)):
            return (
                f"{path}: {subclassed(name)}. To load it as it is, import the module that registers it, "
                f"or pass custom_objects={{{name!r}: {name}}}"
            )
        return (
            f"{where}: it does not know {name!r}. Pass custom_objects={{{name!r}: {name}}}, or import the "
            "module that registers it with @keras.saving.register_keras_serializable"
        )
    if "safe_mode" in text:
        return (
            f"{where}: a Lambda layer holds code, which is not run. If you trust the file, load it with "
            "load_model(path, safe_mode=False)"
        )
    return f"{where}: {reason(error)}"
