"""The guide's models, small and random."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.support import zoo

layers = keras.layers
RNG = np.random.default_rng(0)
# MNIST as the guide's scripts hold it: no axis for the channel, 64-bit floats.
IMAGES = RNG.uniform(size=(12, 14, 14))
LABELS = RNG.integers(0, 10, size=12)


def mnist_cnn() -> Any:
    """Conv, batch norm, ReLU, pool, a convolution named conv2, Dense."""
    x = i = keras.Input((14, 14, 1), name="image")
    x = layers.Conv2D(4, 3, name="conv1")(x)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="conv2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    model = keras.Model(i, layers.Dense(10, activation="softmax", name="dense")(x), name="mnist_cnn")
    zoo.randomize(model, seed=1)
    return model


class MyCustomLayer(layers.Layer):
    """The guide's custom layer."""

    def __init__(self, units: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape: Any) -> None:
        self.w = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="random_normal", trainable=True, name="w"
        )
        self.b = self.add_weight(shape=(self.units,), initializer="zeros", trainable=True, name="b")

    def call(self, inputs: Any) -> Any:
        return tf.matmul(inputs, self.w) + self.b

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def with_custom_layer() -> Any:
    """The guide's model with a custom layer."""
    x = i = keras.Input((14, 14, 1), name="image")
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv1")(x)
    x = MyCustomLayer(8, name="mine")(layers.Flatten(name="flatten")(x))
    model = keras.Model(i, layers.Dense(10, name="dense")(x), name="with_custom_layer")
    zoo.randomize(model, seed=2)
    return model
