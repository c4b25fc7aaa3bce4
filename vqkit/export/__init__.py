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

_HOME = {
    "FORMATS": "vqkit.export.files",
    "encodings_of": "vqkit.export.encodings",
    "export": "vqkit.export.files",
    "to_onnx": "vqkit.export.onnx_file",
    "CrossCheck": "vqkit.export.crosscheck",
    "IntegerModel": "vqkit.export.integer",
    "cross_check": "vqkit.export.crosscheck",
    "to_tflite": "vqkit.export.tflite_file",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vqkit.export' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
