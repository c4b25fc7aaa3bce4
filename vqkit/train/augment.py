"""Changes of images that a classifier should not mind: more views of few calibration images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vqkit.errors import DataError


def flips_and_shifts(pixels: int = 16, *, flip: bool = True) -> Callable[[np.ndarray, Any], np.ndarray]:
    """Mirror half of the images and move each by up to some pixels, for `DistillationData(augment=…)`.

    The float model answers for each changed image anew, so no label has to survive the change.

    Args:
        pixels: largest move in either direction; the border is mirrored in. 0 moves nothing.
        flip: mirror left and right; not for digits, text or anything that has a direction.

    Returns:
        A function of images (n, height, width, channels) and a `numpy.random.Generator`.

    Raises:
        DataError: a negative number of pixels; later: the batch is no batch of images, or too small.
    """
    if pixels < 0:
        raise DataError(f"flips_and_shifts: pixels must be 0 or more, got {pixels}")

    def change(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if x.ndim != 4 or min(x.shape[1:3]) <= pixels:
            raise DataError(
                f"flips_and_shifts({pixels}): expected images (n, height, width, channels) of more than "
                f"{pixels} pixels, got shape {x.shape}"
            )
        height, width = x.shape[1:3]
        edges = [(0, 0), (pixels, pixels), (pixels, pixels), (0, 0)]
        wide = np.pad(x, edges, mode="reflect")
        places = rng.integers(0, 2 * pixels + 1, (len(x), 2))
        mirrored = flip & (rng.random(len(x)) < 0.5)
        made = np.empty_like(x)
        for i, (top, left) in enumerate(places):
            view = wide[i, top : top + height, left : left + width]
            made[i] = view[:, ::-1] if mirrored[i] else view
        return made

    return change


def crops_and_flips(smallest: float = 0.5, *, flip: bool = True) -> Callable[[np.ndarray, Any], np.ndarray]:
    """Show a part of each image in full size, half of them mirrored, for `DistillationData(augment=…)`.

    Changes more than `flips_and_shifts`: for longer training.

    Args:
        smallest: share of the image's area that a part has at least, above 0, at most 1. Its form is up to
            a fifth wider or higher than the image's.
        flip: mirror left and right; not for digits, text or anything that has a direction.

    Returns:
        A function of images (n, height, width, channels) and a `numpy.random.Generator`; bilinear.

    Raises:
        DataError: no such share; later: the batch is no batch of images.
    """
    if not 0 < smallest <= 1:
        raise DataError(f"crops_and_flips: smallest must be above 0 and at most 1, got {smallest}")

    def change(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        import tensorflow as tf

        if x.ndim != 4:
            raise DataError(f"crops_and_flips: expected images (n, height, width, channels), got {x.shape}")
        side, form = np.sqrt(rng.uniform(smallest, 1, len(x))), np.exp(rng.uniform(-0.2, 0.2, len(x)))
        height, width = np.minimum(side * form, 1), np.minimum(side / form, 1)
        top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
        mirrored = flip & (rng.random(len(x)) < 0.5)
        first, last = np.where(mirrored, [left + width, left], [left, left + width])
        boxes = np.stack([top, first, top + height, last], axis=1).astype(np.float32)
        made: np.ndarray = tf.image.crop_and_resize(x, boxes, np.arange(len(x)), x.shape[1:3]).numpy()
        return made

    return change
