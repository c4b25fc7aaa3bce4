"""Every kind of input and output that Keras takes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from benchmarks.strangers_parts.models import SAMPLES, Built, add, images, lived_in, normal, stranger, tokens

L = keras.layers


def _net(i: Any, dtype: Any = None) -> Any:
    y = L.Conv2D(4, 3, activation="relu", dtype=dtype, name="conv")(i)
    return L.Dense(3, dtype=dtype, name="head")(L.Flatten(dtype=dtype)(y))


def _typed(name: str, dtype: Any, given: str) -> None:
    def build() -> Built:
        i = keras.Input((8, 8, 3), dtype=given)
        return lived_in(keras.Model(i, _net(i, dtype), name=name)), normal(8, 8, 3).astype(given)

    add(name, "input", build)


_typed("float32", "float32", "float32")
_typed("float64", "float64", "float64")
_typed("float16", "float16", "float16")
_typed("bfloat16", "bfloat16", "float32")
_typed("mixed_float16", "mixed_float16", "float32")
_typed("mixed_bfloat16", "mixed_bfloat16", "float32")


@stranger("input")
def uint8_rescaled() -> Built:
    i = keras.Input((8, 8, 3), dtype="uint8")
    return keras.Model(i, _net(L.Rescaling(1 / 127.5, offset=-1)(i))), images(8, 8, 3).astype(np.uint8)


@stranger("input")
def uint8_cast() -> Built:
    i = keras.Input((8, 8, 3), dtype="uint8")
    return keras.Model(i, _net(keras.ops.cast(i, "float32") / 255.0)), images(8, 8, 3).astype(np.uint8)


@stranger("input")
def int32_tokens() -> Built:
    i = keras.Input((6,), dtype="int32")
    y = L.GlobalAveragePooling1D()(L.Conv1D(8, 3, activation="relu")(L.Embedding(20, 5)(i)))
    return keras.Model(i, L.Dense(3)(y)), tokens(6)


@stranger("input")
def bool_mask() -> Built:
    i = keras.Input((6,), dtype="bool")
    x = tokens(6, high=2).astype(bool)
    return keras.Model(i, L.Dense(3)(L.Dense(4, activation="relu")(keras.ops.cast(i, "float32")))), x


@stranger("input")
def fixed_batch_of_one() -> Built:
    i = keras.Input(batch_shape=(1, 8, 8, 3))
    return lived_in(keras.Model(i, _net(i))), normal(8, 8, 3)


@stranger("input")
def fixed_batch_of_three() -> Built:
    i = keras.Input(batch_shape=(3, 8, 8, 3))
    return lived_in(keras.Model(i, _net(i))), normal(8, 8, 3)


@stranger("input")
def free_height_and_width() -> Built:
    i = keras.Input((None, None, 3))
    y = L.GlobalMaxPooling2D()(L.Conv2D(4, 3, activation="relu")(i))
    return keras.Model(i, L.Dense(3)(y)), normal(9, 7, 3)


@stranger("input")
def free_length() -> Built:
    i = keras.Input((None, 3))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(L.Conv1D(4, 3)(i)))), normal(9, 3)


@stranger("input")
def scalars() -> Built:
    i = keras.Input(())
    return keras.Model(i, L.Dense(2)(L.Dense(8, activation="tanh")(keras.ops.expand_dims(i, -1)))), normal()


@stranger("input")
def volumes() -> Built:
    i = keras.Input((6, 6, 6, 2))
    y = L.MaxPooling3D()(L.Conv3D(4, 3, activation="relu")(i))
    return keras.Model(i, L.Dense(3)(L.Flatten()(y))), normal(6, 6, 6, 2)


@stranger("input")
def two_inputs_two_outputs() -> Built:
    a, b = keras.Input((8, 8, 3), name="picture"), keras.Input((4,), name="facts")
    y = L.Concatenate()([_net(a), L.Dense(4, activation="relu")(b)])
    return keras.Model([a, b], [L.Dense(2, name="left")(y), L.Dense(1, name="right")(y)]), [
        normal(8, 8, 3),
        normal(4),
    ]


@stranger("input")
def dictionaries() -> Built:
    a, b = keras.Input((5,), name="a"), keras.Input((4,), name="b")
    y = L.Add()([L.Dense(4)(a), L.Dense(4)(b)])
    model = keras.Model({"a": a, "b": b}, {"x": L.Dense(2, name="x")(y), "y": L.ReLU(name="y")(y)})
    return model, {"a": normal(5), "b": normal(4)}


@stranger("input")
def three_inputs_of_three_types() -> Built:
    a, b, c = keras.Input((5,)), keras.Input((3,), dtype="int32"), keras.Input((4, 4, 1), dtype="uint8")
    parts = [L.Dense(4)(a), L.Flatten()(L.Embedding(9, 2)(b)), L.Flatten()(L.Rescaling(1 / 255)(c))]
    x = [normal(5), tokens(3, high=9), images(4, 4, 1).astype(np.uint8)]
    return keras.Model([a, b, c], L.Dense(2)(L.Concatenate()(parts))), x


@stranger("input")
def names_that_tensorflow_forbids() -> Built:
    i = keras.Input((4,), name="_in")
    y = L.Dense(4, activation="relu", name="_x")(i)
    y = L.Dense(4, activation="relu", name="größe und höhe")(y)
    return keras.Model(i, L.Dense(3, name="quant_out")(y), name="_model"), normal(4)


@stranger("input")
def channels_first() -> Built:
    i = keras.Input((3, 8, 8))
    y = L.Conv2D(4, 3, activation="relu", data_format="channels_first")(i)
    return keras.Model(i, L.Dense(3)(L.Flatten()(y))), normal(3, 8, 8)


@stranger("input")
def all_zero() -> Built:
    i = keras.Input((8, 8, 3))
    model = keras.Model(i, _net(i))
    model.get_layer("conv").set_weights([np.zeros((3, 3, 3, 4)), np.zeros(4)])
    return model, np.zeros((SAMPLES, 8, 8, 3), np.float32)
