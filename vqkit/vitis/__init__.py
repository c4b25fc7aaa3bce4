"""The API of the Vitis AI quantizer for TensorFlow 2, over vqkit: an old script changes one import line.

    from tensorflow_model_optimization.quantization.keras import vitis_quantize     # before
    from vqkit.vitis import vitis_quantize# now

    vitis_quantize  VitisQuantizer, quantize_scope
    vitis_inspect   VitisInspector
    arguments       what the old arguments mean in vqkit's words

Every method is a few calls of vqkit's own functions; `docs/vitis.md` maps each argument.
"""

from __future__ import annotations

from vqkit._lazy import names_of

_HOME = {
    "VitisInspector": "vitis_inspect",
    "VitisQuantizer": "vitis_quantize",
    "quantize_scope": "vitis_quantize",
    "vitis_inspect": "",
    "vitis_quantize": "",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = names_of(__name__, _HOME)
