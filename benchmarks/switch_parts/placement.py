"""Which tensors the reference quantizes on a graph in device form, written down from its description alone.

Nothing of vqkit's planner is used: a second opinion on where quantizers stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vqkit.graph.ir import Graph, Node
from vqkit.graph.passes.match import activation_name
from vqkit.strategy import vocabulary

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "Dense")
FUSED_BEHIND_SUMS = ("ReLU", "Activation")
BEFORE = (
    "softmax",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "swish",
    "gelu",
    "tanh",
    "sigmoid",
    "exponential",
    "hard_sigmoid",
)


def placement(graph: Graph, strategy: str, kwargs: Mapping[str, Any]) -> set[str]:
    """The tensors that the reference quantizes.

    Args:
        graph: optimized and in device form.
        strategy: name of a built-in.
        kwargs: what was turned.

    Returns:
        `<layer>/<weight>` for constants, `<layer>:before` and `<layer>:behind` for values, and
        `quant_<layer>:input` for quantizers of their own.
    """
    return _Reference(graph, strategy, kwargs).tensors()


class _Reference:
    def __init__(self, graph: Graph, strategy: str, kwargs: Mapping[str, Any]) -> None:
        document = vocabulary.builtin_document(strategy)
        entries = document["quantize_registry_config"]["layer_quantize_config"]
        self.entries = {e["layer_type"].rpartition(".")[2]: e for e in entries}
        self.switches = {**document["quantize_pipeline_config"], **kwargs}
        self.graph, self.float_scale = graph, strategy in ("fs", "fsx")
        self.shown = {n.inputs[0]: n for n in graph.nodes if getattr(graph.layer_of(n).cls, "inline", False)}
        self.calls = Counter(n.layer for n in graph.nodes)
        self.readers = Counter(v for n in graph.nodes for v in n.inputs) + Counter(graph.outputs)
        self.made = {v: n for n in graph.nodes for v in n.outputs}
        self.silent: set[str] = set()  # nothing is quantized behind these
        self.known: set[str] = set()  # activations that are seen with what they are computed with
        self._annotate()

    def kind(self, node: Node) -> str:
        return self.graph.kind(node)

    def free(self, node: Node) -> bool:
        return self.graph.is_candidate(node) and self.calls[node.layer] == 1 and node not in self.shown.values()

    def entry(self, node: Node) -> Any:
        return self.entries.get(self.kind(node)) if self.free(node) else None

    def _annotate(self) -> None:
        for act in self.graph.nodes:
            head = self.made.get(act.inputs[0]) if len(act.inputs) == 1 else None
            if head is None or self.entry(act) is None or self.entry(head) is None:
                continue
            if len(head.outputs) == 1 and self.readers[head.output] == 1:
                self._fuse(head, act)

    def _fuse(self, head: Node, act: Node) -> None:
        above, below = self.kind(head), self.kind(act)
        linear = activation_name(self.graph.layer_of(head)) == "linear" and head.output not in self.shown
        if above in CONVOLUTIONS and linear and self.switches.get("no_quant_in_conv_act", True):
            tails = ("ReLU", "Activation") if self.float_scale else ("ReLU", "Activation", "LeakyReLU")
            if below in tails:
                self.known.add(act.name)
                self.silent.add(head.name)
        sums = ("Add",) if self.float_scale else ("Add", "Multiply")
        if above in sums and below in FUSED_BEHIND_SUMS and self.switches.get("no_quant_in_add_act", True):
            self.known.add(act.name)
            self.silent.add(head.name)
        pools = ("MaxPooling2D", "VitisAveragePooling2D", "VitisGlobalAveragePooling2D")
        if above in pools and below in FUSED_BEHIND_SUMS and not self.float_scale:
            self.known.add(act.name)

    def wrapped(self, node: Node) -> bool:
        alone = self.kind(node) in ("ReLU", "Activation", "LeakyReLU") and node.name not in self.known
        return self.entry(node) is not None and not alone

    def tensors(self) -> set[str]:
        inputs = [k for k in self.graph.inputs if self.graph.candidates is None or k in self.graph.candidates]
        found = {f"quant_{k}:input" for k in inputs}
        for node in self.graph.nodes:
            if self.wrapped(node):
                found |= self._own(node) | self._in_front(node)
        return found

    def _own(self, node: Node) -> set[str]:
        entry, layer = self.entry(node), self.graph.layer_of(node)
        named = [*entry.get("quantizable_weights", ()), *entry.get("quantizable_biases", ())]
        short = [w if w in layer.weights else w.replace("depthwise_", "") for w in named]
        found = {f"{node.layer}/{w}" for w in short if w in layer.weights}
        if node.name in self.silent:
            return found
        inline = self.shown.get(node.output)
        if entry.get("quantizable_activations"):
            function = activation_name(layer if inline is None else self.graph.layer_of(inline))
            before = function in BEFORE
            return found | {f"{node.name}:{'before' if before else 'behind'}"}
        return found | ({f"{node.name}:behind"} if entry.get("quantizable_outputs") else set())

    def _in_front(self, node: Node) -> set[str]:
        if len(set(node.inputs)) != 1:
            return set()
        value = node.inputs[0]
        producer = self.made.get(value)
        if producer is None:
            name = next(k for k, v in self.graph.inputs.items() if v == value)
            return {f"quant_{name}:input"} if self.float_scale else set()
        if producer in self.shown.values():
            producer = self.made[producer.inputs[0]]
        if not self.wrapped(producer):
            return {f"quant_{producer.name}:input"} if self.float_scale or self.free_of(producer) else set()
        whole = producer.name in self.silent and self.kind(producer) not in CONVOLUTIONS
        entry = self.entry(producer)
        behind = entry.get("quantizable_activations") or entry.get("quantizable_outputs")
        return {f"quant_quant_{producer.name}:input"} if self.float_scale and (whole or not behind) else set()

    def free_of(self, producer: Node) -> bool:
        return self.graph.is_candidate(producer)
