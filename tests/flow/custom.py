"""Layers of a user: with variables, without, made of others, registered or not."""

from __future__ import annotations

from typing import Any

import keras


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
