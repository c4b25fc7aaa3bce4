"""How good a model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError
from vqkit.evaluation.compiled import Config, as_compiled, compiled_in, compiled_of, loss_kind
from vqkit.evaluation.metric import WEIGHTED, Asked, EvaluationData
from vqkit.evaluation.metrics import NAMED
from vqkit.evaluation.prediction import asking as asking
from vqkit.evaluation.prediction import in_one_function as in_one_function
from vqkit.evaluation.prediction import in_parts
from vqkit.evaluation.prediction import predict as predict
from vqkit.evaluation.stated_metrics import metrics_of
from vqkit.evaluation.streaming import Answers, first_and_all, streamed
from vqkit.evaluation.tasks import Judge, Task, activations_of, judges_of, paired_with, tasks_of, unlabelled_task
from vqkit.quantization.data import (
    EVAL_BATCH,
    Data,
    Labelled,
    checked_weights,
    labelled_batches,
    leaves,
    map_inputs,
)
from vqkit.quantization.float_model import check_inputs
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
        predictions: model outputs, shape (n, …); a list for several outputs; None where they were not kept.
        task: what the metrics were chosen for, and why; "" where they were stated.
        samples: name of a metric -> what each sample adds to it, shape (n, k), for `judgement.interval_of` and
            `compared_by`; where predictions were not kept, or do not tell it.
        scores: name of a metric that judges what follows from outputs and inputs -> that, shape (n, 1).
    """

    metrics: Mapping[str, float]
    n: int
    predictions: Any
    task: str = ""
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)


def evaluate(
    model: keras.Model | Quantized,
    x: Any,
    y: Any = None,
    *,
    metrics: Sequence[Any] | None = None,
    batch_size: int = EVAL_BATCH,
    sample_weight: Any = None,
    keep_predictions: bool = True,
) -> Evaluation:
    """Metrics of a model on labelled data.

    Args:
        model: any Keras model, or a `Quantized`.
        x: inputs, shape (n, …). Without `y` a tf.data dataset, a Keras PyDataset, a generator, or a function that
            gives one, of batches (x, y) or (x, y, sample_weight): they are read one by one, and none is kept.
        y: labels of the same samples; for several outputs a list or dict like the outputs, or those of the first.
        metrics: what `metric_of` takes: names of vqkit, Keras or scikit-learn, objects, functions, `file.py:function`;
            by default those of the task that outputs and labels tell (`Evaluation.task` says which).
        batch_size: samples at once.
        sample_weight: how much each sample counts, shape (n,); the metrics are then called `weighted_…`.
        keep_predictions: False holds one batch at a time of arrays, too. Metrics that need all predictions at once
            (`auc`, scorers, functions that give one number) keep them, above 64 MiB in a file without a name.

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
        >>> vqkit.evaluate(model, lambda: ((np.eye(3)[[k]], np.array([k])) for k in range(3))).metrics
        {'accuracy': 1.0}
    """
    net = model.model if isinstance(model, Quantized) else model
    data = EvaluationData(x, y, sample_weight)
    asked = Asked(asking(net, batch_size), data)
    if y is None or not keep_predictions:
        source = labelled_batches(x, y, sample_weight, batch_size=batch_size, check=partial(check_inputs, net))
        return _streamed(net, source, metrics, asked)
    predictions = asked.predict(x)
    pairs = pairs_of(predictions, y)
    weights = None if sample_weight is None else checked_weights(sample_weight, len(first_output(predictions)))
    judges, tasks = _judges(net, pairs, metrics, inputs=x, weighted=weights is not None, compiled=compiled_of(net))
    found = judged(predictions, y, judges, weights=weights, asked=known_answers(asked, predictions))
    return replace(found, task="; ".join(map(str, tasks)))


def known_answers(asked: Asked, predictions: Any) -> Asked:
    """The same, which does not ask the model again for the outputs of its data."""
    x = asked.data.x
    return replace(asked, predict=lambda inputs: predictions if inputs is x else asked.predict(inputs))


Pairs = list[tuple[str, np.ndarray, Any]]
"""Name, outputs and labels of each output that is judged."""


def _judges(
    model: keras.Model,
    pairs: Pairs,
    metrics: Sequence[Any] | None,
    *,
    inputs: Any,
    weighted: bool,
    compiled: Config | None,
    unlabelled: bool = False,
    where: str = "labels",
    base_dir: str | Path = ".",
) -> tuple[tuple[Judge, ...], Sequence[Task]]:
    """The metrics, stated or of the tasks, and these."""
    names = [name for name, *_ in pairs]
    stated = None if metrics is None else metrics_of(list(metrics), base_dir) if metrics else ()
    tasks = [_STATED] * len(names)
    if stated is None and unlabelled:
        tasks = [unlabelled_task(o, a) for (_, o, _), a in zip(pairs, activations_of(model), strict=False)]
    elif stated is None:
        tasks = tasks_of(model, pairs, inputs=inputs, where=where, loss=loss_kind(compiled))
    if stated is None and not unlabelled and len(pairs) == 1:
        tasks = [as_compiled(tasks[0], compiled, pairs[0][1], np.asarray(pairs[0][2]))]
    judges = judges_of(stated, tasks, names)
    return with_weights(judges) if weighted else judges, tasks if stated is None else ()


def with_weights(judges: Sequence[Judge]) -> tuple[Judge, ...]:
    """The same metrics of samples that count by weights."""
    return tuple(replace(j, metric=j.metric.with_weights()) for j in judges)


def _streamed(
    model: keras.Model, source: Iterator[Labelled], metrics: Sequence[Any] | None, asked: Asked
) -> Evaluation:
    """What `evaluate` gives of batches, of which one is held at a time; the first hundred samples tell the task."""
    from keras import tree

    head, every = first_and_all(source, EVAL_BATCH)
    run = in_parts(model, head[0][0])

    def joined(parts: list[Any]) -> Any:
        return tree.map_structure(lambda *a: np.concatenate(a), *parts)

    def answers() -> Answers:
        for x, y, w in every:
            pairs = pairs_of(run(x), y)
            yield [o for _, o, _ in pairs], [np.asarray(given) for *_, given in pairs], w, x

    x, y = joined([b[0] for b in head]), joined([b[1] for b in head])
    pairs, weighted = pairs_of(joined([run(b[0]) for b in head]), y), head[0][2] is not None
    judges, tasks = _judges(model, pairs, metrics, inputs=x, weighted=weighted, compiled=compiled_of(model))
    judges = settled(judges, pairs)
    del head, x, y, pairs

    whole = _Whole(asked)
    found = streamed(answers(), judges, whole)
    task = "; ".join(map(str, tasks))
    return Evaluation(found.metrics, found.n, None, task, {**found.samples, **whole.samples})


def settled(judges: Sequence[Judge], pairs: Pairs, asked: Asked | None = None) -> tuple[Judge, ...]:
    """The same metrics, users' functions known by what they give of a few samples.

    A function that gives a value for each sample is then computed batch by batch; of one that gives several numbers
    by name each is a metric, the one that was stated first. A function that fails on few samples stays as it is.

    Args:
        judges: the metrics.
        pairs: outputs and labels of a few samples.
        asked: the model and these samples, for functions of (predict, data).
    """
    return tuple(
        Judge(metric, judge.output)
        for judge in judges
        for metric in judge.metric.settled(pairs[judge.output][1], np.asarray(pairs[judge.output][2]), asked)
    )


def _judged(predictions: Any, y: Any) -> tuple[Any, Any]:
    """Outputs and their labels; of several outputs with one array of labels the first output is judged."""
    if isinstance(predictions, np.ndarray):
        single = isinstance(y, Mapping | list | tuple) and len(leaves(y)) == 1
        return predictions, leaves(y)[0] if single else y
    several = isinstance(y, Mapping | list | tuple) and len(leaves(y)) > 1
    return (predictions, y) if several else (first_output(predictions), y)


def scored(
    predictions: Any,
    y: Any,
    metrics: Sequence[Any] | None = None,
    where: str = "labels",
    *,
    weights: np.ndarray | None = None,
    asked: Asked | None = None,
) -> Evaluation:
    """Metrics of given predictions.

    Args:
        predictions: model outputs, shape (n, …), nested as the model's.
        y: labels; for the default metric class numbers of shape (n,) or (n, 1), or one-hot (n, classes).
        metrics: what `metric_of` takes; top-1 accuracy by default.
        where: names the labels in messages.
        weights: of the samples, shape (n,).
        asked: the model and its data, for functions of (predict, data).

    Returns:
        The metrics with the predictions.

    Raises:
        DataError: predictions and labels differ in length, or a metric cannot judge by the labels.
    """
    first = first_output(predictions)
    if metrics is None and weights is None:
        return Evaluation({"accuracy": accuracy(first, y, where)}, len(first), predictions)
    metrics = ["accuracy"] if metrics is None else metrics
    if not metrics:
        return Evaluation({}, len(first), predictions)
    names = [name for name, *_ in pairs_of(predictions, y, where)]
    judges = judges_of(metrics_of(list(metrics)), [_STATED] * len(names), names)
    if weights is not None:
        judges = with_weights(judges)
    return judged(predictions, y, judges, where, weights=weights, asked=asked)


def pairs_of(predictions: Any, y: Any, where: str = "labels") -> Pairs:
    """Name, outputs and labels of each output that is judged."""
    return paired_with(*_judged(predictions, y), where)


def judged(
    predictions: Any,
    y: Any,
    judges: Sequence[Judge],
    where: str = "labels",
    *,
    weights: np.ndarray | None = None,
    asked: Asked | None = None,
) -> Evaluation:
    """Metrics of given predictions.

    Args:
        predictions: model outputs, shape (n, …), nested as the model's.
        y: labels of the same samples.
        judges: the metrics, and which output each of them judges.
        where: names the labels in messages.
        weights: of the samples, shape (n,), where the metrics are weighted.
        asked: the model and its data, for functions of (predict, data).

    Raises:
        DataError: predictions and labels differ in length, or a metric cannot judge by the labels.
    """
    pairs = pairs_of(predictions, y, where)
    found: dict[str, float] = {}
    whole = _Whole(asked)
    for judge in judges:
        metric, (_, outputs, given) = judge.metric, pairs[judge.output]
        labels = np.asarray(given)
        if labels.ndim == 0 or len(outputs) != len(labels):
            raise DataError(f"evaluation data: {len(outputs)} inputs, {len(labels) if labels.ndim else 'no'} labels")
        seen = metric.seen(outputs, None if asked is None else asked.data.x)
        samples = metric.samples(seen, labels, weights)
        if samples is not None:
            found[metric.name] = metric.finished(samples, seen, labels)
            continue
        found |= whole(judge, seen, labels, weights)
    return Evaluation(found, len(first_output(predictions)), predictions, samples=whole.samples, scores=whole.scores)


class _Whole:
    """Metrics that need all predictions at once; a function that gives several numbers is called once for all of them.

    Args:
        asked: the model and its data, for functions of (predict, data).
    """

    def __init__(self, asked: Asked | None) -> None:
        self._asked, self._known = asked, dict[tuple[int, int, int], Any]()
        self.samples: dict[str, np.ndarray] = {}
        self.scores: dict[str, np.ndarray] = {}

    def __call__(self, judge: Judge, outputs: Any, labels: Any, weights: Any) -> dict[str, float]:
        one = (id(judge.metric.whole), id(judge.metric.scores), judge.output)
        if one not in self._known:
            self._known[one] = judge.metric.numbers(outputs, labels, weights, self._asked)
        if judge.metric.scores is not None:
            self.scores[judge.metric.name] = outputs
        found = self._known[one]
        if np.ndim(found):
            self.samples[judge.metric.name] = judge.metric.added(np.asarray(found, np.float64)[:, None], weights)
        return judge.metric.by_name(found, weights)


def judges_for(
    model: keras.Model,
    data: Data,
    metrics: Sequence[Any] | None = None,
    base_dir: str | Path = ".",
    compiled: Config | None = None,
) -> tuple[tuple[Judge, ...], str]:
    """What runs on a model and data are judged by, checked on a few samples before anything is quantized.

    Args:
        model: the built Keras model.
        data: with labels; without, the float model's outputs are the labels.
        metrics: what `metric_of` takes; None for those of the task, of which a classifier keeps top-1 accuracy alone.
        base_dir: what paths start from.
        compiled: what the model was compiled with, whose metrics then stand before the task's.

    Returns:
        The metrics, the deciding one first, and a line that says why they were chosen.

    Raises:
        DataError: the metrics cannot judge this model by these labels; or nobody says which direction is better.
    """
    where, weighted = f"{data.name}/y_eval", data.weights_eval is not None
    if metrics is None and not compiled and len(model.outputs) == 1 and isinstance(data.y_eval, np.ndarray):
        shape = tuple(model.outputs[0].shape[1:])
        if None not in shape and len([s for s in shape if s != 1]) == 1 and data.y_eval.size == len(data.y_eval):
            check_labels(model, data)
            top1 = NAMED["accuracy"].with_weights() if weighted else NAMED["accuracy"]
            return (Judge(top1, 0),), "class numbers beside scores"
    x = map_inputs(lambda a, _: a[:EVAL_BATCH], data.x_eval)
    weights = data.weights_eval[:EVAL_BATCH] if weighted else None
    ask = asking(model)
    outputs = ask(x)
    unlabelled = data.y_eval is None
    y = outputs if unlabelled else map_inputs(lambda a, _: a[:EVAL_BATCH], data.y_eval)
    asked = Asked(ask, EvaluationData(x, y, weights))
    pairs = pairs_of(outputs, y, where)
    judges, tasks = _judges(
        model,
        pairs,
        metrics,
        inputs=x,
        weighted=weighted,
        compiled=compiled,
        unlabelled=unlabelled,
        where=where,
        base_dir=base_dir,
    )
    if metrics is None and judges[0].metric.name.removeprefix(WEIGHTED) == "accuracy":
        check_labels(model, data)
        judges = judges[:1]
    judges = settled(judges, pairs, known_answers(asked, outputs))
    _ = judges[0].metric.sign  # Raises where nobody said which direction is better.
    for judge in judges:
        _, own, given = pairs[judge.output]
        judge.metric.samples(own, np.asarray(given), weights)
    return judges, "; ".join(f"{task.name}: {task.why}" for task in tasks)


def stated_by_model(model: keras.Model, data: Data, path: str | Path) -> list[Any] | None:
    """Metrics as JSON where what a model was compiled with decides otherwise than outputs and labels alone; else None.

    Args:
        model: the built Keras model.
        data: with labels.
        path: of its file, which has what it was compiled with.

    Raises:
        DataError: the labels fit no task, or several, also with what the loss says.
    """
    compiled = compiled_in(path)
    if not compiled or len(model.outputs) > 1 or data.y_eval is None:
        return None
    own = [j.metric for j in judges_for(model, data, compiled=compiled)[0]]
    try:
        if [m.name for m in own] == [j.metric.name for j in judges_for(model, data)[0]]:
            return None
    except DataError:
        pass  # A question that the loss has answered.
    return [m.source for m in own]


def told_by(judges: Sequence[Judge], why: str) -> str:
    """What decides, for the first lines of a run.

    Args:
        judges: the metrics, the deciding one first.
        why: they were chosen; "" where they were stated.
    """
    decides, *rest = (j.metric for j in judges)
    more = f", beside {', '.join(m.name for m in rest)}" if rest else ""
    return f"judged by {decides.name} ({decides.better} is better){more}" + (f": {why}" if why else "")


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
