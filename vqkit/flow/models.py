"""Read a Keras model file: vqkit's own layers known, other people's code refused, failures explained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from vqkit.errors import ModelError

_OWN_LAYERS = ("vqkit.graph.layers", "vqkit.flow.layers")
_UNKNOWN = re.compile(r"Could not locate (?:class|function) '([^']+)'|Unknown (?:layer|object): '([^']+)'")
_KERAS_2_OPERATIONS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod")


def load_model(path: str | Path, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """A Keras model for inference, float or quantized by vqkit.

    Code inside the file (Lambda layers) is not run.

    Args:
        path: a `.keras` or `.h5` file.
        custom_objects: class name -> class, for the model's own layers; registered ones need only be
            imported.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ModelError: no such file, or Keras cannot read it; the message says what is missing.
    """
    import keras

    for module in _OWN_LAYERS:
        import_module(module)
    if not Path(path).is_file():
        raise ModelError(f"model: {path}: no such file")
    known = {**_older_layers(Path(path)), **(custom_objects or {})}
    try:
        return keras.saving.load_model(path, custom_objects=known, compile=False)
    except Exception as error:
        raise ModelError(_explained(path, error)) from error


def _older_layers(path: Path) -> dict[str, Any]:
    """Keras 2 wrote `groups` for a depthwise convolution, which Keras 3 does not take."""
    import keras

    class Depthwise:
        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> Any:
            return keras.layers.DepthwiseConv2D.from_config(
                {k: v for k, v in config.items() if k != "groups"}
            )

    return {} if path.suffix == ".keras" else {"DepthwiseConv2D": Depthwise}


def _explained(path: str | Path, error: Exception) -> str:
    text, where = str(error), f"{path}: Keras cannot load the model"
    unknown = next((a or b for a, b in _UNKNOWN.findall(text)), None)
    if unknown in _KERAS_2_OPERATIONS:
        return (
            f"{where}: {unknown} is an operation that only Keras 2 can read; build the model anew in Keras 3 "
            "and load the weights into it"
        )
    if unknown is not None:
        name = unknown.rpartition(">")[2]
        return (
            f"{where}: it does not know {name!r}. Pass custom_objects={{{name!r}: {name}}}, or import the "
            "module that registers it with @keras.saving.register_keras_serializable"
        )
    if "safe_mode" in text:
        return (
            f"{where}: a Lambda layer holds code, which is not run. If you trust the file, load it with "
            "keras.saving.load_model(path, safe_mode=False) and pass the model itself"
        )
    return f"{where}: {type(error).__name__}: {text[:500]}"
