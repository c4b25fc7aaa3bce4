"""Quantization-aware training: a model that learns with its quantization in place, and back to `Quantized`.

Public names are imported on first use, because they need TensorFlow.
"""

from __future__ import annotations

from vqkit._lazy import names_of

_WHERE = {
    "Distillation": "distill",
    "DistillationData": "distill",
    "LearnedQuantize": "learned",
    "QATAdam": "optimizer",
    "QATModel": "model",
    "QuantizedWeights": "wrappers",
    "RelativeError": "features",
    "ThresholdLog": "log",
    "balance_channels": "balance",
    "crops_and_flips": "augment",
    "deploy_model": "deploy",
    "ends_in_softmax": "distill",
    "flips_and_shifts": "augment",
    "qat_model": "model",
    "warm_cosine": "optimizer",
    "with_features": "features",
}

__all__ = sorted(_WHERE)
__getattr__, __dir__ = names_of(__name__, _WHERE)
