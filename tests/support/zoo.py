"""Tiny Keras models, one for each shape of graph that a pass or a plan must cope with.

Every model is seeded by its own name, has batch-norm statistics away from their defaults (so that folding
has something to do), and is built in milliseconds. `build("residual")`, `NAMES`, `batch(model, n)`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

__all__ = ["NAMES", "batch", "build"]

_BUILDERS: dict[str, Callable[[], keras.Model]] = {}


def _model(function: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    _BUILDERS[function.__name__] = function
    return function


def build(name: str) -> keras.Model:
    """A fresh model with random, reproducible weights.

    Args:
        name: one of `NAMES`.
    """
    model = _BUILDERS[name]()
    randomize(model, seed=zlib.crc32(name.encode()))
    return model


def randomize(model: keras.Model, *, seed: int) -> None:
    """Give each weight a value of a sensible size, positive where it is a variance."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(_value(weight, rng).astype(np.float32))


def _value(weight: Any, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(weight.shape)
    if "variance" in weight.path or "gamma" in weight.path:
        return rng.uniform(0.5, 2.0, shape)
    if len(shape) < 2:
        return rng.normal(0, 0.2, shape)
    fan_in = np.prod(shape[:2]) if len(shape) == 4 and shape[3] == 1 else np.prod(shape[:-1])
    return rng.normal(0, (2 / fan_in) ** 0.5, shape)


def batch(model: keras.Model, n: int = 4, *, seed: int = 0) -> Any:
    """Random inputs of `n` samples: an array, or a list for a multi-input model."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(n, *t.shape[1:])).astype(np.float32) for t in model.inputs]
    return arrays[0] if len(arrays) == 1 else arrays


def _image() -> Any:
    return keras.Input((8, 8, 3), name="image")


@_model
def conv_bn_relu() -> keras.Model:
    x = i = _image()
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(i, layers.Dense(3, name="head")(x), name="conv_bn_relu")


@_model
def fused_activations() -> keras.Model:
    x = i = _image()
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(5, activation="relu", name="fc")(x)
    return keras.Model(i, layers.Dense(3, activation="softmax", name="head")(x), name="fused_activations")


@_model
def residual() -> keras.Model:
    i = _image()
    x = layers.Conv2D(4, 3, padding="same", name="stem")(i)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    y = layers.Conv2D(4, 3, padding="same", name="conv1")(x)
    y = layers.BatchNormalization(name="conv1_bn")(y)
    y = layers.ReLU(name="conv1_relu")(y)
    y = layers.Conv2D(4, 3, padding="same", name="conv2")(y)
    y = layers.BatchNormalization(name="conv2_bn")(y)
    x = layers.ReLU(name="add_relu")(layers.Add(name="add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(i, layers.Dense(3, name="head")(x), name="residual")


@_model
def depthwise() -> keras.Model:
    i = _image()
    x = layers.ZeroPadding2D(1, name="pad")(i)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="dw_bn")(x)
    x = layers.ReLU(6.0, name="dw_relu")(x)
    x = layers.Conv2D(6, 1, use_bias=False, name="pw")(x)
    x = layers.BatchNormalization(name="pw_bn")(x)
    x = layers.ReLU(6.0, name="pw_relu")(x)
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(i, layers.Dense(3, name="head")(x), name="depthwise")


@_model
def depth_multiplier() -> keras.Model:
    i = _image()
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw")(i)
    x = layers.BatchNormalization(name="bn")(x)
    return keras.Model(i, layers.ReLU(name="relu")(x), name="depth_multiplier")


@_model
def concat() -> keras.Model:
    i = _image()
    a = layers.Conv2D(3, 1, activation="relu", name="left")(i)
    b = layers.Conv2D(2, 3, padding="same", activation="relu", name="right")(i)
    x = layers.Concatenate(name="cat")([a, b])
    x = layers.Conv2D(4, 1, name="mix")(x)
    return keras.Model(i, layers.GlobalAveragePooling2D(name="pool")(x), name="concat")


@_model
def shared_layer() -> keras.Model:
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    encode = layers.Dense(4, activation="relu", name="encode")
    x = layers.Subtract(name="difference")([encode(a), encode(b)])
    return keras.Model([a, b], layers.Dense(1, name="head")(x), name="shared_layer")


@_model
def two_inputs() -> keras.Model:
    image, extra = _image(), keras.Input((5,), name="extra")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = layers.Dense(4, activation="relu", name="fc")(extra)
    x = layers.Concatenate(name="cat")([x, y])
    return keras.Model([image, extra], layers.Dense(2, name="head")(x), name="two_inputs")


@_model
def two_outputs() -> keras.Model:
    i = _image()
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(i)
    mask = layers.Conv2D(1, 1, name="mask")(x)
    label = layers.Dense(3, name="label")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(i, [mask, label], name="two_outputs")


@_model
def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.Activation("relu", name="act"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="head"),
        ],
        name="sequential",
    )


@_model
def nested() -> keras.Model:
    inner_in = keras.Input((8, 8, 4), name="inner_in")
    x = layers.Conv2D(4, 3, padding="same", name="inner_conv")(inner_in)
    x = layers.BatchNormalization(name="inner_bn")(x)
    inner = keras.Model(inner_in, layers.ReLU(name="inner_relu")(x), name="inner")
    i = _image()
    x = inner(layers.Conv2D(4, 1, name="stem")(i))
    x = layers.Add(name="twice")([x, inner(x)])
    return keras.Model(i, layers.GlobalAveragePooling2D(name="pool")(x), name="nested")


@_model
def lone_batch_norm() -> keras.Model:
    i = _image()
    x = layers.BatchNormalization(name="bn_first")(i)
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.BatchNormalization(center=False, scale=False, name="bn_plain")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.BatchNormalization(name="bn_2d")(x)
    return keras.Model(i, layers.Dense(3, name="head")(x), name="lone_batch_norm")


@_model
def transposed() -> keras.Model:
    i = _image()
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="down")(i)
    x = layers.LeakyReLU(0.1, name="leaky")(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same", use_bias=False, name="up")(x)
    x = layers.BatchNormalization(name="up_bn")(x)
    return keras.Model(i, layers.Activation("sigmoid", name="sigmoid")(x), name="transposed")


@_model
def activations() -> keras.Model:
    i = _image()
    x = layers.Conv2D(4, 3, activation="swish", name="swish_conv")(i)
    x = layers.Conv2D(4, 3, activation="tanh", name="tanh_conv")(x)
    x = layers.Activation("hard_sigmoid", name="hard")(x)
    x = layers.Conv2D(4, 1, name="last_conv")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(i, layers.Softmax(name="softmax")(x), name="activations")


@_model
def one_channel() -> keras.Model:
    i = _image()
    x = layers.Conv2D(1, 3, name="conv")(i)
    return keras.Model(i, layers.Dense(1, name="head")(layers.Flatten(name="flat")(x)), name="one_channel")


NAMES = tuple(_BUILDERS)
