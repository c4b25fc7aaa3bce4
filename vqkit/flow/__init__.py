"""From a strategy and a model to a quantized model: plan, calibrate, solve, refine, audit, evaluate.

Public names are imported on first use, because most of them need TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Bench": "bench",
    "Calibration": "calibrate",
    "Data": "data",
    "Evaluation": "quality",
    "Inspection": "inspection",
    "Plan": "plan",
    "PreparedModel": "prepared",
    "Quantized": "ptq",
    "accuracy": "quality",
    "batches": "data",
    "evaluate": "quality",
    "inspect": "inspection",
    "load_model": "models",
    "make_plan": "prepared",
    "predict": "quality",
    "prepare": "prepared",
    "quantize": "ptq",
    "sqnr": "quality",
    "tensor_values": "quality",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(f"vqkit.flow.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'vqkit.flow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
