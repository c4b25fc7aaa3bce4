"""The optimize pipeline of a strategy, in the reference's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from vqkit.graph.ir import Graph
from vqkit.graph.passes import decompose, device, equalize, simplify


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph after passes, and what each pass did.

    Attributes:
        graph: the rewritten graph.
        report: one line for each pass that ran.
    """

    graph: Graph
    report: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PassInputs:
    """What a pass may read besides the graph.

    Attributes:
        config: the strategy's section, one attribute for each key.
        vitis_compat: with the reference's mistakes.
        leave: takes the layers out of a graph's candidates whose function must not change.
        weighted: class names of the convolutions and dense layers that passes know.
    """

    config: Any
    vitis_compat: bool = False
    leave: Callable[[Graph], Graph] = lambda graph: graph
    weighted: tuple[str, ...] = simplify.WEIGHTED


@dataclass(frozen=True)
class GraphPass:
    """A row of a pipeline of graphs.

    Attributes:
        key: of the strategy's section, that asks for it.
        run: gives the rewritten graph.
        needs: another key that must be set as well.
        unless: a key that switches it off.
    """

    key: str
    run: Callable[[Graph, PassInputs], Graph]
    needs: str = ""
    unless: str = ""

    def wanted(self, config: Any) -> bool:
        """Whether a strategy's section asks for it."""
        needed = all(getattr(config, key) for key in (self.key, self.needs) if key)
        return needed and not (self.unless and getattr(config, self.unless))


def _relu6_to_relu(graph: Graph, given: PassInputs) -> Graph:
    """The rewritten graph with the candidates that it had before."""
    rewritten = simplify.relu6_to_relu(given.leave(graph))
    rewritten.candidates, rewritten.ignored = graph.candidates, graph.ignored
    return rewritten


def _equalized(graph: Graph, given: PassInputs) -> Graph:
    config = given.config
    return equalize.equalize(
        graph,
        steps=config.cle_steps,
        balance=config.cle_balance_method,
        threshold=config.cle_weight_threshold,
        through_relu6=config.cle_to_relu6,
        vitis_compat=given.vitis_compat,
    )


OPTIMIZE = (
    GraphPass("remove_dropout", lambda g, given: simplify.remove_dropout(g, vitis_compat=given.vitis_compat)),
    GraphPass("convert_tf_op_to_keras", lambda g, _: simplify.ops_to_layers(g)),
    GraphPass("separate_conv_act", lambda g, given: simplify.separate_activations(g, given.weighted)),
    GraphPass("convert_relu6_to_relu", _relu6_to_relu),
    GraphPass("fold_conv_bn", lambda g, given: simplify.fold_batch_norm(g, given.weighted), unless="train_with_bn"),
    GraphPass("convert_bn_to_dwconv", lambda g, _: simplify.batch_norm_to_depthwise(g)),
    GraphPass("include_cle", _equalized),
)
"""The optimize pipeline."""

_DPU_SIGMOID = "convert_hard_sigmoid_to_dpu_version"
DEVICE_FORMS = (
    GraphPass(
        "convert_sigmoid_to_hard_sigmoid",
        lambda g, given: device.sigmoids(g, vitis_compat=given.vitis_compat),
        needs=_DPU_SIGMOID,
    ),
    GraphPass(_DPU_SIGMOID, lambda g, given: device.hard_sigmoid_patterns(g, vitis_compat=given.vitis_compat)),
    GraphPass(
        "convert_average_pooling2d_to_dpu_version",
        lambda g, given: device.average_pools(g, vitis_compat=given.vitis_compat),
    ),
    GraphPass("convert_leaky_relu_to_dpu_version", lambda g, _: device.leaky_relus(g)),
)
"""The conversions of the quantize pipeline."""


def optimize(
    graph: Graph,
    config: Any,
    *,
    vitis_compat: bool = False,
    leave: Callable[[Graph], Graph] = lambda graph: graph,
    extra_layers: bool = False,
) -> Prepared:
    """Run the optimize pipeline.

    Args:
        graph: with candidates selected.
        config: the strategy's `optimize_pipeline_config`, one attribute for each key.
        vitis_compat: with the reference's mistakes.
        leave: takes the layers out of a graph's candidates whose function must not change.
        extra_layers: passes know the layers that version 2.5 does not, and take some of them apart first.

    Returns:
        The float graph that will be quantized.
    """
    if not extra_layers:
        return _run(graph, OPTIMIZE, PassInputs(config, vitis_compat, leave))
    whole = decompose.take_apart(graph)
    report = _report("extra_layers", graph, whole) if whole is not graph else ()
    done = _run(whole, OPTIMIZE, PassInputs(config, vitis_compat, leave, simplify.EXTRA_WEIGHTED))
    return replace(done, report=(*report, *done.report))


def to_device_form(graph: Graph, config: Any, *, vitis_compat: bool = False) -> Prepared:
    """Run the conversions of the quantize pipeline.

    Args:
        graph: an optimized graph.
        config: the strategy's `quantize_pipeline_config`.
        vitis_compat: with the reference's mistakes.

    Returns:
        The graph whose values will be quantized.
    """
    converted = _run(graph, DEVICE_FORMS, PassInputs(config, vitis_compat))
    # By default what such a layer gives is quantized; the reference quantizes what its function reads.
    return replace(converted, graph=simplify.show_inline_activations(converted.graph)) if vitis_compat else converted


def _run(graph: Graph, passes: Iterable[GraphPass], given: PassInputs) -> Prepared:
    report: list[str] = []
    for each in passes:
        if each.wanted(given.config):
            before, graph = graph, each.run(graph, given)
            report += _report(each.key, before, graph)
    return Prepared(graph, tuple(report))


def _report(key: str, before: Graph, after: Graph) -> tuple[str]:
    changed = sum(1 for k, v in after.layers.items() if before.layers.get(k) is not v)
    gone = len(before.layers.keys() - after.layers.keys())
    return (f"{key}: {changed} layers changed or added, {gone} removed",)
