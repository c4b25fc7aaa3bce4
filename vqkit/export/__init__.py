"""Files that other runtimes execute, and the proof that they compute what the simulation computes.

Quantized ──lowering──► Program ─┬─ onnx     ONNX with QuantizeLinear / DequantizeLinear
                                 ├─ tflite   TFLite with our scales, no calibration of its own
                                 ├─ integer  the same program in integers, by numpy
                                 └─ files    .keras, .h5, SavedModel, JSON of encodings

    crosscheck         the same inputs through the simulation and through every runtime
    crosscheck_result  what a cross-check gives
    files              `export()`: one function for all formats; Keras files
    float_layers       float layers as program steps
    golden             integers and grids as files, for device checks
    layers             each Keras layer as program steps
    lowering           Quantized -> Program
    program            `Program`: a quantized graph as the few operations that every runtime has
    runtimes           the runtimes of a cross-check, each as a function from inputs to values by tensor …
    tf_graphs          the graphs that TensorFlow traces, read
    traced             a call of a layer as the plain operations that TensorFlow traces it to

Public names are imported on first use, because most of them need TensorFlow.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from vqkit._lazy import names_of

_HOME = {
    "CrossCheck": "crosscheck_result",
    "FORMATS": "files",
    "IntegerModel": "integer",
    "cross_check": "crosscheck",
    "encodings_of": "golden",
    "export": "files",
    "to_onnx": "onnx",
    "to_tflite": "tflite",
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
