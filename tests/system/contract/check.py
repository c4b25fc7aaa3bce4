"""What must hold for any functional model under any strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from vqkit.graph.keras_io import lower
from vqkit.quantization import make_plan, quantize
from vqkit.strategy import Strategy

STRATEGIES = ("pof2s", "pof2s_tqt", "fs", "fsx", Strategy.builtin("fsx").with_kwargs(extra_layers=True))


def leaves(outputs: Any) -> list[np.ndarray]:
    """The arrays in a nest of tensors."""
    return [np.asarray(t) for t in keras.tree.flatten(outputs)]


def assert_plan_covers(model: keras.Model, strategy: Any) -> None:
    """Each layer of the model appears; each float row says why."""
    rows = make_plan(strategy, model).rows
    seen = {r.layer for r in rows} | {name for r in rows for name in r.origin}
    graph = lower(model)
    assert {*graph.layers, *graph.inputs} - seen == set()
    assert [r.name for r in rows if r.spec is None and not r.reason] == []
    names = [r.name for r in rows]
    assert len(set(names)) == len(names)


def quantize_save_load(model: keras.Model, strategy: Any, x: Any, folder: Path, **load: Any) -> Any:
    """Quantize, predict, save, load, predict the same.

    Args:
        model: a functional model.
        strategy: name or object.
        x: inputs to calibrate and predict on.
        folder: where to save.
        load: further arguments of `load_model`.

    Returns:
        The `Quantized`.
    """
    quantized = quantize(model, strategy, x)
    assert_plan_is_complete(quantized)
    before = leaves(quantized.model(x, training=False))
    for array in before:
        assert array.dtype.kind not in "fc" or np.isfinite(array).all()
    path = folder / "quantized.keras"
    quantized.model.save(path)
    loaded = keras.saving.load_model(path, **load)
    for got, want in zip(leaves(loaded(x, training=False)), before, strict=True):
        np.testing.assert_array_equal(got, want)
    return quantized


def assert_plan_is_complete(quantized: Any) -> None:
    """Each value and each weight of the quantized graph is in the plan, or is a quantizer's own."""
    rows = quantized.plan.rows
    planned = {r.layer for r in rows}
    for node in quantized.graph.nodes:
        assert node.layer in quantized.rows or {node.name, node.layer} & planned, node.name
