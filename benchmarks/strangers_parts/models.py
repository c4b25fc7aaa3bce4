"""Models as strangers bring them: every kind of state, of input, of architecture, of file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 16
Batch = Any
Built = tuple[Any, Batch]


@dataclass(frozen=True)
class Stranger:
    """One model that nobody of the project chose the numbers of.

    Attributes:
        name: unique.
        kind: "state", "input", "network" or "file".
        build: given a folder to write in; gives the live model, or the path of a file, and inputs.
        smooth: whether a small change of a value changes the output little. Where not (a lookup behind a
            quantized layer), outputs at 16 bits are not compared.
        own_code: whether it has the user's own Python code, without which Keras loads no file of it.
    """

    name: str
    kind: str
    build: Callable[[Path], Built]
    smooth: bool = True
    own_code: bool = False


_FOUND: list[Stranger] = []


def strangers() -> tuple[Stranger, ...]:
    """All of them, by kind, in the order in which they are written down."""
    from benchmarks.strangers_parts import files, inputs, networks, state

    assert all((files, inputs, networks, state))
    return tuple(_FOUND)


def stranger(kind: str, **about: bool) -> Callable[[Callable[..., Built]], Callable[..., Built]]:
    """Keep the decorated function as a stranger of its name; `about` are attributes of it."""

    def keep(build: Callable[..., Built]) -> Callable[..., Built]:
        add(build.__name__, kind, build, **about)
        return build

    return keep


def add(name: str, kind: str, build: Callable[..., Built], **about: bool) -> None:
    """Keep a stranger; a `build` without arguments writes no file."""
    takes = build.__code__.co_argcount
    _FOUND.append(Stranger(name, kind, build if takes else lambda _: build(), **about))


def rng(seed: int = 0) -> np.random.Generator:
    """The source of a stranger's numbers."""
    return np.random.default_rng(seed)


def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """`SAMPLES` float32 samples of a normal distribution."""
    return (rng().normal(size=(SAMPLES, *shape)) * scale + shift).astype(np.float32)


def images(*shape: int) -> np.ndarray:
    """`SAMPLES` float32 images of values 0..255."""
    return rng().integers(0, 256, (SAMPLES, *shape)).astype(np.float32)


def tokens(*shape: int, high: int = 20) -> np.ndarray:
    """`SAMPLES` samples of int32 token numbers."""
    return rng().integers(0, high, (SAMPLES, *shape)).astype(np.int32)


def words(*shape: int, of: tuple[str, ...] = ("cat", "dog", "eel", "owl")) -> np.ndarray:
    """`SAMPLES` samples of words."""
    return rng().choice(np.array(of, object), (SAMPLES, *shape))


def lived_in(model: Any) -> Any:
    """The model with batch statistics, scales and biases as after training, not as they begin."""
    from keras.layers import Normalization

    random = rng(1)
    for layer in every_layer(model):
        # What such a layer has adapted to stands in constants, which its variables no longer move.
        if hasattr(layer, "layers") or isinstance(getattr(layer, "layer", layer), Normalization):
            continue
        for variable in layer.weights:
            name, shape = variable.path.rsplit("/", 1)[-1], variable.shape
            if "variance" in name:
                variable.assign(random.uniform(0.3, 3.0, shape))
            elif name in ("gamma", "scale"):
                variable.assign(random.uniform(0.5, 1.5, shape))
            elif name in ("beta", "bias", "moving_mean"):
                variable.assign(random.normal(size=shape) * 0.3)
    return model


def every_layer(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models within it."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from every_layer(layer)
