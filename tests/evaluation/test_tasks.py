"""The task that outputs and labels tell, and the questions where they tell several."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from vqkit.errors import DataError
from vqkit.evaluation.tasks import activations_of, task_of, unlabelled_task

N = 24
R = np.random.default_rng(0)
CLASSES = np.arange(N) % 4
BITS = (np.arange(N * 4).reshape(N, 4) * 7 % 3 == 0).astype(float)
MAPS = R.integers(0, 3, (N, 5, 5))

TASKS: dict[str, tuple[tuple[int, ...], Any, str, str, list[str]]] = {
    "class numbers": ((4,), CLASSES, "softmax", "single label", ["accuracy"]),
    "a column of them": ((4,), CLASSES[:, None], "linear", "single label", ["accuracy"]),
    "one-hot": ((4,), np.eye(4)[CLASSES], "softmax", "single label", ["accuracy"]),
    "many classes": ((20,), CLASSES, "softmax", "single label", ["accuracy", "top5"]),
    "a probability": ((1,), CLASSES % 2, "sigmoid", "binary", ["accuracy", "auc"]),
    "a logit": ((1,), CLASSES % 2, "linear", "binary", ["accuracy_from_logit", "auc"]),
    "any of four": ((4,), BITS, "sigmoid", "multi-label", ["auc", "exact_match"]),
    "one number": ((1,), R.normal(size=N), "linear", "regression", ["mae", "rmse", "r2"]),
    "several numbers": ((4,), R.normal(size=(N, 4)), "linear", "regression", ["mae", "rmse", "r2"]),
    "shares": ((4,), R.dirichlet(np.ones(4), N), "softmax", "soft labels", ["kl", "mae"]),
    "a map of classes": ((5, 5, 3), MAPS, "softmax", "dense labels", ["miou", "pixel_accuracy"]),
    "with a void label": ((5, 5, 3), np.where(MAPS == 1, 255, MAPS), "", "dense labels", ["miou", "pixel_accuracy"]),
    "a one-hot map": ((5, 5, 3), np.eye(3)[MAPS], "softmax", "dense labels", ["miou", "pixel_accuracy"]),
    "a mask": ((5, 5, 1), MAPS[..., None] % 2, "sigmoid", "dense labels", ["miou", "pixel_accuracy"]),
    "an image": ((5, 5, 1), R.normal(size=(N, 5, 5, 1)), "linear", "regression", ["mae", "rmse", "r2"]),
    "a sequence of numbers": ((12, 1), R.normal(size=(N, 12)), "linear", "regression", ["mae", "rmse", "r2"]),
    "a sequence of classes": (
        (6, 9),
        R.integers(0, 9, (N, 6)),
        "softmax",
        "sequence labels",
        ["token_accuracy", "miou"],
    ),
    "a padded sequence": (
        (6, 9),
        R.integers(-1, 9, (N, 6, 1)),
        "linear",
        "sequence labels",
        ["token_accuracy", "miou"],
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_task_is_what_outputs_and_labels_tell(name: str) -> None:
    shape, labels, activation, wanted, metrics = TASKS[name]
    outputs = R.normal(size=(N, *shape))
    if activation in ("softmax", "sigmoid"):
        outputs = np.exp(outputs) / (1 + np.exp(outputs))
    task = task_of(outputs, labels, activation=activation)
    assert (task.name, [m.name for m in task.metrics]) == (wanted, metrics)
    assert all(np.isfinite(m.of(outputs, np.asarray(labels))) for m in task.metrics)
    assert wanted in str(task)
    assert "is better" in str(task)


def test_a_reconstruction_beside_two_labels_finds_anomalies() -> None:
    x = R.normal(size=(N, 4, 4, 1))
    task = task_of(x + R.normal(size=x.shape), np.arange(N) % 2, inputs=x)
    assert (task.name, [m.name for m in task.metrics]) == ("anomaly detection", ["anomaly_auc", "anomaly_pauc"])
    # Four numbers may be scores of classes; only a loss of values says that they are not.
    flat = R.normal(size=(N, 4))
    assert task_of(flat + 1, np.arange(N) % 2, inputs=flat).name == "single label"
    assert task_of(flat + 1, np.arange(N) % 2, inputs=flat, loss="value").name == "anomaly detection"


UNLABELLED: dict[str, tuple[tuple[int, ...], str, list[str]]] = {
    "probabilities": ((5,), "softmax", ["agreement", "kl", "sqnr"]),
    "a map of them": ((4, 4, 3), "softmax", ["agreement", "sqnr"]),
    "a probability": ((1,), "sigmoid", ["agreement", "sqnr"]),
    "values": ((3,), "linear", ["sqnr", "mae"]),
}


@pytest.mark.parametrize("name", UNLABELLED)
def test_without_labels_the_float_outputs_are_compared_with(name: str) -> None:
    shape, activation, metrics = UNLABELLED[name]
    outputs = R.dirichlet(np.ones(shape[-1]), (N, *shape[:-1])) if activation == "softmax" else R.random((N, *shape))
    task = unlabelled_task(outputs, activation)
    assert (task.name, [m.name for m in task.metrics]) == ("no labels", metrics)
    best = {"agreement": 1.0, "kl": 0.0, "sqnr": np.inf, "mae": 0.0}
    other = np.roll(outputs, 1, axis=0)
    for metric in task.metrics:
        assert metric.of(outputs, outputs) == pytest.approx(best[metric.name])
        assert metric.sign * (metric.of(outputs, outputs) - metric.of(other, outputs)) > 0


def test_a_model_that_gives_its_inputs_reconstructs() -> None:
    x = R.normal(size=(N, 6))
    task = task_of(x + 0.1, x, inputs=x)
    assert (task.name, task.metrics[0].name) == ("reconstruction", "mse")


QUESTIONS: dict[str, tuple[np.ndarray, Any, str, str]] = {
    "one number between 0 and 1": (R.random((N, 1)), CLASSES % 2, "linear", "a probability .*, a logit .* or a value"),
    "one label beside sigmoids": (R.random((N, 4)), np.eye(4)[CLASSES], "sigmoid", "exactly one label .* any number"),
}
REFUSED: dict[str, tuple[np.ndarray, Any, str]] = {
    "from 1": (R.random((N, 4)), CLASSES + 1, "subtract 1"),
    "text": (R.random((N, 4)), np.array(list("abcd") * 6), "they are text"),
    "fewer": (R.random((N, 4)), CLASSES[:-1], "24 inputs, 23 labels"),
    "columns beside one number": (R.random((N, 1)), R.random((N, 3)), "one number for each sample"),
    "another size": (R.random((N, 5, 5, 3)), R.random((N, 4, 4, 3)), "state metrics"),
    "class 3 of 3": (R.random((N, 5, 5, 3)), MAPS + 1, "state metrics"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_two_tasks_that_fit_are_a_question(name: str) -> None:
    outputs, labels, activation, question = QUESTIONS[name]
    with pytest.raises(DataError, match=question):
        task_of(outputs, labels, activation=activation)


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_fit_no_task_are_refused(name: str) -> None:
    outputs, labels, said = REFUSED[name]
    with pytest.raises(DataError, match=said):
        task_of(outputs, labels)


def test_the_activation_of_each_output_is_found() -> None:
    x = keras.Input((6,))
    outputs = {
        "a": keras.layers.Dense(1, activation="sigmoid", name="a")(x),
        "b": keras.layers.Softmax(name="b")(keras.layers.Dense(3)(x)),
        "c": keras.layers.Dense(2, name="c")(x),
        "d": keras.layers.Rescaling(2.0)(x),
    }
    assert activations_of(keras.Model(x, list(outputs.values()))) == ["sigmoid", "softmax", "linear", ""]


def test_each_output_is_judged_by_its_own_task() -> None:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    model = keras.Model(x, {"kind": keras.layers.Dense(3, "softmax")(x), "size": keras.layers.Dense(1)(x)})
    inputs = R.normal(size=(N, 6)).astype("float32")
    y = {"kind": np.arange(N) % 3, "size": R.normal(size=N)}
    found = vqkit.evaluate(model, inputs, y)
    assert list(found.metrics) == ["kind/accuracy", "size/mae", "size/rmse", "size/r2"]
    assert "single label" in found.task
    assert "regression" in found.task
    one = vqkit.evaluate(model, inputs, y["kind"])
    assert one.metrics == {"accuracy": found.metrics["kind/accuracy"]}
    with pytest.raises(DataError, match="labels for kind, weight, the model's outputs are kind, size"):
        vqkit.evaluate(model, inputs, {"kind": y["kind"], "weight": y["size"]})
