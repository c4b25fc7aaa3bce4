"""Batch norm that is folded into its layer at every step, so that weights learn as they will be used.

The weights are quantized with the moving statistics folded in, as the deployed model has them; while batch
norm is not frozen, a factor for each channel brings the output to the statistics of the batch.

Source: Krishnamoorthi 2018, Quantizing deep convolutional networks (arXiv:1806.08342) §3.2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_io import compiled, replay
from vqkit.graph.keras_layers import weight_names
from vqkit.graph.passes.simplify import KERNEL
from vqkit.qat.layers import QuantizedWeights

BIAS = "bias"


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a batch norm behind a convolution without bias would have seen.

    Attributes:
        mean: of each channel, shape (channels,).
        variance: likewise.
        config: of the user's batch norm layer.
    """

    mean: np.ndarray
    variance: np.ndarray
    config: Mapping[str, Any]


def measured(
    graph: Graph, live: Mapping[str, Any], batches: Iterable[Any], norms: Mapping[str, Mapping[str, Any]]
) -> dict[str, Statistics]:
    """Statistics of the layers whose batch norm was folded away.

    Measured rather than computed back from the user's: what came after folding (equalization, corrections)
    has changed them.

    Args:
        graph: with fake-quantize layers inserted.
        live: live objects of the quantized graph.
        batches: model inputs.
        norms: layer name -> configuration of the batch norm that was folded into it.
    """

    def step(inputs: Mapping[str, Any]) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def look(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if node.layer in norms:
                axes = list(range(outputs[0].shape.rank - 1))
                seen[node.layer] = tf.stack(tf.nn.moments(outputs[0], axes))
            return outputs

        replay(graph, live, inputs, look)
        return seen

    run = compiled(graph, step)
    found = [run(batch) for batch in batches]
    means = {name: np.mean([f[name].numpy() for f in found], axis=0) for name in norms}
    return {name: Statistics(m[0] - live[name].bias.numpy(), m[1], norms[name]) for name, m in means.items()}


@keras.saving.register_keras_serializable(package="vqkit")
class FoldedBatchNorm(QuantizedWeights):
    """A convolution or dense layer with its batch norm, quantized as the one layer they will be.

    Args:
        layer: the inner layer, without bias.
        quantizers: of the folded "kernel" and "bias".
        channels: outputs of the layer.
        epsilon: of the batch norm.
        momentum: of its moving statistics.
        freeze_delay: training steps after which the moving statistics are used and stay; -1 for never.
        kwargs: as of a Keras layer.
    """

    def __init__(
        self,
        layer: Any,
        quantizers: Mapping[str, Any],
        channels: int,
        epsilon: float = 1e-3,
        momentum: float = 0.99,
        freeze_delay: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, quantizers, **kwargs)
        self.channels, self.epsilon, self.momentum = channels, epsilon, momentum
        self.freeze_delay = freeze_delay
        self.built = False
        self.gamma, self.beta = self._vector("gamma", trainable=True), self._vector("beta", trainable=True)
        self.moving_mean, self.moving_variance = self._vector("moving_mean"), self._vector("moving_variance")
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps", dtype="int32")
        self.built = True

    def _vector(self, name: str, *, trainable: bool = False) -> Any:
        return self.add_weight(
            shape=(self.channels,), initializer="ones", trainable=trainable, name=name, dtype="float32"
        )

    def assign(self, statistics: Statistics, bias: np.ndarray) -> None:
        """Start as the folded layer: a factor of one, and its bias.

        Args:
            statistics: of the inner layer's outputs.
            bias: of the folded layer, shape (channels,).
        """
        self.moving_mean.assign(statistics.mean)
        self.moving_variance.assign(statistics.variance)
        self.gamma.assign(self._root(self.moving_variance.value))
        self.beta.assign(bias + statistics.mean)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The layer with batch norm folded in and quantized, on the statistics that count now."""
        kernel = self._kernel
        folded = self._quantize(KERNEL, self._folded(kernel.value))
        outputs = self.call_with([(kernel, folded)], inputs)
        mean, variance = self.moving_mean.value, self.moving_variance.value
        if training:
            plain = self.call_with([(kernel, kernel.value)], inputs)
            mean, variance = self._statistics(plain)
            outputs *= self._root(self.moving_variance.value) / self._root(variance)
            self._remember(mean, variance)
        return outputs + self._quantize(BIAS, self._bias(mean, variance))

    def folded_weights(self) -> dict[str, np.ndarray]:
        """Kernel and bias of the one layer that it will be."""
        kernel = self._kernel
        bias = self._bias(self.moving_mean.value, self.moving_variance.value)
        return {KERNEL: np.array(self._folded(kernel.value)), BIAS: np.array(bias)}

    @property
    def _kernel(self) -> Any:
        return dict(zip(weight_names(self.layer), self.layer.weights, strict=True))[KERNEL]

    def _folded(self, kernel: Any) -> Any:
        factor = self.gamma.value / self._root(self.moving_variance.value)
        kind = type(self.layer).__name__
        if kind == "DepthwiseConv2D":
            return kernel * tf.reshape(factor, kernel.shape[2:])
        return kernel * (factor[:, None] if kind == "Conv2DTranspose" else factor)

    def _bias(self, mean: Any, variance: Any) -> Any:
        return self.beta.value - mean * (self.gamma.value / self._root(variance))

    def _root(self, variance: Any) -> Any:
        return tf.sqrt(variance + self.epsilon)

    def _quantize(self, name: str, value: Any) -> Any:
        return self.quantizers[self.names.index(name)](value) if name in self.names else value

    def _frozen(self) -> Any:
        return tf.logical_and(self.freeze_delay >= 0, self.steps.value >= self.freeze_delay)

    def _statistics(self, outputs: Any) -> tuple[Any, Any]:
        found = tf.nn.moments(outputs, list(range(outputs.shape.rank - 1)))
        moving = (self.moving_mean.value, self.moving_variance.value)
        return tuple(tf.where(self._frozen(), old, new) for old, new in zip(moving, found, strict=True))

    def _remember(self, mean: Any, variance: Any) -> None:
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            # Frozen, `now` is the moving value itself.
            moving.assign(moving.value * self.momentum + tf.stop_gradient(now) * (1 - self.momentum))
        self.steps.assign(self.steps.value + 1)

    def get_config(self) -> dict[str, Any]:
        """With what the batch norm says."""
        own = {
            "channels": self.channels,
            "epsilon": self.epsilon,
            "momentum": self.momentum,
            "freeze_delay": self.freeze_delay,
        }
        return {**super().get_config(), **own}
