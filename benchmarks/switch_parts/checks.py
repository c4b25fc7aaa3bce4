"""What must hold for every strategy on every graph, whichever keys were turned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.switch_parts.placement import placement
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import raise_model
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.quantization.layer_kinds import KEEPS_GRID
from vqkit.quantization.plan import Plan
from vqkit.quantization.planner import resolve
from vqkit.quantization.prepare import graphs
from vqkit.strategy import Strategy

FLOAT_RTOL = 1e-4
"""Float32 rounding of folded and equalized weights, relative to the largest output."""


def changes_the_function(kwargs: Mapping[str, Any], compat: bool) -> bool:
    """Whether the optimized graph may compute something else: by intent, or by the reference's mistake."""
    return "convert_relu6_to_relu" in kwargs or (compat and "cle_to_relu6" in kwargs)


def faults(
    lowered: Graph,
    strategy: str,
    kwargs: Mapping[str, Any],
    *,
    compat: bool,
    x: Any = None,
    wanted: Any = None,
) -> Iterator[str]:
    """Everything that is wrong with the graphs and the plan of one strategy, a line each.

    Args:
        lowered: the user's model.
        strategy: name of a built-in.
        kwargs: what was turned.
        compat: as the reference does.
        x: inputs to compare the optimized graph on, with the model's outputs in `wanted`; neither: not
            compared.
        wanted: the user's model's outputs.

    Raises:
        StrategyError: the strategy is refused: a key reaches no quantizer, or the reference has none such.
    """
    chosen = Strategy.builtin(strategy).with_kwargs(**kwargs)
    made = graphs(lowered, chosen, vitis_compat=compat)
    plan = resolve(chosen, made.device, vitis_compat=compat)
    yield from _rows(plan, made.device)
    if compat:
        ours, theirs = placed(plan), placement(made.device, strategy, kwargs)
        if ours != theirs:
            yield f"placement: {sorted(ours - theirs)} too many, {sorted(theirs - ours)} missing"
    else:
        yield from _off_the_grid(plan, made.device)
    if x is not None and not changes_the_function(kwargs, compat):
        yield from _another_function(made.optimized, x, wanted)


def placed(plan: Plan) -> set[str]:
    """The quantized tensors of a plan, named as `placement` names them."""
    words = {"input": "input", "pre_activation": "before"}
    return {r.name if r.is_weight else f"{r.layer}:{words.get(r.slot.value, 'behind')}" for r in plan.quantized}


def _rows(plan: Plan, graph: Graph) -> Iterator[str]:
    """Each tensor once, every weight of the graph accounted for, a reason for whatever stays float."""
    names = [r.name for r in plan.rows]
    if len(names) != len(set(names)):
        yield f"rows twice: {sorted({n for n in names if names.count(n) > 1})}"
    weights = {f"{name}/{w}" for name, layer in graph.layers.items() for w in layer.weights}
    if missing := weights - set(names):
        yield f"weights without a row: {sorted(missing)}"
    if silent := [r.name for r in plan.rows if r.spec is None and not r.reason]:
        yield f"float without a reason: {silent}"


def _off_the_grid(plan: Plan, graph: Graph) -> Iterator[str]:
    """By default whatever a layer with quantized weights reads has been quantized."""
    weighted = {r.layer for r in plan.quantized if r.is_weight and r.kind in WEIGHTED}
    values = {(r.value, reader) for r in plan.quantized if r.value is not None for reader in r.readers or [""]}
    producers = graph.producers()

    def on_grid(value: int, reader: str) -> bool:
        if (value, "") in values or (value, reader) in values:
            return True
        node = producers.get(value)
        keeps = node is not None and graph.kind(node) in KEEPS_GRID
        return keeps and node is not None and all(on_grid(v, node.name) for v in node.inputs)

    for node in graph.nodes:
        if node.layer in weighted and not all(on_grid(v, node.name) for v in node.inputs):
            yield f"{node.name} has quantized weights and reads floats"


def _another_function(optimized: Graph, x: Any, wanted: list[np.ndarray]) -> Iterator[str]:
    import keras

    got = [np.asarray(t) for t in keras.tree.flatten(raise_model(optimized)(x, training=False))]
    for at, (ours, want) in enumerate(zip(got, wanted, strict=True)):
        apart = float(np.abs(ours - want).max())
        if not apart <= FLOAT_RTOL * max(1.0, float(np.abs(want).max())):
            yield f"the optimized graph's output {at} is {apart:.3g} from the model's"
