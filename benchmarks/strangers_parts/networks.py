"""Networks of the kinds that people publish, small, with weights as after training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks.strangers_parts.models import Built, add, images, lived_in, normal, stranger, tokens

L = keras.layers


def _conv(x: Any, filters: int, size: int = 3, strides: int = 1, activation: str | None = "relu") -> Any:
    x = L.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    x = L.BatchNormalization()(x)
    return L.Activation(activation)(x) if activation else x


def _depthwise(x: Any, strides: int = 1, activation: str = "relu6") -> Any:
    x = L.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
    return L.Activation(activation)(L.BatchNormalization()(x))


@stranger("network")
def keyword_spotter() -> Built:
    i = keras.Input((20, 10, 1))
    y = _conv(_depthwise(_conv(i, 8)), 8, 1)
    y = L.Dropout(0.2)(L.AveragePooling2D((4, 5))(y))
    return lived_in(keras.Model(i, L.Dense(4, activation="softmax")(L.Flatten()(y)))), normal(20, 10, 1)


@stranger("network")
def dense_autoencoder() -> Built:
    i = y = keras.Input((32,))
    for units in (24, 24, 4, 24, 24):
        y = L.ReLU()(L.BatchNormalization()(L.Dense(units)(y)))
    return lived_in(keras.Model(i, L.Dense(32)(y))), normal(32, scale=8, shift=-30)


@stranger("network")
def residual_net() -> Built:
    i = keras.Input((16, 16, 3))
    y = _conv(i, 8)
    y = L.ReLU()(L.Add()([_conv(_conv(y, 8), 8, activation=None), y]))
    y = L.ReLU()(L.Add()([_conv(_conv(y, 16, strides=2), 16, activation=None), L.Conv2D(16, 1, 2)(y)]))
    return lived_in(keras.Model(i, L.Dense(10)(L.GlobalAveragePooling2D()(y)))), images(16, 16, 3)


@stranger("network")
def inverted_residuals_with_squeeze() -> Built:
    i = keras.Input((16, 16, 3))
    y = _conv(L.Rescaling(1 / 127.5, -1)(i), 8, activation="hard_swish")
    z = _depthwise(_conv(y, 16, 1, activation="hard_swish"), activation="hard_swish")
    s = L.GlobalAveragePooling2D(keepdims=True)(z)
    s = L.Conv2D(16, 1, activation="hard_sigmoid")(L.Conv2D(4, 1, activation="relu")(s))
    y = L.Add()([y, _conv(L.Multiply()([z, s]), 8, 1, activation=None)])
    return lived_in(keras.Model(i, L.Dense(5)(L.GlobalAveragePooling2D()(y)))), images(16, 16, 3)


@stranger("network")
def unet() -> Built:
    i = keras.Input((16, 16, 3))
    a = _conv(i, 8)
    b = _conv(L.MaxPooling2D()(a), 16)
    up = L.Conv2DTranspose(8, 2, strides=2)(b)
    y = _conv(L.Concatenate()([a, up]), 8)
    return lived_in(keras.Model(i, L.Conv2D(3, 1, activation="softmax")(y))), normal(16, 16, 3)


@stranger("network")
def detector() -> Built:
    i = keras.Input((16, 16, 3))
    y = _conv(_conv(i, 8, strides=2), 16, strides=2)
    boxes = L.Reshape((-1, 4), name="boxes")(L.Conv2D(8, 3, padding="same")(y))
    scores = L.Activation("sigmoid", name="scores")(L.Reshape((-1, 3))(L.Conv2D(6, 3, padding="same")(y)))
    return lived_in(keras.Model(i, [boxes, scores])), images(16, 16, 3)


@stranger("network")
def super_resolution() -> Built:
    i = keras.Input((8, 8, 1))
    y = L.Conv2D(4, 3, padding="same")(L.Conv2D(8, 5, activation="tanh", padding="same")(i))
    y = L.Reshape((8, 8, 2, 2))(y)
    y = L.Reshape((16, 16, 1))(L.Permute((1, 3, 2, 4))(y))
    return keras.Model(i, y), normal(8, 8, 1)


@stranger("network")
def generator() -> Built:
    i = keras.Input((12,))
    y = L.Reshape((4, 4, 8))(L.Dense(128, activation="relu")(i))
    y = L.LeakyReLU(0.2)(L.BatchNormalization()(L.Conv2DTranspose(8, 4, 2, padding="same")(y)))
    return lived_in(keras.Model(i, L.Conv2D(3, 3, padding="same", activation="tanh")(y))), normal(12)


@stranger("network")
def siamese() -> Built:
    inner = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3, activation="relu"), L.Flatten()])
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    y = L.Subtract()([inner(a), inner(b)])
    return keras.Model([a, b], L.Dense(1, activation="sigmoid")(y)), [normal(8, 8, 1), normal(8, 8, 1)[::-1]]


@stranger("network")
def dilated_waves() -> Built:
    i = y = keras.Input((32, 2))
    for rate in (1, 2, 4):
        z = L.Conv1D(4, 2, padding="causal", dilation_rate=rate, activation="tanh")(y)
        gate = L.Conv1D(4, 2, padding="causal", dilation_rate=rate, activation="sigmoid")(y)
        y = L.Add()([L.Conv1D(4, 1)(y), L.Multiply()([z, gate])])
    return keras.Model(i, L.Dense(2)(L.Flatten()(y))), normal(32, 2)


@stranger("network")
def grouped_convolutions() -> Built:
    i = keras.Input((8, 8, 4))
    y = L.Conv2D(8, 3, groups=2, activation="relu")(i)
    y = L.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu6")(y)
    return keras.Model(i, L.Dense(3)(L.Flatten()(y))), normal(8, 8, 4)


def _transformer(x: Any, width: int, causal: bool = False) -> Any:
    y = L.LayerNormalization()(x)
    y = L.MultiHeadAttention(2, width // 2)(y, y, use_causal_mask=causal)
    x = L.Add()([x, y])
    y = L.Dense(width)(L.Dense(width * 2, activation="gelu")(L.LayerNormalization()(x)))
    return L.Add()([x, y])


@stranger("network")
def vision_transformer() -> Built:
    i = keras.Input((16, 16, 3))
    y = L.Reshape((16, 8))(L.Conv2D(8, 4, 4)(i))
    y = _transformer(_transformer(y, 8), 8)
    return lived_in(keras.Model(i, L.Dense(5)(L.GlobalAveragePooling1D()(L.LayerNormalization()(y))))), normal(
        16, 16, 3
    )


@stranger("network")
def language_model() -> Built:
    i = keras.Input((8,), dtype="int32")
    y = _transformer(L.Embedding(20, 8)(i), 8, causal=True)
    return lived_in(keras.Model(i, L.Dense(20)(y))), tokens(8)


@stranger("network")
def convnext_block() -> Built:
    i = keras.Input((8, 8, 3))
    y = L.LayerNormalization(epsilon=1e-6)(L.Conv2D(8, 2, 2)(i))
    z = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(3, padding="same")(y))
    z = L.Dense(8)(L.Activation("gelu")(L.Dense(32)(z)))
    y = L.Add()([y, z])
    return lived_in(keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(y)))), normal(8, 8, 3)


def _recurrent(name: str, make: Callable[[], Any]) -> None:
    def build() -> Built:
        i = keras.Input((7, 4))
        return keras.Model(i, L.Dense(2)(make()(L.Dense(5)(i)))), normal(7, 4)

    add(name, "network", build)


_recurrent("lstm", lambda: L.LSTM(6))
_recurrent("gru", lambda: L.GRU(6))
_recurrent("simple_rnn", lambda: L.SimpleRNN(6, return_sequences=True))
_recurrent("bidirectional_lstm", lambda: L.Bidirectional(L.LSTM(3, return_sequences=True)))
_recurrent("gru_from_the_end", lambda: L.GRU(6, go_backwards=True, reset_after=False))


@stranger("network")
def sentiment() -> Built:
    i = keras.Input((8,), dtype="int32")
    y = L.Bidirectional(L.LSTM(4))(L.Embedding(20, 6, mask_zero=True)(i))
    return keras.Model(i, L.Dense(1, activation="sigmoid")(y)), tokens(8)


@stranger("network")
def norms_of_all_kinds() -> Built:
    i = keras.Input((8, 8, 4))
    y = L.GroupNormalization(2)(L.Conv2D(4, 3, activation="relu")(i))
    y = L.RMSNormalization()(L.PReLU(shared_axes=[1, 2])(L.Conv2D(4, 3)(y)))
    y = L.ELU(0.5)(L.LayerNormalization(axis=(1, 2))(y))
    return lived_in(keras.Model(i, L.Dense(3)(L.UnitNormalization()(L.Flatten()(y))))), normal(8, 8, 4)


@stranger("network")
def operations() -> Built:
    ops = keras.ops
    i = keras.Input((6, 4))
    a, b = ops.split(L.Dense(8)(i), 2, axis=-1)
    y = ops.einsum("bij,bkj->bik", a, b)
    y = ops.matmul(ops.softmax(y / 2.0), i)
    y = ops.concatenate([y[:, :3], ops.exp(-ops.square(y[:, 3:]))], axis=1)
    y = ops.where(y > 0, y, 0.1 * y) + ops.mean(y, axis=1, keepdims=True)
    return keras.Model(i, L.Dense(2)(ops.reshape(y, (-1, 24)))), normal(6, 4)


@stranger("network")
def additive_attention() -> Built:
    q, v = keras.Input((4, 6)), keras.Input((5, 6))
    y = L.AdditiveAttention()([L.Dense(6)(q), L.Dense(6)(v)])
    z = L.Attention(use_scale=True)([L.Dense(6)(q), v])
    return lived_in(keras.Model([q, v], L.Dense(2)(L.Concatenate()([y, z])))), [normal(4, 6), normal(5, 6)]


@stranger("network")
def regression() -> Built:
    i = keras.Input((13,))
    y = L.Dense(16, activation="softplus")(L.Dense(16, activation="selu")(i))
    return keras.Model(i, L.Dense(1)(y)), normal(13, scale=30)


@stranger("network")
def pixels_away_from_zero() -> Built:
    x = (np.abs(normal(8, 8, 3)) * 20 + 40).astype(np.float32)
    i = keras.Input((8, 8, 3))
    return keras.Model(i, L.Dense(3)(L.Flatten()(L.Conv2D(4, 3, activation="relu")(i)))), x


def _application(name: str, size: int, **arguments: Any) -> None:
    def build() -> Built:
        function = getattr(keras.applications, name)
        model = function(weights=None, input_shape=(size, size, 3), classes=10, **arguments)
        return lived_in(model), images(size, size, 3)[:4]

    add(f"applications_{name}", "network", build)


_application("MobileNetV2", 32, alpha=0.35)
_application("MobileNetV3Small", 32, minimalistic=False)
_application("EfficientNetB0", 32)
_application("ConvNeXtTiny", 32)
