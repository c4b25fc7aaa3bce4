"""Labels as class numbers: what the default metric, top-1 accuracy, can judge; the rest is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit.errors import DataError
from vqkit.quantization.data import leaves

# How far a grid may round a probability out of 0..1.
_MARGIN = 0.25
_SHOWN = 3


def first_output(outputs: Any) -> NDArray[Any]:
    """The output that is judged, where a model has several: its first one, as an array."""
    if not isinstance(outputs, np.ndarray):
        from keras import tree

        outputs = tree.flatten(outputs)[0]
    return np.asarray(outputs)


def predicted_classes(outputs: NDArray[Any]) -> NDArray[np.int64]:
    """The class that a model answers: arg max, or with one output whether it reaches one half.

    Args:
        outputs: scores, shape (n, classes) or (n, 1), float.

    Returns:
        Class numbers, shape (n,).
    """
    flat = outputs.reshape(len(outputs), -1)
    return np.asarray(flat.argmax(-1) if flat.shape[1] > 1 else flat[:, 0] >= 0.5, np.int64)


def right_answers(outputs: Any, y: Any, where: str = "labels") -> NDArray[np.bool_]:
    """Which samples top-1 calls right: the one place where an answer is held against a label.

    Args:
        outputs: of a model, shape (n, classes) or (n, 1), float; of several the first is judged.
        y: labels, as in `class_numbers`.
        where: names the labels in messages.

    Returns:
        Shape (n,).

    Raises:
        DataError: top-1 cannot judge these outputs by these labels; the message says what it needs.
    """
    own = first_output(outputs)
    if isinstance(y, list) and len(y) == len(own) and _even(y):
        y = np.asarray(y)
    labels = class_numbers(y, own.shape[1:], where)
    if len(labels) != len(own):
        raise DataError(f"evaluation data: {len(own)} inputs, {len(labels)} labels")
    if own.size == len(own):
        _check_probabilities(own, where)
    return np.asarray(predicted_classes(own) == labels)


def class_numbers(y: Any, output: tuple[int | None, ...], where: str = "labels") -> NDArray[np.int64]:
    """Labels as class numbers.

    Args:
        y: whole numbers from 0 to classes - 1 of shape (n,) or (n, 1) and any type, or one-hot (n, classes).
        output: shape of what the model gives for one sample; (classes,) or, of a probability, () or (1,).
        where: names the labels in messages.

    Returns:
        Class numbers, shape (n,).

    Raises:
        DataError: top-1 cannot judge by them; the message says what was found and what it needs.
    """
    sizes = [s for s in output if s is not None and s != 1]
    free = any(s is None for s in output)
    classes = sizes[-1] if sizes else None if free else 2
    if len(sizes) > 1:
        shape = ", ".join("any" if s is None else str(s) for s in output)
        raise _refused(where, f"the model answers each sample with an array of shape ({shape})", None)
    labels = _plain(_only_one(y, where, classes), where, classes)
    if labels.ndim > 1 and labels.size != len(labels):
        labels = _from_one_hot(labels, where, classes)
    labels = labels.reshape(len(labels))
    _check_numbers(labels, where, classes)
    return labels.astype(np.int64)


def _only_one(y: Any, where: str, classes: int | None) -> Any:
    """The labels of the one output that is judged, also where they come in a list or dict of arrays."""
    if not isinstance(y, list | tuple | Mapping) or not len(y):
        return y
    parts = leaves(y)
    if not isinstance(y, Mapping) and not all(hasattr(p, "__array__") and np.ndim(p) for p in parts):
        return y
    if len(parts) > 1:
        raise _refused(where, f"{len(parts)} arrays of them are given", classes)
    return parts[0]


def _even(parts: Sequence[Any]) -> bool:
    return len({np.shape(part) for part in parts}) == 1


def _plain(y: Any, where: str, classes: int | None) -> NDArray[Any]:
    """Numbers with a sample axis, none of them missing."""
    if y is None:
        raise _refused(where, "there are none", classes)
    try:
        labels = np.asarray(y)
    except ValueError as e:
        raise _refused(where, "they are lists of different lengths", classes) from e
    if labels.dtype.kind in "SU" or (labels.dtype.kind == "O" and all(isinstance(v, str | bytes) for v in labels.flat)):
        raise _refused(where, f"they are text ({_some(labels)})", classes)
    if labels.dtype.kind not in "fiub" and labels.dtype.name != "bfloat16":
        raise _refused(where, f"they are of type {labels.dtype}", classes)
    if labels.ndim == 0 or labels.size == 0:
        raise _refused(where, f"their shape is {labels.shape}", classes)
    return labels.astype(np.float64) if labels.dtype.kind not in "iub" else labels


def _from_one_hot(labels: NDArray[Any], where: str, classes: int | None) -> NDArray[Any]:
    rest = labels.shape[1:]
    while len(rest) > 1 and rest[0] == 1:
        rest = rest[1:]
    if len(rest) != 1:
        raise _refused(where, f"each sample has {labels[0].size} of them (shape {labels.shape})", classes)
    rows = labels.reshape(len(labels), -1)
    if classes is not None and rows.shape[1] != classes:
        raise _refused(where, f"each sample has {rows.shape[1]} of them (shape {labels.shape})", classes)
    if not np.all((rows == 0) | (rows == 1)) or not np.all(np.count_nonzero(rows, axis=1) == 1):
        raise _refused(where, f"they have shape {labels.shape} and are not one-hot", classes)
    return np.asarray(rows.argmax(-1))


def _check_numbers(labels: NDArray[Any], where: str, classes: int | None) -> None:
    if not np.all(np.isfinite(labels)):
        raise _refused(where, f"{np.count_nonzero(~np.isfinite(labels))} of them are NaN or Inf", classes)
    broken = labels[labels != np.floor(labels)] if labels.dtype.kind == "f" else labels[:0]
    if broken.size:
        raise _refused(where, f"they are no whole numbers ({_some(broken)})", classes)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        hint = ", counted from 1 instead of 0 (subtract 1)" if low == 1 and high == classes else ""
        raise _refused(where, f"they go from {low} to {high}{hint}", classes)


def _check_probabilities(outputs: NDArray[Any], where: str) -> None:
    low, high = float(np.min(outputs)), float(np.max(outputs))
    if not (low >= -_MARGIN and high <= 1 + _MARGIN):
        found = f"the model's single output goes from {low:.4g} to {high:.4g} and is no probability"
        raise _refused(where, found, 2)


def _some(labels: NDArray[Any]) -> str:
    distinct = list(dict.fromkeys(labels.reshape(-1)[:1000].tolist()))
    shown = (f"{v:.4g}" if isinstance(v, float) else repr(v) for v in distinct[:_SHOWN])
    return ", ".join(shown) + (", …" if len(distinct) > _SHOWN else "")


def _refused(where: str, found: str, classes: int | None) -> DataError:
    one_hot = "(n, classes)" if classes is None else f"(n, {classes})"
    numbers = "from 0" if classes is None else f"0 to {classes - 1}"
    needs = (
        f"one class number for each sample ({numbers}, shape (n,) or (n, 1), or one-hot of shape {one_hot}) "
        "and a model with one score for each class, or one probability"
    )
    return DataError(
        f"{where}: {found}; the default metric, top-1 accuracy, needs {needs}; "
        "for another task give vqkit.evaluate metrics=[…]"
    )
