"""Nets of the examples, as people build them: small, with what makes quantization hard in larger ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.examples.detection import KINDS

if TYPE_CHECKING:
    import keras


class Build:
    """Layers whose first weights follow from the order in which they are asked for, not from the caller's state."""

    def __init__(self) -> None:
        self._seeds = itertools.count(1)

    def start(self) -> Any:
        """First values of a kernel."""
        from keras.initializers import HeNormal

        return HeNormal(seed=next(self._seeds))

    def dense(self, x: Any, units: int, activation: str | None = "relu", name: str | None = None) -> Any:
        """A Dense layer."""
        from keras import layers

        return layers.Dense(units, activation, kernel_initializer=self.start(), name=name)(x)

    def conv(self, x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        """Convolution, batch norm, ReLU."""
        from keras import layers

        made = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, kernel_initializer=self.start())
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(made(x)))

    def separable(self, x: Any, filters: int, strides: int = 1) -> Any:
        """Depthwise convolution and a pointwise one, as in MobileNets."""
        from keras import layers

        made = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, depthwise_initializer=self.start())
        x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(made(x)))
        return self.conv(x, filters, 1)


def segmentation() -> keras.Model:
    """A U-Net: two steps down, two up, with connections across."""
    from keras import Input, Model, layers

    b, x = Build(), Input((32, 32, 1), name="scene")
    a = b.conv(x, 8)
    d = b.conv(layers.MaxPooling2D()(a), 16)
    e = b.conv(layers.MaxPooling2D()(d), 32)
    u = b.conv(layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(e), d]), 16)
    v = b.conv(layers.Concatenate()([layers.UpSampling2D()(u), a]), 8)
    logits = layers.Conv2D(1 + KINDS, 1, kernel_initializer=b.start(), name="classes")(v)
    return Model(x, logits, name="segmentation")


def from_logits(wanted: Any, given: Any) -> Any:
    """Cross-entropy of class numbers beside scores."""
    from keras import ops

    return ops.sparse_categorical_crossentropy(wanted, given, from_logits=True)


def detection() -> keras.Model:
    """A single-shot detector: for each of 4 x 4 cells object, middle, extent and kind."""
    from keras import Input, Model, layers

    b, x = Build(), Input((32, 32, 1), name="scene")
    y = b.conv(layers.MaxPooling2D()(b.conv(x, 16)), 32)
    for filters in (32, 64):
        y = layers.MaxPooling2D()(b.conv(y, filters))
    y = b.conv(y, 64)
    cells = layers.Conv2D(5 + KINDS, 1, kernel_initializer=b.start(), name="cells")(y)
    return Model(x, cells, name="detection")


def detection_loss(wanted: Any, given: Any) -> Any:
    """Object or not, everywhere; place, extent and kind where there is one."""
    from keras import ops

    is_object = wanted[..., 0]
    surely = ops.binary_crossentropy(is_object, given[..., 0], from_logits=True)
    place = ops.sum(ops.square(wanted[..., 1:5] - given[..., 1:5]) * np.array([1, 1, 25, 25], "float32"), axis=-1)
    kind = ops.categorical_crossentropy(wanted[..., 5:], given[..., 5:], from_logits=True)
    return ops.mean(surely + is_object * (2 * place + 3 * kind), axis=(1, 2))


def multi_label() -> keras.Model:
    """A small MobileNet with a sigmoid for each kind."""
    from keras import Input, Model, layers

    b, x = Build(), Input((32, 32, 1), name="scene")
    y = b.conv(x, 16)
    for filters, strides in ((24, 2), (32, 1), (48, 2)):
        y = b.separable(y, filters, strides)
    return Model(x, b.dense(layers.GlobalMaxPooling2D()(y), KINDS, "sigmoid", "kinds"), name="multi_label")


def regression() -> keras.Model:
    """Three Dense layers."""
    from keras import Input, Model

    b, x = Build(), Input((10,), name="features")
    return Model(x, b.dense(b.dense(b.dense(x, 64), 32), 1, None, "value"), name="regression")


def anomaly() -> keras.Model:
    """An autoencoder with four numbers in the middle."""
    from keras import Input, Model

    b, x = Build(), Input((64,), name="spectrum")
    y = b.dense(b.dense(x, 64), 32)
    y = b.dense(b.dense(b.dense(y, 4, None), 32), 64)
    return Model(x, b.dense(y, 64, None, "reconstruction"), name="anomaly")


def forecast() -> keras.Model:
    """Dilated causal convolutions over time."""
    from keras import Input, Model, layers

    b, x = Build(), Input((96, 1), name="load")
    y = x
    for dilation in (1, 2, 4, 8):
        started: dict[str, Any] = {"activation": "relu", "kernel_initializer": b.start()}
        y = layers.Conv1D(24, 3, padding="causal", dilation_rate=dilation, **started)(y)
    y = layers.Flatten()(layers.AveragePooling1D(4)(y))
    return Model(x, b.dense(b.dense(y, 32), 8, None, "next"), name="forecast")


def sequences() -> keras.Model:
    """A transformer block over the eight rows of a digit."""
    from keras import Input, Model, layers

    b, x = Build(), Input((8, 8), name="rows")
    places = layers.Embedding(8, 32, embeddings_initializer=b.start(), name="places")
    tokens = layers.Add()([b.dense(x, 32, None, "embed"), places(np.arange(8)[None])])
    attention = layers.MultiHeadAttention(4, 8, kernel_initializer=b.start(), name="attention")
    y = layers.LayerNormalization()(layers.Add()([tokens, attention(tokens, tokens)]))
    y = layers.LayerNormalization()(layers.Add()([y, b.dense(b.dense(y, 64), 32, None)]))
    return Model(x, b.dense(layers.GlobalAveragePooling1D()(y), 10, None, "digit"), name="sequences")


def two_answers() -> keras.Model:
    """One trunk, two heads."""
    from keras import Input, Model, layers

    b, x = Build(), Input((8, 8, 1), name="image")
    y = b.separable(b.conv(x, 16), 32, strides=2)
    y = layers.Flatten()(y)
    heads = {"digit": b.dense(y, 10, "softmax", "digit"), "ink": b.dense(b.dense(y, 16), 1, None, "ink")}
    return Model(x, heads, name="two_answers")


def binary() -> keras.Model:
    """Two Dense layers and one sigmoid."""
    from keras import Input, Model

    b, x = Build(), Input((30,), name="cells")
    return Model(x, b.dense(b.dense(b.dense(x, 32), 16), 1, "sigmoid", "benign"), name="binary")
