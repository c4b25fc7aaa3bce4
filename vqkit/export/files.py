"""`export()`: one function for all formats; Keras files.

One rule: where one quantized model is handed over, the file is written: by `vqkit.quantize`,
`vqkit.deploy_model`, both of the `VitisQuantizer`'s methods, and in the folder of a run. What tries many
strategies (the bench, searches, pictures) writes none; so do the functions of `vqkit.quantization` and
`vqkit.qat`.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vqkit.errors import ModelError, not_allowed
from vqkit.export import golden
from vqkit.files import whole
from vqkit.qat import deploy
from vqkit.quantization import ptq

if TYPE_CHECKING:
    import keras

    from vqkit.quantization.quantized import Quantized

NAME = "quantized_model"
# The strategy's word -> ours.
_FORMATS = {"h5": "h5", "keras": "keras", "tf": "saved_model", "onnx": "onnx"}


def finalize(quantized: Quantized, run_dir: str | Path | None = None) -> Path | None:
    """Write the file that the strategy asks for, under the name that the original gives it.

    Args:
        quantized: a `Quantized`; its strategy's `output_format`, `output_dir` and `onnx_opset_version` count.
        run_dir: folder of a run, in which a folder named as the last part of `output_dir` is used, so that
            variants of a sweep do not overwrite each other's files.

    Returns:
        `<output_dir>/quantized_model` with the format's suffix (a folder for "tf"), or None where the format
        is "".

    Raises:
        ModelError: the format does not have some layer, or the operator set is too old.
    """
    wanted = quantized.strategy.finalize
    if not wanted.output_format:
        return None

    name = _FORMATS[wanted.output_format]
    options = {"opset": wanted.onnx_opset_version} if name == "onnx" else {}
    folder = Path(wanted.output_dir) if run_dir is None else Path(run_dir) / Path(wanted.output_dir).name
    return export(quantized, folder / f"{NAME}{FORMATS[name].suffix}", name, **options)


def _writing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, writing what the strategy of its result asks for."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        finalize(made)
        return made

    return run


quantize = _writing(ptq.quantize)
deploy_model = _writing(deploy.deploy_model)


def write_keras(quantized: Quantized, path: Path) -> None:
    """Write a `.keras` or `.h5` file, which `vqkit.load_model` reads.

    Args:
        quantized: a `Quantized`.
        path: its suffix decides which.

    Raises:
        ModelError: an `.h5` file does not hold some weight's type.
    """
    if path.suffix == ".h5":
        _check_types(quantized.model)
    with whole(path) as part, _asked_for():
        quantized.model.save(part)


def _check_types(model: keras.Model) -> None:
    """HDF5 has no bfloat16: Keras writes such weights as bytes and cannot read them again."""
    for layer in model.layers:
        for weight in layer.weights:
            if weight.dtype == "bfloat16":
                raise ModelError(
                    f"layer {layer.name!r} cannot be exported: {weight.name} is bfloat16, which .h5 files "
                    "do not have. Export keras or saved_model, or use the policy mixed_bfloat16"
                )


@contextlib.contextmanager
def _asked_for() -> Iterator[None]:
    """Keras calls HDF5 a legacy format, as a warning or in absl's log; here it was asked for."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*HDF5.*")
            yield
    finally:
        logging.set_verbosity(level)


def write_saved_model(quantized: Quantized, path: Path) -> None:
    """Write a SavedModel folder for inference: `model = tf.saved_model.load(path)`, then `model.serve(x)`.

    Args:
        quantized: a `Quantized`.
        path: the folder; an older SavedModel there is replaced.

    Raises:
        ModelError: the path is a file, or a folder of something else.
    """
    if path.exists() and not (path / "saved_model.pb").is_file() and not (path.is_dir() and _empty(path)):
        raise ModelError(f"path: {path} is there and is no SavedModel folder; it is not replaced")
    with whole(path) as part:
        quantized.model.export(part, format="tf_saved_model", verbose=False)
        if path.is_dir():
            shutil.rmtree(path)


def _empty(folder: Path) -> bool:
    return not any(folder.iterdir())


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        suffix: of its files; "" for a folder.
        write: function of a `Quantized`, a path and the options.
        options: names of its options.
    """

    suffix: str
    write: Callable[..., None]
    options: tuple[str, ...] = ()


def _write_integers(quantized: Quantized, path: Path, dataset: Any = None) -> None:
    golden.dump_model(quantized.model, dataset, path, weights_only=dataset is None)


def _write_onnx(quantized: Quantized, path: Path, **options: Any) -> None:
    from vqkit.export.onnx import write_onnx

    write_onnx(quantized, path, **options)


def _write_tflite(quantized: Quantized, path: Path, **options: Any) -> None:
    from vqkit.export.tflite import write_tflite

    write_tflite(quantized, path, **options)


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", _write_onnx, ("opset", "rounding")),
    "tflite": Format(".tflite", _write_tflite, ("rounding", "lowest_weight")),
    "keras": Format(".keras", write_keras),
    "h5": Format(".h5", write_keras),
    "saved_model": Format("", write_saved_model),
    "ints": Format("", _write_integers, ("dataset",)),
    "encodings": Format(".json", golden.write_encodings),
}
"""Format -> what writes it."""


def default_name(source: str, format: str) -> str:
    """Name of the file for a model or run where none is given; never that of the source itself.

    Args:
        source: a model file or a run.
        format: one of `FORMATS`.
    """
    stem, suffix = Path(source).stem, FORMATS[format].suffix
    words = {".keras": "_quantized", ".h5": "_quantized", ".json": "_encodings", "": f"_{format}"}
    return f"{stem}{words.get(suffix, '')}{suffix}"


def export(quantized: Quantized, path: str | Path, format: str | None = None, **options: Any) -> Path:
    """Write a quantized model as a file that another runtime executes.

    Args:
        quantized: a `Quantized`, from `vqkit.quantize`.
        path: file to write (a folder for saved_model and ints); the format's suffix is required.
        format: one of `FORMATS`; by the suffix of `path` when None.
        **options: onnx: `opset` (version of the operator set), `rounding` ("exact" or "qdq"); tflite:
            `rounding` ("exact" or "fused"), `lowest_weight` ("keep", "clip" or "error"); ints: `dataset`
            (batches of inputs whose activations are written too; weights alone without it).

    Returns:
        The path.

    Raises:
        ModelError: unknown format, suffix or option, or a layer that the format does not have; the layer is
            named.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu")])
        >>> images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
        >>> vqkit.export(vqkit.quantize(model, "pof2s", images), "quantized.onnx").name
        'quantized.onnx'
    """
    path = Path(path)
    name = format_of(format, path)
    kind = FORMATS[name]
    if kind.suffix and path.suffix != kind.suffix:
        raise ModelError(f"path: {path} is not allowed for format {name!r}. Expected the suffix {kind.suffix!r}")
    unknown = [k for k in options if k not in kind.options]
    if unknown:
        raise ModelError(not_allowed(f"format {name}", unknown[0], kind.options, what="option"))
    kind.write(quantized, path, **options)
    return path


def format_of(format: str | None, path: Path | None) -> str:
    """The format that was named, else that of the path's suffix.

    Raises:
        ModelError: no such format, or the suffix says nothing.
    """
    if format is not None:
        if format not in FORMATS:
            raise ModelError(not_allowed("format", format, FORMATS))
        return format
    if path is None:
        raise ModelError(f"format: none given, and no file that says it. Allowed: {', '.join(FORMATS)}")
    found = [name for name, kind in FORMATS.items() if kind.suffix == path.suffix != ""]
    if not found:
        known = [k.suffix for k in FORMATS.values() if k.suffix]
        raise ModelError(not_allowed(str(path), path.suffix, known, what="suffix") + "; or state the format")
    return found[0]
