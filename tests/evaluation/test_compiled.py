"""Metrics and loss that a model was compiled with: offered where outputs and labels do not contradict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from vqkit.errors import DataError
from vqkit.evaluation import judges_for, stated_by_model, told_by
from vqkit.evaluation.compiled import compiled_of, loss_kind
from vqkit.evaluation.stated_metrics import metric_of
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep

R = np.random.default_rng(0)
X = R.normal(size=(60, 5)).astype("float32")


def net(outputs: int, activation: str | None, **compiled: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(outputs, activation)])
    if compiled:
        model.compile(**compiled)
    return model


PR = keras.metrics.AUC(curve="PR", name="area")
CASES: dict[str, tuple[int, str | None, Any, dict[str, Any], list[str]]] = {
    "none": (1, None, X[:, 0], {"loss": "mse"}, ["mae", "rmse", "r2"]),
    "one of its own": (1, None, X[:, 0], {"loss": "mse", "metrics": ["mse"]}, ["mse", "mae", "rmse", "r2"]),
    "that of the task": (1, None, X[:, 0], {"loss": "mse", "metrics": ["mae"]}, ["mae", "rmse", "r2"]),
    "a loss": (1, None, X[:, 0], {"metrics": [keras.losses.Huber(name="h")]}, ["h", "mae", "rmse", "r2"]),
    "an object": (1, "sigmoid", np.arange(60) % 2, {"metrics": [PR, "accuracy"]}, ["area", "accuracy", "auc"]),
    "accuracy of a logit": (1, None, np.arange(60) % 2, {"metrics": ["accuracy"]}, ["accuracy_from_logit", "auc"]),
    "accuracy of values": (1, None, X[:, 0], {"metrics": ["accuracy"]}, ["mae", "rmse", "r2"]),
    "what cannot judge": (3, "softmax", np.arange(60) % 3, {"metrics": [PR]}, ["accuracy"]),
}


@pytest.mark.parametrize("name", CASES)
def test_metrics_of_the_model_come_first_where_they_can_judge(name: str, tmp_path: Path) -> None:
    outputs, activation, y, compiled, wanted = CASES[name]
    model = net(outputs, activation, **compiled)
    found = vqkit.evaluate(model, X, y)
    assert list(found.metrics) == wanted
    assert ("compiled with" in found.task) == (wanted[0] not in ("mae", "accuracy", "accuracy_from_logit"))
    # A file says the same, and a run states what it says.
    data = vqkit.Data("given", X[:20], X, y)
    for file in ("net.keras", "net.h5"):
        model.save(tmp_path / file)
        stated = stated_by_model(vqkit.load_model(tmp_path / file), data, tmp_path / file)
        assert (stated is None) == ("compiled with" not in found.task)
        if stated is not None:
            own = [metric_of(m) for m in stated]
            assert [m.name for m in own] == wanted
            assert own[0].of(found.predictions, np.asarray(y)) == pytest.approx(found.metrics[wanted[0]])


BINARY = keras.losses.BinaryCrossentropy
QUESTIONS: dict[str, tuple[int, str | None, Any, Any, str, str]] = {
    "a probability": (1, "hard_sigmoid", np.arange(60) % 2, "binary_crossentropy", "accuracy", "one probability"),
    "a logit": (1, "hard_sigmoid", np.arange(60) % 2, BINARY(from_logits=True), "accuracy_from_logit", "one logit"),
    "a value": (1, "hard_sigmoid", np.arange(60) % 2, "mse", "mae", "as the loss says"),
    "one class": (4, "sigmoid", np.eye(4)[np.arange(60) % 4], "categorical_crossentropy", "accuracy", "one-hot"),
    "any class": (4, "sigmoid", np.eye(4)[np.arange(60) % 4], BINARY(), "auc", "any of 4 labels"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_loss_answers_where_two_tasks_fit(name: str, tmp_path: Path) -> None:
    outputs, activation, y, loss, decides, said = QUESTIONS[name]
    with pytest.raises(DataError, match="metrics:"):
        vqkit.evaluate(net(outputs, activation), X, y)
    model = net(outputs, activation, loss=loss)
    found = vqkit.evaluate(model, X, y)
    assert next(iter(found.metrics)) == decides
    assert said in found.task
    model.save(tmp_path / "net.keras")
    np.savez(tmp_path / "data.npz", x_calib=X[:20], x_eval=X, y_eval=y)
    sweep = Sweep.from_dict({"name": "s", "model": "net.keras", "data": {"npz": "data.npz"}}, base_dir=tmp_path)
    resolved = resolve(sweep, tmp_path)
    assert resolved.judged.startswith(f"judged by {decides} (")
    assert resolved.judged.endswith("as the model was compiled")
    assert resolved.planned[0].variant.settings.metrics[0] == decides


def test_functions_of_the_author_are_left_out() -> None:
    def own_error(y: Any, p: Any) -> Any:
        return keras.ops.abs(y - p)

    model = net(1, None, loss=lambda y, p: keras.ops.mean(y - p), metrics=[own_error])
    assert list(vqkit.evaluate(model, X, X[:, 0]).metrics) == ["mae", "rmse", "r2"]


def test_what_is_no_metric_of_keras_is_not_made() -> None:
    with pytest.raises(DataError, match="none of Keras' own"):
        metric_of({"module": "os", "class_name": "system", "config": {}})
    assert compiled_of(net(1, None)) is None
    assert loss_kind({"loss": ["mse", "mae"]}) == ""
    judges, why = judges_for(net(3, "softmax"), vqkit.Data("d", X, X, np.arange(60) % 3))
    assert told_by(judges, why) == "judged by accuracy (higher is better): class numbers beside scores"
