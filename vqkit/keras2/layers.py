"""One layer: its configuration as Keras 2 wrote it, made live by Keras 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from vqkit.errors import ModelError, nearest

# Arguments that Keras 3 does not take, and the one value (None: any) that means the same as leaving it out.
_GROUPS = {"groups": 1}
_UNUSED_KERNEL = dict.fromkeys(("kernel_initializer", "kernel_regularizer", "kernel_constraint"))
_RECURRENT = {"time_major": False}
_DROPPED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _GROUPS),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _GROUPS),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _GROUPS | _UNUSED_KERNEL),
    **dict.fromkeys(
        ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _RECURRENT
    ),
    "Embedding": {"input_length": None},
    "BatchNormalization": {"renorm": False, "virtual_batch_size": None, "fused": None},
    "MultiHeadAttention": {"query_shape": None, "key_shape": None, "value_shape": None},
}
_SAME = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
}
# Where a layer holds layers.
_INNER = ("layer", "backward_layer", "cell", "cells")
_OF_THE_ORIGINAL = ("QuantizeWrapper", "VitisQuantize", "CustomOpWrapper", "QuantizeLayer", "ConvBNQuantize")


def make_layer(entry: Mapping[str, Any], custom_objects: Mapping[str, Any], where: str) -> Any:
    """A live layer for an entry of a Keras 2 configuration.

    Args:
        entry: `class_name` and `config`.
        custom_objects: class name -> class; name of a Lambda layer -> its function.
        where: names the layer in messages.

    Returns:
        A `keras.layers.Layer`, not built.

    Raises:
        ModelError: Keras 3 has no such layer, or the layer holds code.
    """
    kind = _SAME.get(entry["class_name"], entry["class_name"])
    config = _in_words_of_keras_3(kind, dict(entry["config"]), custom_objects, where)
    if kind == "Lambda":
        return _lambda(config, custom_objects, where)
    cls = _class_of(kind, entry, custom_objects, where)
    try:
        with keras.saving.custom_object_scope(dict(custom_objects)):
            return cls.from_config(config)
    except Exception as error:
        raise ModelError(
            f"{where} ({kind}): Keras 3 cannot take its configuration: {str(error)[:300]}"
        ) from error


def _class_of(kind: str, entry: Mapping[str, Any], custom: Mapping[str, Any], where: str) -> Any:
    short = kind.rpartition(">")[2]
    found = custom.get(kind) or custom.get(short) or keras.saving.get_registered_object(
        entry.get("registered_name") or kind
    )  # fmt: skip
    found = found or keras.saving.get_registered_object(kind) or getattr(keras.layers, short, None)
    if found is not None:
        return found
    if any(name in short for name in _OF_THE_ORIGINAL):
        raise ModelError(
            f"{where}: {short} is a layer of the original quantizer; its quantized models need its own code. "
            "Give the float model that it was made from, and the strategy with which it was"
        )
    offered = [n for n in dir(keras.layers) if n[:1].isupper()]
    raise ModelError(
        f"{where}: Keras 3 does not know the layer {short!r}{nearest(short, offered)}. Pass "
        f"custom_objects={{{short!r}: {short}}}, or import the module that registers it with "
        "@keras.saving.register_keras_serializable"
    )


def _lambda(config: Mapping[str, Any], custom: Mapping[str, Any], where: str) -> Any:
    """A Lambda layer with the caller's function: the file's is bytecode, which is not run."""
    name, written = config["name"], config.get("function")
    called = written if isinstance(written, str) else None
    function = custom.get(name) or (custom.get(called) if called else None)
    if function is None:
        raise ModelError(
            f"{where}: a Lambda layer holds code of another Python version, which is not run. Pass its "
            f"function by the layer's name: custom_objects={{{name!r}: function}}"
        )
    return keras.layers.Lambda(function, arguments=config.get("arguments") or {}, name=name)


def _in_words_of_keras_3(kind: str, config: dict[str, Any], custom: Mapping[str, Any], where: str) -> Any:
    for key, neutral in _DROPPED.get(kind, {}).items():
        value = config.pop(key, neutral)
        if neutral is not None and value != neutral:
            raise ModelError(f"{where} ({kind}): {key}={value!r}; Keras 3 has it only as {neutral!r}")
    config.pop("batch_input_shape", None)
    if kind == "LeakyReLU" and "alpha" in config:
        config["negative_slope"] = config.pop("alpha")
    if isinstance(config.get("dtype"), Mapping):
        config["dtype"] = config["dtype"]["config"].get("name", "float32")
    if isinstance(config.get("axis"), list) and len(config["axis"]) == 1:
        (config["axis"],) = config["axis"]
    for key in _INNER:
        if key in config:
            config[key] = _inner(config[key], custom, f"{where}.{key}")
    return config


def _inner(entry: Any, custom: Mapping[str, Any], where: str) -> Any:
    if isinstance(entry, list):
        return [_inner(e, custom, where) for e in entry]
    if not isinstance(entry, Mapping) or "class_name" not in entry:
        return entry
    return keras.saving.serialize_keras_object(make_layer(entry, custom, where))
