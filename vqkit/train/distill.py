"""Training without labels: the float model's own outputs are what the quantized one learns to give."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import keras
import numpy as np

from vqkit.errors import DataError
from vqkit.flow.data import clean
from vqkit.flow.fixed_size import size_of
from vqkit.flow.quality import predict

Augment = Callable[[np.ndarray, np.random.Generator], Any]


@keras.saving.register_keras_serializable(package="vqkit")
class Distillation(keras.losses.Loss):
    """Divergence of the student's class probabilities from the float model's.

    KL(teacher || student) times temperature², per sample, natural logarithm. Models that end in logits and
    models that end in softmax both work; for an output that is no classification use "mse".

    Args:
        from_logits: whether outputs are logits rather than probabilities.
        temperature: above 1 the small probabilities count more.
        name: of the loss.
        kwargs: as of `keras.losses.Loss`.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network (arXiv:1503.02531) §2.
    """

    def __init__(self, from_logits: bool = True, temperature: float = 1.0, name: str = "distillation",
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(name=name, **kwargs)
        if not temperature > 0:
            raise DataError(f"Distillation: temperature must be above 0, got {temperature}")
        self.from_logits, self.temperature = from_logits, float(temperature)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One number for each sample.

        Args:
            y_true: the float model's outputs, shape (n, classes).
            y_pred: the student's, same shape.
        """
        ops = keras.ops
        teacher, student = (self._log_probabilities(ops.cast(y, "float32")) for y in (y_true, y_pred))
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)

    def _log_probabilities(self, outputs: Any) -> Any:
        logits = outputs if self.from_logits else keras.ops.log(keras.ops.maximum(outputs, 1e-12))
        return keras.ops.log_softmax(logits / self.temperature, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """With both settings."""
        return {**super().get_config(), "from_logits": self.from_logits, "temperature": self.temperature}


class DistillationData(keras.utils.PyDataset):
    """Batches of inputs with the float model's outputs, for `fit(…, shuffle=False)`.

    The order depends on seed and epoch alone, so training that was cut in two sees the same batches.

    Args:
        model: the float Keras model.
        x: inputs, array of shape (n, …).
        batch_size: samples in a batch; the last one is shorter. Where the model's own size is fixed, batches
            have that, and samples that fill none are left out of the epoch.
        augment: changes a batch of inputs, given the batch and a `numpy.random.Generator`; the float model
            then answers for each changed batch anew.
        shuffle: in a new order in each epoch.
        seed: of order and changes.
        first_epoch: begin there, as `initial_epoch` of `fit`, to go on after a break.
        kwargs: as of `keras.utils.PyDataset`.

    Raises:
        DataError: x is not one array.
    """

    def __init__(
        self, model: Any, x: Any, *, batch_size: int = 32, augment: Augment | None = None,
        shuffle: bool = True, seed: int = 0, first_epoch: int = 0, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self._x = clean(x, "DistillationData: x")
        self._size = size_of(model)
        self._batch_size, self._augment, self._shuffle = self._size or batch_size, augment, shuffle
        self._seed, self._epoch = seed, first_epoch
        self._model = model
        self._y = None if augment else predict(model, self._x)

    def __len__(self) -> int:
        return len(self._x) // self._size if self._size else -(-len(self._x) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """One batch.

        Args:
            index: 0 for the first.

        Returns:
            (inputs, float outputs).
        """
        order = np.arange(len(self._x))
        if self._shuffle:
            order = np.random.default_rng([self._seed, self._epoch]).permutation(order)
        chosen = order[index * self._batch_size : (index + 1) * self._batch_size]
        if self._augment is None:
            return self._x[chosen], _as_keras_wants(keras.tree.map_structure(lambda y: y[chosen], self._y))
        changed = self._augment(self._x[chosen], np.random.default_rng([self._seed, self._epoch, index]))
        return changed, _as_keras_wants(self._answer(changed))

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order; `fit` calls it."""
        self._epoch += 1

    @cached_property
    def _answer(self) -> Any:
        import tensorflow as tf

        return tf.function(lambda x: self._model(x, training=False), reduce_retracing=True)


def _as_keras_wants(outputs: Any) -> Any:
    """Several outputs as a tuple: in a batch a list is refused."""
    return tuple(outputs) if isinstance(outputs, list) else outputs


def ends_in_softmax(model: Any) -> bool:
    """Whether a model's last layer gives probabilities, so that `Distillation` needs from_logits=False."""
    last = model.layers[-1]
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return name == "softmax" or type(last).__name__ == "Softmax"
