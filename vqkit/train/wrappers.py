"""Layers whose weights are fake-quantized each time they are called, while the float weights are trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from vqkit.errors import ModelError
from vqkit.graph.variables import weight_names
from vqkit.train.learned import LearnedQuantize


@keras.saving.register_keras_serializable(package="vqkit")
class QuantizedWeights(keras.layers.Layer):
    """Calls a layer with quantized weights; the layer's own float weights are what is trained.

    The inner layer is called as it is, under a scope that gives it other values for some variables, so any
    Keras or custom layer can be wrapped, and what it computes stays its own business.

    Args:
        layer: the inner layer, or its serialized form.
        quantizers: variable name -> quantizer, in either form.
    """

    def __init__(self, layer: Any, quantizers: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.layer = _object(layer)
        self.names = tuple(quantizers)
        self.quantizers: list[LearnedQuantize] = [_object(q) for q in quantizers.values()]
        self.supports_masking = getattr(self.layer, "supports_masking", False)
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the inner layer gives with its weights on their grids."""
        return self.call_with(self.quantized(), *args, **kwargs)

    def quantized(self) -> list[tuple[Any, Any]]:
        """The inner layer's quantized variables with their values on the grid."""
        own = self.variables_by_name()
        return [(own[name], q(own[name])) for name, q in zip(self.names, self.quantizers, strict=True)]

    def call_with(self, values: Iterable[tuple[Any, Any]], *args: Any, **kwargs: Any) -> Any:
        """Call the inner layer with other values for some of its variables.

        Args:
            values: variable and value.
            args: the inner layer's.
            kwargs: likewise.
        """
        with keras.StatelessScope(state_mapping=list(values)) as scope:
            outputs = self.layer(*args, **kwargs)
        # What the layer assigned (moving statistics, random state) was held back by the scope.
        for variable in self.layer.non_trainable_variables:
            value = scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)
        return outputs

    def variables_by_name(self) -> dict[str, Any]:
        """The inner layer's variables by the names that the graph knows them by.

        Raises:
            ModelError: a quantizer stands for a variable that the layer does not have.
        """
        found = dict(zip(weight_names(self.layer), self.layer.weights, strict=True))
        missing = [name for name in self.names if name not in found]
        if missing:
            raise ModelError(
                f"layer {self.layer.name!r} has no variable {missing[0]!r}, it has {sorted(found)}"
            )
        return found

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The inner layer's."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """With inner layer and quantizers serialized."""
        quantizers = dict(
            zip(self.names, map(keras.saving.serialize_keras_object, self.quantizers), strict=True)
        )
        own = {"layer": keras.saving.serialize_keras_object(self.layer), "quantizers": quantizers}
        return {**super().get_config(), **own}


def _object(value: Any) -> Any:
    return keras.saving.deserialize_keras_object(value) if isinstance(value, Mapping) else value
