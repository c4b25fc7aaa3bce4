"""Inner values of the float model as a second target: few images say more about layers than about classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from vqkit.errors import ModelError, not_allowed
from vqkit.graph.keras_io import lower
from vqkit.train.learned import LearnedQuantize
from vqkit.train.model import QATModel


def with_features(model: Any, layers: Sequence[str]) -> Any:
    """A model that also gives what some of its layers give; it shares layers and weights with the given one.

    Made of the float model and of the one from `qat_model` alike, both give the same things, so one can be
    taught by the other; afterwards deploy the model that this was made of. Choose layers that equalization
    does not rescale: the last one before a pool, an Add, or a layer with another activation than ReLU.

    Args:
        model: a functional Keras model with one output.
        layers: names of the float model's layers, each called once. In a model from `qat_model` their values
            before the quantizer are taken, behind an activation that was fused.

    Returns:
        A `keras.Model` with the outputs [output of the model, *outputs of the layers].

    Raises:
        ModelError: no such layer, one that is called twice or merged with another, or several outputs
            already.
    """
    count = len(model.outputs)
    if count != 1:
        raise ModelError(f"with_features: model {model.name!r} has {count} outputs, expected one")
    known = {layer.name: layer for layer in model.layers}
    calls = lower(model).calls()
    inner = []
    for name in _places(model, layers):
        if name not in known:
            raise ModelError(not_allowed("with_features", name, known, what="layer"))
        if calls.get(name, 0) > 1:
            raise ModelError(f"with_features: layer {name!r} is called {calls[name]} times, expected once")
        inner.append(known[name].output)
    return keras.Model(model.inputs, [model.outputs[0], *inner])


def _places(model: Any, layers: Sequence[str]) -> list[str]:
    """Where the values of the user's layers are now: a fused activation has become a layer of its own."""
    if not isinstance(model, QATModel):
        return list(layers)
    quantizers = {x.name for x in model.layers if isinstance(x, LearnedQuantize)}
    origins = {k: v for k, v in model.recipe["origins"].items() if k not in quantizers}
    found = []
    for name in layers:
        made_of = [(node, of) for node, of in origins.items() if name in of]
        if made_of and made_of[-1][1][-1] != name:
            heir = made_of[-1][1][-1]
            raise ModelError(f"with_features: layer {name!r} was merged with {heir!r}; name that one")
        found.append(made_of[-1][0] if made_of else name)
    return found


@keras.saving.register_keras_serializable(package="vqkit")
class RelativeError(keras.losses.Loss):
    """Squared error of inner values, as a share of the energy that the float model's values have.

    Args:
        name: of the loss.
        kwargs: as of `keras.losses.Loss`.

    Source: matching the last feature map is what Finkelstein et al. 2022, QFT (arXiv:2212.02634), train with.
    """

    def __init__(self, name: str = "relative_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One number for each sample; the energy is the batch's mean.

        Args:
            y_true: the float model's values, shape (n, …).
            y_pred: the student's, same shape.
        """
        ops = keras.ops
        wanted, given = (ops.cast(y, "float32") for y in (y_true, y_pred))
        axes = tuple(range(1, len(wanted.shape)))
        energy = ops.maximum(ops.mean(ops.square(wanted)), 1e-12)
        return ops.mean(ops.square(given - wanted), axis=axes) / energy
