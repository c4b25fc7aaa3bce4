"""Quantized models of the zoo, each made once in a session."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import vqkit
from tests.support import zoo


@cache
def quantized(name: str, strategy: str = "pof2s", **overrides: Any) -> Any:
    """A model of the zoo, quantized on 16 samples."""
    model = zoo.build(name)
    return vqkit.quantize(model, vqkit.build_strategy(strategy, overrides), zoo.batch(model, 16))


def samples(name: str, n: int = 16, *, seed: int = 1) -> dict[str, np.ndarray]:
    """Other samples by input name."""
    model = zoo.build(name)
    x = zoo.batch(model, n, seed=seed)
    return dict(zip([t.name for t in model.inputs], x if isinstance(x, list) else [x], strict=True))


@cache
def simulated(name: str, strategy: str = "pof2s", **overrides: Any) -> dict[str, np.ndarray]:
    """Every quantized value, and the outputs, of the simulation on `samples(name)`."""
    from vqkit.evaluation.noise import observe
    from vqkit.graph.keras_io import tensors

    q = quantized(name, strategy, **overrides)
    names = {fq: row.name for fq, row in q.rows.items()}
    seen = observe(q.graph, names, q.live, tensors(q.graph, samples(name)))
    return {k: np.asarray(v) for k, v in seen.items()}
