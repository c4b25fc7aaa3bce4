"""What a strategy's `finalize_pipeline_config` asks for: the quantized model as a file.

One rule: where one quantized model is handed over, the file is written: by `vqkit.quantize`,
`vqkit.deploy_model`, both of the `VitisQuantizer`'s methods, and in the folder of a run. What tries many
strategies (the bench, searches, pictures) writes none; so do the functions of `vqkit.flow` and `vqkit.train`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from vqkit.flow import ptq
from vqkit.train import deploy

NAME = "quantized_model"
# The strategy's word -> ours.
_FORMATS = {"h5": "h5", "keras": "keras", "tf": "saved_model", "onnx": "onnx"}


def finalize(quantized: Any, run_dir: str | Path | None = None) -> Path | None:
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
    from vqkit.export.files import FORMATS, export

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
