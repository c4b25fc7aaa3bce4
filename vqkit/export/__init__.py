"""Files that other runtimes execute, and the proof that they compute what the simulation computes.

Quantized ──lower──► steps ─┬─ onnx_file    ONNX with QuantizeLinear / DequantizeLinear
                            ├─ tflite_file  TFLite with our scales, no calibration of its own
                            ├─ integer      the same graph in integers, by numpy
                            └─ keras_files  .keras, .h5, SavedModel, JSON of encodings
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from vqkit._lazy import names_of

_HOME = {
    "FORMATS": "files",
    "encodings_of": "encodings",
    "export": "files",
    "to_onnx": "onnx_file",
    "CrossCheck": "crosscheck",
    "IntegerModel": "integer",
    "cross_check": "crosscheck",
    "to_tflite": "tflite_file",
}

__all__ = [
    "FORMATS",
    "CrossCheck",
    "IntegerModel",
    "cross_check",
    "encodings_of",
    "export",
    "to_onnx",
    "to_tflite",
]


class _Callable(ModuleType):
    """`vqkit.export(quantized, path)` is the function although `vqkit.export` is this package."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("vqkit.export.files").export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable


__getattr__, __dir__ = names_of(__name__, _HOME)
