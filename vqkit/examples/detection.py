"""Mean average precision of the detection example, as a metric of one's own: a file that a sweep names.

A detector gives for each of 4 x 4 cells: whether an object has its middle there (a logit), the middle within the cell,
width and height in parts of the picture, and a logit for each kind.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CELLS, SIZE, KINDS = 4, 32, 3
MOST, LEAST = 10, 0.05
"""Boxes of a picture that are looked at, and how certain they must be."""


def boxes(cells: Array) -> tuple[Array, Array, Array]:
    """The most certain boxes of pictures.

    Args:
        cells: what a detector gives, shape (n, 4, 4, 8).

    Returns:
        Left, top, right, bottom in pixels (n, k, 4); kinds (n, k); and certainty (n, k), falling.
    """
    flat = cells.reshape(len(cells), CELLS * CELLS, -1)
    order = np.argsort(-flat[..., 0], axis=1, kind="stable")[:, :MOST]
    chosen = np.take_along_axis(flat, order[..., None], axis=1)
    middle = (np.stack([order % CELLS, order // CELLS], axis=-1) + chosen[..., 1:3]) * SIZE / CELLS
    half = np.maximum(chosen[..., 3:5], 0) * SIZE / 2
    certain = 1 / (1 + np.exp(-np.clip(chosen[..., 0], -50, 50)))
    return np.concatenate([middle - half, middle + half], axis=-1), chosen[..., 5:].argmax(-1), certain


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of each of boxes (n, k, 4) with each of boxes (n, m, 4), shape (n, k, m)."""
    one, other = a[:, :, None], b[:, None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    both = np.prod(np.maximum(sides, 0), axis=-1)
    areas = (np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (one, other))
    return np.asarray(both / np.maximum(sum(areas) - both, 1e-9))


def mean_average_precision(predictions: Array, labels: Array) -> float:
    """Mean, over the kinds that there are, of the area under precision over recall, at an overlap of 0.5.

    Args:
        predictions: of a detector, shape (n, 4, 4, 8).
        labels: objects, shape (n, m, 5): kind, left, top, right, bottom; kind -1 where there is none.
    """
    found, kinds, certain = boxes(predictions)
    left = certain >= LEAST
    # A box that a more certain one of its kind covers is the same object once more.
    same = (overlaps(found, found) > 0.5) & (kinds[:, :, None] == kinds[:, None])
    fits = overlaps(found, labels[..., 1:]) * (kinds[..., None] == labels[:, None, :, 0])
    free, hit, everyone = np.ones(labels.shape[:2]), np.zeros(kinds.shape, bool), np.arange(len(labels))
    for i in range(kinds.shape[1]):
        left[:, i + 1 :] &= ~(same[:, i, i + 1 :] & left[:, i, None])
        fit = fits[:, i] * free * left[:, i, None]
        hit[:, i] = fit.max(1) >= 0.5
        free[everyone[hit[:, i]], fit.argmax(1)[hit[:, i]]] = 0
    precisions = []
    for kind in np.unique(labels[..., 0][labels[..., 0] >= 0]):
        mine = left & (kinds == kind)
        right = np.cumsum(hit[mine][np.argsort(-certain[mine], kind="stable")])
        precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
        recall = right / np.sum(labels[..., 0] == kind)
        precisions.append(np.sum(np.diff(recall, prepend=0.0) * precision))
    return float(np.mean(precisions))
