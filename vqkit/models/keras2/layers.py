"""One layer: its configuration as Keras 2 wrote it, made live by Keras 3."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from vqkit.errors import ModelError, nearest
from vqkit.models.keras2.lookups import config_of_lookup
from vqkit.models.loading import reason

_SAME_activations = {
    "softmax_v2": "softmax",
    "relu_v2": "relu",
    "swish": "silu",
    "leaky_relu_v2": "leaky_relu",
}


@keras.saving.register_keras_serializable(package="vqkit")
def keras_2_hard_sigmoid(x: Any) -> Any:
    """What Keras 2 calls `hard_sigmoid`: 0.2 x + 0.5 within 0 and 1. That of Keras 3 is relu6(x + 3) / 6."""
    return keras.ops.clip(x * 0.2 + 0.5, 0.0, 1.0)


def in_keras_3(activation: Any) -> Any:
    """The activation of a layer of Keras 2 as Keras 3 takes it.

    Args:
        activation: a name, or what a configuration holds.

    Returns:
        A function where Keras 3 computes something else under this name, else a name or the configuration.
    """
    if isinstance(activation, dict) and activation.get("class_name") == "function":
        activation = activation.get("config", activation)
    if not isinstance(activation, str):
        return activation
    if activation == "hard_sigmoid":
        return keras_2_hard_sigmoid
    return _SAME_activations.get(activation, activation)


# A live model for the configuration of a model that a layer wraps.
Rebuild = Callable[[Mapping[str, Any]], Any]
MODELS = ("Functional", "Model", "Sequential")


def _each(*kinds: str, **dropped: Any) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(kinds, dropped)


# Arguments that Keras 3 does not take, and the one value (None: any) that means the same as leaving it out.
_DROPPED: dict[str, dict[str, Any]] = {
    **_each("DepthwiseConv1D", "DepthwiseConv2D", groups=1),
    **_each("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", groups=1),
    **_each("SeparableConv1D", "SeparableConv2D", groups=1, kernel_regularizer=None, kernel_constraint=None),
    **_each(
        "LSTM",
        "GRU",
        "SimpleRNN",
        "RNN",
        "ConvLSTM1D",
        "ConvLSTM2D",
        "ConvLSTM3D",
        time_major=False,
        implementation=None,
        input_dim=None,
    ),
    **_each("LSTMCell", "GRUCell", implementation=None),
    **_each("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", noise_shape=None),
    **_each("Attention", "AdditiveAttention", causal=False),
    **_each(
        "StringLookup",
        "IntegerLookup",
        "TextVectorization",
        max_values=None,
        vocabulary_size=None,
        has_input_vocabulary=None,
    ),
    "Embedding": {"input_length": None, "input_dtype": None},
    # At inference a renormalizing or synchronized batch norm is a batch norm; what else it learned is left.
    "BatchNormalization": dict.fromkeys(
        (
            "renorm",
            "renorm_clipping",
            "renorm_momentum",
            "virtual_batch_size",
            "fused",
            "adjustment",
            "mode",
            "synchronized",
        )
    ),
    "MultiHeadAttention": {"query_shape": None, "key_shape": None, "value_shape": None},
}
_SAME = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "LayerNormalizationV1": "LayerNormalization",
    "LSTMV1": "LSTM",
    "LSTMV2": "LSTM",
    "GRUV1": "GRU",
    "GRUV2": "GRU",
    "CuDNNLSTM": "LSTM",
    "CuDNNGRU": "GRU",
    "ThresholdedReLU": "ReLU",
    "RandomWidth": "Identity",
    "RandomHeight": "Identity",
    "RandomCrop": "Resizing",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Convolution2DTranspose": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
}
# What another Keras took where the configuration does not say, and Keras 3 takes something else.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "GRU": {"reset_after": False},
    "GRUCell": {"reset_after": False},
    "IntegerLookup": {"mask_token": 0},
}
_OUTPUT_MODES = {"binary": "multi_hot", "tf-idf": "tf_idf"}
# Their dtype was once that of every layer; what they give are whole numbers.
_INDICES = ("Discretization", "IntegerLookup", "StringLookup", "TextVectorization")
# Where a layer holds layers.
_INNER = ("layer", "backward_layer", "cell", "cells")
_OF_THE_ORIGINAL = ("QuantizeWrapper", "VitisQuantize", "CustomOpWrapper", "QuantizeLayer", "ConvBNQuantize")
_LOCAL = ("LocallyConnected1D", "LocallyConnected2D")


def short_name(kind: str) -> str:
    """The class's own name: without the package that registered it (`Custom>Mine`)."""
    return kind.rpartition(">")[2].rpartition(".")[2]


def make_layer(
    entry: Mapping[str, Any], custom_objects: Mapping[str, Any], where: str, rebuild: Rebuild | None = None
) -> Any:
    """A live layer for an entry of a Keras 2 configuration.

    Args:
        entry: `class_name` and `config`.
        custom_objects: class name -> class; name of a Lambda layer -> its function.
        where: names the layer in messages.
        rebuild: makes the model of an entry, where a layer wraps one.

    Returns:
        A `keras.layers.Layer`, not built. What only starts training (initializers) is not read.

    Raises:
        ModelError: Keras 3 has no such layer, or the layer holds code.
    """
    written = short_name(entry["class_name"])
    if written in MODELS and rebuild is not None:
        return rebuild(entry)
    own = custom_objects.get(entry["class_name"]) or custom_objects.get(written)
    kind = written if own else _SAME.get(written, written)
    config = dict(entry["config"])
    if kind == "Lambda":
        return _lambda(config, custom_objects, where)
    cls = own or _class_of(kind, entry, where)
    ours = not own and cls is getattr(keras.layers, kind, None)
    config = _in_words_of_keras_3(kind, config, where) if ours else _plain(config)
    if ours:
        config = _accepted(cls, _formerly(written, config))
    try:
        with keras.saving.custom_object_scope(dict(custom_objects)):
            for key in _INNER:
                if key in config:
                    config[key] = _inner(config[key], custom_objects, f"{where}.{key}", rebuild)
            return _wrapper(cls, config) if _wraps_a_model(config) else cls.from_config(config)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{where} ({written}): Keras 3 cannot take its configuration: {reason(error)}") from error


def _class_of(kind: str, entry: Mapping[str, Any], where: str) -> Any:
    found = keras.saving.get_registered_object(entry.get("registered_name") or entry["class_name"])
    found = found or keras.saving.get_registered_object(entry["class_name"])
    found = found or getattr(keras.layers, kind, None)
    if found is not None:
        return found
    if any(name in kind for name in _OF_THE_ORIGINAL):
        raise ModelError(
            f"{where}: {kind} is a layer of the original quantizer; its quantized models need its own code. "
            "Give the float model that it was made from, and the strategy with which it was"
        )
    if kind in _LOCAL:
        raise ModelError(
            f"{where}: Keras 3 has no {kind} (a convolution whose kernel differs from place to place). Build "
            "the model anew without it, or pass a class of your own that computes it: "
            f"custom_objects={{{kind!r}: …}}"
        )
    offered = [n for n in dir(keras.layers) if n[:1].isupper()]
    raise ModelError(
        f"{where}: Keras 3 does not know the layer {kind!r}{nearest(kind, offered)}. Pass "
        f"custom_objects={{{kind!r}: {kind}}}, or import the module that registers it with "
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


def _in_words_of_keras_3(kind: str, config: dict[str, Any], where: str) -> dict[str, Any]:
    for key, neutral in _DROPPED.get(kind, {}).items():
        value = config.pop(key, neutral)
        if neutral is not None and value != neutral:
            raise ModelError(f"{where} ({kind}): {key}={value!r}; Keras 3 has it only as {neutral!r}")
    config = {**_DEFAULTS.get(kind, {}), **_training_left_out(_plain(config_of_lookup(kind, config)))}
    if kind == "LeakyReLU" and "alpha" in config:
        config["negative_slope"] = config.pop("alpha")
    if isinstance(config.get("axis"), list) and len(config["axis"]) == 1:
        (config["axis"],) = config["axis"]
    if isinstance(config.get("noise_shape"), list):
        config["noise_shape"] = tuple(config["noise_shape"])
    if "max_tokens" in config and kind == "CategoryEncoding":
        config["num_tokens"] = config.pop("max_tokens")
    if "bins" in config and kind == "Discretization":
        config["bin_boundaries"] = config.pop("bins")
    if isinstance(config.get("output_mode"), str):
        config["output_mode"] = _OUTPUT_MODES.get(config["output_mode"], config["output_mode"])
    if kind in _INDICES and config.get("output_mode", "int") == "int" and "float" in str(config.get("dtype")):
        config.pop("dtype")
    if kind == "IntegerLookup" and "mask_value" in config:
        config["mask_token"], config["oov_token"] = config.pop("mask_value"), config.pop("oov_value", -1)
    for key in ("activation", "recurrent_activation"):
        if key in config:
            config[key] = in_keras_3(config[key])
    return config


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Without the input's shape; a dtype by its name; initializers without the dtype that TF 1 gave them."""
    config = {k: v for k, v in config.items() if k != "batch_input_shape"}
    if isinstance(config.get("dtype"), Mapping):
        config["dtype"] = config["dtype"].get("config", {}).get("name", "float32")
    for key, value in config.items():
        if key.endswith("_initializer") and isinstance(value, Mapping) and "config" in value:
            kept = {k: v for k, v in (value["config"] or {}).items() if k != "dtype"}
            config[key] = {**value, "config": kept}
    return config


def _training_left_out(config: dict[str, Any]) -> dict[str, Any]:
    """Without initializers, whose work is done, nor regularizers and constraints of unknown classes."""

    def readable(key: str, value: Any) -> bool:
        for end, module in (("_regularizer", keras.regularizers), ("_constraint", keras.constraints)):
            if key.endswith(end) and value is not None:
                try:
                    module.get(value)
                except Exception:
                    return False
        return not key.endswith("_initializer")

    return {k: v for k, v in config.items() if readable(k, v)}


def _formerly(written: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a class that Keras 3 has under another name."""
    if written == "CuDNNLSTM":
        return {**config, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
    if written == "CuDNNGRU":
        return {
            **config,
            "activation": "tanh",
            "recurrent_activation": "sigmoid",
            "use_bias": True,
            "reset_after": True,
        }
    if written == "ThresholdedReLU":
        return {"threshold": _number(config.pop("theta", 1.0)), **config}
    if written in ("RandomWidth", "RandomHeight"):
        # Inference leaves the image as it is.
        return {k: config[k] for k in ("name", "dtype") if k in config}
    if written == "RandomCrop":
        # So says inference: the largest window of the target's shape, resized.
        return {
            **{k: config[k] for k in ("name", "dtype", "height", "width") if k in config},
            "crop_to_aspect_ratio": True,
        }
    return config


def _accepted(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Some layers without weights take no `trainable` in Keras 3."""
    taken = inspect.signature(cls.__init__).parameters
    if "trainable" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return config
    return {k: v for k, v in config.items() if k != "trainable"}


def _number(value: Any) -> Any:
    """A number, or an array as Keras 2 wrote one."""
    return value["value"] if isinstance(value, Mapping) and "value" in value else value


def _inner(entry: Any, custom: Mapping[str, Any], where: str, rebuild: Rebuild | None) -> Any:
    if isinstance(entry, list):
        return [_inner(e, custom, where, rebuild) for e in entry]
    if not isinstance(entry, Mapping) or "class_name" not in entry:
        return entry
    live = make_layer(entry, custom, where, rebuild)
    return live if isinstance(live, keras.Model) else keras.saving.serialize_keras_object(live)


def _wraps_a_model(config: Mapping[str, Any]) -> bool:
    return any(isinstance(config.get(key), keras.Model) for key in _INNER)


def _wrapper(cls: Any, config: dict[str, Any]) -> Any:
    """A wrapper takes a live model as it is: from a configuration its layers would be numbered anew."""
    return cls(config.pop("layer"), **config)
