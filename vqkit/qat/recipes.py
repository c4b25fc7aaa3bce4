"""Training recipes: distillation, feature loss, augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np

from vqkit.errors import DataError, ModelError, not_allowed
from vqkit.evaluation import predict
from vqkit.graph.keras_io import lower
from vqkit.qat.layers import LearnedQuantize
from vqkit.qat.model import QATModel
from vqkit.quantization.data import clean
from vqkit.quantization.float_model import size_of

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

    def __init__(
        self, from_logits: bool = True, temperature: float = 1.0, name: str = "distillation", **kwargs: Any
    ) -> None:
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
        self,
        model: keras.Model,
        x: Any,
        *,
        batch_size: int = 32,
        augment: Augment | None = None,
        shuffle: bool = True,
        seed: int = 0,
        first_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
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


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether a model's last layer gives probabilities, so that `Distillation` needs from_logits=False."""
    last = model.layers[-1]
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return name == "softmax" or type(last).__name__ == "Softmax"


def with_features(model: keras.Model, layers: Sequence[str]) -> Any:
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


def _places(model: keras.Model, layers: Sequence[str]) -> list[str]:
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


def flips_and_shifts(pixels: int = 16, *, flip: bool = True) -> Callable[[np.ndarray, Any], np.ndarray]:
    """Mirror half of the images and move each by up to some pixels, for `DistillationData(augment=…)`.

    The float model answers for each changed image anew, so no label has to survive the change.

    Args:
        pixels: largest move in either direction; the border is mirrored in. 0 moves nothing.
        flip: mirror left and right; not for digits, text or anything that has a direction.

    Returns:
        A function of images (n, height, width, channels) and a `numpy.random.Generator`.

    Raises:
        DataError: a negative number of pixels; later: the batch is no batch of images, or too small.
    """
    if pixels < 0:
        raise DataError(f"flips_and_shifts: pixels must be 0 or more, got {pixels}")

    def change(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if x.ndim != 4 or min(x.shape[1:3]) <= pixels:
            raise DataError(
                f"flips_and_shifts({pixels}): expected images (n, height, width, channels) of more than "
                f"{pixels} pixels, got shape {x.shape}"
            )
        height, width = x.shape[1:3]
        edges = [(0, 0), (pixels, pixels), (pixels, pixels), (0, 0)]
        wide = np.pad(x, edges, mode="reflect")
        places = rng.integers(0, 2 * pixels + 1, (len(x), 2))
        mirrored = flip & (rng.random(len(x)) < 0.5)
        made = np.empty_like(x)
        for i, (top, left) in enumerate(places):
            view = wide[i, top : top + height, left : left + width]
            made[i] = view[:, ::-1] if mirrored[i] else view
        return made

    return change


def crops_and_flips(smallest: float = 0.5, *, flip: bool = True) -> Callable[[np.ndarray, Any], np.ndarray]:
    """Show a part of each image in full size, half of them mirrored, for `DistillationData(augment=…)`.

    Changes more than `flips_and_shifts`: for longer training.

    Args:
        smallest: share of the image's area that a part has at least, above 0, at most 1. Its form is up to
            a fifth wider or higher than the image's.
        flip: mirror left and right; not for digits, text or anything that has a direction.

    Returns:
        A function of images (n, height, width, channels) and a `numpy.random.Generator`; bilinear.

    Raises:
        DataError: no such share; later: the batch is no batch of images.
    """
    if not 0 < smallest <= 1:
        raise DataError(f"crops_and_flips: smallest must be above 0 and at most 1, got {smallest}")

    def change(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        import tensorflow as tf

        if x.ndim != 4:
            raise DataError(f"crops_and_flips: expected images (n, height, width, channels), got {x.shape}")
        side, form = np.sqrt(rng.uniform(smallest, 1, len(x))), np.exp(rng.uniform(-0.2, 0.2, len(x)))
        height, width = np.minimum(side * form, 1), np.minimum(side / form, 1)
        top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
        mirrored = flip & (rng.random(len(x)) < 0.5)
        first, last = np.where(mirrored, [left + width, left], [left, left + width])
        boxes = np.stack([top, first, top + height, last], axis=1).astype(np.float32)
        made: np.ndarray = tf.image.crop_and_resize(x, boxes, np.arange(len(x)), x.shape[1:3]).numpy()
        return made

    return change
