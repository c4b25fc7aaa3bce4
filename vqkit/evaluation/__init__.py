"""How good a model is, and where the quantized one departs from the float one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError
from vqkit.evaluation.metrics import NAMED
from vqkit.evaluation.stated_metrics import metrics_of
from vqkit.evaluation.tasks import Judge, Task, judges_of, paired_with, tasks_of
from vqkit.graph.copies import make_all_live
from vqkit.graph.execute import leading_to
from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_io import compiled, replay, tensors
from vqkit.primitives.native import traced_here
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.quantization.data import EVAL_BATCH, Data, batches, leaves, map_inputs
from vqkit.quantization.float_model import in_size, size_of
from vqkit.quantization.labels import class_numbers, first_output, right_answers
from vqkit.quantization.plan import Row
from vqkit.quantization.prepare import passing_through, rounding_rows
from vqkit.quantization.quantized import Quantized

if TYPE_CHECKING:
    import keras

Pair = tuple[Any, Any]
"""A value of the float model, and the same of the quantized one."""
Sides = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Live layers by name: of the float model, whose quantizers pass values on, and of the quantized one."""


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


def _leaves(structure: Any) -> list[Any]:
    from keras import tree

    return list(tree.flatten(structure))


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


# --- float against quantized, tensor by tensor ---


def sqnr(quantized: Quantized, x: Any, *, batch_size: int = 50) -> Any:
    """Signal-to-quantization-noise ratio of every quantized tensor, and of the model's outputs.

    Activations are compared where they stand in the running model, so errors of earlier layers are in.

    Args:
        quantized: a `Quantized`.
        x: inputs, shape (n, …).
        batch_size: samples at once. Samples that fill no batch of a fixed size are left out.

    Returns:
        A pandas table in graph order: layer, tensor, role, order, sqnr_db. Infinite where nothing changed.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> bool((vqkit.sqnr(vqkit.quantize(model, "pof2s", x), x)["sqnr_db"] > 20).all())
        True
    """
    return noise_table(quantized, _powers(quantized, x, batch_size))


def noise_table(quantized: Quantized, power: Mapping[str, tuple[float, float]]) -> Any:
    """The table of `sqnr`.

    Args:
        quantized: a `Quantized`.
        power: plan row name of each activation, and "model output i" -> energy of the signal, of the noise.
    """
    import pandas as pd

    rows = []
    for order, row in enumerate(quantized.plan.quantized):
        signal, noise = power[row.name] if not row.is_weight else _weight_power(quantized, row)
        rows.append(_line(row.layer, row.tensor, row.role.value, order, signal, noise))
    for name, (signal, noise) in power.items():
        if name.startswith("model output"):
            rows.append(_line(name, "output", "output", len(rows), signal, noise))
    return pd.DataFrame(rows)


def _line(layer: str, tensor: str, role: str, order: int, signal: float, noise: float) -> dict[str, Any]:
    return {"layer": layer, "tensor": tensor, "role": role, "order": order, "sqnr_db": decibel(signal, noise)}


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise, minus infinite without signal."""
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def _weight_power(quantized: Quantized, row: Row) -> tuple[float, float]:
    w = quantized.graph.layers[row.layer].weights[row.tensor]
    error = quantized_weight(quantized, row).astype(np.float64) - w
    return float(np.sum(w.astype(np.float64) ** 2)), float(np.sum(error**2))


def quantized_weight(quantized: Quantized, row: Row) -> np.ndarray:
    """A weight as the quantized model has it."""
    corrected = quantized.corrected.layers[row.layer].weights[row.tensor]
    return fake_quantize_numpy(corrected, quantized.encodings[row.name])


def _powers(quantized: Quantized, x: Any, batch_size: int) -> dict[str, tuple[float, float]]:
    names = {fq: row.name for fq, row in quantized.rows.items()}
    sides = _own_sides(quantized)  # Variables must exist before tracing.

    def both(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return energies(compared(quantized.graph, names, sides, inputs))

    source = in_size(batches(x, batch_size=batch_size), quantized.graph)
    return summed(compiled(quantized.graph, both), source)


def summed(run: Callable[[Any], Mapping[str, Any]], source: Iterable[Any]) -> dict[str, tuple[float, float]]:
    """Energies of signal and noise over all batches.

    Args:
        run: gives the two energies of one batch by name.
        source: the batches.
    """
    total: dict[str, np.ndarray] = {}
    for batch in source:
        for name, value in run(batch).items():
            total[name] = total.get(name, np.zeros(2)) + np.asarray(value, np.float64)
    return {k: (float(v[0]), float(v[1])) for k, v in total.items()}


def energies(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Energy of float values, and of what quantized values add to them, as tensors of shape (2,)."""
    import tensorflow as tf

    return {k: tf.stack([_energy(f), _energy(q - f)]) for k, (f, q) in pairs.items()}


def _energy(x: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_sum(tf.square(tf.cast(x, tf.float32)))


def compared(graph: Graph, names: Mapping[str, str], sides: Sides, inputs: Mapping[str, Any]) -> dict[str, Pair]:
    """Run the float and the quantized graph side by side.

    Args:
        graph: with fake-quantize layers inserted.
        names: layer name -> the name to give its value under.
        sides: live layers of the float side and of the quantized one.
        inputs: input name -> tensor.

    Returns:
        Name (and "model output i") -> (float value, quantized value).
    """
    floats, fakes = (observe(graph, names, live, inputs) for live in sides)
    return {k: (floats[k], fakes[k]) for k in floats}


def _own_sides(quantized: Quantized) -> Sides:
    return float_live(quantized), quantized.live


def float_live(quantized: Quantized) -> dict[str, Any]:
    """Live float layers, made once; fake-quantize layers pass values through."""
    if "float" not in quantized._cache:
        rounding = rounding_rows(quantized.graph, quantized.plan)
        live = make_all_live(quantized.graph)
        quantized._cache["float"] = passing_through(live, quantized.rows, rounding)
    return dict(quantized._cache["float"])


def observe(
    graph: Graph, names: Mapping[str, str], live: Mapping[str, Callable[..., Any]], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """What some layers give, and the model.

    Args:
        graph: to run.
        names: layer name -> the name to give its value under.
        live: layer name -> live object.
        inputs: input name -> tensor.

    Returns:
        Name -> value; outputs as "model output", or "model output i".
    """
    seen: dict[str, Any] = {}

    def hook(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if node.layer in names:
            seen[names[node.layer]] = outputs[0]
        return outputs

    result = replay(graph, live, inputs, hook)
    flat = _leaves(result)
    for i, value in enumerate(flat):
        seen["model output" if len(flat) == 1 else f"model output {i}"] = value
    return seen


def tensor_values(
    quantized: Quantized, x: Any, names: Sequence[str], sides: Sides | None = None, graph: Graph | None = None
) -> dict[str, Pair]:
    """Float and quantized values of chosen tensors, for pictures.

    Args:
        quantized: a `Quantized`.
        x: one batch of inputs, shape (n, …).
        names: plan row names.
        sides: live layers of the float side and of the quantized one; the model's own by default.
        graph: what to run, if not all of the model; `x` is then what it reads.

    Returns:
        Name -> (float values, quantized values).

    Raises:
        KeyError: a name is no quantized tensor of the plan.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> quantized = vqkit.quantize(model, "pof2s", x)
        >>> name = quantized.plan.quantized[0].name
        >>> list(vqkit.tensor_values(quantized, x, [name])) == [name]
        True
    """
    rows = {name: quantized.plan[name] for name in names}
    values: dict[str, Pair] = {}
    for name, row in rows.items():
        if row.is_weight:
            w = quantized.graph.layers[row.layer].weights[row.tensor]
            values[name] = (w, quantized_weight(quantized, row))
    seen = {fq: row.name for fq, row in quantized.rows.items() if row.name in rows}
    if seen:
        sides = _own_sides(quantized) if sides is None else sides
        part = leading_to(graph or quantized.graph, seen)
        parts = [compared(part, seen, sides, tensors(part, b)) for b in in_size([x], part, pad=True)]
        for n in seen.values():
            a, b = (np.concatenate([np.asarray(p[n][i]) for p in parts]) for i in (0, 1))
            end = None if size_of(part) is None else len(leaves(x)[0])
            values[n] = a[:end], b[:end]
    return {n: values[n] for n in names}
