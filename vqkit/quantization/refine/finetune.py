"""Fast finetuning and AdaRound.

Fast finetuning: train each quantized layer's weights until it gives the float layer's output again.

One layer after the other, in graph order, without labels: kernel and bias of a quantized layer are trained
against the mean squared error between its output (after its activation and its output quantizer) and the
float layer's. Ranges and positions stay as calibration and refinement decided them.

A layer is fed what the *quantized* model in front of it computes, so it learns to undo part of the errors
that reach it as well as its own; fed with float values (as the reference does, and `vitis_compat`) it would
be tuned for inputs that it never gets.

Learning rates are in the layer's own units: a share of the weight's grid step, and for the bias a share of
the error there is to remove. An epoch that does not improve the error is undone and the rates are halved. The
reference's fixed rates (1e-5 and 1e-3, `vitis_compat`, which also stops at the first such epoch) leave most
weights on the grid point where they were.

Source: Hubara et al. 2020, Improving Post Training Neural Quantization (arXiv:2006.10518) §3.1; Adam, and the
rates and the stop of `vitis_compat`, follow the behaviour of the Vitis quantizer 2.5.

AdaRound: decide for each weight whether it rounds up or down, so that the layer's output changes least.

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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_layers import assign_weights
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.primitives.qparams import QParams
from vqkit.quantization.plan import Plan, QuantizedRow, Role
from vqkit.quantization.prepare import passing_through, rounding_rows
from vqkit.quantization.refine.layerwise import (
    Block,
    Task,
    Trainer,
    Trainers,
    Weights,
    adam,
    find_blocks,
    walk,
)
from vqkit.quantization.solve import Encodings

STEP_SHARE, ERROR_SHARE = 0.03, 0.05
REFERENCE_WEIGHT_RATE, REFERENCE_BIAS_RATE = 1e-5, 1e-3
BIAS = "bias"
KEY = "include_fast_ft"


@dataclass(frozen=True)
class Tuned:
    """What finetuning did to a layer.

    Attributes:
        layer: its name.
        before: mean squared error of its output over the calibration samples.
        after: the same with the weights that were kept; never more.
        epochs: the last epoch that improved them; 0 where none did.
        key: of the refine pipeline, that asked for it.
    """

    layer: str
    before: float
    after: float
    epochs: int
    key: str = KEY

    def __str__(self) -> str:
        how = f" in {self.epochs} epochs" if self.key == KEY else ""
        return f"{self.key}: {self.layer} output error {self.before:.4g} -> {self.after:.4g}{how}"


@dataclass(eq=False)
class Finetuned:
    """The outcome.

    Attributes:
        graph: the given graph with trained float weights.
        layers: what was done to each layer, in graph order.
        left: a line for each layer that could not be tuned.
        traces: how many training steps were compiled, one for each kind of layer.
        key: of the refine pipeline, that asked for it.
    """

    graph: Graph
    layers: list[Tuned] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    traces: int = 0
    key: str = KEY

    @property
    def report(self) -> list[str]:
        """One line for each layer."""
        return [*map(str, self.layers), *(f"{self.key}: {line}" for line in self.left)]


def finetune(
    graph: Graph,
    rows: Mapping[str, QuantizedRow],
    plan: Plan,
    encodings: Encodings,
    live: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    epochs: int = 10,
    vitis_compat: bool = False,
) -> Finetuned:
    """Train every layer that has quantized weights.

    Cost: one pass of the data through the whole graph, and for each layer `epochs` + 1 evaluations and
    `epochs` training passes through that layer alone. Memory: see `blocks.walk`.

    Args:
        graph: float weights, with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.
        encodings: the decisions for weights and values; they stay.
        live: live objects of the quantized model, decisions applied; trained weights are assigned to them.
        batches: calibration inputs, readable twice.
        epochs: so many for each layer.
        vitis_compat: float inputs, the reference's rates, and stop at the first epoch without improvement.

    Returns:
        The trained weights, before they are quantized, and an account.
    """
    blocks, left = find_blocks(graph, rows, plan)
    result, trainers = Finetuned(graph.copy(), left=left), Trainers(live, encodings)

    def tune(block: Block, inputs: list[Any], targets: list[Any]) -> None:
        pairs = list(zip(inputs, targets, strict=True))
        layer = graph.layers[block.layer]
        task = trainers.task(block, {k: layer.weights[k] for k in _trained(block)}, pairs)
        rates = _reference_rates(block) if vitis_compat else _rates(block, encodings, task)
        state, account = _train(block.layer, task, rates, epochs, stop_early=vitis_compat)
        layer = layer.with_(weights={**layer.weights, **{k: w.numpy() for k, w in state[0].items()}})
        result.graph.layers[block.layer] = layer
        result.layers.append(account)
        assign_weights(live[block.layer], on_grid(layer, block, encodings))

    floats = passing_through(make_all_live(graph), rows, rounding_rows(graph, plan))
    walk(graph, (floats, live), batches, blocks, tune, float_inputs=vitis_compat)
    result.traces = trainers.count
    return result


def _trained(block: Block) -> list[str]:
    """Quantized variables, and the bias in any case."""
    return [k for k in block.graph.layers[block.layer].weights if k in block.weights or k == BIAS]


def _is_bias(block: Block, name: str) -> bool:
    return name == BIAS or block.weights[name].role is Role.BIAS


def _reference_rates(block: Block) -> Weights:
    import tensorflow as tf

    rates = {True: REFERENCE_BIAS_RATE, False: REFERENCE_WEIGHT_RATE}
    return {name: tf.constant(rates[_is_bias(block, name)]) for name in _trained(block)}


def _rates(block: Block, encodings: Encodings, task: Task) -> Weights:
    """A share of each channel's grid step for weights, a share of the output's error for biases."""
    import tensorflow as tf

    error = float(np.sqrt(task.error(task.start())))
    return {
        name: tf.constant(
            ERROR_SHARE * error if _is_bias(block, name) else STEP_SHARE * encodings[block.weights[name].name].scale,
            tf.float32,
        )
        for name in _trained(block)
    }


def _train(layer: str, task: Task, rates: Weights, epochs: int, *, stop_early: bool) -> tuple[Any, Tuned]:
    state = best = task.start()
    kept, before = 0, task.error(state)
    lowest = before
    for epoch in range(1, epochs + 1):
        state = task.epoch(state, rates)
        error = task.error(state)
        if error < lowest:
            kept, best, lowest = epoch, state, error
        elif stop_early:
            break
        else:
            state, rates = best, {name: rate / 2 for name, rate in rates.items()}
    return best, Tuned(layer, before, lowest, kept)


def on_grid(layer: Layer, block: Block, encodings: Encodings) -> dict[str, np.ndarray]:
    """A layer's weights by name, those with a quantizer quantized."""
    return {
        name: fake_quantize_numpy(w, encodings[block.weights[name].name]) if name in block.weights else w
        for name, w in layer.weights.items()
    }


RATE, PENALTY = 1e-2, 1.0
SHARPNESS, FREE_SHARE = (20.0, 2.0), 0.2
ADAROUND_KEY = "include_adaround"
_LOW, _HIGH = -0.1, 1.1
_SCHEDULE = ""


def round_adaptively(
    graph: Graph,
    rows: Mapping[str, QuantizedRow],
    plan: Plan,
    encodings: Encodings,
    live: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    weights: Graph | None = None,
    steps: int = 1000,
) -> Finetuned:
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
    result = Finetuned(given.copy(), left=left, key=ADAROUND_KEY)
    trainers = Trainers(live, encodings, Rounder)

    def tune(block: Block, inputs: list[Any], targets: list[Any]) -> None:
        layer = given.layers[block.layer]
        cells = {n: Cells(layer.weights[n], encodings[block.weights[n].name]) for n in _kernels(block)}
        pairs = list(zip(inputs, targets, strict=True))
        task = trainers.task(block, {n: c.start() for n, c in cells.items()}, pairs)
        between = {n: (c.low, c.width) for n, c in cells.items()}
        task = replace(task, fixed=(between, task.fixed[1]))
        before = task.error(({n: c.nearest() for n, c in cells.items()},))
        found = _train_rounding(task, before, steps)
        after = task.error((found,))
        if after < before:
            rounded = {n: c.weights(found[n]) for n, c in cells.items()}
            layer = layer.with_(weights={**layer.weights, **rounded})
        result.graph.layers[block.layer] = layer
        result.layers.append(Tuned(block.layer, before, min(before, after), int(after < before), ADAROUND_KEY))
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
        self._weight, self._near = weight, fake_quantize_numpy(weight, params)
        other = fake_quantize_numpy(self._near + np.sign(weight - self._near) * params.scale, params)
        self.low = np.minimum(self._near, other)
        self.width = np.maximum(self._near, other) - self.low

    def start(self) -> np.ndarray:
        """The trained numbers at which each weight has its float value."""
        share = np.divide(self._weight - self.low, self.width, where=self.width > 0, out=np.zeros_like(self.low))
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


def _train_rounding(task: Task, scale: float, steps: int) -> dict[str, np.ndarray]:
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
