"""Quantization-aware training: a model that learns with its quantization in place, and back to `Quantized`.

Public names are imported on first use, because they need TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Distillation": "distill",
    "DistillationData": "distill",
    "LearnedQuantize": "learned",
    "QATAdam": "optimizer",
    "QATModel": "model",
    "QuantizedWeights": "wrappers",
    "ThresholdLog": "log",
    "deploy_model": "deploy",
    "ends_in_softmax": "distill",
    "qat_model": "model",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(f"vqkit.train.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'vqkit.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
