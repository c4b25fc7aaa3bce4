"""The optimize pipeline of a strategy, in the reference's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vqkit.graph.ir import Graph
from vqkit.graph.passes import device, equalize, simplify
from vqkit.graph.passes.simplify import batch_norm_to_depthwise, fold_batch_norm

Pass = tuple[str, bool, Callable[[Graph], Graph]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph after passes, and what each pass did.

    Attributes:
        graph: the rewritten graph.
        report: one line for each pass that ran.
    """

    graph: Graph
    report: tuple[str, ...]


def optimize(
    graph: Graph,
    config: Any,
    *,
    vitis_compat: bool = False,
    leave: Callable[[Graph], Graph] = lambda graph: graph,
) -> Prepared:
    """Run the optimize pipeline.

    Args:
        graph: with candidates selected.
        config: the strategy's `optimize_pipeline_config`, one attribute for each key.
        vitis_compat: with the reference's mistakes.
        leave: takes the layers out of a graph's candidates whose function must not change.

    Returns:
        The float graph that will be quantized.
    """
    return _run(
        graph,
        [
            (
                "remove_dropout",
                config.remove_dropout,
                lambda g: simplify.remove_dropout(g, vitis_compat=vitis_compat),
            ),
            ("convert_tf_op_to_keras", config.convert_tf_op_to_keras, simplify.ops_to_layers),
            ("separate_conv_act", config.separate_conv_act, simplify.separate_activations),
            (
                "convert_relu6_to_relu",
                config.convert_relu6_to_relu,
                lambda g: _selected_as(g, simplify.relu6_to_relu(leave(g))),
            ),
            ("fold_conv_bn", config.fold_conv_bn and not config.train_with_bn, fold_batch_norm),
            ("convert_bn_to_dwconv", config.convert_bn_to_dwconv, batch_norm_to_depthwise),
            (
                "include_cle",
                config.include_cle,
                lambda g: equalize.equalize(
                    g,
                    steps=config.cle_steps,
                    balance=config.cle_balance_method,
                    threshold=config.cle_weight_threshold,
                    through_relu6=config.cle_to_relu6,
                    vitis_compat=vitis_compat,
                ),
            ),
        ],
    )


def to_device_form(graph: Graph, config: Any, *, vitis_compat: bool = False) -> Prepared:
    """Run the conversions of the quantize pipeline.

    Args:
        graph: an optimized graph.
        config: the strategy's `quantize_pipeline_config`.
        vitis_compat: with the reference's mistakes.

    Returns:
        The graph whose values will be quantized.
    """
    sigmoid = config.convert_sigmoid_to_hard_sigmoid and config.convert_hard_sigmoid_to_dpu_version
    converted = _run(
        graph,
        [
            (
                "convert_sigmoid_to_hard_sigmoid",
                sigmoid,
                lambda g: device.sigmoids(g, vitis_compat=vitis_compat),
            ),
            (
                "convert_hard_sigmoid_to_dpu_version",
                config.convert_hard_sigmoid_to_dpu_version,
                lambda g: device.hard_sigmoid_patterns(g, vitis_compat=vitis_compat),
            ),
            (
                "convert_average_pooling2d_to_dpu_version",
                config.convert_average_pooling2d_to_dpu_version,
                lambda g: device.average_pools(g, vitis_compat=vitis_compat),
            ),
            (
                "convert_leaky_relu_to_dpu_version",
                config.convert_leaky_relu_to_dpu_version,
                device.leaky_relus,
            ),
        ],
    )
    # By default what such a layer gives is quantized; the reference quantizes what its function reads.
    return replace(converted, graph=simplify.show_inline_activations(converted.graph)) if vitis_compat else converted


def _selected_as(graph: Graph, rewritten: Graph) -> Graph:
    """A rewritten graph with the candidates that it had before."""
    rewritten.candidates, rewritten.ignored = graph.candidates, graph.ignored
    return rewritten


def _run(graph: Graph, passes: list[Pass]) -> Prepared:
    report = []
    for name, wanted, function in passes:
        if wanted:
            before, graph = graph, function(graph)
            changed = sum(1 for k, v in graph.layers.items() if before.layers.get(k) is not v)
            gone = len(before.layers.keys() - graph.layers.keys())
            report.append(f"{name}: {changed} layers changed or added, {gone} removed")
    return Prepared(graph, tuple(report))
