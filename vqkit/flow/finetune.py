"""Fast finetuning: train each quantized layer's weights until it gives the float layer's output again.

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
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vqkit.flow.blocks import Block, find_blocks, walk
from vqkit.flow.instrument import passing_through, rounding_rows
from vqkit.flow.plan import Plan, Role, Row
from vqkit.flow.solve import Encodings
from vqkit.flow.trainer import Task, Trainers, Weights
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import make_all_live
from vqkit.graph.variables import assign_weights
from vqkit.primitives import ops

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


def finetune(graph: Graph, rows: Mapping[str, Row], plan: Plan, encodings: Encodings,
             live: Mapping[str, Any], batches: Iterable[Any], *, epochs: int = 10,
             vitis_compat: bool = False) -> Finetuned:  # fmt: skip
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
            ERROR_SHARE * error
            if _is_bias(block, name)
            else STEP_SHARE * encodings[block.weights[name].name].scale,
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
        name: ops.fake_quantize_numpy(w, encodings[block.weights[name].name]) if name in block.weights else w
        for name, w in layer.weights.items()
    }
