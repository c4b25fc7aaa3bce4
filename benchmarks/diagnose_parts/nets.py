"""Small nets with their data: trained in seconds, kept in a temporary folder by what decides them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqkit import Data, digest
from vqkit.strategy import Strategy

KEPT = Path(tempfile.gettempdir()) / "vqkit-diagnose"


@dataclass(frozen=True, eq=False)
class Case:
    """A float net, its samples, and the strategy that quantizes it well."""

    model: Any
    data: Data
    strategy: Strategy


def case_of(name: str) -> Case:
    """A fresh case: what a fault does to it stays with it.

    Args:
        name: of a net, one of `NETS`.
    """
    import keras

    make, data, loss = NETS[name]
    x, y, held = data()
    path = KEPT / f"{name}-{digest.of_file(__file__)}.keras"
    if not path.exists():
        keras.utils.set_random_seed(len(name))
        net = make()
        classes = keras.losses.SparseCategoricalCrossentropy(from_logits=loss == _LOGITS)
        net.compile(keras.optimizers.Adam(3e-3), "mse" if loss == _SQUARES else classes)
        net.fit(x[:-held], y[:-held], batch_size=50, epochs=20, verbose=0)
        net.compile()
        KEPT.mkdir(exist_ok=True)
        net.save(path)
    model = keras.saving.load_model(path, compile=False)
    return Case(model, Data(name, x[:200], x[-held:], y[-held:]), Strategy.builtin("int8"))


def quickstart() -> Any:
    """The net of the quickstart: batch norm, depthwise layers, a residual."""
    from vqkit.sweeps.quickstart import _build, _spread_channel_gains

    net = _build()
    _spread_channel_gains(net)
    return net


def plain() -> Any:
    """Convolutions without batch norm, two branches put together, a softmax at the end."""
    from keras import Input, Model, layers

    x = i = Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    a = layers.Conv2D(12, 1, activation="relu", name="left")(x)
    b = layers.Conv2D(12, 3, padding="same", activation="relu", name="right")(x)
    x = layers.Concatenate(name="both")([a, b])
    x = layers.Conv2D(24, 3, strides=2, activation="relu", name="mix")(x)
    x = layers.Flatten(name="flat")(x)
    return Model(i, layers.Dense(10, activation="softmax", name="head")(x), name="plain")


def attention() -> Any:
    """The rows of an image weighed by a softmax of scores that are learned."""
    from keras import Input, Model, layers

    i = Input((8, 8), name="rows")
    x = layers.Dense(32, activation="relu", name="embed")(i)
    x = layers.Dense(32, activation="relu", name="mixed")(layers.Concatenate(name="beside")([x, i]))
    scores = layers.Reshape((8, 8), name="table")(layers.Dense(64, name="score")(layers.Flatten(name="all")(x)))
    share = layers.Softmax(axis=1, name="attend")(scores)
    x = layers.Dot(axes=1, name="weigh")([share, x])
    x = layers.Flatten(name="weighed")(x)
    return Model(i, layers.Dense(10, name="head")(x), name="attention")


def regression() -> Any:
    """A dense net that says how much of an image lies left of its middle, and how much above."""
    from keras import Input, Model, layers

    x = i = Input((64,), name="pixels")
    for n in (1, 2):
        x = layers.Dense(48, name=f"fc{n}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"fc{n}_bn")(x)
        x = layers.ReLU(name=f"fc{n}_relu")(x)
    return Model(i, layers.Dense(2, name="out")(x), name="regression")


def residual() -> Any:
    """Two residual blocks with batch norm, the largest value of each channel, logits."""
    from keras import Input, Model, layers

    def conv(x: Any, name: str, filters: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name)(x)
        return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)

    x = i = Input((8, 8, 3), name="colours")
    x = layers.ReLU(name="begin_relu")(conv(x, "begin", 16))
    for n in (1, 2):
        y = layers.ReLU(name=f"res{n}a_relu")(conv(x, f"res{n}a", 16))
        y = conv(y, f"res{n}b", 16)
        x = layers.ReLU(name=f"res{n}_relu")(layers.Add(name=f"res{n}_add")([x, y]))
    x = layers.GlobalMaxPooling2D(name="most")(x)
    return Model(i, layers.Dense(6, name="classes")(x), name="residual")


def series() -> Any:
    """One-dimensional convolutions over waves of five kinds."""
    from keras import Input, Model, layers

    x = i = Input((64, 2), name="wave")
    for n, filters in enumerate((12, 16, 24), start=1):
        x = layers.Conv1D(filters, 5, strides=2, padding="same", name=f"wave{n}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"wave{n}_bn")(x)
        x = layers.ReLU(name=f"wave{n}_relu")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return Model(i, layers.Dense(5, activation="softmax", name="kinds")(x), name="series")


def table() -> Any:
    """A dense net on a table of measurements."""
    from keras import Input, Model, layers

    x = i = Input((30,), name="measurements")
    x = layers.Dense(32, activation="relu", name="first")(x)
    x = layers.Dense(32, activation="relu", name="second")(x)
    return Model(i, layers.Dense(2, activation="softmax", name="answer")(x), name="table")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    return (raw.images[order, :, :, None] / 16).astype(np.float32), raw.target[order]


def digits() -> tuple[np.ndarray, np.ndarray, int]:
    """Images (n, 8, 8, 1) in 0..1, class numbers, how many are held back."""
    return *_digits(), 597


def rows() -> tuple[np.ndarray, np.ndarray, int]:
    """The same images as eight rows of eight."""
    x, y = _digits()
    return x[..., 0], y, 597


def halves() -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels (n, 64), standardized; the shares of their sum in the left and in the upper half."""
    x, _ = _digits()
    sums = x.sum(axis=(1, 2, 3))
    y = np.stack([x[:, :, :4].sum(axis=(1, 2, 3)) / sums, x[:, :4].sum(axis=(1, 2, 3)) / sums], axis=1)
    return ((x.reshape(len(x), 64) - 0.3) / 0.37).astype(np.float32), (8 * y).astype(np.float32), 597


def patterns() -> tuple[np.ndarray, np.ndarray, int]:
    """Coloured stripes of six directions and colours under noise, (n, 8, 8, 3) in -1..1."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 6, 1800)
    row, column = np.mgrid[:8, :8]
    angle, phase = np.pi * y / 6, rng.uniform(0, 2 * np.pi, len(y))
    wave = np.cos(np.cos(angle)[:, None, None] * row + np.sin(angle)[:, None, None] * column + phase[:, None, None])
    tint = rng.uniform(0.3, 1.0, (len(y), 1, 1, 3))
    x = 0.6 * wave[..., None] * tint + rng.normal(0, 0.25, (len(y), 8, 8, 3))
    return np.clip(x, -1, 1).astype(np.float32), y, 600


def waves() -> tuple[np.ndarray, np.ndarray, int]:
    """Two channels of waves of five frequencies under noise, (n, 64, 2)."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, 5, 1800)
    t = np.arange(64)[None, :, None]
    phase = rng.uniform(0, 2 * np.pi, (len(y), 1, 2))
    x = np.sin((0.2 + 0.12 * y)[:, None, None] * t + phase) * rng.uniform(1, 3, (len(y), 1, 1))
    return (x + rng.normal(0, 0.7, x.shape)).astype(np.float32), y, 600


def measurements() -> tuple[np.ndarray, np.ndarray, int]:
    """Breast cancer measurements of scikit-learn, standardized, each drawn several times with a little noise."""
    from sklearn.datasets import load_breast_cancer

    raw, rng = load_breast_cancer(), np.random.default_rng(5)
    x = (raw.data - raw.data.mean(axis=0)) / raw.data.std(axis=0)
    some = np.concatenate([rng.permutation(len(x)) for _ in range(3)])
    return (x[some] + rng.normal(0, 0.1, (len(some), 30))).astype(np.float32), raw.target[some], 560


_CLASSES, _LOGITS, _SQUARES = "classes", "logits", "squares"
Make, Get = Callable[[], Any], Callable[[], tuple[np.ndarray, np.ndarray, int]]
NETS: dict[str, tuple[Make, Get, str]] = {
    "quickstart": (quickstart, digits, _LOGITS),
    "plain": (plain, digits, _CLASSES),
    "attention": (attention, rows, _LOGITS),
    "regression": (regression, halves, _SQUARES),
    "residual": (residual, patterns, _LOGITS),
    "series": (series, waves, _CLASSES),
    "table": (table, measurements, _CLASSES),
}
