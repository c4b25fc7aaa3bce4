"""Equalization that looks at the output: channels get the sizes at which one scale per tensor costs least.

Plain cross-layer equalization makes weights alike and ignores what that does to the activations between them:
one large channel then takes the codes of all others. Here each channel's size is chosen for both, by how much
the noise of each weight and activation changes the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from vqkit.errors import DataError, ModelError
from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import compiled, lower, raise_model, replay
from vqkit.graph.passes.equalize import Pair, pairs_of, rescaled
from vqkit.graph.passes.simplify import KERNEL
from vqkit.qat.recipes import ends_in_softmax
from vqkit.quantization.data import batches
from vqkit.quantization.prepare import as_strategy, graphs

if TYPE_CHECKING:
    from vqkit.strategy import Strategy

_ROUNDS = 4
_FACTORS = np.exp2(np.linspace(-1, 1, 17))
_MARGIN = 0.1
"""Octaves by which values of other images may be larger than those of the images that were looked at."""


def balance_channels(
    model: keras.Model,
    strategy: Strategy,
    images: Any,
    *,
    n_images: int = 64,
    draws: int = 2,
    bits: tuple[int, int] = (8, 8),
    pow2: bool = True,
    weight_share: float = 0.03,
    steps: int = 2000,
    seed: int = 0,
) -> Any:
    """A model of the same function whose channels suit one scale per tensor; quantize without `include_cle`.

    Meant for weights per tensor, where depthwise layers otherwise collapse. Noise is estimated to second
    order, with squared gradients of classes drawn from the model's own answers; no labels are used.

    Args:
        model: a built Keras classifier, one output of shape (n, classes); it is not changed.
        strategy: a `Strategy`, or the name or path of one: its optimize pipeline runs first, and
            `cle_to_relu6` decides whether channels are also rescaled across ReLU6.
        images: some inputs, as `quantize` takes them.
        n_images: so many of them are looked at.
        draws: classes drawn for each.
        bits: of weights and activations.
        pow2: scales are powers of two: what rounding up to one costs is minimized as well.
        weight_share: how much the noise of weights counts beside that of activations. Below 1, as bias
            correction and training take most of it away again, while that of activations stays.
        steps: of the minimization.
        seed: of the drawn classes.

    Returns:
        A Keras model: batch norm folded, channels rescaled.

    Raises:
        DataError: no images, or numbers out of range.
        ModelError: the model is no classifier with one output, or no two of its layers share channels that
            could be rescaled.

    Source: equalization as Nagel et al. 2019 (arXiv:1906.04721) §4.1; noise by the diagonal of the Fisher
    information as in Theis et al. 2018 (arXiv:1801.05787) §2; scales of channels as something to optimize as
    Finkelstein et al. 2022 (arXiv:2212.02634) §3.
    """
    if n_images < 1 or draws < 1 or steps < 1 or min(bits) < 2 or not weight_share >= 0:
        raise DataError(
            "balance_channels: n_images, draws and steps must be 1 or more, bits 2 or more, weight_share 0 "
            f"or more; got {n_images}, {draws}, {steps}, {bits} and {weight_share}"
        )
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        shapes = [tuple(o.shape) for o in model.outputs]
        raise ModelError(f"balance_channels: expected one output of shape (n, classes), the model has {shapes}")
    wanted = as_strategy(strategy)
    graph = graphs(lower(model), wanted).optimized
    pairs = pairs_of(graph, through_relu6=wanted.optimize.cle_to_relu6)
    if not pairs:
        raise ModelError(
            f"balance_channels: model {model.name!r} has no two convolutions with at most a ReLU between "
            "them; with ReLU6 between them set cle_to_relu6=True"
        )
    seen = _looked_at(
        graph,
        pairs,
        islice(batches(images, batch_size=1), n_images),
        draws,
        seed,
        from_logits=not ends_in_softmax(model),
    )
    terms = _terms(graph, pairs, seen, bits, weight_share)
    for pair, scale in zip(pairs, _minimized(terms, len(pairs), steps, pow2=pow2), strict=True):
        graph = rescaled(graph, pair, scale.astype(np.float32))
    return raise_model(graph)


@dataclass(frozen=True, eq=False)
class _Seen:
    """By pair: largest value and squared gradients of each channel between them; by layer: of its kernel."""

    sizes: list[np.ndarray]
    values: list[np.ndarray]
    kernels: Mapping[str, np.ndarray]


def _looked_at(graph: Graph, pairs: Sequence[Pair], images: Any, draws: int, seed: int, *, from_logits: bool) -> _Seen:
    live = make_all_live(graph)
    names = sorted({name for pair in pairs for name in (pair.head, pair.tail)})
    kernels = [live[name].kernel.value for name in names]
    reader = {node.layer: node.inputs[0] for node in graph.nodes if node.inputs}
    places = {reader[pair.tail]: i for i, pair in enumerate(pairs)}
    noise = tf.random.Generator.from_seed(seed)

    def gradients(inputs: dict[str, Any]) -> Any:
        between: dict[int, Any] = {}

        def note(node: Any, outputs: Any) -> Any:
            between.update({places[v]: y for v, y in zip(node.outputs, outputs, strict=True) if v in places})
            return outputs

        with tf.GradientTape() as tape:
            answer = tf.nest.flatten(replay(graph, live, inputs, note))[0]
            logs = tf.nn.log_softmax(answer) if from_logits else tf.math.log(tf.maximum(answer, 1e-12))
            # Adding Gumbel noise and taking the largest draws a class by its probability.
            uniform = noise.uniform(tf.shape(logs), 1e-12, 1.0)
            drawn = tf.argmax(logs - tf.math.log(-tf.math.log(uniform)), -1)
            loss = tf.reduce_sum(tf.gather(logs, drawn, axis=-1, batch_dims=1))
        values = [between[i] for i in range(len(pairs))]
        slopes = tape.gradient(loss, [*values, *kernels])
        sizes = [tf.reduce_max(tf.abs(v), axis=(0, 1, 2)) for v in values]
        # A zero is on every grid and has no noise.
        squares = [
            tf.reduce_sum(tf.square(tf.where(v == 0, 0.0, g)), axis=(0, 1, 2))
            for v, g in zip(values, slopes[: len(values)], strict=True)
        ]
        return sizes, squares, [tf.square(g) for g in slopes[len(values) :]]

    run = compiled(graph, gradients)
    found = [tf.nest.map_structure(np.asarray, run(x)) for x in images for _ in range(draws)]
    sizes, values, weights = zip(*found, strict=True)
    return _Seen(
        [np.max(a, axis=0) for a in zip(*sizes, strict=True)],
        [np.mean(a, axis=0) for a in zip(*values, strict=True)],
        dict(zip(names, (np.mean(a, axis=0) for a in zip(*weights, strict=True)), strict=True)),
    )


@dataclass(frozen=True, eq=False)
class _Term:
    """The noise of one tensor: shape (channels,), or (inputs, outputs) of a convolution.

    Attributes:
        size: largest magnitude.
        slope: squared gradients, times what the tensor's noise counts.
        levels: codes on either side of zero.
        outputs: pair whose scale multiplies the last axis.
        inputs: pair whose scale divides the first one.
        margin: octaves that the size may be larger.
    """

    size: np.ndarray
    slope: np.ndarray
    levels: float
    outputs: int | None = None
    inputs: int | None = None
    margin: float = 0.0


def _terms(graph: Graph, pairs: Sequence[Pair], seen: _Seen, bits: tuple[int, int], weight_share: float) -> list[_Term]:
    of_weights, of_values = (2.0 ** (b - 1) for b in bits)
    terms = [
        _Term(size, slope, of_values, outputs=i, margin=_MARGIN)
        for i, (size, slope) in enumerate(zip(seen.sizes, seen.values, strict=True))
    ]
    heads, tails = ({getattr(p, of): i for i, p in enumerate(pairs)} for of in ("head", "tail"))
    for name, slope in seen.kernels.items():
        size = np.abs(graph.layers[name].weights[KERNEL])
        # A depthwise kernel is (height, width, channels, 1): channels are inputs and outputs at once.
        axes = (0, 1) if graph.layers[name].kind == "Conv2D" else (0, 1, 3)
        terms.append(
            _Term(size.max(axes), weight_share * slope.sum(axes), of_weights, heads.get(name), tails.get(name))
        )
    return terms


def _noise(term: _Term, logs: Sequence[Any], *, pow2: bool) -> Any:
    """Half the squared gradients times the variance of a rounding error, in the model's own units."""
    factor = tf.ones(term.size.shape)
    if term.outputs is not None:
        factor *= tf.exp(logs[term.outputs])
    if term.inputs is not None:
        inverse = tf.exp(-logs[term.inputs])
        factor *= inverse[:, None] if term.size.ndim == 2 else inverse
    octaves = tf.math.log(tf.maximum(tf.reduce_max(term.size * factor), 1e-30) / term.levels) / np.log(2)
    step = 2.0 ** (tf.math.ceil(octaves + term.margin) if pow2 else octaves)
    return tf.reduce_sum(term.slope / factor**2) * step**2 / 24


def _minimized(terms: Sequence[_Term], n_pairs: int, steps: int, *, pow2: bool) -> list[np.ndarray]:
    """The scale of each pair's channels."""
    logs = [tf.Variable(tf.zeros(len(terms[i].size))) for i in range(n_pairs)]
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.03, steps))
    optimizer.build(logs)

    @tf.function(autograph=False)
    def move() -> None:
        with tf.GradientTape() as tape:
            loss = tf.math.log(tf.add_n([_noise(t, logs, pow2=False) for t in terms]) + 1e-30)
        optimizer.apply(tape.gradient(loss, logs), logs)

    for _ in range(steps):
        move()
    if pow2:
        _fit_octaves(terms, logs)
    return [np.exp(log.numpy()) for log in logs]


def _fit_octaves(terms: Sequence[_Term], logs: Sequence[Any]) -> None:
    """Scale whole tensors against each other, so that few codes are lost on the way up to a power of two."""
    run = tf.function(lambda: tf.add_n([_noise(t, logs, pow2=True) for t in terms]), autograph=False)
    best = float(run())
    for _ in range(_ROUNDS):
        for log in logs:
            start = kept = log.numpy()
            for factor in _FACTORS:
                log.assign(start + np.float32(np.log(factor)))
                if (now := float(run())) < best * (1 - 1e-4):
                    best, kept = now, log.numpy()
            log.assign(kept)
