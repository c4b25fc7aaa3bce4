"""From a strategy and a model to a quantized model: plan, calibrate, solve, refine, audit.

    calibrate        calibration: statistics of each tensor, in one pass over the batches
    data             `Data`, and any data as checked batches
    float_model      the float graph beside the user's model: compared, and run in its fixed batch size
    labels           labels as class numbers: what top-1 accuracy can judge
    layer_kinds      what is known about layer classes, and layers in 16-bit floats
    layers           Keras layers FakeQuantize and RoundToType, and the class of the resulting model
    plan             `Plan` and `Row`: each tensor, its quantizer, and who decided
    planner          Strategy x Graph -> Plan
    prepare          a model and a strategy as a prepared graph with its plan, and FakeQuantize put in
    ptq              `quantize()`: the steps in their order
    quantized        `Quantized`, and the audit of what was asked for
    solve            statistics to encodings, and weights on their grid
    refine           what is done to grids and weights after they are solved

Public names are imported on first use, because most of them need TensorFlow.
"""

from __future__ import annotations

from vqkit._lazy import names_of

_WHERE = {
    "Calibration": "calibrate",
    "Data": "data",
    "Plan": "plan",
    "PreparedModel": "prepare",
    "Quantized": "quantized",
    "batches": "data",
    "make_plan": "prepare",
    "quantize": "ptq",
}

__all__ = sorted(_WHERE)
__getattr__, __dir__ = names_of(__name__, _WHERE)
