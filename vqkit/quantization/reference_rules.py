"""Where the reference puts quantizers, its gaps included: the planner's rules under `vitis_compat`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vqkit.errors import StrategyError
from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.passes.match import Chains, kind_in, reference_name
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.primitives.spec import compat_refusal
from vqkit.quantization.layer_kinds import (
    ACTIVATIONS,
    DEVICE_POOLS,
    QUANTIZED_AFTER,
    QUANTIZED_BEFORE,
)
from vqkit.quantization.plan import QuantizedRow, Row


class ReferenceRules:
    """What the reference decides from a node's neighbours.

    Args:
        graph: optimized and in device form.
        rules: node name -> the strategy's rule.
        merged: node name -> the activation behind which its output is quantized instead.
        float_scale: whether the strategy's scales are floats (`fs`, `fsx`).
    """

    def __init__(self, graph: Graph, rules: Mapping[str, Any], merged: Mapping[str, str], float_scale: bool) -> None:
        self._graph, self._rules, self._merged, self._float_scale = graph, rules, merged, float_scale
        self._chains, self._producers = Chains(graph), graph.producers()

    def standalone(self) -> set[str]:
        """Activations that it leaves float: it knows them behind what they are computed with only.

        Behind a pool the activation is quantized and the pool as well; average pools count where they were
        converted to the device's form.
        """
        tails = set(self._merged.values())
        found = [n for n in self._graph.nodes if self._graph.kind(n) in ACTIVATIONS and n.name not in tails]
        return {n.name for n in found if not self._behind_pool(n)}

    def _behind_pool(self, node: Node) -> bool:
        if self._float_scale or self._graph.kind(node) not in ("ReLU", "Activation"):
            return False
        chain = self._chains.upstream(node, kind_in(*DEVICE_POOLS))
        return chain is not None and chain[0].name in self._rules

    def wants_input_quantizer(self, node: Node, value: int) -> bool:
        """Whether a quantizer stands between a value and the quantized layer that reads it."""
        if len(node.inputs if self._float_scale else set(node.inputs)) != 1:
            return False
        producer = self.maker(value)
        if producer is None:
            return self._float_scale
        rule = self._rules.get(producer.name)
        if rule is None:
            return self._float_scale or self._graph.is_candidate(producer)
        whole_layer_off = producer.name in self._merged and self._graph.kind(producer) not in WEIGHTED
        return self._float_scale and (whole_layer_off or not (rule.activations or rule.outputs))

    def maker(self, value: int) -> Node | None:
        """The producer of a value; of a shown inline function the layer that computes it."""
        node = self._producers.get(value)
        shown = node is not None and is_inline(self._graph.layer_of(node))
        return self._producers.get(node.inputs[0]) if node is not None and shown else node

    def inline_function(self, node: Node) -> str | None:
        """Name of the function that a layer computes itself, where it is shown behind the layer.

        Raises:
            StrategyError: the reference cannot quantize in front of it.
        """
        reader = self._chains.only_reader(node)
        if reader is None or not is_inline(layer := self._graph.layer_of(reader)):
            return None
        if (name := reference_name(layer)) not in QUANTIZED_BEFORE:
            raise unknown_function(node, name)
        return name


def is_inline(layer: Layer) -> bool:
    """Whether a layer only shows the function of the layer before it."""
    return getattr(layer.cls, "inline", False)


def unknown_function(node: Node, name: str) -> StrategyError:
    """The error for an activation function that the reference does not quantize."""
    return StrategyError(
        f"{node.name}: activation {name!r} cannot be quantized; "
        f"allowed: {', '.join((*QUANTIZED_AFTER, *QUANTIZED_BEFORE))}"
    )


def refuse_what_the_reference_refuses(rows: Iterable[Row]) -> None:
    """Raise where the reference has no such quantizer.

    Args:
        rows: of a plan.

    Raises:
        StrategyError: naming the first tensor and the reference's reason.
    """
    for row in rows:
        if isinstance(row, QuantizedRow) and (refusal := compat_refusal(row.spec)):
            raise StrategyError(f"{row.name}: vitis_compat: {refusal}. Without vitis_compat it works")
