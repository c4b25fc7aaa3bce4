"""Golden part: rounding tables, average-pool factors (plain and as the graph pass sets them), DPU sigmoid."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.golden_parts import PartResult
from vqkit.primitives import kernels, reference
from vqkit.primitives.kernels import average_pool_scale, dpu_sigmoid
from vqkit.primitives.spec import RoundMode

POOL = re.compile(r"(?P<layer>\w+) in\((?P<image>[\d, ]+)\)(?: pool\((?P<window>[\d, ]+)\))?")

Finding = tuple[str, Any, Any]


def check(directory: Path) -> PartResult | None:
    """Compare every table of `misc.json`; a table nobody knows is a mismatch.

    Args:
        directory: laid out like the golden data.

    Returns:
        The findings; None where the file is absent.
    """
    path = directory / "misc.json"
    if not path.exists():
        return None
    found = [item for name, table in json.loads(path.read_text()).items() for item in _table(name, table)]
    wrong = tuple(f"misc {what}: {got} instead of {want}" for what, got, want in found if not np.array_equal(got, want))
    return PartResult("misc", len(found), len(found) - len(wrong), (), wrong)


def _table(name: str, table: Any) -> Iterator[Finding]:
    known = TABLES.get(name)
    return iter([(f"table {name}", "unknown", "known")]) if known is None else known(table)


def _rounding(table: dict[str, list[float]]) -> Iterator[Finding]:
    x = np.float32(table["x"])
    for key, want in table.items():
        if key != "x":
            mode = RoundMode(int(key))
            yield f"round {mode.name} numpy", reference.round_(x, mode), np.float32(want)
            yield (
                f"round {mode.name} tensorflow",
                kernels.round_(tf.constant(x), mode).numpy(),
                np.float32(want),
            )


def _pool_factors(table: dict[str, float]) -> Iterator[Finding]:
    for key, want in table.items():
        height, width = map(int, key.split("x"))
        yield f"average pool {key}", average_pool_scale(height, width), want


def _pool_layers(table: dict[str, float]) -> Iterator[Finding]:
    for key, want in table.items():
        yield key, _pooled_ones(key), np.float32(want)


def _pooled_ones(key: str) -> np.float32:
    """What a pooling layer makes of an image of ones after the graph's conversion."""
    import keras

    from vqkit.graph.keras_io import lower, raise_model
    from vqkit.graph.passes import device

    match = POOL.fullmatch(key)
    if match is None:
        raise ValueError(f"misc.json: cannot read the pooling layer {key!r}")
    image = tuple(map(int, match["image"].split(",")))
    window = match["window"]
    options = {"pool_size": tuple(map(int, window.split(",")))} if window else {}
    model = keras.Sequential([keras.Input((*image, 1)), getattr(keras.layers, match["layer"])(**options)])
    converted = raise_model(device.average_pools(lower(model), vitis_compat=True))
    return np.asarray(converted(np.ones((1, *image, 1), np.float32))).ravel()[0]


def _sigmoid(table: dict[str, list[float]]) -> Iterator[Finding]:
    yield "DPU sigmoid", dpu_sigmoid(table["x"]), np.float32(table["y"])


TABLES: dict[str, Callable[[Any], Iterator[Finding]]] = {
    "round": _rounding,
    "avgpool_scale": _pool_factors,
    "avgpool_layer_output_of_ones": _pool_layers,
    "vitis_sigmoid": _sigmoid,
}
