"""Layers of a user: with variables, without, made of others, registered or not."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="vqkit_tests")
class Mix(keras.layers.Layer):
    """A dense layer of one's own.

    Args:
        units: size of the last axis.
        use_offset: whether something is added.
    """

    def __init__(self, units: int, use_offset: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.use_offset = units, use_offset

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        if self.use_offset:
            self.offset = self.add_weight(shape=(self.units,), name="offset", initializer="random_normal")
        super().build(shape)

    def call(self, x: Any) -> Any:
        y = keras.ops.matmul(x, self.kernel)
        return y + self.offset if self.use_offset else y

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "use_offset": self.use_offset}


class Square(keras.layers.Layer):
    """No variables, not registered."""

    def call(self, x: Any) -> Any:
        return x * x


class Gate(keras.layers.Layer):
    """Two inputs, two outputs, no variables, not registered."""

    def call(self, x: Any, y: Any) -> Any:
        return x * y, x - y


class Block(keras.layers.Layer):
    """Layers inside, no `build`, and a class in its config that is not registered.

    Args:
        inner: what comes before the dense layers.
    """

    def __init__(self, inner: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = Square() if inner is None else inner
        self.first, self.second = keras.layers.Dense(5, name="first"), keras.layers.Dense(3, name="second")

    def call(self, x: Any) -> Any:
        return self.second(self.first(self.inner(x)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Block:
        return cls(**{**config, "inner": keras.saving.deserialize_keras_object(config["inner"])})


class Mute(keras.layers.Layer):
    """Cannot say how it was made."""

    def __init__(self, table: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def call(self, x: Any) -> Any:
        return x


def bend(x: Any) -> Any:
    """An activation function of a user."""
    return keras.ops.minimum(x, 0.1 * x)


CUSTOM_OBJECTS = {"Square": Square, "Gate": Gate, "Block": Block, "bend": bend}


@keras.saving.register_keras_serializable(package="vqkit_tests")
class Filled(keras.layers.Layer):
    """Holds adapted layers, an array and a number of its own, and a function."""

    def __init__(self, gain: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain, self.table = gain, np.ones(5, "float32")
        self.scale_by = None
        self.norm, self.parts = keras.layers.Normalization(), [keras.layers.Normalization()]

    def build(self, shape: Any) -> None:
        for part in (self.norm, *self.parts):
            part.build(shape)

    def call(self, x: Any) -> Any:
        y = self.parts[0](self.norm(x)) * self.table * self.gain
        return y if self.scale_by is None else self.scale_by(y)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gain": self.gain}


def filled(x: np.ndarray) -> Filled:
    """A `Filled` whose layers are adapted."""
    layer = Filled(2.0)
    layer.build((None, 5))
    layer.norm.adapt(x)
    layer.parts[0].adapt(x / 10 - 2)
    return layer


def adapted(x: np.ndarray) -> keras.layers.Layer:
    """A Normalization layer that knows the data."""
    layer = keras.layers.Normalization()
    layer.adapt(x)
    return layer


@keras.saving.register_keras_serializable(package="vqkit_tests")
class Noise(keras.layers.Layer):
    """Adds noise at inference too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(keras.ops.shape(x), seed=self.generator)
