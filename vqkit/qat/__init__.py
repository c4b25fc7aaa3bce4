"""Quantization-aware training: a model that learns with its quantization in place, and back to `Quantized`.

    balance     channel sizes by output error
    batch_norm  batch norm folded at every step
    callbacks   the optimizer of thresholds, and their log
    deploy      trained model -> Quantized
    layers      quantizers that learn, and layers wrapped with them
    model       `qat_model`, also from where another calibration ends (warm start)
    recipes     training recipes: distillation, feature loss, augmentation

Public names are imported on first use, because they need TensorFlow.
"""

from __future__ import annotations

from vqkit._lazy import names_of

_WHERE = {
    "Distillation": "recipes",
    "DistillationData": "recipes",
    "LearnedQuantize": "layers",
    "QATAdam": "callbacks",
    "QATModel": "model",
    "QuantizedWeights": "layers",
    "RelativeError": "recipes",
    "ThresholdLog": "callbacks",
    "balance_channels": "balance",
    "crops_and_flips": "recipes",
    "deploy_model": "deploy",
    "ends_in_softmax": "recipes",
    "flips_and_shifts": "recipes",
    "qat_model": "model",
    "warm_cosine": "callbacks",
    "with_features": "recipes",
}

__all__ = sorted(_WHERE)
__getattr__, __dir__ = names_of(__name__, _WHERE)
