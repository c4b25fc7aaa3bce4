"""What a model was compiled with: metrics that its author wanted, and what its loss tells where two tasks fit."""

from __future__ import annotations

import contextlib
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqkit.evaluation.metric import Metric
from vqkit.evaluation.stated_metrics import metric_of
from vqkit.evaluation.tasks import LossKind, Task

if TYPE_CHECKING:
    import keras

Config = Mapping[str, Any]
"""A compile configuration as Keras writes it."""

_ACCURACY = ("accuracy", "acc")
_KINDS: Mapping[str, LossKind] = {
    "binarycrossentropy": "probability",
    "binaryfocalcrossentropy": "probability",
    "categoricalcrossentropy": "one class",
    "categoricalfocalcrossentropy": "one class",
    "sparsecategoricalcrossentropy": "one class",
    **dict.fromkeys(("mse", "mae", "meansquarederror", "meanabsoluteerror", "huber", "logcosh"), "value"),
}


def compiled_of(model: keras.Model) -> Config | None:
    """What a model in memory was compiled with; None where it was not."""
    config: Any = None
    # Keras warns of functions without a name, and fails on what it cannot write down.
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        config = model.get_compile_config() if getattr(model, "compiled", False) else None
    return config if isinstance(config, Mapping) else None


def compiled_in(path: str | Path) -> Config | None:
    """What the model of a `.keras` or `.h5` file was compiled with; None where it was not, or of another file."""
    found: Any = None
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = _config(Path(path))
    return found if isinstance(found, Mapping) else None


def _config(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))["compile_config"]
    import h5py

    with h5py.File(path) as file:
        return json.loads(file.attrs["training_config"])


def loss_kind(config: Config | None) -> LossKind:
    """What the loss says about the outputs; "" where it says nothing, or there are several."""
    loss = (config or {}).get("loss")
    more: Mapping[str, Any] = {}
    if isinstance(loss, Mapping) and isinstance(loss.get("class_name"), str):
        loss, more = loss["class_name"], loss.get("config") or {}
    name = loss.replace("_", "").lower() if isinstance(loss, str) else ""
    kind = _KINDS.get(name, "")
    return "logit" if kind == "probability" and more.get("from_logits") else kind


def as_compiled(task: Task, config: Config | None, outputs: NDArray[Any], labels: NDArray[Any]) -> Task:
    """The task with the metrics that the model was compiled with in front of its own.

    Those that cannot judge these outputs by these labels are left out, as are those whose direction nobody knows.
    "accuracy" is that of the task.

    Args:
        task: of the model's only output.
        config: what the model was compiled with.
        outputs: some of its outputs.
        labels: of the same samples.
    """
    given = (config or {}).get("metrics")
    own = [found for m in given or () if (found := _judging(m, task, outputs, labels))] if _flat(given) else []
    if not own or own[0].name == task.metrics[0].name:
        return task
    names = [m.name for m in own]
    rest = tuple(m for m in task.metrics if m.name not in names)
    return replace(task, metrics=(*own, *rest), why=f"{task.why}, compiled with {', '.join(names)}")


def _flat(given: Any) -> bool:
    return isinstance(given, Sequence) and all(isinstance(m, str | Mapping) for m in given)


def _judging(given: Any, task: Task, outputs: NDArray[Any], labels: NDArray[Any]) -> Metric | None:
    if given in _ACCURACY:
        return next((m for m in task.metrics if "accuracy" in m.name), None)
    try:
        metric = metric_of(given)
        fits = metric.better is not None and np.isfinite(metric.of(outputs, labels))
    except Exception:
        return None
    return metric if fits else None
