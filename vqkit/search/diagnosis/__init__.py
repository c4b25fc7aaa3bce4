"""Why a metric fell under a strategy, and the repaired strategy.

    candidates     from noise to causes, and the repairs that follow
    causes         what can be wrong, and the sentence about it
    investigation  the diagnosis: samples, tensors, repairs, put together
    picture        the cause and the repairs, drawn
    repairs        single changes of a strategy: their cost and what they bring
    samples        whether the samples are at fault
    tensors        each tensor alone, and under other quantizers

Public names are imported on first use, because they need TensorFlow.
"""

from __future__ import annotations

from vqkit._lazy import names_of

_WHERE = {
    "Cause": "causes",
    "Diagnosis": "investigation",
    "Kind": "causes",
    "Repair": "repairs",
    "diagnose": "investigation",
}

__all__ = sorted(_WHERE)
__getattr__, __dir__ = names_of(__name__, _WHERE)
