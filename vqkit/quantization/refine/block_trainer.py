"""Training of one unit of a graph: which way each weight rounds, biases, and the steps of activations.

Each weight stands between two points of its grid, and what is trained says which of them it takes; the forward
pass takes it, the gradient passes straight through (Bengio et al. 2013, arXiv:1308.3432). That the choice between
these two points is worth training: Nagel et al. 2020, Up or Down? (AdaRound, arXiv:2004.10568).

Steps of activations are trained by what they do to the output: Esser et al. 2020, Learned Step Size Quantization
(LSQ, arXiv:1902.08153). A step is a factor on the calibrated one, so that the code of zero stays.

Activation quantization is dropped at random, value by value: Wei et al. 2022, QDrop (arXiv:2203.05740).

A weight that rounds the other way shifts its channel's mean by as much as its input's mean: the bias takes that
back at once, so that what is trained is the rounding of deviations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.graph.execute import Partition
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import replay
from vqkit.graph.keras_layers import variables
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.primitives.qparams import QParams
from vqkit.quantization.refine.layerwise import adam

BIAS = "bias"
Arrays = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Cell:
    """For each number of a weight the two points of its grid between which it lies.

    Attributes:
        low: the lower point.
        width: distance of the upper one; 0 at the ends of the grid.
        near: the nearest of them.
    """

    low: np.ndarray
    width: np.ndarray
    near: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, params: QParams) -> Cell:
        """The points around a weight.

        Args:
            weight: float32, any shape.
            params: the decision about its grid, of any kind.
        """
        near = fake_quantize_numpy(weight, params)
        other = fake_quantize_numpy(near + np.sign(weight - near) * params.scale, params)
        low = np.minimum(near, other)
        return cls(low, np.maximum(near, other) - low, near)

    def start(self, weight: np.ndarray) -> np.ndarray:
        """Where each number stands between its points, from 0 to 1."""
        share = np.divide(weight - self.low, self.width, where=self.width > 0, out=np.zeros_like(self.low))
        return np.clip(share, 0, 1).astype(np.float32)

    def rounded(self, weight: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The weight; a number that does not take the nearest point is replaced by the one that it takes."""
        taken = self.low + self.width * np.rint(np.clip(share, 0, 1))
        return np.where(taken == self.near, weight, taken).astype(np.float32)


def grid(params: QParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step of a value's grid, and its first and last code counted from that of zero.

    Args:
        params: the decision.

    Returns:
        float32 arrays in the range's shape.
    """
    zero = params.zero_point
    return params.scale, np.float32(params.spec.q_min) - zero, np.float32(params.spec.q_max) - zero


def rounded(x: Any) -> Any:
    """The nearest integers; the gradient passes straight through."""
    import tensorflow as tf

    return x + tf.stop_gradient(tf.round(x) - x)


@dataclass(frozen=True, eq=False)
class Loss:
    """What a unit's outputs are judged by: squared errors with weights, or a divergence of class scores.

    Attributes:
        weights: value id -> weight of each element, broadcasting; all alike where absent.
        scores: ids of values that are scores in front of a softmax; these are judged by the Kullback-Leibler
            divergence of their probabilities.
    """

    weights: Mapping[int, Any]
    scores: frozenset[int] = frozenset()

    def __call__(self, ids: Sequence[int], outputs: Sequence[Any], targets: Sequence[Any]) -> Any:
        """The mean over samples, a tensor of shape ()."""
        import tensorflow as tf

        return tf.add_n([self._of(v, q, f) for v, q, f in zip(ids, outputs, targets, strict=True)])

    def _of(self, value: int, output: Any, target: Any) -> Any:
        import tensorflow as tf

        if value in self.scores:
            teacher, student = tf.nn.log_softmax(target), tf.nn.log_softmax(output)
            return tf.reduce_mean(tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1))
        return tf.reduce_mean(tf.square(output - target) * self.weights.get(value, 1.0))


class UnitTrainer:
    """The compiled functions of one unit.

    Args:
        graph: the whole.
        unit: the part of it.
        live: layer name -> live object of the quantized graph.
        weights: "layer/variable" -> shape of each weight whose rounding is trained.
        biases: "layer/bias" of each bias that is trained.
        quantizers: fake-quantize layers in the unit.
        loss: judges the outputs.
        drop: probability with which a value stays as it is before quantization.
    """

    def __init__(
        self,
        graph: Graph,
        unit: Partition,
        live: Mapping[str, Any],
        weights: Iterable[str],
        biases: Iterable[str],
        quantizers: Iterable[str],
        loss: Loss,
        drop: float,
    ) -> None:
        self._graph, self._unit, self._live = graph, unit, live
        self._inside = unit.graph
        self._weights, self._biases, self._quantizers = list(weights), list(biases), list(quantizers)
        self._loss, self._drop = loss, drop
        self._compiled: dict[str, Any] = {}

    def run(self, name: str, *args: Any) -> Any:
        """Call "step", "error" or "means", compiled on first use for any number of samples, which lists hold."""
        import tensorflow as tf

        if name not in self._compiled:
            function = {"step": self._step, "error": self._error, "means": self._means}[name]
            traced = tf.function(function, input_signature=[_signature(a) for a in args], autograph=False)
            self._compiled[name] = traced.get_concrete_function()
        return self._compiled[name](*args)

    def _forward(self, trained: Arrays, fixed: Any, inputs: Sequence[Any], seed: Any) -> Any:
        """The unit's outputs; activation quantization is dropped where there is a seed."""
        import keras

        mapping = []
        for name, value in effective(self._graph, self._weights, self._biases, trained, fixed).items():
            layer, _, variable = name.partition("/")
            found = variables(self._live[layer], self._graph.layers[layer].weights)
            mapping.append((found[variable], value))
        quantizers = {
            fq: self._quantizer(trained.get(fq), fixed[1][fq], None if seed is None else seed + np.array([0, i]))
            for i, fq in enumerate(self._quantizers)
        }
        with keras.StatelessScope(state_mapping=mapping):
            return replay(self._inside, {**self._live, **quantizers}, self._named(inputs))

    def _named(self, inputs: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self._inside.inputs, inputs, strict=True))

    def _quantizer(self, log_factor: Any, numbers: Any, seed: Any) -> Any:
        import tensorflow as tf

        step, low, high = numbers

        def quantize(x: Any) -> Any:
            size = step if log_factor is None else step * tf.exp(log_factor)
            made = size * rounded(tf.clip_by_value(tf.math.divide_no_nan(x, size), low, high))
            return made if seed is None or not self._drop else _mixed(made, x, self._drop, seed)

        return quantize

    def _error(self, trained: Arrays, fixed: Any, inputs: Any, targets: Any) -> Any:
        return self._loss(self._unit.writes, self._forward(trained, fixed, inputs, None), targets)

    def _step(
        self, state: Any, rates: Any, fixed: Any, scale: Any, inputs: Any, floats: Any, targets: Any, seed: Any
    ) -> Any:
        import tensorflow as tf

        trained, *moments = state
        if self._drop:
            pairs = enumerate(zip(inputs, floats, strict=True))
            inputs = [_mixed(q, f, self._drop, seed + np.array([1, i])) for i, (q, f) in pairs]
        with tf.GradientTape() as tape:
            tape.watch(trained)
            outputs = self._forward(trained, fixed, inputs, seed)
            error = self._loss(self._unit.writes, outputs, targets) / scale
        return adam(trained, tape.gradient(error, trained, unconnected_gradients="zero"), moments, rates)

    def _means(self, inputs: Any) -> Any:
        """Mean input per channel of each layer whose bias can take it."""
        import tensorflow as tf

        able = {n.partition("/")[0] for n in self._biases} & {n.partition("/")[0] for n in self._weights}
        values, found = dict(zip(self._unit.reads, inputs, strict=True)), {}

        def look(node: Any, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
            values.update(zip(node.outputs, outputs, strict=True))
            if node.layer in able and _plain(self._graph, node.layer):
                x = values[node.inputs[0]]
                found[node.layer] = tf.reduce_mean(x, axis=list(range(x.shape.rank - 1)))
            return outputs

        replay(self._inside, self._live, self._named(inputs), look)
        return found


def _signature(argument: Any) -> Any:
    import tensorflow as tf

    if isinstance(argument, list):
        return [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in argument]
    return tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), argument)


def _plain(graph: Graph, name: str) -> bool:
    """Whether the sum of a layer's kernel over its places, times the input's mean, is the output's mean."""
    layer = graph.layers[name]
    grouped = layer.config.get("groups", 1) != 1
    return layer.kind in ("Conv1D", "Conv2D", "Dense", "DepthwiseConv2D") and not grouped


def _mixed(rounded_values: Any, floats: Any, drop: float, seed: Any) -> Any:
    import tensorflow as tf

    return tf.where(tf.random.stateless_uniform(tf.shape(floats), seed) < drop, floats, rounded_values)


def effective(graph: Graph, weights: Iterable[str], biases: Iterable[str], trained: Arrays, fixed: Any) -> Arrays:
    """The weights and biases that trained numbers stand for.

    Args:
        graph: the layers.
        weights: "layer/variable" of each weight whose rounding is trained.
        biases: "layer/bias" of each bias that is trained.
        trained: "layer/variable" -> share of each weight, bias without what its weights shift it by.
        fixed: (cells, grids, means): name -> (low, width, near); fake-quantize layer -> `grid`; layer -> mean of
            its input per channel.

    Returns:
        "layer/variable" -> tensor.
    """
    import tensorflow as tf

    cells, _, means = fixed
    found, shifts = {}, {}
    for name in weights:
        low, width, near = cells[name]
        found[name] = low + width * rounded(tf.clip_by_value(trained[name], 0.0, 1.0))
        layer = name.partition("/")[0]
        if layer in means:
            moved = tf.reduce_sum(found[name] - near, axis=list(range(len(near.shape) - 2)))
            shift = moved * tf.convert_to_tensor(means[layer])[:, None]
            depthwise = graph.layers[layer].kind == "DepthwiseConv2D"
            shifts[layer] = tf.reshape(shift, [-1]) if depthwise else tf.reduce_sum(shift, axis=0)
    return found | {name: trained[name] - shifts.get(name.partition("/")[0], 0.0) for name in biases}
