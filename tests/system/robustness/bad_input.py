"""Bad input, entry point by entry point: what is given, which error comes, and words of its message.

`docs/bad-input.md` is made of this table (`python -m tests.system.robustness.odd_input`), and a test executes it.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqkit.errors import (
    DataError,
    ModelError,
    NotebookError,
    RecordError,
    StrategyError,
    SweepError,
    TrackingError,
    VqkitError,
)

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
PIXELS = np.linspace(0, 255, 32).astype("uint8").reshape(8, 4)


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        entry: the entry point.
        given: what it is given, in words.
        error: the type that comes.
        says: words of the message.
        do: gives it, in an empty folder.
    """

    entry: str
    given: str
    error: type[VqkitError]
    says: str
    do: Callable[[Path], Any]


def small_model(change: Callable[[list[np.ndarray]], None] | None = None) -> Any:
    import keras

    model = keras.Sequential(
        [keras.Input((4,), name="x"), keras.layers.Dense(3, name="conv"), keras.layers.Dense(2, name="head")]
    )
    if change is not None:
        weights = model.layers[0].get_weights()
        change(weights)
        model.layers[0].set_weights(weights)
    return model


def put(index: int, value: float) -> Callable[[list[np.ndarray]], None]:
    def change(weights: list[np.ndarray]) -> None:
        weights[index].flat[0] = value

    return change


def _with(value: float) -> np.ndarray:
    spoiled = X.copy()
    spoiled[3, 2] = value
    return spoiled


def quantized(data: Any, model: Any = None, strategy: str = "pof2s", **options: Any) -> Any:
    from vqkit.quantization import quantize

    return quantize(model if model is not None else small_model(), strategy, data, **options)


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _strategy(folder: Path, content: str) -> Any:
    from vqkit.strategy import Strategy

    return Strategy.load(_file(folder, "s.json", content))


def _keywords(**values: Any) -> Any:
    from vqkit.strategy import Strategy

    return Strategy.builtin("pof2s").with_kwargs(**values)


def _sweep(folder: Path, content: str) -> Any:
    from vqkit.sweeps.spec import Sweep

    return Sweep.load(_file(folder, "sweep.yaml", content))


def _built(name: str) -> Any:
    from vqkit.sweeps.variant import build_strategy

    return build_strategy(name, {})


def _sweep_at(path: Path) -> Any:
    from vqkit.sweeps.spec import Sweep

    return Sweep.load(path)


def _path_of(ref: str, folder: Path) -> Path:
    from vqkit.sweeps.source import model_path

    return model_path(ref, folder, folder)


def _plan(**values: Any) -> Any:
    from vqkit.quantization import make_plan

    return make_plan(_keywords(**values), small_model())


def _layer_config(**entries: Any) -> Any:
    from vqkit.quantization import make_plan
    from vqkit.strategy import Strategy

    changed = Strategy.builtin("pof2s").update({"quantize_registry_config": {"layer_config": entries}})
    return make_plan(changed, small_model())


def _load(folder: Path, name: str, content: bytes | str = b"") -> Any:
    from vqkit.models import load_model

    return load_model(_file(folder, name, content))


def _saved(folder: Path, model: Any, name: str = "m.keras") -> Path:
    model.save(folder / name)
    return folder / name


def _claims(folder: Path) -> Any:
    import h5py

    with h5py.File(folder / "m.h5", "w") as file:
        # Nothing is written, so no room is taken.
        file.create_dataset("w", (10**9,), "float32")
    return _data_model(folder / "m.h5")


def _lambda(folder: Path) -> Any:
    import keras

    from vqkit.models import load_model

    code = keras.layers.Lambda(lambda x: x + 1, name="code")
    return load_model(_saved(folder, keras.Sequential([keras.Input((4,)), code])))


def _foreign_class(folder: Path, module: str, name: str) -> Any:
    """A `.keras` file whose configuration names a class that is no Keras layer."""
    from vqkit.models import load_model

    path = _saved(folder, small_model())
    with zipfile.ZipFile(path) as file:
        members = {n: file.read(n) for n in file.namelist()}
    config = json.loads(members["config.json"])
    entry = config["config"]["layers"][1]
    entry.update({"module": module, "class_name": name, "registered_name": name, "config": {"args": ["true"]}})
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as file:
        for member, data in members.items():
            file.writestr(member, data)
    try:
        return load_model(path)
    finally:
        assert module not in sys.modules, f"{module} was imported from a configuration"


def _truncated(folder: Path, name: str) -> Any:
    path = _saved(folder, small_model(), name)
    return _load(folder, name, path.read_bytes()[:1000])


def _npz(folder: Path, **arrays: Any) -> Any:
    from vqkit.sweeps.source import load_data

    np.savez(folder / "d.npz", **{"x_calib": X, "x_eval": X, "y_eval": np.zeros(8, int), **arrays})
    return load_data({"npz": "d.npz"}, folder)


def _data(folder: Path, ref: Any) -> Any:
    from vqkit.sweeps.source import load_data

    return load_data(ref, folder)


def _loader(folder: Path, body: str, name: str = "load") -> Any:
    _file(folder, "own.py", f"import numpy as np\ndef load():\n    {body}\n")
    return _data(folder, {"loader": f"own.py:{name}"})


def _command(*words: str) -> Any:
    """A command's values as its function gets them; the errors are those that the exit code 2 stands for."""
    from vqkit.cli.application import pairs

    return pairs(list(words))


def _data_of(model: str, data: str | None) -> Any:
    from vqkit.cli.application import data_of

    return data_of(model, data)


def _parameters(**given: Any) -> Any:
    from vqkit.sweeps import notebook

    return notebook.check_parameters(notebook.find("20_run_variant.ipynb"), given)


def _notebook(folder: Path, content: str) -> Any:
    from vqkit.sweeps import notebook

    return notebook.declared_parameters(_file(folder, "n.ipynb", content))


def _track(uri: str, folder: Path) -> Any:
    import os
    from unittest.mock import patch

    from vqkit.runs.mlflow import Tracker

    with patch.dict(os.environ, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}):
        return Tracker.open(uri, runs_dir=folder)


def _record(folder: Path, content: str) -> Any:
    from vqkit.runs.store import Store

    target = folder / "variants" / "k"
    target.mkdir(parents=True)
    _file(target, "record.json", content)
    return Store.at(folder).record("k")


def _runs(path: str) -> Any:
    from vqkit.runs.store import Store

    return Store.at(path)


SWEEP = "model: m.keras\ndata: digits\n"
DEEP = "[" * 100_000
C = Case
CASES = (
    C("strategy file", "no JSON", StrategyError, "not JSON", lambda f: _strategy(f, "{")),
    C("strategy file", "a key twice", StrategyError, "stands twice", lambda f: _strategy(f, '{"a": 1, "a": 2}')),
    C("strategy file", "NaN", StrategyError, "no JSON number", lambda f: _strategy(f, '{"a": NaN}')),
    C("strategy file", "100,000 brackets", StrategyError, "nested", lambda f: _strategy(f, DEEP)),
    C("strategy file", "5 MB", StrategyError, "larger than", lambda f: _strategy(f, '"' + "x" * 5_000_000)),
    C("strategy file", "an unknown section", StrategyError, "not allowed", lambda f: _strategy(f, '{"optimise": {}}')),
    C("strategy", "an unknown keyword", StrategyError, "did you mean 'weight_bit'", lambda _: _keywords(weigth_bit=4)),
    C("strategy", "33 bits", StrategyError, "at most 32, got 33", lambda _: _keywords(weight_bit=33)),
    C("strategy", "a layer that is not there", StrategyError, "did you mean 'conv'",
      lambda _: _plan(ignore_layers=["comv"])),
    C("strategy", "a path with a zero byte", StrategyError, "is no path: embedded null byte",
      lambda _: _built("a\0.json")),
    C("sweep file", "a path with a zero byte", SweepError, "is no path: embedded null byte",
      lambda f: _sweep_at(f / "a\0.yaml")),
    C("model", "a path with a zero byte", ModelError, "is no path: embedded null byte", lambda f: _path_of("a\0.keras", f)),
    C("data", "a path with a zero byte", DataError, "is no path: embedded null byte", lambda f: _data(f, {"npz": "a\0.npz"})),
    C("sweep file", "no YAML", SweepError, "sweep.yaml", lambda f: _sweep(f, "a: [1")),
    C("sweep file", "a Python tag", SweepError, "tag",
      lambda f: _sweep(f, "!!python/object/apply:os.system ['echo spoiled']")),
    C("sweep file", "no model", SweepError, "'model' is missing", lambda f: _sweep(f, "data: digits")),
    C("sweep file", "an unknown key", SweepError, "did you mean 'axes'", lambda f: _sweep(f, SWEEP + "axis: {}")),
    C("sweep file", "10^16 variants", SweepError, "combinations",
      lambda f: _sweep(f, SWEEP + json.dumps({f"/a{i}": list(range(100)) for i in range(8)}).join(("axes: ", "")))),
    C("model file", "nothing there", ModelError, "no such file", lambda f: _data_model(f / "m.keras")),
    C("model file", "another format", ModelError, "no Keras layers", lambda f: _load(f, "m.onnx")),
    C("model file", "empty", ModelError, "m.keras", lambda f: _load(f, "m.keras")),
    C("model file", "a .keras cut short", ModelError, "m.keras", lambda f: _truncated(f, "m.keras")),
    C("model file", "a .h5 cut short", ModelError, "m.h5", lambda f: _truncated(f, "m.h5")),
    C("model file", "a .h5 that claims 4 GB in a few KB", ModelError, "w claims 4000000000 bytes", _claims),
    C("model file", "a pickle", ModelError, "m.h5", lambda f: _load(f, "m.h5", b"\x80\x04cos\nsystem\n.")),
    C("model file", "a Lambda layer", ModelError, "holds code, which is not run", _lambda),
    C("model file", "a class of another module", ModelError, "cannot load",
      lambda f: _foreign_class(f, "this", "Popen")),
    C("model", "a quantized one, to be quantized", ModelError, "the model is quantized already",
      lambda _: quantized(X, quantized(X).model)),
    C("model", "a NaN weight", ModelError, "layer 'conv': 1 of 12 values",
      lambda _: quantized(X, small_model(put(0, np.nan)))),
    C("model", "an infinite bias", ModelError, "are NaN or Inf", lambda _: quantized(X, small_model(put(1, np.inf)), "fs")),
    C("calibration data", "NaN", DataError, "1 of 32 values are NaN or Inf", lambda _: quantized(_with(np.nan))),
    C("calibration data", "Inf", DataError, "1 of 32 values are NaN or Inf", lambda _: quantized(_with(np.inf))),
    C("calibration data", "beyond float32 (1e300)", DataError, "NaN or Inf",
      lambda _: quantized(X.astype("float64") * 1e300)),
    C("calibration data", "no image", DataError, "no batch", lambda _: quantized(X[:0])),
    C("calibration data", "an empty batch", DataError, "holds no samples", lambda _: quantized(iter([X, X[:0]]))),
    C("calibration data", "a generator already read", DataError, "already read", lambda _: quantized(iter(()))),
    C("calibration data", "ragged lists", DataError, "is not an array", lambda _: quantized([[1.0], [1.0, 2.0]])),
    C("calibration data", "inputs of unequal length", DataError, "different numbers of samples",
      lambda _: quantized([X, X[:3]])),
    C("calibration data", "the wrong shape", DataError, "does not fit the model's input", lambda _: quantized(X[:, :3])),
    C("calibration data", "an input of another name", DataError, "the model has inputs", lambda _: quantized({"y": X})),
    C("calibration data", "complex numbers", DataError, "complex64 is not allowed",
      lambda _: quantized(X.astype("complex64"))),
    C("calibration data", "text", DataError, "not a dataset", lambda _: quantized("digits")),
    C("calibration data", "batches of no image", DataError, "batch_size: 0", lambda _: quantized(X, batch_size=0)),
    C("calibration data", "more steps than batches", DataError, "asks for more than the 1 batches",
      lambda _: quantized(X, steps=9)),
    C("data file", "not an archive", DataError, "cannot be read as an .npz",
      lambda f: _data(f, {"npz": str(_file(f, "d.npz", "no"))})),
    C("data file", "a pickle in it", DataError, "plain arrays", lambda f: _npz(f, x_eval=np.array([object()] * 8))),
    C("data file", "an array is missing", DataError, "there is no array 'images'",
      lambda f: (_npz(f), _data(f, {"npz": "d.npz", "x_eval": "images"}))),
    C("data file", "more labels than images", DataError, "8 images and 3 labels", lambda f: _npz(f, y_eval=np.zeros(3))),
    C("data file", "pixels 0..255 to calibrate, fractions to evaluate", DataError,
      "'x_calib' is uint8 in 0..255, but array 'x_eval' is float32 in -1..1",
      lambda f: _npz(f, x_calib=PIXELS, x_eval=X)),
    C("data file", "fractions to calibrate, pixels 0..255 to evaluate", DataError,
      "'x_calib' is float32 in -1..1, but array 'x_eval' is float64 in 0..255",
      lambda f: _npz(f, x_calib=X, x_eval=PIXELS.astype("float64"))),
    C("data loader", "pixels beside values with the mean taken off", DataError,
      "load/x_calib is uint8 in 0..255, but own.load/x_eval is float32 in -100..100",
      lambda f: _loader(f, "import tests.system.robustness.bad_input as b; return "
                           "{'x_calib': b.PIXELS, 'x_eval': b.X * 100, 'y_eval': np.zeros(8)}")),
    C("data loader", "raises", DataError, "failed with ZeroDivisionError", lambda f: _loader(f, "1 / 0")),
    C("data loader", "no such function", DataError, "did you mean 'load'", lambda f: _loader(f, "pass", "loda")),
    C("data loader", "returns no labels", DataError, "has no 'y_eval'",
      lambda f: _loader(f, "return {'x_calib': np.ones(3), 'x_eval': np.ones(3)}")),
    C("data", "an unknown form", DataError, "is not allowed", lambda f: _data(f, {"csv": "a.csv"})),
    C("layer_config", "of a layer that is not there", StrategyError, "did you mean 'conv'",
      lambda _: _layer_config(comv="float16")),
    C("CLI", "an argument without =", SweepError, "expected KEY=VALUE", lambda _: _command("weight_bit")),
    C("CLI", "a model file without data", DataError, "--data: none given", lambda _: _data_of("net.keras", None)),
    C("CLI", "a key twice", SweepError, "given twice", lambda _: _command("a=1", "a=2")),
    C("notebook", "an undeclared parameter", NotebookError, "did you mean 'strategy'", lambda _: _parameters(stratgey=1)),
    C("notebook", "not a notebook", NotebookError, "cannot be read as a notebook", lambda f: _notebook(f, "{}x")),
    C("notebook", "of a version long gone, and broken", NotebookError, "cannot be read as a notebook",
      lambda f: _notebook(f, '{"nbformat": 1, "metadata": {}, "cells": [{"cell_type": "odd"}]}')),
    C("notebook", "no parameters cell", NotebookError, "0 code cells are tagged",
      lambda f: _notebook(f, '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')),
    C("tracking URI", "empty", TrackingError, "is not allowed", lambda f: _track("", f)),
    C("tracking URI", "an unknown scheme", TrackingError, "records are safe", lambda f: _track("nonsense://x", f)),
    C("tracking URI", "nobody answers", TrackingError, "vqkit track", lambda f: _track("http://127.0.0.1:9", f)),
    C("tracking URI", "a file that is no database", TrackingError, "refused",
      lambda f: _track(f"sqlite:///{_file(f, 'a.db', 'no' * 999)}", f)),
    C("run folder", "an object store", RecordError, "is an address, not a folder", lambda _: _runs("s3://bucket/runs")),
    C("run record", "torn", RecordError, "cannot be read", lambda f: _record(f, "{")),
    C("run record", "of another schema", RecordError, "schema 9", lambda f: _record(f, '{"schema": 9}')),
)  # fmt: skip


def _data_model(path: Path) -> Any:
    from vqkit.models import load_model

    return load_model(path)
