"""Finding the strategy: sensitivity of layers, mixed precision, search under a budget, recommendation.

    allocation         integer programming over additive costs
    attribution        Which changed keys of a strategy make the difference in accuracy
    diagnosis          why a strategy hurts a model, and the repaired one
    engine             a strategy measured once, kept by content
    layer_sensitivity  how much each layer alone, all layers up to one, and each layer restored cost
    loop               search under a budget
    mixed_precision    Mixed precision
    probe              one tensor quantized, the rest float
    questions          units of a model and strategies about one of them
    recommend          one strategy for a model, data and bounds: measured, allocated, verified, handed over
    spec               the search file
    study              Optuna asked and told

Public names are imported on first use, because most of them need TensorFlow.
"""

from __future__ import annotations

from vqkit._lazy import names_of

_WHERE = {
    "Attribution": "attribution",
    "Bounds": "recommend",
    "Engine": "engine",
    "Found": "loop",
    "SizeFront": "mixed_precision",
    "Measured": "engine",
    "Search": "spec",
    "Sensitivity": "layer_sensitivity",
    "accumulated": "layer_sensitivity",
    "advise": "recommend",
    "deliver": "recommend",
    "explain": "attribution",
    "mixed": "mixed_precision",
    "recovery": "layer_sensitivity",
    "search": "loop",
    "search_file": "loop",
    "sensitivity": "layer_sensitivity",
    "spread_over_subsets": "recommend",
}

__all__ = sorted(_WHERE)
__getattr__, __dir__ = names_of(__name__, _WHERE)
