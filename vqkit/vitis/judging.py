"""`loss=`, `metrics=` and `eval_dataset=` of the old API: what a threshold search judges by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.errors import DataError, StrategyError, not_allowed
from vqkit.flow.data import batches

CROSS_ENTROPIES = ("sparse_categorical_crossentropy", "categorical_crossentropy")
_OURS = {**dict.fromkeys(CROSS_ENTROPIES, "labels"), "kl_divergence": "kl", "mean_squared_error": "mse",
         "mse": "mse", "kl": "kl", "labels": "labels"}  # fmt: skip


def search_loss(loss: Any) -> str:
    """The threshold search's word for a loss of Keras.

    Args:
        loss: a cross entropy (by labels), or mean squared error or KL divergence (against the float model):
            its name, the Keras function, class or object.

    Raises:
        StrategyError: another loss; the search has these three.
    """
    given = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in str(given)).lstrip("_")
    name = name.replace("m_s_e", "mse").replace("k_l_", "kl_")
    if name not in _OURS:
        raise StrategyError(not_allowed("loss", given or loss, [*CROSS_ENTROPIES, "mse", "kl"]))
    return _OURS[name]


@dataclass(frozen=True, eq=False)
class Labelled:
    """An evaluation set, read once.

    Attributes:
        x: inputs, shape (n, …), or a list or dict of them.
        y: labels as they were given, shape (n, …).
    """

    x: Any
    y: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """Class numbers, also of one-hot labels; shape (n,)."""
        if self.y.ndim > 1 and self.y.shape[-1] > 1:
            return np.asarray(self.y.argmax(-1))
        return self.y.reshape(len(self.y))


def read_labelled(dataset: Any, batch_size: int) -> Labelled:
    """The samples and labels of an evaluation set.

    Args:
        dataset: a tuple (x, y), or batches (x, y): a tf.data.Dataset, a keras Sequence, an iterable.
        batch_size: for arrays.

    Raises:
        DataError: no labels.
    """
    if isinstance(dataset, tuple) and len(dataset) >= 2:
        inputs = list(batches(dataset[0], batch_size=batch_size))
        return Labelled(_joined(inputs), np.asarray(dataset[1]))
    if hasattr(dataset, "shape") or isinstance(dataset, list | Mapping):
        raise DataError("eval_dataset: labels are missing: give (x, y), or a dataset of batches (x, y)")
    pairs = list(_pairs(dataset))
    if not pairs:
        raise DataError("eval_dataset: the data hold no batch")
    return Labelled(
        _joined(
            [
                next(iter(batches(list(x) if isinstance(x, tuple) else x, batch_size=_size(x))))
                for x, _ in pairs
            ]
        ),
        np.concatenate([np.asarray(y) for _, y in pairs]),
    )


def _pairs(dataset: Any) -> Iterable[tuple[Any, Any]]:
    source: Any = dataset.as_numpy_iterator() if hasattr(dataset, "element_spec") else dataset
    if hasattr(dataset, "num_batches"):
        source = (dataset[i] for i in range(dataset.num_batches))
    for item in source:
        if not isinstance(item, tuple) or len(item) < 2:
            raise DataError("eval_dataset: labels are missing: its batches must be (x, y)")
        yield item[0], item[1]


def _size(x: Any) -> int:
    while isinstance(x, list | tuple | Mapping):
        x = next(iter(x.values())) if isinstance(x, Mapping) else x[0]
    return len(x)


def _joined(inputs: list[Any]) -> Any:
    first = inputs[0]
    if isinstance(first, Mapping):
        return {k: np.concatenate([b[k] for b in inputs]) for k in first}
    if isinstance(first, list):
        return [np.concatenate(arrays) for arrays in zip(*inputs, strict=True)]
    return np.concatenate(inputs)
