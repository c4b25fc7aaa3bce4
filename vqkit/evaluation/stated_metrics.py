"""Metrics as people state them: by name, as objects of Keras, scorers of scikit-learn, functions of their own."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit import digest
from vqkit.errors import DataError, nearest, no_such_file, not_allowed
from vqkit.evaluation.metric import Better, EvaluationData, Metric, Numbers, Parts, Unit, Whole, direction
from vqkit.evaluation.metrics import NAMED, with_void


def metric_of(given: Any, base_dir: str | Path = ".") -> Metric:
    """The metric that somebody states.

    Args:
        given: a `Metric`; a name of `NAMED`; a Keras metric or loss, or the name of one; the name of a scikit-learn
            scorer; `file.py:function`; a function of (predictions, labels); or a mapping with `name`, `function`
            (any of these), `better` ("higher" or "lower"), `unit` ("percent" or "plain"), `key`, and for labels of
            places `void`, the label that is not judged (255 by default, and negative ones). A function is given
            predictions and labels in this order, or the other way round where its first parameter is called
            `y_true`, `true`, `labels` or `targets`; and the samples' weights where it has a parameter
            `sample_weight`. One whose first two parameters are called `predict` and `data` asks the model itself:
            it is given a function from inputs to outputs, and an `EvaluationData`. It gives one number; or one for
            each sample, shape (n,), whose mean is the metric; or a dict of numbers, each of which is a metric
            `name/key`, the first one or that of `key` before the others.
        base_dir: what the path of a file starts from.

    Raises:
        DataError: no such metric.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, Mapping):
        return _from_keras_config(given) if "class_name" in given else _from_mapping(given, base_dir)
    if isinstance(given, str):
        found = NAMED.get(given) or _from_file(given, base_dir) or _from_keras(given) or _from_scorer(given)
        if found is None:
            known = [*NAMED, *_keras_names()]
            raise DataError(
                f"metric {given!r} is not known{nearest(given, known)}. Known: {', '.join(NAMED)}, metrics and losses "
                "of Keras, scorers of scikit-learn, or file.py:function"
            )
        return found
    found = _from_keras(given)
    if found is not None:
        return found
    if callable(given):
        return _from_function(given, base_dir, "")
    raise DataError(f"metric {given!r}: a name, a function or a mapping is needed")


def _from_mapping(given: Mapping[str, Any], base_dir: str | Path) -> Metric:
    allowed = ("name", "function", "better", "unit", "key", "void", "digest")
    for key in given:
        if key not in allowed:
            raise DataError(not_allowed("metric", key, allowed, what="key"))
    if "function" not in given and "name" not in given:
        raise DataError(f"metric {dict(given)!r}: it needs a name or a function")
    for key, values in (("better", ("higher", "lower")), ("unit", ("percent", "plain"))):
        if key in given and given[key] not in values:
            raise DataError(not_allowed(f"metric: {key}", given[key], values))
    what = given.get("function", given.get("name"))
    if callable(what) or (isinstance(what, str) and ":" in what):
        inner = _from_function(what, base_dir, str(given.get("name", "")))
    else:
        inner = metric_of(what, base_dir)
    changes = {k: given[k] for k in ("name", "better", "unit") if k in given}
    found = replace(inner, **changes)
    void = given.get("void")
    if void is not None:
        if isinstance(void, bool) or not isinstance(void, int):
            raise DataError(f"metric {found.name}: void is the number of a label, not {void!r}")
        found = with_void(found, void)
        inner = replace(inner, source={"function": inner.source, "void": void})
    if "key" in given:
        end = f"/{given['key']}"
        found = replace(found, name=found.name.removesuffix(end)).one_of(str(given["key"]))
    was, now = given.get("digest"), (inner.source or {}).get("digest") if isinstance(inner.source, Mapping) else None
    if was is not None and was != now:
        raise DataError(f"metric {found.name}: {what} has changed since the run was planned ({was}, now {now})")
    return replace(found, source=_source(found, inner))


def _source(metric: Metric, inner: Metric) -> dict[str, Any]:
    """What states the metric anywhere: absolute paths, and what was in the file."""
    own = inner.source if isinstance(inner.source, Mapping) else {"function": inner.source}
    better = {} if metric.better is None else {"better": metric.better}
    which = {"key": metric.key} if metric.key else {}
    return {**own, "name": metric.name, "unit": metric.unit, **better, **which}


def _from_function(what: Any, base_dir: str | Path, name: str) -> Metric:
    function, source = (what, None) if callable(what) else _loaded(what, base_dir)
    name = name or getattr(function, "__name__", "metric")
    parameters = _parameters(function)
    asks = parameters[:2] == ["predict", "data"]
    whole = _asking(function, name) if asks else _checked(function, name, parameters)
    metric = Metric(name, direction(name), whole=whole, asks=asks)
    return replace(metric, source=None if source is None else _source(metric, replace(metric, source=source)))


def _from_file(given: str, base_dir: str | Path) -> Metric | None:
    return _from_function(given, base_dir, "") if ":" in given else None


def _loaded(given: str, base_dir: str | Path) -> tuple[Callable[..., Any], dict[str, str]]:
    """A function of a user's file, and what identifies it."""
    file, _, name = given.rpartition(":")
    path = Path(base_dir, file)
    if not os.path.isfile(path):
        raise DataError(f"metric {given!r}: {no_such_file(path)}")
    spec = importlib.util.spec_from_file_location(f"vqkit_metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"metric {given!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [k for k, v in vars(module).items() if inspect.isfunction(v)]
        raise DataError(not_allowed(f"metric {given!r}", name, functions, what="function"))
    return function, {"function": f"{path.resolve()}:{name}", "digest": digest.of_file(path)}


_LABELS = ("y_true", "true", "labels", "targets")
_WEIGHT = "sample_weight"


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Names of a function's parameters, where it tells them."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _checked(function: Callable[..., Any], name: str, parameters: Sequence[str]) -> Whole:
    """A user's function of predictions and labels that gives a number, one for each sample, or several by name."""
    labels_first, weighs = parameters[:1] and parameters[0] in _LABELS, _WEIGHT in parameters

    def value(outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> Any:
        y = _beside(labels, outputs)
        with_weights = {_WEIGHT: weights} if weighs and weights is not None else {}
        given = (y, outputs) if labels_first else (outputs, y)
        found = _numbers(function(*given, **with_weights), name, len(outputs))
        each = isinstance(found, np.ndarray) and found.ndim > 0
        if weights is None or (weighs and not each):
            return found
        if not each:
            raise DataError(
                f"metric {name}: samples have weights; its function needs a third parameter {_WEIGHT}, or to give a "
                "number for each sample"
            )
        return found

    return value


def _asking(function: Callable[..., Any], name: str) -> Whole:
    def value(predict: Callable[[Any], Any], data: EvaluationData) -> Any:
        return _numbers(function(predict, data), name, None)

    return value


def _numbers(found: Any, name: str, n: int | None) -> Any:
    """What a function gave: one number, one for each sample (n,), or a dict of numbers.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(found, Mapping) and found:
        return {str(k): float(_numbers(v, f"{name}/{k}", 0)) for k, v in found.items()}
    array = np.asarray(found)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "fiub" or (array.ndim and (array.ndim > 1 or n not in (None, len(array)))):
        many = f", or one for each of the {n} samples" if n else ""
        raise DataError(
            f"metric {name}: its function gave {type(found).__name__} of shape {array.shape}; one number is needed"
            f"{many}"
        )
    return array


# --- metrics of other libraries ---


def _keras_names() -> list[str]:
    import keras

    return [n for n in dir(keras.metrics) if not n.startswith("_")]


def _from_keras(given: Any) -> Metric | None:
    import keras

    made = given
    if isinstance(given, str):
        try:
            made = keras.metrics.get(given)
        except ValueError:
            try:
                made = keras.losses.get(given)
            except ValueError:
                return None
    if isinstance(made, keras.metrics.Metric):
        return replace(_keras_metric(made), source=given if isinstance(given, str) else _config_of(made))
    if isinstance(made, keras.losses.Loss):
        name, function = made.name, made.call
    elif isinstance(given, str) or (getattr(made, "__module__", "") or "").startswith("keras."):
        name, function = made.__name__, made
    else:
        return None
    is_loss = isinstance(made, keras.losses.Loss)
    source = given if isinstance(given, str) else _config_of(made) if is_loss else name
    better: Better | None = "lower" if is_loss else direction(name)
    return Metric(name, better, _unit(name), parts=_keras_values(function, name), source=source)


def _config_of(made: Any) -> dict[str, Any]:
    return {"class_name": type(made).__name__, "config": made.get_config()}


def _from_keras_config(given: Mapping[str, Any]) -> Metric:
    """A metric of Keras as a compiled model's file has it; code of others is not run."""
    import keras

    name = str(given["class_name"])
    made: Any = getattr(keras.metrics, name, None) or getattr(keras.losses, name, None)
    found = _from_keras(made.from_config(dict(given.get("config") or {}))) if hasattr(made, "from_config") else None
    if found is None:
        raise DataError(f"metric {name!r}: it is none of Keras' own")
    return found


def _unit(name: str) -> Unit:
    return "percent" if "accuracy" in name else "plain"


class _KerasRunning:
    """A metric object of Keras, from its beginning."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        metric.reset_state()

    def add(self, outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None) -> None:
        """One more batch."""
        own = None if weights is None else np.asarray(weights, np.float32)
        self._metric.update_state(_beside(labels, outputs), _single(outputs), sample_weight=own)

    def value(self) -> float:
        """The metric of all batches so far."""
        return float(self._metric.result())


def _keras_metric(metric: Any) -> Metric:
    def value(outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
        running = _KerasRunning(metric)
        running.add(outputs, labels, weights)
        return running.value()

    name, unit = metric.name, _unit(metric.name)
    better = direction(name) or direction(type(metric).__name__)
    return Metric(name, better, unit, whole=value, running=lambda: _KerasRunning(metric))


def _keras_values(function: Callable[..., Any], name: str) -> Parts:
    def values(outputs: NDArray[Any], labels: NDArray[Any]) -> Numbers:
        found = np.asarray(function(_beside(labels, outputs), _single(outputs)), np.float64)
        if found.shape[:1] != (len(outputs),):
            raise DataError(f"metric {name}: it gave values of shape {found.shape} for {len(outputs)} samples")
        return found.reshape(len(found), -1).mean(axis=1)[:, None]

    return values


def _beside(labels: NDArray[Any], outputs: NDArray[Any]) -> NDArray[Any]:
    y = np.asarray(labels)
    return y[..., None] if y.ndim + 1 == outputs.ndim and outputs.shape[-1] == 1 else y


def _single(outputs: NDArray[Any]) -> NDArray[Any]:
    """Keras judges what models give: float32."""
    return outputs.astype(np.float32) if outputs.dtype == np.float64 else outputs


def _from_scorer(given: str) -> Metric | None:
    from sklearn.metrics import get_scorer, get_scorer_names

    if given not in get_scorer_names():
        return None
    scorer = get_scorer(given)

    def value(outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
        y = np.asarray(labels)
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        with_weights = {} if weights is None else {_WEIGHT: weights}
        try:
            return float(scorer(_given(outputs, y), outputs, y, **with_weights))
        except (ValueError, TypeError) as e:
            raise DataError(f"metric {given}: scikit-learn cannot judge by it here: {e}") from e

    return Metric(given, "higher", _unit(given), whole=value, source=given)


def _given(outputs: NDArray[Any], labels: NDArray[Any]) -> Any:
    """An estimator of scikit-learn that answers with what a model gave."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    flat = outputs.reshape(len(outputs), -1)
    single = flat[:, 0] if flat.shape[1] == 1 else flat

    class Regressor(RegressorMixin, BaseEstimator):
        def predict(self, x: Any) -> Any:  # noqa: ARG002
            return single

    class Classifier(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(max(flat.shape[1], 2))

        def predict(self, x: Any) -> Any:  # noqa: ARG002
            return (single >= 0.5).astype(int) if flat.shape[1] == 1 else flat.argmax(1)

        def predict_proba(self, x: Any) -> Any:  # noqa: ARG002
            return np.stack([1 - single, single], axis=1) if flat.shape[1] == 1 else flat

    return Regressor() if labels.dtype.kind == "f" else Classifier()


def metrics_of(given: Sequence[Any] | Any, base_dir: str | Path = ".") -> tuple[Metric, ...]:
    """Several metrics; the first one decides.

    Args:
        given: one of what `metric_of` takes, or a sequence of them.
        base_dir: what paths start from.

    Raises:
        DataError: one is not known, or two have one name.
    """
    many = given if isinstance(given, list | tuple) else [given]
    found = tuple(metric_of(m, base_dir) for m in many)
    names = [m.name for m in found]
    double = next((n for n in names if names.count(n) > 1), None)
    if double or not found:
        raise DataError(f"metrics: two are called {double!r}" if double else "metrics: none is given")
    return found
