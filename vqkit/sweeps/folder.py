"""Images in folders, one for each class, as calibration and evaluation data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vqkit.environment import load_tensorflow
from vqkit.errors import DataError, no_such_file
from vqkit.evaluation.streaming import Kept
from vqkit.limits import check_regular
from vqkit.quantization.data import Data

BATCH = 32
IN_MEMORY = 1 << 30
"""Bytes of images that are held in memory; more of them lie in a file without a name."""


class FolderSpec(BaseModel):
    """Folders of images as Keras' `image_dataset_from_directory` reads them, as float32 `x * scale + offset`.

    Attributes:
        folder: evaluation images, in one folder for each class.
        calib_folder: calibration images, likewise; those of `folder` by default.
        image_size: height and width that images are brought to.
        color_mode: channels of an image.
        interpolation: how they are resized.
        crop_to_aspect_ratio: cut what is too long instead of squeezing it.
        n_calib: a random choice of so many calibration images.
        n_eval: a random choice of so many evaluation images; all by default.
        seed: of both choices.
        scale, offset: as of an `.npz` file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    calib_folder: str | None = None
    image_size: tuple[int, int]
    color_mode: Literal["grayscale", "rgb", "rgba"] = "rgb"
    interpolation: str = "bilinear"
    crop_to_aspect_ratio: bool = False
    n_calib: int = Field(default=200, ge=1)
    n_eval: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    scale: float = Field(default=1.0, allow_inf_nan=False)
    offset: float = Field(default=0.0, allow_inf_nan=False)


def data_from_folders(spec: FolderSpec, ref: Any) -> Data:
    """Calibration and evaluation data with class numbers, in the order of the classes' names.

    Args:
        spec: the folders.
        ref: what states them; JSON.

    Raises:
        DataError: no such folder, no images in class folders, or other classes for calibration.
    """
    x_eval, y_eval, classes = _read(spec, spec.folder, spec.n_eval)
    x_calib, y_calib, others = _read(spec, spec.calib_folder or spec.folder, spec.n_calib)
    if others != classes:
        raise DataError(f"{spec.calib_folder}: classes {', '.join(others)}, {spec.folder} has {', '.join(classes)}")
    name = Path(spec.folder).name
    return Data(name, x_calib, x_eval, y_eval, ref, y_calib=y_calib, class_names=tuple(classes))


def _read(spec: FolderSpec, folder: str, n: int | None) -> tuple[Any, Any, list[str]]:
    """Images, class numbers, and names of the classes; one batch is held beside what is kept."""
    load_tensorflow()
    import keras

    if not os.path.isdir(folder):
        raise DataError(no_such_file(Path(folder)))
    check_regular(Path(folder), DataError)
    try:
        read = keras.utils.image_dataset_from_directory(
            folder,
            label_mode="int",
            color_mode=spec.color_mode,
            batch_size=BATCH,
            image_size=spec.image_size,
            shuffle=n is not None,
            seed=spec.seed,
            interpolation=spec.interpolation,
            crop_to_aspect_ratio=spec.crop_to_aspect_ratio,
            verbose=False,
        )
    except ValueError as e:
        raise DataError(f"{folder}: its images cannot be read: {e}") from e
    count = len(read.file_paths)
    if n is not None and n > count:
        raise DataError(f"{folder}: {n} images are wanted, there are {count}")
    images, labels, left = Kept(IN_MEMORY), [], count if n is None else n
    for x, y in read.take(-(-left // BATCH)).as_numpy_iterator():
        images.add((x[:left] * np.float32(spec.scale) + np.float32(spec.offset)).astype(np.float32))
        labels.append(y[:left])
        left -= len(labels[-1])
    return images.array(), np.concatenate(labels).astype(np.int64), list(read.class_names)
