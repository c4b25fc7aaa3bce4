"""The quantized model as Keras and TensorFlow files: they compute the simulation itself."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqkit.errors import ModelError
from vqkit.files import whole


def write_keras(quantized: Any, path: Path) -> None:
    """Write a `.keras` or `.h5` file, which `vqkit.load_model` reads.

    Args:
        quantized: a `Quantized`.
        path: its suffix decides which.

    Raises:
        ModelError: an `.h5` file does not hold some weight's type.
    """
    if path.suffix == ".h5":
        _check_types(quantized.model)
    with whole(path) as part, _asked_for():
        quantized.model.save(part)


def _check_types(model: Any) -> None:
    """HDF5 has no bfloat16: Keras writes such weights as bytes and cannot read them again."""
    for layer in model.layers:
        for weight in layer.weights:
            if weight.dtype == "bfloat16":
                raise ModelError(
                    f"layer {layer.name!r} cannot be exported: {weight.name} is bfloat16, which .h5 files "
                    "do not have. Export keras or saved_model, or use the policy mixed_bfloat16"
                )


@contextlib.contextmanager
def _asked_for() -> Iterator[None]:
    """Keras calls HDF5 a legacy format, as a warning or in absl's log; here it was asked for."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*HDF5.*")
            yield
    finally:
        logging.set_verbosity(level)


def write_saved_model(quantized: Any, path: Path) -> None:
    """Write a SavedModel folder for inference: `model = tf.saved_model.load(path)`, then `model.serve(x)`.

    Args:
        quantized: a `Quantized`.
        path: the folder; an older SavedModel there is replaced.

    Raises:
        ModelError: the path is a file, or a folder of something else.
    """
    if path.exists() and not (path / "saved_model.pb").is_file() and not (path.is_dir() and _empty(path)):
        raise ModelError(f"path: {path} is there and is no SavedModel folder; it is not replaced")
    with whole(path) as part:
        quantized.model.export(part, format="tf_saved_model", verbose=False)
        if path.is_dir():
            shutil.rmtree(path)


def _empty(folder: Path) -> bool:
    return not any(folder.iterdir())
