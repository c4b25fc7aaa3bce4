"""One function for all formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vqkit.errors import ModelError, not_allowed
from vqkit.export import dump, encodings, keras_files, onnx_file, tflite_file


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


def _write_integers(quantized: Any, path: Path, dataset: Any = None) -> None:
    dump.dump_model(quantized.model, dataset, path, weights_only=dataset is None)


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", onnx_file.write_onnx, ("opset", "rounding")),
    "tflite": Format(".tflite", tflite_file.write_tflite, ("rounding", "lowest_weight")),
    "keras": Format(".keras", keras_files.write_keras),
    "h5": Format(".h5", keras_files.write_keras),
    "saved_model": Format("", keras_files.write_saved_model),
    "ints": Format("", _write_integers, ("dataset",)),
    "encodings": Format(".json", encodings.write_encodings),
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


def export(quantized: Any, path: str | Path, format: str | None = None, **options: Any) -> Path:
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
    """
    path = Path(path)
    name = format_of(format, path)
    kind = FORMATS[name]
    if kind.suffix and path.suffix != kind.suffix:
        raise ModelError(
            f"path: {path} is not allowed for format {name!r}. Expected the suffix {kind.suffix!r}"
        )
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
