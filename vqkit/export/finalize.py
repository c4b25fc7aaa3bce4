"""What a strategy's `finalize_pipeline_config` asks for: the quantized model as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAME = "quantized_model"
# The strategy's word -> ours.
_FORMATS = {"h5": "h5", "keras": "keras", "tf": "saved_model", "onnx": "onnx"}


def finalize(quantized: Any) -> Path | None:
    """Write the file that the strategy asks for, under the name that the original gives it.

    Args:
        quantized: a `Quantized`; its strategy's `output_format`, `output_dir` and `onnx_opset_version` count.

    Returns:
        `<output_dir>/quantized_model` with the format's suffix (a folder for "tf"), or None where the format
        is "".

    Raises:
        ModelError: the format does not have some layer, or the operator set is too old.
    """
    wanted = quantized.strategy.finalize
    if not wanted.output_format:
        return None
    from vqkit.export.files import FORMATS, export

    name = _FORMATS[wanted.output_format]
    options = {"opset": wanted.onnx_opset_version} if name == "onnx" else {}
    return export(quantized, Path(wanted.output_dir) / f"{NAME}{FORMATS[name].suffix}", name, **options)
