"""A live layer's variables by name: read them, find them again in a copy, set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vqkit.errors import ModelError


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    """Copies of a live layer's weights by variable name, in the layer's order."""
    return {k: np.array(v.numpy()) for k, v in zip(weight_names(layer), layer.weights, strict=True)}


def weight_names(layer: Any) -> list[str]:
    """Names of a live layer's variables in order: short where unique, else with their parents."""
    short = [v.name for v in layer.weights]
    if len(set(short)) == len(short):
        return short
    tails = ["/".join(v.path.split("/")[1:]) or v.name for v in layer.weights]
    return tails if len(set(tails)) == len(tails) else [f"{t}#{i}" for i, t in enumerate(tails)]


def assign_weights(live: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Set a live layer's variables by name.

    Args:
        live: a built Keras layer.
        weights: variable name -> array of the variable's shape.

    Raises:
        ModelError: names and shapes differ.
    """
    for key, variable in variables(live, weights).items():
        variable.assign(weights[key])


def variables(live: Any, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A live layer's variables under the names that a graph layer's weights have.

    Args:
        live: a built Keras layer.
        weights: variable name -> array of the variable's shape.

    Returns:
        Name -> variable.

    Raises:
        ModelError: names and shapes differ.
    """
    names = weight_names(live)
    if set(names) == set(weights):
        return dict(zip(names, live.weights, strict=True))
    # Layers inside a layer may be numbered anew in a copy; their order stays.
    if [tuple(v.shape) for v in live.weights] == [w.shape for w in weights.values()]:
        return dict(zip(weights, live.weights, strict=True))
    raise ModelError(f"layer {live.name!r} has variables {sorted(names)}, the graph has {sorted(weights)}")


def build_without_drawing(live: Any, build: dict[str, Any]) -> None:
    """Build a layer whose weights are assigned next: random starting values would be drawn for nothing.

    Args:
        live: a Keras layer, not built.
        build: its build config.
    """
    from keras.initializers import Initializer, Zeros

    drawn = {k: v for k, v in vars(live).items() if isinstance(v, Initializer) and hasattr(v, "seed")}
    try:
        vars(live).update(dict.fromkeys(drawn, Zeros()))
        live.build_from_config(build)
    finally:
        vars(live).update(drawn)
