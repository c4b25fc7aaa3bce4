"""What the old API's arguments mean in vqkit's words."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError, ModelError, StrategyError, not_allowed
from vqkit.quantization.data import batches, map_inputs
from vqkit.strategy import document

if TYPE_CHECKING:
    import keras

DEFAULT_BATCH = 32
# Quantizers as release 1.4 to 2.0 called them; the guide of 2.5 still prints these names.
_OLD_QUANTIZERS = {
    "LastValueQuantPosQuantizer": "Pof2SQuantizer",
    "LastValueLogThQuantizer": "TQTQuantizer",
    "LastValueQuantFsQuantizer": "FSQuantizer",
    "LastValueMinMaxQuantizer": "FSQuantizer",
}


def strategy_values(given: Any, what: str) -> dict[str, Any]:
    """A (partial) strategy as plain values, in the names of 2.5.

    Args:
        given: a mapping, or the path of a JSON file.
        what: the argument's name, for messages.

    Raises:
        StrategyError: no such file, not JSON, or neither of the two.
    """
    if isinstance(given, str | Path):
        value = document.parse(document.text_of(given), str(given))
    elif isinstance(given, Mapping):
        value = document.plain(given, what)
    else:
        raise StrategyError(f"{what}: a dict or the path of a JSON file is expected, got {type(given).__name__}")
    for entry in (value.get("quantize_registry_config") or {}).get("layer_quantize_config") or []:
        _modernize(entry)
    return dict(value)


def _modernize(entry: dict[str, Any]) -> None:
    """Old names of quantizers, and outputs counted in text (`"0"`)."""
    for key, value in entry.items():
        if key.endswith("_quantizers") and isinstance(value, list):
            for quantizer in value:
                if isinstance(quantizer, dict):
                    old = quantizer.get("quantizer_type")
                    quantizer["quantizer_type"] = _OLD_QUANTIZERS.get(str(old), old)
        if key == "quantizable_outputs" and isinstance(value, list):
            entry[key] = [int(v) if isinstance(v, str) and v.isdigit() else v for v in value]


def settings(configs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of one call: `configs`, and on top of it the others."""
    if configs is not None and not isinstance(configs, Mapping):
        raise StrategyError(f"configs: a dict is expected, got {type(configs).__name__}")
    return {**(configs or {}), **kwargs}


def take_steps(calib_steps: int | None, kwargs: dict[str, Any]) -> int | None:
    """`calib_steps`, which the guide's examples spell `calib_step`; removed from `kwargs`.

    Raises:
        StrategyError: both are given and differ.
    """
    if "calib_step" not in kwargs:
        return calib_steps
    other: int | None = kwargs.pop("calib_step")
    if calib_steps is not None and other != calib_steps:
        raise StrategyError(f"calib_step={other} and calib_steps={calib_steps} are the same argument")
    return other


class CalibrationBatches:
    """Calibration batches as Keras' `predict` reads them, again and again where the data allow it."""

    def __init__(self, dataset: Any, batch_size: int | None, steps: int | None, model: keras.Model) -> None:
        if dataset is None:
            raise DataError("calib_dataset is needed: a tf.data.Dataset, a keras Sequence or an array")
        self._dataset, self._size = dataset, batch_size or DEFAULT_BATCH
        self._shapes = [tuple(t.shape) for t in model.inputs]
        self._steps = _possible(steps, _length(dataset, self._size))

    def __iter__(self) -> Iterator[Any]:
        for batch in batches(self._dataset, batch_size=self._size, steps=self._steps):
            yield _ranked(batch, self._shapes)


def _possible(steps: int | None, length: int | None) -> int | None:
    if steps is None or length is None or steps <= length:
        return steps
    warnings.warn(
        f"calib_steps={steps}: the data hold {length} batches; all of them are used",
        UserWarning,
        stacklevel=4,
    )
    return length


def _length(dataset: Any, size: int) -> int | None:
    """Number of batches, where it can be known without reading them."""
    if hasattr(dataset, "element_spec"):
        count = int(dataset.cardinality())
        return count if count >= 0 else None
    if hasattr(dataset, "num_batches"):
        return None if dataset.num_batches is None else int(dataset.num_batches)
    while isinstance(dataset, list | tuple | Mapping) and dataset:
        dataset = next(iter(dataset.values())) if isinstance(dataset, Mapping) else dataset[0]
    return -(-len(dataset) // size) if hasattr(dataset, "shape") else None


def _ranked(batch: Any, shapes: list[tuple[Any, ...]]) -> Any:
    """With the missing or surplus last axis of size 1 that Keras adds or drops by itself."""
    known = iter(shapes)

    def fit(array: np.ndarray, _: str) -> np.ndarray:
        shape = next(known, None)
        if shape is None:
            return array
        if array.ndim == len(shape) - 1 and shape[-1] == 1:
            return array[..., None]
        return array[..., 0] if array.ndim == len(shape) + 1 and array.shape[-1] == 1 else array

    return map_inputs(fit, batch)


def dump_batches(dataset: Any, model: keras.Model) -> Iterable[Any]:
    """Batches to dump: those of a dataset; an array is one batch, as it was.

    Args:
        dataset: a tf.data.Dataset, a keras Sequence, arrays, or an iterable of batches.
        model: the quantized model.
    """
    arrays = hasattr(dataset, "shape") or isinstance(dataset, list | tuple | Mapping)
    first = dataset
    while isinstance(first, list | tuple | Mapping) and first:
        first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
    return CalibrationBatches(dataset, len(first) if arrays and hasattr(first, "shape") else None, None, model)


def with_input_shape(model: keras.Model, input_shape: Any) -> Any:
    """The model with concrete input shapes.

    Args:
        model: a functional or Sequential Keras model; it is not changed.
        input_shape: one shape, or a list or dict (by input name) of them, with or without the batch; unknown
            sizes as None, -1 or "?"; text such as "?,224,224,3" too.

    Returns:
        A model of the same layers and weights.

    Raises:
        ModelError: the number or the sizes of the shapes do not fit.
    """
    from dataclasses import replace

    from vqkit.graph.keras_io import lower, raise_model

    graph = lower(model)
    shapes = _by_name(input_shape, list(graph.inputs))
    for name, shape in shapes.items():
        value = graph.values[graph.inputs[name]]
        graph.values[graph.inputs[name]] = replace(value, shape=_fitted(name, shape, value.shape))
    return raise_model(graph)


def _by_name(given: Any, names: list[str]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        unknown = [k for k in given if k not in names]
        if unknown:
            raise ModelError(f"input_shape: the model has no input {unknown[0]!r}. Its inputs: {', '.join(names)}")
        return dict(given)
    several = not isinstance(given, str) and any(isinstance(s, list | tuple | str) and s != "?" for s in given)
    shapes = list(given) if several else [given]
    if len(shapes) != len(names):
        raise ModelError(f"input_shape: {len(shapes)} shapes given, the model has inputs {', '.join(names)}")
    return dict(zip(names, shapes, strict=True))


def _fitted(name: str, given: Any, known: tuple[Any, ...]) -> tuple[Any, ...]:
    sizes = given.split(",") if isinstance(given, str) else list(given)
    shape = [None if s is None or str(s).strip() in ("?", "-1", "None") else int(s) for s in sizes]
    if len(shape) == len(known) - 1:
        shape = [known[0], *shape]
    if len(shape) != len(known) or any(k is not None and k != s for k, s in zip(known[1:], shape[1:], strict=True)):
        raise ModelError(f"input_shape: {json.dumps(given)} does not fit the input {name!r} of shape {known}")
    return tuple(shape)


CROSS_ENTROPIES = ("sparse_categorical_crossentropy", "categorical_crossentropy")
_OURS = {
    **dict.fromkeys(CROSS_ENTROPIES, "labels"),
    "kl_divergence": "kl",
    "mean_squared_error": "mse",
    "mse": "mse",
    "kl": "kl",
    "labels": "labels",
}


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
        _joined([next(iter(batches(list(x) if isinstance(x, tuple) else x, batch_size=_size(x)))) for x, _ in pairs]),
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
