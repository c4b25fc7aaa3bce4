"""Data of the examples: made by the code from a seed, or shipped with scikit-learn; nothing is downloaded.

Each function gives samples for a number and a seed: even seeds are to learn from, odd ones to be judged by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit.examples.detection import CELLS, KINDS, SIZE

Floats = NDArray[np.float32]
MOST_OBJECTS = 3


@dataclass(frozen=True)
class Samples:
    """Inputs with what is to be learnt from them and what they are judged by.

    Attributes:
        x: inputs, shape (n, …).
        y: what the loss is given, shape (n, …), or by output name.
        labels: what an evaluation is given, likewise.
    """

    x: Floats
    y: Any
    labels: Any


def scenes(n: int, seed: int) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Pictures of one to three shapes (circle, square, triangle) before a slope with noise.

    Args:
        n: how many.
        seed: of all that is random.

    Returns:
        Pictures (n, SIZE, SIZE, 1) of about -0.2..1.2; class of each pixel (n, SIZE, SIZE), 0 for none; objects
        (n, 3, 5): kind, left, top, right, bottom in pixels, kind -1 where there is none. No two boxes touch,
        and no two have their middles in one cell of the detector.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5
    x = np.empty((n, SIZE, SIZE, 1), np.float32)
    pixels = np.zeros((n, SIZE, SIZE), np.int64)
    objects = np.full((n, MOST_OBJECTS, 5), -1, np.float32)
    for i in range(n):
        slope = random.uniform(-0.3, 0.3, 2)
        picture = 0.3 + (slope[0] * rows + slope[1] * columns) / SIZE + random.normal(0, 0.06, (SIZE, SIZE))
        for j in range(random.integers(1, MOST_OBJECTS + 1)):
            kind, half = int(random.integers(KINDS)), random.uniform(0.15, 0.25) * SIZE
            cx, cy = random.uniform(half, SIZE - half, 2)
            box = np.array([cx - half, cy - half, cx + half, cy + half], np.float32)
            if np.any(np.all((box[:2] <= objects[i, :j, 3:]) & (box[2:] >= objects[i, :j, 1:3]), axis=1)):
                continue
            dx, dy = columns - cx, rows - cy
            inside = (
                dx**2 + dy**2 <= half**2,
                np.maximum(abs(dx), abs(dy)) <= half,
                (dy <= half) & (abs(dx) <= (dy + half) / 2),
            )[kind]
            picture[inside] = random.uniform(0.6, 1.0) + random.normal(0, 0.04, int(inside.sum()))
            pixels[i][inside] = kind + 1
            objects[i, j] = kind, *box
        x[i, :, :, 0] = picture
    return x, pixels, objects


def segmentation(n: int, seed: int) -> Samples:
    """Scenes with the class of each pixel."""
    x, pixels, _ = scenes(n, seed)
    return Samples(x, pixels, pixels)


def detection(n: int, seed: int) -> Samples:
    """Scenes with their objects; the loss is given what a detector that is right would give, 1 for a sure object."""
    x, _, objects = scenes(n, seed)
    grid = np.zeros((n, CELLS, CELLS, 5 + KINDS), np.float32)
    for i, j in np.argwhere(objects[..., 0] >= 0):
        kind, box = int(objects[i, j, 0]), objects[i, j, 1:]
        middle = (box[:2] + box[2:]) / 2 * CELLS / SIZE
        column, row = middle.astype(int)
        grid[i, row, column] = [1, *(middle - (column, row)), *((box[2:] - box[:2]) / SIZE), *np.eye(KINDS)[kind]]
    return Samples(x, grid, objects)


def multi_label(n: int, seed: int) -> Samples:
    """Scenes with one label for each kind of shape that is in them."""
    x, pixels, _ = scenes(n, seed)
    present = (pixels[..., None] == np.arange(1, KINDS + 1)).any(axis=(1, 2)).astype(np.float32)
    return Samples(x, present, present)


def regression(n: int, seed: int) -> Samples:
    """Friedman's first problem, with five inputs that say nothing: one number from ten."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(n, n_features=10, noise=0.5, random_state=seed)
    wanted = y.astype(np.float32)[:, None]
    return Samples(x.astype(np.float32), wanted, wanted)


def anomaly(n: int, seed: int) -> Samples:
    """Spectra of a machine; one in four samples of an odd seed has a resonance where healthy ones have none."""
    random = np.random.default_rng(seed)
    bins = np.arange(64)
    speed = random.uniform(5.5, 6.5, (n, 1))
    x = random.gamma(2.0, 0.03, (n, 64))
    for harmonic in range(1, 9):
        strength = random.uniform(0.6, 1.0, (n, 1)) / harmonic
        x += strength * np.exp(-((bins - harmonic * speed) ** 2) / 1.5)
    broken = (random.uniform(size=n) < 0.25) & bool(seed % 2)
    place = random.uniform(8, 60, (n, 1))
    x += broken[:, None] * random.uniform(0.08, 0.3, (n, 1)) * np.exp(-((bins - place) ** 2) / 3.0)
    spectra = x.astype(np.float32)
    return Samples(spectra, spectra, broken.astype(np.int64))


def forecast(n: int, seed: int) -> Samples:
    """Loads of a network: 96 steps with a daily and a weekly wave, and the next eight of them."""
    random = np.random.default_rng(seed)
    t = random.uniform(0, 336, (n, 1)) + np.arange(104)
    waves = 1 + 0.4 * np.sin(2 * np.pi * t / 24) + 0.2 * np.sin(2 * np.pi * t / 168)
    drift = np.cumsum(random.normal(0, 0.02, t.shape), axis=1)
    values = random.uniform(0.8, 1.2, (n, 1)) * waves + drift + random.normal(0, 0.03, t.shape)
    load = values.astype(np.float32)
    return Samples(load[:, :96, None], load[:, 96:], load[:, 96:])


def _digits(n: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Digits of scikit-learn, (n, 8, 8) of 0..1: even seeds from the first two thirds, odd ones from the rest."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    chosen = _part(len(raw.target), 1200, seed)[:n]
    return (raw.images[chosen] / 16).astype(np.float32), raw.target[chosen].astype(np.int64)


def _part(n: int, known: int, seed: int) -> NDArray[np.intp]:
    """Numbers of samples: the first `known` of a shuffled row for even seeds, the rest for odd ones."""
    order = np.random.default_rng(0).permutation(n)
    return order[known:] if seed % 2 else order[:known]


def sequences(n: int, seed: int) -> Samples:
    """Digits, read as eight rows one after the other."""
    x, y = _digits(n, seed)
    return Samples(x, y, y)


def two_answers(n: int, seed: int) -> Samples:
    """Digits with two questions: which, and how much ink, in tens of full pixels."""
    x, y = _digits(n, seed)
    answers = {"digit": y, "ink": x.sum(axis=(1, 2))[:, None] / 10}
    return Samples(x[..., None], answers, answers)


def binary(n: int, seed: int) -> Samples:
    """Scikit-learn's breast cancer cells, each feature in deviations from its mean: malignant (0) or benign (1)."""
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    known = raw.data[_part(len(raw.target), 380, 0)]
    chosen = _part(len(raw.target), 380, seed)[:n]
    y = raw.target[chosen].astype(np.float32)[:, None]
    return Samples(((raw.data[chosen] - known.mean(0)) / known.std(0)).astype(np.float32), y, y)
