"""AdaRound: decide for each weight whether it rounds up or down, so that the layer's output changes least.

Rounding to the nearest code is best for one weight alone; together, weights can cancel each other's errors.
One layer after the other, in graph order and without labels, a number is trained for each weight that says
by how much it is rounded up, from 0 to 1; a growing penalty drives it to one of the ends. Ranges, positions
and biases stay.

As in fast finetuning a layer is fed what the quantized model in front of it computes, and a layer that
would not get better is left as it is.

Source: Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization (arXiv:2004.10568)
§3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vqkit.flow.blocks import Block, find_blocks, walk
from vqkit.flow.finetune import Finetuned, Tuned, on_grid
from vqkit.flow.instrument import passing_through, rounding_rows
from vqkit.flow.plan import Plan, Role, Row
from vqkit.flow.solve import Encodings
from vqkit.flow.trainer import Task, Trainer, Trainers, Weights, adam
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import make_all_live
from vqkit.graph.variables import assign_weights
from vqkit.primitives import ops
from vqkit.primitives.qparams import QParams

RATE, PENALTY = 1e-2, 1.0
SHARPNESS, FREE_SHARE = (20.0, 2.0), 0.2
KEY = "include_adaround"
_LOW, _HIGH = -0.1, 1.1
_SCHEDULE = ""


def round_adaptively(graph: Graph, rows: Mapping[str, Row], plan: Plan, encodings: Encodings,
                     live: Mapping[str, Any], batches: Iterable[Any], *, weights: Graph | None = None,
                     steps: int = 1000) -> Finetuned:  # fmt: skip
    """Choose the rounding of every quantized kernel.

    Args:
        graph: float weights, with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.
        encodings: the decisions for weights and values; they stay.
        live: live objects of the quantized model, decisions applied; rounded weights are assigned to them.
        batches: calibration inputs, readable twice.
        weights: the graph with the weights that `live` was quantized from, where they are no longer the
            float model's.
        steps: training steps for each layer.

    Returns:
        The weights: one that rounds to another code than its nearest stands on that code. And an account.
    """
    given = weights or graph
    blocks, left = find_blocks(graph, rows, plan)
    result = Finetuned(given.copy(), left=left, key=KEY)
    trainers = Trainers(live, encodings, Rounder)

    def tune(block: Block, inputs: list[Any], targets: list[Any]) -> None:
        layer = given.layers[block.layer]
        cells = {n: Cells(layer.weights[n], encodings[block.weights[n].name]) for n in _kernels(block)}
        pairs = list(zip(inputs, targets, strict=True))
        task = trainers.task(block, {n: c.start() for n, c in cells.items()}, pairs)
        between = {n: (c.low, c.width) for n, c in cells.items()}
        task = replace(task, fixed=(between, task.fixed[1]))
        before = task.error(({n: c.nearest() for n, c in cells.items()},))
        found = _train(task, before, steps)
        after = task.error((found,))
        if after < before:
            rounded = {n: c.weights(found[n]) for n, c in cells.items()}
            layer = layer.with_(weights={**layer.weights, **rounded})
        result.graph.layers[block.layer] = layer
        result.layers.append(Tuned(block.layer, before, min(before, after), int(after < before), KEY))
        assign_weights(live[block.layer], on_grid(layer, block, encodings))

    floats = passing_through(make_all_live(graph), rows, rounding_rows(graph, plan))
    walk(graph, (floats, live), batches, [b for b in blocks if _kernels(b)], tune)
    result.traces = trainers.count
    return result


def _kernels(block: Block) -> list[str]:
    return [name for name, row in block.weights.items() if row.role is Role.WEIGHT]


class Cells:
    """For each weight the two points of its grid between which it lies.

    Args:
        weight: float32, any shape.
        params: the decision about its grid, of any kind.

    Attributes:
        low: the lower of the two points.
        width: distance of the upper one; 0 at the ends of the grid.
    """

    def __init__(self, weight: np.ndarray, params: QParams) -> None:
        self._weight, self._near = weight, ops.fake_quantize_numpy(weight, params)
        other = ops.fake_quantize_numpy(self._near + np.sign(weight - self._near) * params.scale, params)
        self.low = np.minimum(self._near, other)
        self.width = np.maximum(self._near, other) - self.low

    def start(self) -> np.ndarray:
        """The trained numbers at which each weight has its float value."""
        share = np.divide(
            self._weight - self.low, self.width, where=self.width > 0, out=np.zeros_like(self.low)
        )
        stretched = (np.clip(share, 0, 1) - _LOW) / (_HIGH - _LOW)
        return np.log(stretched / (1 - stretched)).astype(np.float32)

    def nearest(self) -> np.ndarray:
        """The trained numbers at which each weight rounds to its nearest point."""
        return _decided(self._near > self.low)

    def weights(self, trained: np.ndarray) -> np.ndarray:
        """The float weights, those that round the other way replaced by the point they round to."""
        chosen = np.where(trained > 0, self.low + self.width, self.low)
        return np.where(chosen == self._near, self._weight, chosen).astype(np.float32)


def _decided(up: np.ndarray) -> np.ndarray:
    return np.where(up, 10.0, -10.0).astype(np.float32)


def _train(task: Task, scale: float, steps: int) -> dict[str, np.ndarray]:
    import tensorflow as tf

    state, rates = task.start(), {name: tf.constant(RATE) for name in task.weights}
    between, others = task.fixed
    for step in range(steps):
        x, y = task.pairs[step % len(task.pairs)]
        schedule = tuple(tf.constant(v, tf.float32) for v in (scale, *_schedule(step / steps)))
        fixed = ({**between, _SCHEDULE: schedule}, others)
        state = task.trainer.run("step", state, rates, fixed, x, y)
    return {name: _decided(v.numpy() > 0) for name, v in state[0].items()}


def _schedule(done: float) -> tuple[float, float]:
    """Sharpness and weight of the penalty, by the share of the training that is done."""
    if done < FREE_SHARE:
        return SHARPNESS[0], 0.0
    left = 1 - (done - FREE_SHARE) / (1 - FREE_SHARE)
    return SHARPNESS[1] + (SHARPNESS[0] - SHARPNESS[1]) * left, PENALTY


class Rounder(Trainer):
    """A trainer of roundings: what it trains stands between two points of the grid."""

    def _on_grid(self, name: str, weight: Any, ranges: Any) -> Any:
        low, width = ranges[name]
        return low + _share(weight) * width

    def _step(self, state: Any, rates: Weights, fixed: Any, x: Any, y: Any) -> Any:
        import tensorflow as tf

        weights, *moments = state
        scale, sharpness, weight = fixed[0][_SCHEDULE]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            undecided = [1 - tf.abs(2 * _share(v) - 1) ** sharpness for v in weights.values()]
            penalty = tf.add_n([tf.reduce_mean(u) for u in undecided])
            error = tf.math.divide_no_nan(self._error(weights, fixed, x, y), scale) + weight * penalty
        return adam(weights, tape.gradient(error, weights), moments, rates)


def _share(trained: Any) -> Any:
    """By how much a weight is rounded up: a sigmoid that reaches 0 and 1."""
    import tensorflow as tf

    return tf.clip_by_value(tf.sigmoid(trained) * (_HIGH - _LOW) + _LOW, 0.0, 1.0)
