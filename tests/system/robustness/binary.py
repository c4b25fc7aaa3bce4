"""Arbitrary model files, arrays and data files; see `inputs`."""

from __future__ import annotations

import functools
import io
import json
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tests.system.robustness import targets
from tests.system.robustness.draws import damaged, value
from tests.system.robustness.targets import accepted


@functools.cache
def net() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,), name="x"),
            layers.Dense(3, activation="relu", name="conv"),
            layers.Dense(2, name="head"),
        ]
    )
    model.build((None, 4))
    return model


@functools.cache
def model_files() -> dict[str, bytes]:
    """Content of small valid model files by suffix: of Keras 3, and `.h5` and `.keras` of Keras 2."""
    found = {}
    legacy = Path(__file__).parents[2] / "models" / "legacy"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for suffix in (".keras", ".h5"):
            path = Path(folder, f"m{suffix}")
            net().save(path)
            found[f"3{suffix}"] = path.read_bytes()
    return {
        **found,
        "2.h5": (legacy / "sequential.h5").read_bytes(),
        "2.keras": (legacy / "depthwise.keras").read_bytes(),
    }


def model_file(rng: random.Random) -> bool:
    """A model file of any bytes, a valid one damaged, or one whose configuration says something else."""
    from vqkit.models import load_model

    name, content = rng.choice(list(model_files().items()))
    suffix = name[1:]
    kind = rng.random()
    if kind < 0.1:
        content = rng.randbytes(rng.randint(0, 500))
    elif kind < 0.5 or suffix == ".h5":
        content = damaged(content, rng)
    else:
        content = _other_config(content, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"m{suffix}")
        path.write_bytes(content)
        return accepted(lambda: load_model(path))


def _other_config(content: bytes, rng: random.Random) -> bytes:
    """A `.keras` file whose JSON members are damaged values; the archive itself is sound."""
    import zipfile

    member = rng.choice(("config.json", "config.json", "metadata.json"))
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == member:
                document = targets.mutated(json.loads(data), rng, lambda: value(rng))
                data = json.dumps(document).encode("utf-8", "surrogatepass")
            new.writestr(info.filename, data)
    return made.getvalue()


def arrays(rng: random.Random) -> bool:
    """Calibration data of any container, shape, type and value, through to a quantized model."""
    from vqkit.quantization import quantize

    shape = rng.choice(((8, 4), (8, 4), (8, 4), (0, 4), (8,), (), (8, 5), (2, 2, 4)))
    array: Any = np.random.default_rng(rng.getrandbits(32)).normal(size=shape)
    array = np.asarray(array * rng.choice((1.0, 0.0, 1e30, 1e-40, 1e300)))
    with np.errstate(all="ignore"):
        array = array.astype(rng.choice(("f4", "f4", "f8", "f2", "i4", "u1", "?", "c8", "U3", "O", "M8[s]")))
    if array.dtype.kind == "f" and array.size and rng.random() < 0.3:
        array = np.array(array)
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf))
    data: Any = rng.choice(
        (
            array,
            array,
            array,
            [array],
            [array, array[:3] if array.ndim else array],
            {"x": array},
            {"y": array},
            {},
            [],
            None,
            "digits",
            3,
            array.tolist(),
            iter([array, array]),
            [[1.0], [1.0, 2.0]],
            (array, array),
            {1, 2},
        )
    )
    strategy = rng.choice(("pof2s", "fs", "fsx"))
    with np.errstate(all="ignore"):
        return accepted(lambda: quantize(net(), strategy, data, batch_size=rng.choice((1, 4, 0, -1, 2.5, "a", True))))


def npz_file(rng: random.Random) -> bool:
    """A data file: any bytes, a valid archive damaged, other arrays in it; a pickle in it is not opened."""
    from vqkit.sweeps.source import load_data

    made = io.BytesIO()
    x: Any = np.ones((4, 4), "f4")
    odd: Any = rng.choice(
        (
            x,
            np.ones((3, 4)),
            np.array([object()] * 4),
            np.array(["a"] * 4),
            np.array(1.0),
            x[:0],
            np.full((4, 4), 1e39),
        )
    )
    with np.errstate(all="ignore"):
        np.savez(
            made,
            x_calib=rng.choice((x, odd)),
            x_eval=rng.choice((x, odd)),
            y_eval=rng.choice((np.zeros(4, int), odd)),
        )
    content = made.getvalue()
    if rng.random() < 0.6:
        content = damaged(content, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "d.npz")
        path.write_bytes(content)
        extra = rng.choice(({}, {}, {"n_calib": value(rng)}, {"scale": value(rng)}, {"x_calib": value(rng)}, {"z": 1}))
        with np.errstate(all="ignore"):
            return accepted(lambda: load_data({"npz": str(path), **extra}))
