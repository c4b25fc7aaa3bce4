"""How good a model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError
from vqkit.evaluation.metrics import NAMED
from vqkit.evaluation.stated_metrics import metrics_of
from vqkit.evaluation.tasks import Judge, Task, judges_of, paired_with, tasks_of
from vqkit.primitives.native import traced_here
from vqkit.quantization.data import EVAL_BATCH, Data, batches, leaves, map_inputs
from vqkit.quantization.float_model import in_size, size_of
from vqkit.quantization.labels import class_numbers, first_output, right_answers
from vqkit.quantization.quantized import Quantized

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        metrics: name -> value.
        n: number of samples.
        predictions: model outputs, shape (n, …); a list for several outputs.
        task: what the metrics were chosen for, and why; "" where they were stated.
    """

    metrics: Mapping[str, float]
    n: int
    predictions: Any
    task: str = ""


def predict(model: keras.Model | Quantized, x: Any, *, batch_size: int = EVAL_BATCH) -> Any:
    """Outputs of a Keras model through one compiled function, without `predict`'s per-call overhead.

    Args:
        model: any Keras model, or a `Quantized`.
        x: inputs, array(s) of shape (n, …) or a data set.
        batch_size: samples at once, for arrays; a model with a fixed batch size is run in that.

    Returns:
        float32 outputs of shape (n, …), nested as the model's.
    """
    from keras import tree

    model = model.model if isinstance(model, Quantized) else model
    n = 0

    def counted() -> Iterator[Any]:
        nonlocal n
        for batch in batches(x, batch_size=batch_size):
            n += len(leaves(batch)[0])
            yield batch

    source = in_size(counted(), model, pad=True)
    first = next(source)
    run = in_one_function(model, first)
    parts = [run(b) for b in chain([first], source)]
    return tree.map_structure(lambda *p: np.concatenate([np.asarray(q) for q in p])[:n], *parts)


def in_one_function(model: keras.Model, like: Any) -> Callable[[Any], Any]:
    """A model's inference, compiled for batches of any size.

    Args:
        model: any Keras model.
        like: a batch, for its structure, shapes and dtypes.

    Returns:
        A function of a batch that gives the model's outputs.
    """
    import tensorflow as tf
    from keras import tree

    size = size_of(model)
    free = tree.map_structure(lambda a: tf.TensorSpec((size, *a.shape[1:]), a.dtype), like)
    run = traced_here(lambda batch: model(batch, training=False), [free])
    return lambda batch: run(tree.map_structure(tf.convert_to_tensor, batch))


def evaluate(
    model: keras.Model | Quantized,
    x: Any,
    y: Any,
    *,
    metrics: Sequence[Any] | None = None,
    batch_size: int = EVAL_BATCH,
) -> Evaluation:
    """Metrics of a model on labelled data.

    Args:
        model: any Keras model, or a `Quantized`.
        x: inputs, shape (n, …).
        y: labels of the same samples; for several outputs a list or dict like the outputs, or those of the first.
        metrics: what `metric_of` takes: names of vqkit, Keras or scikit-learn, objects, functions, `file.py:function`;
            by default those of the task that outputs and labels tell (`Evaluation.task` says which).
        batch_size: samples at once.

    Returns:
        The metrics with the predictions they come from.

    Raises:
        DataError: inputs and labels differ in length, the metric cannot judge by the labels, or they fit several
            tasks.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
        >>> vqkit.evaluate(model, np.eye(3, dtype="float32"), np.arange(3)).metrics
        {'accuracy': 1.0}
    """
    predictions = predict(model, x, batch_size=batch_size)
    if metrics is not None:
        return scored(predictions, y, metrics)
    outputs, labels = _judged(predictions, y)
    tasks = tasks_of(model if hasattr(model, "layers") else model.model, outputs, labels, inputs=x)
    found = judged(predictions, y, judges_of(None, tasks, [name for name, *_ in paired_with(outputs, labels)]))
    return replace(found, task="; ".join(map(str, tasks)))


def _judged(predictions: Any, y: Any) -> tuple[Any, Any]:
    """Outputs and their labels; of several outputs with one array of labels the first output is judged."""
    if isinstance(predictions, np.ndarray):
        single = isinstance(y, Mapping | list | tuple) and len(leaves(y)) == 1
        return predictions, leaves(y)[0] if single else y
    several = isinstance(y, Mapping | list | tuple) and len(leaves(y)) > 1
    return (predictions, y) if several else (first_output(predictions), y)


def scored(predictions: Any, y: Any, metrics: Sequence[Any] | None = None, where: str = "labels") -> Evaluation:
    """Metrics of given predictions.

    Args:
        predictions: model outputs, shape (n, …), nested as the model's.
        y: labels; for the default metric class numbers of shape (n,) or (n, 1), or one-hot (n, classes).
        metrics: what `metric_of` takes; top-1 accuracy by default.
        where: names the labels in messages.

    Returns:
        The metrics with the predictions.

    Raises:
        DataError: predictions and labels differ in length, or a metric cannot judge by the labels.
    """
    first = first_output(predictions)
    if metrics is None:
        return Evaluation({"accuracy": accuracy(first, y, where)}, len(first), predictions)
    if not metrics:
        return Evaluation({}, len(first), predictions)
    names = [name for name, *_ in pairs_of(predictions, y, where)]
    return judged(predictions, y, judges_of(metrics_of(list(metrics)), [_STATED] * len(names), names), where)


def pairs_of(predictions: Any, y: Any, where: str = "labels") -> list[tuple[str, np.ndarray, Any]]:
    """Name, outputs and labels of each output that is judged."""
    return paired_with(*_judged(predictions, y), where)


def judged(predictions: Any, y: Any, judges: Sequence[Judge], where: str = "labels") -> Evaluation:
    """Metrics of given predictions.

    Args:
        predictions: model outputs, shape (n, …), nested as the model's.
        y: labels of the same samples.
        judges: the metrics, and which output each of them judges.
        where: names the labels in messages.

    Raises:
        DataError: predictions and labels differ in length, or a metric cannot judge by the labels.
    """
    pairs = pairs_of(predictions, y, where)
    found = {}
    for judge in judges:
        _, outputs, given = pairs[judge.output]
        labels = np.asarray(given)
        if labels.ndim == 0 or len(outputs) != len(labels):
            raise DataError(f"evaluation data: {len(outputs)} inputs, {len(labels) if labels.ndim else 'no'} labels")
        found[judge.metric.name] = judge.metric.of(outputs, labels)
    return Evaluation(found, len(first_output(predictions)), predictions)


def judges_for(
    model: keras.Model, data: Data, metrics: Sequence[Any] | None = None, base_dir: str | Path = "."
) -> tuple[tuple[Judge, ...], str]:
    """What runs on a model and data are judged by, checked on a few samples before anything is quantized.

    Args:
        model: the built Keras model.
        data: with labels.
        metrics: what `metric_of` takes; None for those of the task, of which a classifier keeps top-1 accuracy alone.
        base_dir: what paths start from.

    Returns:
        The metrics, the deciding one first, and a line that says why they were chosen.

    Raises:
        DataError: the metrics cannot judge this model by these labels; or nobody says which direction is better.
    """
    where = f"{data.name}/y_eval"
    if metrics is None and len(model.outputs) == 1 and isinstance(data.y_eval, np.ndarray):
        shape = tuple(model.outputs[0].shape[1:])
        if None not in shape and len([s for s in shape if s != 1]) == 1 and data.y_eval.size == len(data.y_eval):
            check_labels(model, data)
            return (Judge(NAMED["accuracy"], 0),), "class numbers beside scores"
    x, y = (map_inputs(lambda a, _: a[:EVAL_BATCH], part) for part in (data.x_eval, data.y_eval))
    outputs, labels = _judged(predict(model, x), y)
    pairs = paired_with(outputs, labels, where)
    names = [name for name, *_ in pairs]
    stated = None if metrics is None else metrics_of(list(metrics), base_dir)
    tasks = [_STATED] * len(names) if stated else tasks_of(model, outputs, labels, inputs=x, where=where)
    judges = judges_of(stated, tasks, names)
    if stated is None and judges[0].metric.name == "accuracy":
        check_labels(model, data)
        judges = judges[:1]
    _ = judges[0].metric.sign  # Raises where nobody said which direction is better.
    for judge in judges:
        _, own, given = pairs[judge.output]
        judge.metric.samples(own, np.asarray(given))
    return judges, "; ".join(map(str, tasks)) if stated is None else ""


_STATED = Task("stated", (), "")


def accuracy(predictions: np.ndarray, y: Any, where: str = "labels") -> float:
    """Share of samples whose label is the arg max (or, of a probability, its threshold at one half).

    Args:
        predictions: scores, shape (n, classes), or probabilities (n, 1).
        y: class numbers, shape (n,) or (n, 1), or one-hot of shape (n, classes).
        where: names the labels in messages.

    Returns:
        Top-1 accuracy, 0 to 1.

    Raises:
        DataError: these labels or outputs cannot be judged so.
    """
    return float(np.mean(right_answers(predictions, y, where)))


def check_labels(model: keras.Model, data: Data) -> None:
    """Refuse labels that top-1 accuracy cannot judge, before anything is quantized.

    Args:
        model: the built Keras model that is to be judged.
        data: with the labels; a few samples are run where the shapes alone do not tell.

    Raises:
        DataError: what was found, and what the default metric needs.
    """
    where, shape = f"{data.name}/y_eval", tuple(model.outputs[0].shape[1:])
    class_numbers(data.y_eval, shape, where)
    if None in shape or all(s == 1 for s in shape):
        x, y = (map_inputs(lambda a, _: a[:EVAL_BATCH], part) for part in (data.x_eval, data.y_eval))
        right_answers(predict(model, x), y, where)
