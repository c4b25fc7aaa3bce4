"""Models and data named by text: what stands in a sweep file becomes a path or arrays."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqkit import digest, process_cache
from vqkit.environment import load_tensorflow
from vqkit.errors import DataError, ModelError, VqkitError, nearest, no_such_file, not_allowed
from vqkit.files import DiskCache
from vqkit.limits import MemoryBudget, check_arrays
from vqkit.quantization.data import Data, leaves, map_inputs, same_unit
from vqkit.strategy.document import plain
from vqkit.sweeps.folder import FolderSpec, data_from_folders
from vqkit.sweeps.quickstart import quickstart_data, quickstart_model

QUICKSTART = "quickstart"
DIGITS = "digits"
MODEL_FILES = (".keras", ".h5", ".hdf5")
Keys = str | list[str] | dict[str, str]
"""An array; several in order, or by name."""


class NpzSpec(BaseModel):
    """Arrays of one `.npz` file: the first `n_calib` / `n_eval`, as float32 `x * scale + offset`.

    Where there is no array `x_eval`, but `x_eval.left` and `x_eval.right`, these are inputs `left` and `right`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    npz: str
    x_calib: Keys = "x_calib"
    x_eval: Keys = "x_eval"
    y_eval: Keys | None = "y_eval"
    y_calib: str | None = None
    weights_eval: str | None = None
    n_calib: int | None = Field(default=None, ge=1)
    n_eval: int | None = Field(default=None, ge=1)
    scale: float = Field(default=1.0, allow_inf_nan=False)
    offset: float = Field(default=0.0, allow_inf_nan=False)


class LoaderSpec(BaseModel):
    """A function in a Python file, `path/to/file.py:function`, and its keyword arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loader: str = Field(pattern=r".+\.py:[A-Za-z_]\w*$")
    args: dict[str, Any] = Field(default_factory=dict)


_FORMS: dict[str, type[BaseModel]] = {"npz": NpzSpec, "loader": LoaderSpec, "folder": FolderSpec}
_PATHS = (*_FORMS, "calib_folder")


def load_data(ref: Any, base_dir: str | Path = ".") -> Data:
    """Data from a JSON-able description.

    Args:
        ref: `"digits"` (built in); or `{"npz": path, "x_calib": key, "x_eval": key, "y_eval": key,
            "y_calib": key, "weights_eval": key, "n_calib": n, "n_eval": n, "scale": s, "offset": o}`; or
            `{"loader": "file.py:function", "args": {...}}`, a function that returns an object or mapping with
            x_calib, x_eval and y_eval,
            and y_calib where the calibration samples have labels, weights_eval where evaluation samples have weights.
            A loader is code, and it is run; or `{"folder": path, "image_size": [h, w], ...}`, the keys of
            `folder.FolderSpec`: images in one folder for each class.
            Or these as `data_from_text` takes them: "file.npz", "file.py:function".
        base_dir: relative paths start here.

    Returns:
        The data, checked, with their digest; the arrays are read-only.

    Raises:
        DataError: unknown form or key, missing file or array, or unusable values.

    Example:
        >>> import numpy as np, vqkit
        >>> x = np.zeros((6, 4), "float32")
        >>> np.savez("data.npz", x_calib=x, x_eval=x, y_eval=np.zeros(6, int))
        >>> vqkit.load_data({"npz": "data.npz"}).x_eval.shape
        (6, 4)
    """
    ref = absolute_data(ref, base_dir)
    # The digest of what was loaded is checked against the run's before anything is recorded.
    paths = [ref[k] for k in _PATHS if ref != DIGITS and ref.get(k)]
    stamps = [_stamp(path.rpartition(".py:")[0] + ".py" if ".py:" in path else path) for path in paths]
    return process_cache.once("data", (digest.of_json(ref), *stamps), lambda: _read_only(_load(ref)))


def some_of(data: Data, n: int | None) -> Data:
    """The same data with fewer evaluation samples: a random choice, which the number alone decides.

    The first samples would not do: many data sets are sorted by class.

    Args:
        data: calibration and evaluation samples.
        n: how many; None means all.

    Returns:
        Data whose evaluation part has `n` samples, in their old order.

    Raises:
        DataError: there are fewer.
    """
    if n is None:
        return data
    if n > data.n_eval:
        raise DataError(f"eval_images={n}, but {data.name} holds {data.n_eval} evaluation samples")
    chosen = np.sort(np.random.default_rng(n).permutation(data.n_eval)[:n])
    return replace(data, **evaluation_part(data, chosen), digest=digest.of_json([data.digest, "eval_images", n]))


def evaluation_part(data: Data, rows: Any) -> dict[str, Any]:
    """Some of the evaluation samples with their labels and weights, as fields of `Data`.

    Args:
        data: calibration and evaluation samples.
        rows: numbers of samples, shape (n,).
    """
    fields = {f: getattr(data, f) for f in ("x_eval", "y_eval", "weights_eval")}
    return {f: map_inputs(lambda a, _: a[rows], v) for f, v in fields.items() if v is not None}


def _stamp(path: str | Path) -> tuple[Any, ...]:
    """Changes whenever a file does, or one in a folder."""
    path = Path(path)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if os.path.isdir(path) else [path]
    found = [(str(f), f.stat()) for f in files if os.path.exists(f)]
    return str(path), *((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in found)


def _read_only(data: Data) -> Data:
    """The same arrays as views that nobody can write through: what is measured must be what was digested."""

    def locked(array: Any, _: str) -> Any:
        view = array.view()
        view.flags.writeable = False
        return view

    names = ("x_calib", "x_eval", "y_eval", "weights_eval")
    parts = {part: map_inputs(locked, own) for part in names if (own := getattr(data, part)) is not None}
    return replace(data, **parts)


def _load(ref: Any) -> Data:
    if isinstance(ref, str):
        return quickstart_data()
    if "folder" in ref:
        return data_from_folders(FolderSpec(**ref), ref)
    return _from_npz(NpzSpec(**ref), ref) if "npz" in ref else _from_loader(LoaderSpec(**ref), ref)


def data_from_text(text: str) -> Any:
    """A data description as people type it on a command line.

    Args:
        text: `digits`, `file.npz` (with arrays x_calib, x_eval, y_eval), `file.py:function`, or JSON.

    Returns:
        What `load_data` takes.

    Raises:
        DataError: it looks like JSON and is not.
    """
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError as e:
            raise DataError(f"data: {text!r} is not JSON: {e}") from e
    if text.endswith(".npz"):
        return {"npz": text}
    return {"loader": text} if ".py:" in text else text


def absolute_data(ref: Any, base_dir: str | Path) -> Any:
    """The same description with its path made absolute, so that it means the same in every process.

    Raises:
        DataError: unknown form or key.
    """
    if isinstance(ref, str):
        ref = data_from_text(ref)
    if ref in (DIGITS, QUICKSTART):
        return DIGITS
    kind = next((k for k in _FORMS if isinstance(ref, Mapping) and k in ref), None)
    if kind is None:
        allowed = [f'"{DIGITS}"', "file.npz", "file.py:function", *(f'{{"{k}": …}}' for k in _FORMS)]
        raise DataError(not_allowed("data", ref, allowed))
    _checked(_FORMS[kind], dict(ref))
    plain(ref, "data", DataError)
    return {**ref, **{k: str(_absolute(base_dir, ref[k], DataError)) for k in _PATHS if ref.get(k)}}


def _absolute(base_dir: str | Path, text: str, error: type[VqkitError]) -> Path:
    try:
        return Path(os.path.realpath(Path(base_dir, text)))
    except ValueError as e:
        raise error(f"{text!r} is no path: {e}") from None


def _checked(model: type[BaseModel], ref: dict[str, Any]) -> None:
    try:
        model(**ref)
    except ValidationError as e:
        first = e.errors()[0]
        where = "data/" + "/".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            raise DataError(not_allowed("data", first["loc"][0], model.model_fields, what="key")) from None
        raise DataError(f"{where}: {first['msg']}, given {first.get('input')!r}") from None


def _from_npz(spec: NpzSpec, ref: Any) -> Data:
    path = Path(spec.npz)
    if not os.path.isfile(path):
        raise DataError(no_such_file(path))
    try:
        check_arrays(path, MemoryBudget(path, DataError))
        # Only arrays of plain values: a pickle in the file would be code.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            x_calib, x_eval, y_eval, y_calib, weights = _picked(file, spec)
    except VqkitError:
        raise
    except Exception as e:
        raise DataError(f"{path}: cannot be read as an .npz file of plain arrays: {e}") from e

    def scaled(a: np.ndarray, where: str) -> np.ndarray:
        if a.dtype.kind not in "fiub":
            raise DataError(f"{path}{where}: type {a.dtype} is not a number")
        return (a * np.float32(spec.scale) + np.float32(spec.offset)).astype(np.float32)

    # Before `scale`: a factor that suits one of the two makes the other look like noise.
    same_unit(x_calib, x_eval, (f"{path}: array {spec.x_calib!r}", f"array {spec.x_eval!r}"))
    with np.errstate(over="ignore", invalid="ignore"):
        x_calib, x_eval = map_inputs(scaled, x_calib), map_inputs(scaled, x_eval)
    return Data(path.stem, x_calib, x_eval, y_eval, ref, y_calib=y_calib, weights_eval=weights)


def _picked(file: Any, spec: NpzSpec) -> tuple[Any, Any, Any, Any, Any]:
    def pick(keys: Keys, n: int | None) -> Any:
        if isinstance(keys, str) and keys not in file.files:
            keys = {k.removeprefix(f"{keys}."): k for k in file.files if k.startswith(f"{keys}.")} or keys
        missing = [k for k in leaves(keys) if k not in file.files]
        if missing:
            raise DataError(
                f"{spec.npz}: there is no array {missing[0]!r}{nearest(missing[0], file.files)}. It holds: "
                f'{", ".join(file.files)}. Other names are given so: {{"npz": …, "y_eval": "labels"}}, '
                'no labels so: {"npz": …, "y_eval": null}'
            )
        return map_inputs(lambda key, _: file[key][:n], keys)

    x_calib, x_eval = pick(spec.x_calib, spec.n_calib), pick(spec.x_eval, spec.n_eval)
    y_calib = None if spec.y_calib is None else pick(spec.y_calib, spec.n_calib)
    # An array of this name is what it says; one of another name has to be named.
    named = spec.weights_eval or ("weights_eval" if "weights_eval" in file.files else None)
    weights = None if named is None else pick(named, spec.n_eval)
    y_eval = None if spec.y_eval is None else pick(spec.y_eval, spec.n_eval)
    return x_calib, x_eval, y_eval, y_calib, weights


def _from_loader(spec: LoaderSpec, ref: Any) -> Data:
    path, _, name = spec.loader.rpartition(":")
    function = _function(Path(path), name)
    try:
        result = function(**spec.args)
    except VqkitError:
        raise
    except Exception as e:
        raise DataError(f"{spec.loader}: failed with {type(e).__name__}: {e}") from e
    vouched = _vouched(ref)
    if vouched.json(_LOADED) is None:
        vouched.keep_json(_LOADED, spec.loader)
    x_calib, x_eval = (_part(result, field, spec.loader) for field in ("x_calib", "x_eval"))
    none = isinstance(result, Mapping) and result.get("y_eval", ...) is None
    y_eval = None if none else _part(result, "y_eval", spec.loader)
    more = {field: _given(result, field) for field in ("y_calib", "weights_eval")}
    return Data(f"{Path(path).stem}.{name}", x_calib, x_eval, y_eval, ref, **more)


def check_known(ref: Any) -> None:
    """Raise where data come from code that this user has not run yet: a record of others may name any function.

    Args:
        ref: of the data, as a record has it.

    Raises:
        DataError: a loader whose file, function and arguments together were not loaded by this user on this machine.
    """
    if isinstance(ref, Mapping) and "loader" in ref and _vouched(ref).json(_LOADED) is None:
        raise DataError(
            f"{ref['loader']}: is code that you have not run on this machine as it is now, and a record alone does not "
            f"start it. If you trust it: vqkit.load_data({dict(ref)!r}), once"
        )


_LOADED = "loaded.json"


def _vouched(ref: Mapping[str, Any]) -> DiskCache:
    """Where it is kept that this user has run a loader; of another file, function or arguments it is another place."""
    from platformdirs import user_cache_path

    file = str(ref["loader"]).rpartition(":")[0]
    content = digest.of_file(file) if os.path.isfile(file) else ""
    return DiskCache(
        user_cache_path("vqkit") / "loaders" / digest.of_json([dict(ref), os.path.realpath(file), content])
    )


def _given(result: Any, field: str) -> Any:
    return result.get(field) if isinstance(result, Mapping) else getattr(result, field, None)


def _part(result: Any, field: str, where: str) -> Any:
    value = _given(result, field)
    if value is None:
        raise DataError(f"{where}: what it returned has no {field!r}; x_calib, x_eval and y_eval are needed")
    return value


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not os.path.isfile(path):
        raise DataError(no_such_file(path))
    # Registered under a name of its own: dataclasses look their module up in sys.modules.
    module_name = f"vqkit_loader_{digest.of_bytes(str(path).encode())}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise DataError(f"{path}: cannot be loaded: {type(e).__name__}: {e}") from e
    found = getattr(module, name, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise DataError(not_allowed(str(path), name, names, what="function"))
    return found


def model_path(ref: str, base_dir: str | Path, cache: Path) -> Path:
    """File of a model named in a sweep file.

    Args:
        ref: `"quickstart"` (built in; trained on first use), or the path of a `.keras` or `.h5` file or of
            a SavedModel folder.
        base_dir: relative paths start here.
        cache: the built-in model is kept here.

    Returns:
        Absolute path of an existing file or SavedModel folder.

    Raises:
        ModelError: no such file, or not a Keras file.

    Example:
        >>> from pathlib import Path
        >>> import keras, vqkit
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("net.keras")
        >>> vqkit.model_path("net.keras", ".", Path("cache")).name
        'net.keras'
    """
    if ref == QUICKSTART:
        load_tensorflow()
        return quickstart_model(cache)
    path = _absolute(base_dir, ref, ModelError)
    if os.path.isfile(path / "saved_model.pb"):
        return path
    if path.suffix not in MODEL_FILES:
        allowed = [QUICKSTART, *(f"*{s}" for s in MODEL_FILES), "a SavedModel folder"]
        raise ModelError(not_allowed("model", ref, allowed))
    if not os.path.isfile(path):
        raise ModelError(f"model: {no_such_file(path)}")
    return path


def load_model(path: str | Path, custom_objects: Mapping[str, Any] | None = None, *, safe_mode: bool = True) -> Any:
    """A Keras model for inference; code inside the file is not run.

    Args:
        path: a `.keras` or `.h5` file or a SavedModel folder, of Keras 3 or Keras 2: a float model, or one
            that vqkit quantized.
        custom_objects: class name -> class, for the model's own layers; registered ones need only be
            imported. A Lambda layer of Keras 2 gets its function here, by the layer's name.
        safe_mode: False runs the Lambda functions in a file of Keras 3; only for files that you trust.

    Raises:
        ModelError: it cannot be read; the message says what is missing, and the way out.

    Example:
        >>> import keras, vqkit
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("net.keras")
        >>> vqkit.load_model("net.keras").output_shape
        (None, 3)
    """
    load_tensorflow()
    from vqkit import models

    if custom_objects or not safe_mode:
        return models.load_model(path, custom_objects, safe_mode=safe_mode)
    return process_cache.once("model", _stamp(path), lambda: models.load_model(path))
