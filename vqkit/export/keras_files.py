"""The quantized model as Keras and TensorFlow files: they compute the simulation itself."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any


def write_keras(quantized: Any, path: Path) -> None:
    """Write a `.keras` or `.h5` file, which `vqkit.load_model` reads.

    Args:
        quantized: a `Quantized`.
        path: its suffix decides which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        with warnings.catch_warnings():
            # Keras calls HDF5 a legacy format; here it was asked for.
            warnings.filterwarnings("ignore", message=".*HDF5.*")
            quantized.model.save(part)
        os.replace(part, path)


def write_saved_model(quantized: Any, path: Path) -> None:
    """Write a SavedModel folder for inference: `tf.saved_model.load(path).serve(x)`.

    Args:
        quantized: a `Quantized`.
        path: the folder; an older SavedModel there is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        quantized.model.export(part, format="tf_saved_model", verbose=False)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
