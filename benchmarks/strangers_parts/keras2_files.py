"""Writes a model of Keras 3 as a file of Keras 2, in the layouts that its versions left behind.

Independent of `vqkit.models.keras2`, which reads them: configurations and places of weights are put down as
each
version wrote them, from files of that version.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

H5 = {"h5_2.2.4-tf": "2.2.4-tf", "h5_2.3.1": "2.3.1", "h5_2.4.0": "2.4.0", "h5_2.11.0": "2.11.0"}
ZIP = {"keras_2.12": "2.12.0", "keras_2.13": "2.13.1", "keras_2.15": "2.15.0", "keras_2.15_windows": "2.15.0"}
LAYOUTS = (*H5, *ZIP)

_RENAMED = {"negative_slope": "alpha"}
_LATER = (
    "batch_shape",
    "synchronized",
    "quantization_config",
    "optional",
    "lora_rank",
    "lora_alpha",
    "seed",
    "zero_output_for_mask",
    "use_cudnn",
)


def write(model: Any, path: Path, layout: str) -> Path:
    """Write a built functional or Sequential model.

    Args:
        model: of Keras 3, from layers that Keras 2 has, each called once or more.
        path: of the file, without suffix.
        layout: one of `LAYOUTS`.

    Returns:
        The path with its suffix.
    """
    if layout in H5:
        return _h5(model, path.with_suffix(".h5"), H5[layout])
    return _zip(model, path.with_suffix(".keras"), ZIP[layout], "\\" if "windows" in layout else "/")


# --- configuration ---


def _architecture(model: Any, version: str, modern: bool) -> dict[str, Any]:
    import keras

    if isinstance(model, keras.Sequential):
        layers = [_layer(layer, version, modern) for layer in model.layers]
        shape = [None, *model.input_shape[1:]]
        if modern:
            first = {
                "batch_input_shape": shape,
                "dtype": model.inputs[0].dtype,
                "sparse": False,
                "ragged": False,
                "name": f"{model.layers[0].name}_input",
            }
            layers.insert(0, _named("InputLayer", first, modern))
        else:
            layers[0]["config"]["batch_input_shape"] = shape
        config: dict[str, Any] = {"name": model.name, "layers": layers}
        return _named("Sequential", config, modern, module="keras")
    layers = []
    for layer in model.layers:
        entry = _layer(layer, version, modern)
        entry["name"], entry["inbound_nodes"] = layer.name, list(_inbound(layer, model, modern))
        layers.append(entry)
    kind = "Functional" if version >= "2.4" and not version.startswith("2.2") else "Model"
    config = {
        "name": model.name,
        "layers": layers,
        "input_layers": [[t._keras_history.operation.name, 0, 0] for t in model.inputs],
        "output_layers": [_reference(t, model, modern) for t in model.outputs],
    }
    return _named(kind, config, modern, module="keras.src.engine.functional")


def _named(kind: str, config: dict[str, Any], modern: bool, module: str = "keras.layers") -> dict[str, Any]:
    entry: dict[str, Any] = {"class_name": kind, "config": config}
    return {"module": module, **entry, "registered_name": None} if modern else entry


def _calls(layer: Any, model: Any) -> list[Any]:
    """The calls of a layer that belong to the model; a place in this list is what a file counts by."""
    nodes = {id(n) for depth in model._nodes_by_depth.values() for n in depth}
    return [n for n in layer._inbound_nodes if id(n) in nodes]


def _reference(tensor: Any, model: Any, modern: bool) -> list[Any]:
    import keras

    made = tensor._keras_history
    calls = [id(n) for n in _calls(made.operation, model)]
    # Building a model that begins with an input layer was its first call.
    built = isinstance(made.operation, keras.Model) and (modern or not isinstance(made.operation, keras.Sequential))
    number = calls.index(id(made.operation._inbound_nodes[made.node_index])) + built
    return [made.operation.name, number, made.tensor_index]


def _inbound(layer: Any, model: Any, modern: bool) -> Iterator[Any]:
    for node in _calls(layer, model):
        if not node.is_input:
            yield [[*_reference(t, model, modern), {}] for t in node.input_tensors]


def _layer(layer: Any, version: str, modern: bool) -> dict[str, Any]:
    import keras

    if isinstance(layer, keras.Model):
        return _architecture(layer, version, modern)
    kind = type(layer).__name__
    config = _converted(layer.get_config(), modern, version)
    if kind == "InputLayer":
        config = {
            "batch_input_shape": list(layer.batch_shape),
            "dtype": layer.dtype,
            "sparse": False,
            "name": layer.name,
        } | ({} if version.startswith("2.2") else {"ragged": False})
    if kind == "BatchNormalization":
        config["axis"] = [len(layer.input.shape) - 1 if layer.axis == -1 else layer.axis]
        kind = "BatchNormalizationV1" if version == "2.2.4-tf" else kind
    if kind == "DepthwiseConv2D":
        # Base class arguments that Keras 2 wrote as well.
        config |= {"groups": 1, "bias_initializer": config["bias_initializer"]}
    if kind.startswith("SpatialDropout"):
        config |= {"noise_shape": None, "seed": None}
    if kind == "Dropout":
        config["seed"] = None
    if kind == "LeakyReLU":
        config = {_RENAMED.get(k, k): np.float32(v).item() if k == "negative_slope" else v for k, v in config.items()}
    if kind in ("LSTM", "GRU", "SimpleRNN"):
        config |= {"time_major": False} | ({"implementation": 2} if kind != "SimpleRNN" else {})
    if kind == "Embedding":
        config |= {"input_length": None, "batch_input_shape": [None, None]}
    return _named(kind, config, modern)


def _converted(config: Mapping[str, Any], modern: bool, version: str) -> dict[str, Any]:
    return {k: _value(v, modern, version) for k, v in config.items() if k not in _LATER}


def _value(value: Any, modern: bool, version: str) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, Mapping) or "class_name" not in value:
        return value
    if value["class_name"] == "DTypePolicy":
        return value["config"]["name"]
    inner = dict(value["config"])
    if version == "2.2.4-tf":
        inner["dtype"] = "float32"
    entry = {"class_name": value["class_name"], "config": inner}
    return {"module": value["module"], **entry, "registered_name": None} if modern else entry


# --- .h5 ---


def _h5(model: Any, path: Path, version: str) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        said = json.dumps(_architecture(model, version, modern=False))
        file.attrs.update(keras_version=version.encode(), backend=b"tensorflow", model_config=said.encode())
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            one = group.create_group(layer.name)
            stored = list(_h5_weights(layer, version))
            one.attrs["weight_names"] = [n.encode() for n, _ in stored]
            for name, array in stored:
                one.create_dataset(name, data=array)
    return path


def _h5_weights(layer: Any, version: str) -> Iterator[tuple[str, np.ndarray]]:
    import keras

    if isinstance(layer, keras.Model):
        for trainable in (True, False):
            for inner in layer.layers:
                variables = inner.trainable_weights if trainable else inner.non_trainable_weights
                yield from ((_h5_name(inner, v, version), np.asarray(v)) for v in variables)
        return
    for variable in (*layer.trainable_weights, *layer.non_trainable_weights):
        yield _h5_name(layer, variable, version), np.asarray(variable)


def _h5_name(layer: Any, variable: Any, version: str) -> str:
    name = variable.path.rpartition("/")[2]
    if type(layer).__name__ == "DepthwiseConv2D" and name == "kernel":
        name = "depthwise_kernel"
    cell = getattr(layer, "cell", None)
    inside = f"{layer.name}/{cell.name}" if cell is not None and not version.startswith("2.2") else layer.name
    return f"{inside}/{name}:0"


# --- .keras ---


def _zip(model: Any, path: Path, version: str, slash: str) -> Path:
    import h5py
    import keras

    buffer = io.BytesIO()
    functional = not isinstance(model, keras.Sequential) and version < "2.15"
    root = "_layer_checkpoint_dependencies" if functional else "layers"
    with h5py.File(buffer, "w") as file:
        for place, layer in _places(model, twice=functional):
            for inner, variables in _variables(layer, slash, twice=functional):
                for i, variable in enumerate(variables):
                    file[f"{root}{slash}{place}{inner}/vars/{i}"] = np.asarray(variable)
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("metadata.json", json.dumps({"keras_version": version, "date_saved": "2024-01-01@00:00:00"}))
        z.writestr("config.json", json.dumps(_architecture(model, version, modern=True)))
        z.writestr("model.weights.h5", buffer.getvalue())
    return path


def _places(model: Any, *, twice: bool) -> Iterator[tuple[str, Any]]:
    """Each layer with the name of its place: its class in snake case, numbered where that repeats."""
    import keras

    count: Counter[str] = Counter()
    layers = list(model.layers)
    if isinstance(model, keras.Sequential) and not twice:
        count["input_layer"] += 1
    for layer in layers:
        kind = "functional" if type(layer).__name__ == "Functional" else snake(type(layer).__name__)
        n = count[kind]
        count[kind] += 2 if twice and layer.weights else 1
        yield (f"{kind}_{n}" if n else kind), layer


def _variables(layer: Any, slash: str, *, twice: bool) -> Iterator[tuple[str, list[Any]]]:
    import keras

    if isinstance(layer, keras.Model):
        functional = twice and not isinstance(layer, keras.Sequential)
        root = "_layer_checkpoint_dependencies" if functional else "layers"
        for place, inner in _places(layer, twice=functional):
            for deeper, variables in _variables(inner, slash, twice=twice):
                yield f"{slash}{root}{slash}{place}{deeper}", variables
    elif getattr(layer, "cell", None) is not None:
        yield f"{slash}cell", layer.weights
    else:
        yield "", layer.weights


def snake(name: str) -> str:
    """The snake case of a class name, as Keras makes it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
