"""Layers that know more than their weights, with that state filled."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from benchmarks.strangers_parts.models import (
    Built,
    add,
    images,
    lived_in,
    normal,
    rng,
    stranger,
    tokens,
    words,
)

L = keras.layers


def _tail(x: Any, units: int = 3) -> Any:
    return L.Dense(units, name="head")(L.Dense(8, activation="relu", name="body")(x))


def _model(inputs: Any, x: Any, name: str) -> keras.Model:
    return lived_in(keras.Model(inputs, _tail(x), name=name))


def _adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    return layer


def _normalization(name: str, x: np.ndarray, **arguments: Any) -> None:
    def build() -> Built:
        i = keras.Input(x.shape[1:])
        norm = L.Normalization(**arguments)
        y = (norm if "mean" in arguments else _adapted(norm, x))(i)
        return _model(i, L.Flatten()(y) if x.ndim > 2 else y, name), x

    add(name, "state", build)


_normalization("normalization_adapted", normal(5, scale=50, shift=300))
_normalization("normalization_whole", normal(5, scale=50, shift=300), axis=None)
_normalization("normalization_of_images", images(6, 6, 3))
_normalization("normalization_two_axes", normal(4, 3, scale=9, shift=-20), axis=(1, 2))
_normalization("normalization_given", normal(5, scale=50, shift=300), mean=300.0, variance=2500.0)
_normalization("normalization_inverse", normal(5), mean=3.0, variance=4.0, invert=True)


@stranger("state")
def normalization_in_a_nested_model() -> Built:
    x = normal(5, scale=50, shift=300)
    inner = keras.Sequential([keras.Input((5,)), _adapted(L.Normalization(), x), L.Dense(4)], name="inner")
    i = keras.Input((5,))
    return _model(i, inner(i), "nested_normalization"), x


@stranger("state")
def normalization_over_time() -> Built:
    x = normal(4, 5, scale=50, shift=300)
    i = keras.Input((4, 5))
    y = L.TimeDistributed(_adapted(L.Normalization(), x.reshape(-1, 5)))(i)
    return _model(i, L.Flatten()(y), "normalization_over_time"), x


@stranger("state")
def normalization_after_a_convolution() -> Built:
    x = images(8, 8, 3)
    i = keras.Input((8, 8, 3))
    conv = L.Conv2D(4, 3, name="conv")
    y = _adapted(L.Normalization(), keras.Model(i, conv(i)).predict(x, verbose=0))(conv(i))
    return _model(i, L.GlobalAveragePooling2D()(y), "normalization_after_a_convolution"), x


@stranger("state")
def string_lookup() -> Built:
    x = words(3)
    i = keras.Input((3,), dtype="string")
    y = L.Embedding(8, 4)(_adapted(L.StringLookup(), x)(i))
    return _model(i, L.Flatten()(y), "string_lookup"), x


@stranger("state")
def string_lookup_multi_hot() -> Built:
    x = words(3)
    i = keras.Input((3,), dtype="string")
    return _model(i, _adapted(L.StringLookup(output_mode="multi_hot"), x)(i), "string_multi_hot"), x


@stranger("state")
def integer_lookup() -> Built:
    x = (tokens(3) * 7).astype(np.int64)
    i = keras.Input((3,), dtype="int64")
    y = L.Embedding(32, 4)(_adapted(L.IntegerLookup(), x)(i))
    return _model(i, L.Flatten()(y), "integer_lookup"), x


@stranger("state")
def text_vectorization() -> Built:
    x = np.array([f"{a} and {b}" for a, b in zip(words(), words()[::-1], strict=True)], object)[:, None]
    i = keras.Input((1,), dtype="string")
    y = L.Embedding(16, 4)(_adapted(L.TextVectorization(output_sequence_length=4), x)(i))
    return _model(i, L.GlobalAveragePooling1D()(y), "text_vectorization"), x


@stranger("state")
def text_vectorization_tf_idf() -> Built:
    x = np.array([f"{a} and {b}" for a, b in zip(words(), words()[::-1], strict=True)], object)[:, None]
    i = keras.Input((1,), dtype="string")
    return _model(i, _adapted(L.TextVectorization(output_mode="tf_idf"), x)(i), "tf_idf"), x


@stranger("state", smooth=False)
def discretization() -> Built:
    x = normal(4)
    i = keras.Input((4,))
    y = _adapted(L.Discretization(num_bins=5, output_mode="int"), x)(i)
    return _model(i, L.Flatten()(L.Embedding(8, 3)(y)), "discretization"), x


@stranger("state")
def hashing() -> Built:
    x = words(2)
    i = keras.Input((2,), dtype="string")
    y = L.Embedding(8, 3)(L.Hashing(8, salt=[7, 11])(i))
    return _model(i, L.Flatten()(y), "hashing"), x


@stranger("state")
def category_encoding() -> Built:
    x = tokens(3, high=6)
    i = keras.Input((3,), dtype="int32")
    return _model(i, L.CategoryEncoding(6, output_mode="multi_hot")(i), "category_encoding"), x


class Whitening(L.Layer):
    """A user's layer that keeps a table outside its weights and its configuration's constructor."""

    def __init__(self, table: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = None if table is None else np.asarray(table, np.float32)

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.table)

    def get_config(self) -> dict[str, Any]:
        """What Keras saves."""
        return {**super().get_config(), "table": None if self.table is None else self.table.tolist()}


@stranger("state", own_code=True)
def custom_layer_with_a_table() -> Built:
    x = normal(5)
    i = keras.Input((5,))
    return _model(i, Whitening(rng(3).normal(size=(5, 5)))(i), "whitening"), x


class Counted(L.Layer):
    """A user's layer that is told something after it was made."""

    factor = 1.0

    def call(self, x: Any) -> Any:
        return x * self.factor


@stranger("state", own_code=True)
def custom_layer_set_after_construction() -> Built:
    x = normal(5)
    layer = Counted()
    layer.factor = 3.5
    i = keras.Input((5,))
    return _model(i, layer(i), "counted"), x


FACTOR = 2.5


@stranger("state", own_code=True)
def lambda_with_globals() -> Built:
    import tensorflow as tf

    x = images(8, 8, 3)
    i = keras.Input((8, 8, 3))
    y = L.Lambda(lambda t: tf.image.resize(t, (4, 4)) * FACTOR / np.float32(255), name="shrink")(i)
    return _model(i, L.Flatten()(L.Conv2D(4, 3)(y)), "lambda_with_globals"), x


@stranger("state", own_code=True)
def lambda_with_a_closure() -> Built:
    x, offset = normal(5), np.float32(0.75)
    i = keras.Input((5,))
    return _model(i, L.Lambda(lambda t, scale: t * scale + offset, arguments={"scale": 3.0})(i), "closure"), x


@stranger("state")
def batch_normalization_of_every_rank() -> Built:
    x = normal(4, 6, 5)
    i = keras.Input((4, 6, 5))
    y = L.BatchNormalization(axis=1)(L.Conv2D(4, 3, padding="same")(L.BatchNormalization()(i)))
    y = L.BatchNormalization(center=False)(L.Flatten()(y))
    return _model(i, y, "batch_norms"), x


@stranger("state")
def spectral_normalization() -> Built:
    x = normal(8, 8, 3)
    i = keras.Input((8, 8, 3))
    return _model(i, L.Flatten()(L.SpectralNormalization(L.Conv2D(4, 3))(i)), "spectral"), x


@stranger("state")
def augmentation_and_dropout() -> Built:
    x = images(8, 8, 3)
    i = keras.Input((8, 8, 3))
    y = L.RandomRotation(0.2, seed=3)(L.RandomFlip(seed=1)(L.Rescaling(1 / 255)(i)))
    y = L.SpatialDropout2D(0.3)(L.GaussianNoise(0.2)(L.Conv2D(4, 3, activation="relu")(y)))
    return _model(i, L.Dropout(0.5, seed=2)(L.Flatten()(y)), "augmentation"), x


@stranger("state")
def stateful_recurrence() -> Built:
    x = normal(5, 4)
    i = keras.Input(batch_shape=(SAMPLES_OF_STATE, 5, 4))
    return _model(i, L.GRU(4, stateful=True)(i), "stateful"), x


SAMPLES_OF_STATE = 4


@stranger("state", own_code=True)
def seed_generators_in_a_custom_layer() -> Built:
    x = normal(5)
    i = keras.Input((5,))
    return _model(i, Noisy()(i), "noisy"), x


class Noisy(L.Layer):
    """A user's layer with a seed generator; silent at inference."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, x: Any, training: bool = False) -> Any:
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds) if training else x * 0.5
