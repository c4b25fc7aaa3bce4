"""What top-1 accuracy can judge is judged in whatever form it comes; everything else is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vqkit
from vqkit.errors import DataError
from vqkit.quantization.labels import class_numbers, right_answers

CLASSES = 4


def classifier(*, outputs: int = CLASSES, activation: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(outputs, activation=activation)])


def inputs(n: int = 24) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "whole numbers": lambda c: c,
    "small and unsigned": lambda c: c.astype(np.uint8),
    "floats that are whole": lambda c: c.astype(np.float64),
    "one column": lambda c: c[:, None],
    "a list": lambda c: c.tolist(),
    "one-hot": lambda c: np.eye(CLASSES)[c],
    "one-hot of truth values": lambda c: np.eye(CLASSES, dtype=bool)[c],
    "one-hot as lists": lambda c: np.eye(CLASSES, dtype=int)[c].tolist(),
    "one-hot as a list of rows": lambda c: list(np.eye(CLASSES)[c]),
    "one array in a list": lambda c: [c],
    "one array by name": lambda c: {"class": c},
}


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_every_form_of_class_numbers_is_read(form: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 9).filter(lambda n: n != 1))
    wanted = np.array(data.draw(st.lists(st.integers(0, CLASSES - 1), min_size=n, max_size=n)))
    scores = np.random.default_rng(n).normal(size=(n, CLASSES))
    assert right_answers(scores, FORMS[form](wanted)).tolist() == (scores.argmax(-1) == wanted).tolist()


@pytest.mark.parametrize("shape", [(CLASSES,), (1, CLASSES), (1, 1, CLASSES)])
def test_axes_of_one_do_not_matter(shape: tuple[int, ...]) -> None:
    assert class_numbers([0, 3], shape).tolist() == [0, 3]


n24 = np.arange(24)
REFUSED: dict[str, tuple[Any, str]] = {
    "text": (np.array(["cat", "dog", "eel", "fox"])[n24 % 4], "text ('cat', 'dog', 'eel', …)"),
    "bytes": (np.array([b"cat", b"dog"])[n24 % 2], "text (b'cat', b'dog')"),
    "text as objects": (np.array(["cat", "dog"], object)[n24 % 2], "text"),
    "from one": (n24 % 4 + 1, "from 1 to 4, counted from 1 instead of 0 (subtract 1)"),
    "too large": (np.full(24, 1000), "from 1000 to 1000"),
    "negative": (n24 % 4 - 1, "from -1 to 2"),
    "fractions": (n24 / 7, "no whole numbers (0.14"),
    "NaN": (np.where(n24 == 3, np.nan, 0.0), "1 of them are NaN or Inf"),
    "infinite": (np.where(n24 == 3, np.inf, 0.0), "NaN or Inf"),
    "several labels for each sample": (np.stack([n24 % 4, n24 % 2], 1), "has 2 of them (shape (24, 2))"),
    "several true at once": (np.ones((24, CLASSES), int), "are not one-hot"),
    "none true": (np.zeros((24, CLASSES), int), "are not one-hot"),
    "shares": (np.full((24, CLASSES), 0.25), "are not one-hot"),
    "values to be regressed": (np.random.default_rng(1).normal(size=(24, CLASSES)), "are not one-hot"),
    "a label for each pixel": (np.zeros((24, 5, 5), int), "has 25 of them"),
    "would broadcast": (np.zeros((1, 24), int), "has 24 of them"),
    "a row": (np.zeros((24, 1, 3), int), "has 3 of them"),
    "of two outputs": ([n24 % 4, n24 % 4], "2 arrays of them"),
    "of two outputs by name": ({"a": n24 % 4, "b": n24 % 4}, "2 arrays of them"),
    "of different lengths": ([[1, 2], [3]] * 12, "different lengths"),
    "absent": (None, "there are none"),
    "a single number": (3, "their shape is ()"),
    "empty": ([], "their shape is (0,)"),
    "complex": (n24.astype(complex), "of type complex128"),
    "dates": (np.full(24, "2024-01-01", "datetime64[D]"), "of type datetime64"),
    "objects": (np.array([None, 1] * 12, object), "of type object"),
    "a generator": ((i for i in range(24)), "of type object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_labels_are_refused_with_what_is_needed(name: str) -> None:
    labels, said = REFUSED[name]
    with pytest.raises(DataError) as raised:
        right_answers(np.random.default_rng(0).normal(size=(24, CLASSES)), labels)
    message = str(raised.value)
    assert said in message
    assert "top-1 accuracy, needs one class number for each sample (0 to 3" in message
    assert "metrics=[…]" in message


def test_as_many_labels_as_answers() -> None:
    with pytest.raises(DataError, match="24 inputs, 23 labels"):
        right_answers(np.zeros((24, CLASSES)), np.zeros(23, int))


@pytest.mark.parametrize("shape", [(5, 5, 3), (7, 3), (2, 1, 2)])
def test_a_model_that_answers_with_more_than_classes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="answers each sample with an array of shape"):
        right_answers(np.zeros((6, *shape)), np.zeros(6, int))


def test_one_probability_is_held_against_one_half() -> None:
    assert right_answers(np.array([[0.9], [0.5], [0.2]]), [1, 0, 0]).tolist() == [True, False, True]
    assert right_answers(np.array([0.9, 0.2]), np.array([1.0, 1.0])).tolist() == [True, False]


@pytest.mark.parametrize("y", [np.array([1, 0, 1]), np.array([1.0, 0.0, 1.0])])
def test_one_output_that_is_no_probability_is_refused(y: np.ndarray) -> None:
    with pytest.raises(DataError, match="goes from -3 to 4 and is no probability"):
        right_answers(np.array([[4.0], [-3.0], [0.2]]), y)


@pytest.mark.parametrize("y", [np.array([0.3, 1.7, 2.2]), np.array([0, 1, 2])])
def test_a_regression_is_refused(y: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"0 to 1, shape"):
        right_answers(np.array([[0.1], [0.2], [0.3]]), y)


def test_other_metrics_take_any_labels() -> None:
    y = np.random.default_rng(2).normal(size=(24, 1)).astype(np.float32)
    found = vqkit.evaluate(classifier(outputs=1), inputs(), y, metrics=["mean_absolute_error"])
    assert 0 < found.metrics["mean_absolute_error"] < 9


def test_a_function_of_labels_and_outputs_never_sees_shapes_that_broadcast() -> None:
    y = np.arange(24, dtype=np.float32)
    found = vqkit.evaluate(classifier(outputs=1), inputs(), y, metrics=[lambda t, p: np.abs(t - p)])
    wanted = np.mean(np.abs(y - found.predictions[:, 0]))
    assert list(found.metrics.values()) == [pytest.approx(wanted)]


def test_the_bench_and_everything_that_asks_it_refuse_before_they_compute() -> None:
    from vqkit.search import Engine

    wrong = vqkit.Data("mine", inputs(), inputs(), n24 % 4 + 1)
    bench = vqkit.Bench(classifier(), wrong)
    with pytest.raises(DataError, match="mine/y_eval: they go from 1 to 4"):
        bench.float_evaluation()
    with pytest.raises(DataError, match="mine/y_eval: they go from 1 to 4"):
        bench.evaluate(bench.quantize("pof2s"))
    for ask in (Engine, vqkit.sensitivity):
        with pytest.raises(DataError, match="mine/y_eval: they go from 1 to 4"):
            ask(classifier(), wrong)
    assert bench.float_evaluation(metrics=[]).n == 24
