"""The Keras model that quantization gives: ordinary, and able to say how its weights were quantized.

Its activations' grids stand in its `FakeQuantize` layers. Weights are in place on their grids, where the grid
cannot be read from the values alone; so the model carries it, also through `save` and `load_model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from vqkit.flow.ends import computed_together
from vqkit.flow.layers import FakeQuantize
from vqkit.primitives.native import in_process
from vqkit.primitives.qparams import QParams


@keras.saving.register_keras_serializable(package="vqkit")
class QuantizedModel(keras.Model):
    """A functional model with the grids of its weights; make it with `carrying`."""

    _weight_grids: tuple[tuple[str, str, Any], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As any model; the positions of all grids are read at once."""
        with computed_together(layer for layer in self.layers if isinstance(layer, FakeQuantize)):
            return super().__call__(*args, **kwargs)

    def predict_step(self, data: Any) -> Any:
        """As any model's; what `predict` compiles never leaves the process."""
        with self._in_process():
            return super().predict_step(data)

    def test_step(self, data: Any) -> Any:
        """As any model's; what `evaluate` compiles never leaves the process."""
        with self._in_process():
            return super().test_step(data)

    def _in_process(self) -> AbstractContextManager[None]:
        # XLA knows TensorFlow's operations only.
        return nullcontext() if self.jit_compile else in_process()

    @property
    def weight_grids(self) -> dict[tuple[str, str], QParams]:
        """(layer, weight) -> the grid that the weight is on; float weights are absent."""
        return {(layer, weight): QParams.from_json(grid) for layer, weight, grid in _plain(self)}

    def get_config(self) -> dict[str, Any]:
        """With the grids as JSON values."""
        return {**super().get_config(), "weight_grids": [list(entry) for entry in _plain(self)]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
        """The model that `get_config` describes."""
        rest = {k: v for k, v in config.items() if k != "weight_grids"}
        model = super().from_config(rest, custom_objects=custom_objects)
        return _with(model, config.get("weight_grids", ()))


def carrying(model: QuantizedModel, grids: Mapping[tuple[str, str], QParams]) -> QuantizedModel:
    """Note the grids of the weights in the model.

    Args:
        model: the model.
        grids: (layer, weight) -> grid.

    Returns:
        The same model.
    """
    return _with(model, [(layer, weight, grid.to_json()) for (layer, weight), grid in grids.items()])


def _with(model: Any, entries: Any) -> Any:
    # A plain attribute: Keras would look for layers in what it tracks.
    object.__setattr__(model, "_weight_grids", tuple(tuple(entry) for entry in entries))
    return model


def _plain(model: Any) -> tuple[tuple[str, str, Any], ...]:
    return object.__getattribute__(model, "_weight_grids")


# An .h5 file holds the bare name of the model's class.
keras.saving.get_custom_objects()[QuantizedModel.__name__] = QuantizedModel
