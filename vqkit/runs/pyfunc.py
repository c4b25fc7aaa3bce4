"""What loads a registered model: copied beside it, so that mlflow's `load_model` needs TensorFlow and not vqkit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SAVED_MODEL, CALL = "saved_model", "call.json"


class ServedModel:
    """A SavedModel that is called as an mlflow model.

    Args:
        folder: holds `saved_model/` and `call.json`: "inputs" (names, nested as the model's), "outputs" (names),
            "batch_size", and "fixed" (whether the model takes batches of no other size).
    """

    def __init__(self, folder: str | Path) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(str(Path(folder, SAVED_MODEL)))
        self._call = json.loads(Path(folder, CALL).read_text("utf-8"))

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """What the model gives, batch by batch.

        Args:
            model_input: an array of the model's input; a dict of arrays by name where there are several.
            params: mlflow's; there are none.

        Returns:
            An array, shape (n, …); a dict of arrays by name where there are several outputs.
        """
        import tensorflow as tf

        del params
        names = list(_leaves(self._call["inputs"]))
        given = model_input if isinstance(model_input, Mapping) else {names[0]: model_input}
        arrays, size = {k: np.asarray(given[k]) for k in names}, self._call["batch_size"]
        n = len(arrays[names[0]])
        found = []
        for start in range(0, max(n, 1), size):
            part = {k: a[start : start + size] for k, a in arrays.items()}
            if self._call["fixed"]:
                part = {k: np.concatenate([a, np.repeat(a[-1:], size - len(a), axis=0)]) for k, a in part.items()}
            found.append(tf.nest.flatten(self._loaded.serve(_nested(self._call["inputs"], part))))
        whole = [np.concatenate([np.asarray(v) for v in values])[:n] for values in zip(*found, strict=True)]
        return whole[0] if len(whole) == 1 else dict(zip(self._call["outputs"], whole, strict=True))


def _leaves(names: Any) -> Iterator[str]:
    """The names in a nesting of lists and dicts."""
    if isinstance(names, str):
        yield names
    else:
        inner: Iterable[Any] = names.values() if isinstance(names, dict) else names
        for each in inner:
            yield from _leaves(each)


def _nested(names: Any, arrays: Mapping[str, Any]) -> Any:
    """The arrays as tensors, in the place of their names."""
    import tensorflow as tf

    if isinstance(names, str):
        return tf.convert_to_tensor(arrays[names])
    if isinstance(names, dict):
        return {k: _nested(v, arrays) for k, v in names.items()}
    return [_nested(v, arrays) for v in names]


def _load_pyfunc(path: str) -> ServedModel:
    """The function that mlflow calls."""
    return ServedModel(path)
