"""Fast finetuning: train each quantized layer's weights until it gives the float layer's output again.

One layer after the other, in graph order, without labels: kernel and bias of a quantized layer are trained
against the mean squared error between its output (after its activation and its output quantizer) and the
float layer's. Ranges and positions stay as calibration and refinement decided them.

A layer is fed what the *quantized* model in front of it computes, so it learns to undo part of the errors
that reach it as well as its own; fed with float values (as the reference does, and `vitis_compat`) it would
be tuned for inputs that it never gets.

Source: Hubara et al. 2020, Improving Post Training Neural Quantization (arXiv:2006.10518) §3.1; learning
rates and the rule for stopping follow the behaviour of the Vitis quantizer 2.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vqkit.flow.blocks import Block, find_blocks, walk
from vqkit.flow.plan import Plan, Role, Row
from vqkit.flow.solve import Encodings
from vqkit.flow.trainer import Pairs, Trainers, Weights
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import make_all_live
from vqkit.graph.variables import assign_weights
from vqkit.primitives import ops

WEIGHT_RATE, BIAS_RATE = 1e-5, 1e-3
BIAS = "bias"


@dataclass(frozen=True)
class Tuned:
    """What finetuning did to a layer.

    Attributes:
        layer: its name.
        before: mean squared error of its output over the calibration samples.
        after: the same with the weights that were kept; never more.
        epochs: how many epochs they were trained.
    """

    layer: str
    before: float
    after: float
    epochs: int

    def __str__(self) -> str:
        return (
            f"include_fast_ft: {self.layer} output error {self.before:.4g} -> {self.after:.4g} "
            f"in {self.epochs} epochs"
        )


@dataclass(eq=False)
class Finetuned:
    """The outcome.

    Attributes:
        graph: the given graph with trained float weights.
        layers: what was done to each layer, in graph order.
        left: a line for each layer that could not be tuned.
        traces: how many training steps were compiled, one for each kind of layer.
    """

    graph: Graph
    layers: list[Tuned] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    traces: int = 0

    @property
    def report(self) -> list[str]:
        """One line for each layer."""
        return [*map(str, self.layers), *(f"include_fast_ft: {line}" for line in self.left)]


def finetune(graph: Graph, rows: Mapping[str, Row], plan: Plan, encodings: Encodings,
             live: Mapping[str, Any], batches: Iterable[Any], *, epochs: int = 10,
             float_inputs: bool = False) -> Finetuned:  # fmt: skip
    """Train every layer that has quantized weights.

    Cost: one pass of the data through the whole graph, and for each layer at most `epochs` + 1 evaluations
    and `epochs` training passes through that layer alone. Memory: see `blocks.walk`.

    Args:
        graph: float weights, with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.
        encodings: the decisions for weights and values; they stay.
        live: live objects of the quantized model, decisions applied; trained weights are assigned to them.
        batches: calibration inputs, readable twice.
        epochs: at most so many for each layer; the first that does not improve the error is the last.
        float_inputs: feed each layer what the float model computes.

    Returns:
        The trained weights, before they are quantized, and an account.
    """
    blocks, left = find_blocks(graph, rows, plan)
    result, trainers = Finetuned(graph.copy(), left=left), Trainers(live, encodings)

    def tune(block: Block, inputs: list[Any], targets: list[Any]) -> None:
        pairs = list(zip(inputs, targets, strict=True))
        trained, account = _train(block, trainers, pairs, epochs)
        layer = graph.layers[block.layer]
        layer = layer.with_(weights={**layer.weights, **trained})
        result.graph.layers[block.layer] = layer
        result.layers.append(account)
        assign_weights(live[block.layer], _on_grid(layer, block, encodings))

    sides = ({**make_all_live(graph), **dict.fromkeys(rows, _identity)}, live)
    walk(graph, sides, batches, blocks, tune, float_inputs=float_inputs)
    result.traces = trainers.count
    return result


def _identity(x: Any) -> Any:
    return x


def _train(block: Block, trainers: Trainers, pairs: Pairs, epochs: int) -> tuple[Weights, Tuned]:
    rates = _rates(block)
    weights = {name: block.graph.layers[block.layer].weights[name] for name in rates}
    trainer, fixed = trainers.of(block, weights, rates), trainers.fixed(block, weights)
    state = trainer.start(weights)
    best, kept = state[0], 0
    before = lowest = trainer.error(best, fixed, pairs)
    for epoch in range(1, epochs + 1):
        state = trainer.epoch(state, fixed, pairs)
        error = trainer.error(state[0], fixed, pairs)
        if not error < lowest:
            break
        best, lowest, kept = state[0], error, epoch
    trained = {name: w.numpy() for name, w in best.items()}
    return trained, Tuned(block.layer, before, lowest, kept)


def _rates(block: Block) -> dict[str, float]:
    """Learning rate of each variable that is trained: quantized ones, and the bias in any case."""
    found = {}
    for name in block.graph.layers[block.layer].weights:
        row = block.weights.get(name)
        if name == BIAS or (row is not None and row.role is Role.BIAS):
            found[name] = BIAS_RATE
        elif row is not None:
            found[name] = WEIGHT_RATE
    return found


def _on_grid(layer: Layer, block: Block, encodings: Encodings) -> dict[str, np.ndarray]:
    return {
        name: ops.fake_quantize_numpy(w, encodings[block.weights[name].name]) if name in block.weights else w
        for name, w in layer.weights.items()
    }
