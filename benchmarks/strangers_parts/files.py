"""Files as they are found: of Keras 3, of each version of Keras 2, SavedModels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.strangers_parts import keras2_files
from benchmarks.strangers_parts.models import SAMPLES, Built, add, lived_in, normal, rng, stranger, tokens

L = keras.layers

ROOT = Path(__file__).resolve().parents[2]
LEGACY = ROOT / "tests" / "models" / "legacy"
RECORDED = ROOT.parent / "shared" / "golden" / "keras2_h5"


def _convolutions() -> Built:
    i = keras.Input((12, 12, 3), name="in")
    y = L.Conv2D(6, 3, padding="same", use_bias=False, name="c1")(i)
    y = L.LeakyReLU(0.2, name="leaky")(L.BatchNormalization(name="bn")(y))
    y = L.SpatialDropout2D(0.2, name="sd")(L.DepthwiseConv2D(3, name="dw")(y))
    z = L.ReLU(6.0, name="r6")(L.Conv2D(6, 3, name="c2")(y))
    y = L.Add(name="add")([z, L.Conv2D(6, 3, activation="relu", name="c3")(y)])
    y = L.Dropout(0.3, name="do")(L.GlobalAveragePooling2D(name="gap")(y))
    return lived_in(keras.Model(i, L.Dense(4, activation="softmax", name="d")(y), name="m")), normal(12, 12, 3)


def _sequence() -> Built:
    i = keras.Input((6,), dtype="int32", name="in")
    y = L.LSTM(5, return_sequences=True, name="lstm")(L.Embedding(20, 4, name="emb")(i))
    return keras.Model(i, L.Dense(3, name="d")(L.GRU(4, name="gru")(y)), name="m"), tokens(6)


def _straight() -> Built:
    layers = [
        L.Dense(6, activation="relu", name="dense_80"),
        L.BatchNormalization(name="bn_3"),
        L.Dense(5, name="dense_81"),
        L.Softmax(name="sm"),
    ]
    return lived_in(keras.Sequential([keras.Input((5,)), *layers], name="s")), normal(5)


def _nested() -> Built:
    layers = [L.Dense(6, activation="relu", name="a"), L.Dense(4, name="b")]
    inner = keras.Sequential([keras.Input((8,)), *layers], name="inner")
    i = keras.Input((8,), name="in")
    y = L.Dense(8, name="first")(i)
    return keras.Model(i, L.Dense(2, name="last")(L.Concatenate(name="c")([inner(y), y])), name="m"), normal(8)


_MADE: dict[str, Callable[[], Built]] = {
    "convolutions": _convolutions,
    "sequence": _sequence,
    "straight": _straight,
    "nested": _nested,
}


def _old(name: str, make: Callable[[], Built], layout: str) -> None:
    def build(folder: Path) -> Built:
        model, x = make()
        return _same_as(keras2_files.write(model, folder / "old", layout), model, x)

    add(f"{name}_{layout}", "file", build)


def _same_as(path: Path, model: Any, x: Any) -> Built:
    """The path, having noted beside it what the model computes."""
    np.savez(path.with_name("original.npz"), y=np.asarray(model(x, training=False)))
    return path, x


for _name, _make in _MADE.items():
    for _layout in keras2_files.LAYOUTS:
        _old(_name, _make, _layout)


def _found(path: Path, name: str, x: Callable[[], Any], y: Callable[[], np.ndarray]) -> None:
    def build(folder: Path) -> Built:
        np.savez(folder / "original.npz", y=y())
        return path, x()

    add(name, "file", build)


def _legacy() -> None:
    with np.load(LEGACY / "expected.npz") as f:
        known = {k: f[k] for k in f.files}
    for path in sorted(p for p in LEGACY.iterdir() if p.suffix in (".h5", ".keras") or p.is_dir()):
        stem = path.name.removesuffix("_saved_model").split(".")[0]
        xs = [v for k, v in known.items() if k.startswith(f"{stem}/x")]
        if len(xs) == 1 and f"{stem}/y0" in known:
            _found(path, f"legacy_{path.name}", lambda x=xs[0]: x, lambda y=known[f"{stem}/y0"]: y)


def _recorded() -> None:
    for path in sorted(RECORDED.glob("*.h5")) if RECORDED.is_dir() else ():
        with np.load(RECORDED.parent / f"{path.stem}.npz") as f:
            if "eval" in f.files and "float_out" in f.files:
                _found(path, f"recorded_{path.stem}", lambda x=f["eval"]: x, lambda y=f["float_out"]: y)


_legacy()
_recorded()


@stranger("file")
def keras_3_file(folder: Path) -> Built:
    model, x = _convolutions()
    model.save(folder / "new.keras")
    return _same_as(folder / "new.keras", model, x)


@stranger("file")
def keras_3_h5(folder: Path) -> Built:
    model, x = _convolutions()
    model.save(folder / "new.h5")
    return _same_as(folder / "new.h5", model, x)


@stranger("file")
def keras_3_adapted(folder: Path) -> Built:
    x = (rng().normal(size=(SAMPLES, 5)) * 50 + 300).astype(np.float32)
    norm = L.Normalization()
    norm.adapt(x)
    model = keras.Sequential([keras.Input((5,)), norm, L.Dense(4, activation="relu"), L.Dense(2)])
    model.save(folder / "adapted.keras")
    return _same_as(folder / "adapted.keras", model, x)
