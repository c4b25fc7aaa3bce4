"""From a strategy and a model to a quantized model: plan, calibrate, solve, refine, audit, evaluate.

Public names are imported on first use, because most of them need TensorFlow.
"""

from __future__ import annotations

from vqkit._lazy import names_of

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
__getattr__, __dir__ = names_of(__name__, _WHERE)
