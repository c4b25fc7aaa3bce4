"""Random functional models: hypothesis draws a short program, `build` interprets it.

A program names operations on earlier values by number, taken modulo what fits, so that every program is valid
and a failing one shrinks to a short list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from hypothesis import strategies as st

from tests.support.zoo import randomize
from vqkit.graph.ir import Graph

L, K = keras.layers, keras.ops
SIZE = 6


@dataclass(frozen=True)
class Step:
    """One operation: its name, the values it reads (modulo what fits), and a choice of its parameters."""

    name: str
    first: int
    second: int
    choice: int


@dataclass(frozen=True)
class Program:
    """A model.

    Attributes:
        inputs: channels of each image input.
        steps: operations, in order.
        outputs: how many of the last values are outputs.
        seed: of the weights.
        skipped: bit i keeps node i out of the candidates, as in a partial model.
    """

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: int
    seed: int
    skipped: int = 0


class _Builder:
    """The values made so far, all images of shape (n, height, width, channels)."""

    def __init__(self, program: Program) -> None:
        shapes = [(SIZE, SIZE, channels) for channels in program.inputs]
        self.inputs = [keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes)]
        self.values: list[Any] = list(self.inputs)
        self.convolutions: list[Any] = []

    def mate(self, x: Any, number: int, axes: slice) -> Any:
        """Another value (or the same) whose shape agrees with that of `x` along `axes`."""
        fitting = [v for v in self.values if v.shape[axes] == x.shape[axes]]
        return fitting[number % len(fitting)]


def _conv(b: _Builder, x: Any, _: Any, choice: int) -> Any:
    activation = (None, "relu", "sigmoid", "relu6", "swish")[choice % 5]
    layer = L.Conv2D(
        1 + choice % 4, 1 + 2 * (choice % 2), padding="same", activation=activation, use_bias=choice % 3 > 0
    )
    b.convolutions.append(layer)
    return layer(x)


def _again(b: _Builder, x: Any, second: int, choice: int) -> Any:
    """A convolution that is called a second time, where one fits."""
    fitting = [c for c in b.convolutions if c.input_spec.axes[-1] == x.shape[-1]]
    return fitting[second % len(fitting)](x) if fitting else _conv(b, x, second, choice)


def _pool(_: _Builder, x: Any, __: Any, choice: int) -> Any:
    if min(x.shape[1:3]) < 2:
        return L.ZeroPadding2D(1)(x)
    return (L.MaxPooling2D, L.AveragePooling2D)[choice % 2](2)(x)


def _activation(_: _Builder, x: Any, __: Any, choice: int) -> Any:
    return L.Activation(("tanh", "swish", "sigmoid", "hard_sigmoid", "linear", "relu", "gelu")[choice % 7])(x)


def _operator(b: _Builder, x: Any, second: int, choice: int) -> Any:
    y = b.mate(x, second, slice(None))
    return (
        lambda: x + y,
        lambda: x * 0.5,
        lambda: K.relu(x),
        lambda: K.relu6(x),
        lambda: 1.0 - x,
        lambda: K.concatenate([x, y], axis=-1),
        lambda: K.silu(x),
    )[choice % 7]()


def _gate(_: _Builder, x: Any, __: Any, choice: int) -> Any:
    """Squeeze and excite: a Dense layer on the pooled image scales the channels."""
    y = L.GlobalAveragePooling2D(keepdims=True)(x)
    return L.Multiply()([x, L.Dense(x.shape[-1], activation=("sigmoid", "relu")[choice % 2])(y)])


STEPS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "again": _again,
    "depthwise": lambda _b, x, _s, c: L.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + c % 2)(x),
    "transposed": lambda _b, x, _s, c: L.Conv2DTranspose(1 + c % 3, 2, padding="same", use_bias=c % 2 > 0)(x),
    "norm": lambda _b, x, _s, c: L.BatchNormalization(center=c % 2 > 0, scale=c % 3 > 0)(x),
    "relu": lambda _b, x, _s, _c: L.ReLU()(x),
    "relu6": lambda _b, x, _s, _c: L.ReLU(6.0)(x),
    "leaky": lambda _b, x, _s, c: (
        L.LeakyReLU(negative_slope=0.1),
        L.LeakyReLU(negative_slope=0.3),
        L.ReLU(negative_slope=0.2),
        L.PReLU(shared_axes=[1, 2]),
    )[c % 4](x),
    "add": lambda b, x, s, _c: L.Add()([x, b.mate(x, s, slice(None))]),
    "concat": lambda b, x, s, _c: L.Concatenate()([x, b.mate(x, s, slice(0, 3))]),
    "pool": _pool,
    "pad": lambda _b, x, _s, _c: L.ZeroPadding2D(1)(x),
    "activation": _activation,
    "dropout": lambda _b, x, _s, c: (L.Dropout(0.5), L.SpatialDropout2D(0.5), L.GaussianNoise(0.5))[c % 3](x),
    "operator": _operator,
    "gate": _gate,
}


def build(program: Program) -> keras.Model:
    """The model of a program, with random weights."""
    b = _Builder(program)
    for step in program.steps:
        x = b.values[-1 - step.first % len(b.values)]
        b.values.append(STEPS[step.name](b, x, step.second, step.choice))
    ends = b.values[-program.outputs :]
    ends[-1] = L.Dense(2, name="head")(L.GlobalAveragePooling2D()(ends[-1]))
    inputs = b.inputs if len(b.inputs) > 1 else b.inputs[0]
    model = keras.Model(inputs, ends if len(ends) > 1 else ends[0], name="random")
    randomize(model, seed=program.seed)
    return model


def candidates(program: Program, graph: Graph) -> set[str] | None:
    """Names of the nodes that passes may change; None for all."""
    chosen = {n.name for i, n in enumerate(graph.nodes) if not program.skipped >> i & 1}
    return None if program.skipped == 0 else chosen


_SMALL = st.integers(0, 7)
# The newest value is the likeliest to be read, so that chains arise that passes can fuse.
_READ = st.sampled_from((0, 0, 0, 0, 1, 2, 3))
_STEP = st.builds(Step, st.sampled_from(sorted(STEPS)), _READ, _SMALL, st.integers(0, 20))
PROGRAMS = st.builds(
    Program,
    st.tuples(st.integers(1, 3)) | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.lists(_STEP, min_size=2, max_size=9).map(tuple),
    st.integers(1, 2),
    st.integers(0, 99),
    st.just(0) | st.integers(0, 2**12),
)
