"""What a model is for, from its outputs and the labels: the metrics that judge it where nobody states any.

Where two tasks fit the same arrays, the answer is a question with the choices, not a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqkit.errors import DataError
from vqkit.evaluation.metric import Metric
from vqkit.evaluation.metrics import NAMED, VOID
from vqkit.quantization.labels import class_numbers

if TYPE_CHECKING:
    import keras

LossKind = Literal["", "probability", "logit", "one class", "value"]
"""What the loss of a model says about its outputs."""
_MANY_CLASSES = 10
"""Above so many classes the five best answers are judged as well."""


@dataclass(frozen=True)
class Task:
    """What one output of a model is judged by.

    Attributes:
        name: "single label", "binary", "multi-label", "soft labels", "dense labels", "sequence labels", "regression",
            "reconstruction", "anomaly detection" or "no labels".
        metrics: the first one decides.
        why: what was seen, for the first lines of a run.
    """

    name: str
    metrics: tuple[Metric, ...]
    why: str

    def __str__(self) -> str:
        names = ", ".join(f"{m.name} ({m.better} is better)" for m in self.metrics)
        return f"{self.name}: {self.why}; judged by {names}"


def task_of(
    outputs: NDArray[Any],
    labels: Any,
    *,
    inputs: Any = None,
    activation: str = "",
    where: str = "labels",
    loss: LossKind = "",
) -> Task:
    """The task of one output.

    Args:
        outputs: of the model, shape (n, …).
        labels: of the same samples.
        inputs: what the model was given, where it is one array: a model that is to give its inputs reconstructs.
        activation: name of the output's activation function, "" where it is not known.
        where: names the labels in messages.
        loss: what the loss says, which decides where several tasks fit.

    Raises:
        DataError: the labels fit no task, or several; the message says what to state.
    """
    y = np.asarray(labels)
    if y.ndim == 0 or len(y) != len(outputs):
        raise DataError(f"{where}: {len(outputs)} inputs, {len(y) if y.ndim else 'no'} labels")
    if y.dtype.kind not in "iufb":
        class_numbers(labels, outputs.shape[1:], where)
    shape, whole = outputs.shape[1:], bool(np.all(y == np.floor(y))) if y.dtype.kind == "f" else True
    if inputs is not None and y.shape == np.shape(inputs) == outputs.shape and np.array_equal(y, inputs):
        return _task("reconstruction", ("mse", "mae"), "the labels are the inputs")
    places = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    same = inputs is not None and np.shape(inputs) == outputs.shape and (places > 1 or loss == "value")
    if same and y.size == len(y) and np.all((y == 0) | (y == 1)):
        return _task("anomaly detection", ("anomaly_auc", "anomaly_pauc"), "labels 0 and 1 beside a reconstruction")
    if places > 1:
        return _dense(outputs, y, whole, where)
    values = int(np.prod(shape)) if shape else 1
    if values == 1:
        return _single(outputs, y, activation, where, loss)
    return _several(outputs, y, whole, activation, where, loss)


def _task(name: str, metrics: Sequence[str], why: str) -> Task:
    return Task(name, tuple(NAMED[m] for m in metrics), why)


def _single(outputs: NDArray[Any], y: NDArray[Any], activation: str, where: str, loss: LossKind) -> Task:
    if y.size != len(y):
        raise DataError(f"{where}: the model gives one number for each sample, the labels have shape {y.shape}")
    if not np.all((y == 0) | (y == 1)):
        return _task("regression", ("mae", "rmse", "r2"), "one number for each sample")
    if activation == "sigmoid":
        return _task("binary", ("accuracy", "auc"), "labels 0 and 1 beside one probability (sigmoid)")
    if activation in ("", "linear") and not (outputs.min() >= 0 and outputs.max() <= 1):
        return _task("binary", ("accuracy_from_logit", "auc"), "labels 0 and 1 beside one logit")
    if loss in ("probability", "logit"):
        metrics = ("accuracy" if loss == "probability" else "accuracy_from_logit", "auc")
        return _task("binary", metrics, f"labels 0 and 1 beside one {loss}, as the loss says")
    if loss == "value":
        return _task("regression", ("mae", "rmse", "r2"), "one number for each sample, as the loss says")
    raise DataError(
        f"{where}: labels 0 and 1 beside one number with the activation {activation or 'unknown'!r}: is it a "
        "probability (metrics: [accuracy, auc]), a logit ([accuracy_from_logit, auc]) or a value ([mae, rmse])?"
    )


def _several(outputs: NDArray[Any], y: NDArray[Any], whole: bool, activation: str, where: str, loss: LossKind) -> Task:
    flat = outputs.reshape(len(outputs), -1)
    count, best = flat.shape[1], ("accuracy", "top5") if flat.shape[1] > _MANY_CLASSES else ("accuracy",)
    if y.size == len(y):
        class_numbers(y, flat.shape[1:], where)
        return _task("single label", best, f"class numbers beside {count} scores")
    if y.size != flat.size:
        class_numbers(y, flat.shape[1:], where)
    rows = y.reshape(len(y), -1)
    if not np.all((rows == 0) | (rows == 1)):
        share = not whole and np.all(rows >= 0) and np.allclose(rows.sum(1), 1, atol=1e-3)
        if share and activation == "softmax":
            return _task("soft labels", ("kl", "mae"), "shares that add up to one beside probabilities")
        return _task("regression", ("mae", "rmse", "r2"), f"{count} numbers for each sample")
    one_hot = bool(np.all(rows.sum(1) == 1))
    if one_hot and (activation != "sigmoid" or loss == "one class"):
        return _task("single label", best, f"one-hot labels beside {count} scores")
    if one_hot and loss not in ("probability", "logit"):
        raise DataError(
            f"{where}: one label for each sample beside {count} sigmoids: do samples have exactly one label (metrics: "
            "[accuracy]) or any number of them ([auc, exact_match])?"
        )
    return _task("multi-label", ("auc", "exact_match"), f"any of {count} labels for each sample")


def _dense(outputs: NDArray[Any], y: NDArray[Any], whole: bool, where: str) -> Task:
    classes, places = outputs.shape[-1], outputs.shape[:-1]
    numbers = y.shape == places or y.shape == (*places, 1)
    fits = numbers and whole and (y[(y >= 0) & (y != VOID)].max(initial=0) < max(classes, 2))
    if fits and classes > 1 and len(places) == 2:
        return _task("sequence labels", ("token_accuracy", "miou"), f"a class number for each of {places[1]} places")
    if fits and (classes > 1 or np.all((y == 0) | (y == 1) | (y == VOID))):
        return _task("dense labels", ("miou", "pixel_accuracy"), f"a class number for each of {places[1:]} places")
    if y.shape == outputs.shape and whole and classes > 1 and np.all((y == 0) | (y == 1)) and np.all(y.sum(-1) == 1):
        return _task("dense labels", ("miou", "pixel_accuracy"), f"one-hot labels for each of {places[1:]} places")
    if y.shape == outputs.shape or (numbers and classes == 1):
        return _task("regression", ("mae", "rmse", "r2"), f"an array of shape {outputs.shape[1:]} for each sample")
    raise DataError(f"{where}: they have shape {y.shape}, the model's outputs {outputs.shape}; state metrics for them")


def unlabelled_task(outputs: NDArray[Any], activation: str = "") -> Task:
    """The task of an output where the float model's outputs are all that there is to compare with.

    Args:
        outputs: of the float model, shape (n, …).
        activation: name of the output's activation function, "" where it is not known.
    """
    if activation == "softmax":
        return _task("no labels", ("agreement", "kl", "sqnr") if outputs.ndim == 2 else ("agreement", "sqnr"), _UNSEEN)
    decision = activation == "sigmoid" and outputs.shape[-1] == 1
    return _task("no labels", ("agreement", "sqnr") if decision else ("sqnr", "mae"), _UNSEEN)


_UNSEEN = "quantized outputs beside those of the float model"


def activations_of(model: keras.Model) -> list[str]:
    """Name of the activation function that each output of a model comes from, "" where none is known.

    Args:
        model: a built Keras model.
    """
    by_output = {id(t): layer for layer in model.layers for t in _tensors(getattr(layer, "output", None))}
    return [_activation(by_output.get(id(t))) for t in model.outputs]


def _tensors(value: Any) -> list[Any]:
    from keras import tree

    return [] if value is None else list(tree.flatten(value))


def _activation(layer: Any) -> str:
    if layer is None:
        return ""
    function = getattr(layer, "activation", None)
    if function is None:
        return {"Softmax": "softmax", "ReLU": "relu"}.get(type(layer).__name__, "")
    return str(getattr(function, "__name__", ""))


def tasks_of(
    model: keras.Model,
    pairs: Sequence[tuple[str, NDArray[Any], Any]],
    *,
    inputs: Any = None,
    where: str = "labels",
    loss: LossKind = "",
) -> list[Task]:
    """The task of each output of a model, in the model's order.

    Args:
        model: the built Keras model.
        pairs: name, values and labels of each output, from `paired_with`.
        inputs: what it was given.
        where: names the labels in messages.
        loss: what the loss of the model says, which decides where several tasks fit.

    Raises:
        DataError: labels and outputs do not fit; the message says what to state.
    """
    own = activations_of(model) if getattr(model, "outputs", None) else [""] * len(pairs)
    single = inputs if hasattr(inputs, "shape") else None
    return [
        task_of(
            o, y, inputs=single, activation=a, where=where if len(pairs) == 1 else f"{where} of {name!r}", loss=loss
        )
        for (name, o, y), a in zip(pairs, own[: len(pairs)], strict=True)
    ]


@dataclass(frozen=True)
class Judge:
    """A metric, and the output of a model that it judges.

    Attributes:
        metric: called output/metric where the model has several outputs that are judged.
        output: the output's number.
    """

    metric: Metric
    output: int


def judges_of(stated: Sequence[Metric] | None, tasks: Sequence[Task], names: Sequence[str]) -> tuple[Judge, ...]:
    """Metrics for each output, the deciding one first.

    Args:
        stated: for every output; None for those of the tasks.
        tasks: of the outputs.
        names: of the outputs.
    """
    found = []
    for i, (task, name) in enumerate(zip(tasks, names, strict=True)):
        for metric in task.metrics if stated is None else stated:
            own = metric if len(names) == 1 else replace(metric, name=f"{name}/{metric.name}")
            found.append(Judge(own, i))
    return tuple(found)


def paired_with(outputs: Any, labels: Any, where: str = "labels") -> list[tuple[str, NDArray[Any], Any]]:
    """Name, array and labels of each output.

    Args:
        outputs: nested as the model's.
        labels: one array for one output, else a list or dict like the outputs.
        where: names the labels in messages.

    Raises:
        DataError: there are as many labels as outputs, or by other names.
    """
    if isinstance(outputs, np.ndarray):
        return [("output", outputs, labels)]
    named = dict(outputs) if isinstance(outputs, Mapping) else {f"output_{i}": o for i, o in enumerate(outputs)}
    if isinstance(labels, Mapping):
        if set(labels) != set(named):
            raise DataError(f"{where}: labels for {', '.join(labels)}, the model's outputs are {', '.join(named)}")
        return [(k, np.asarray(o), labels[k]) for k, o in named.items()]
    given = list(labels) if isinstance(labels, list | tuple) else [labels]
    if len(given) != len(named):
        raise DataError(f"{where}: labels for {len(given)} outputs, the model has {len(named)}: {', '.join(named)}")
    return [(k, np.asarray(o), y) for (k, o), y in zip(named.items(), given, strict=True)]
