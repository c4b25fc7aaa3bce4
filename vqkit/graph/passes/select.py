"""Which part of a model is optimized and quantized: `input_layers`, `output_layers`, `ignore_layers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vqkit.errors import StrategyError, not_allowed
from vqkit.graph.ir import Graph, Node
from vqkit.graph.passes.match import Chains
from vqkit.graph.passes.simplify import DROPOUTS, WEIGHTED

_ACTIVATIONS = ("ReLU", "LeakyReLU", "Activation")
_BEFORE_ACTIVATIONS = (*WEIGHTED, "Add", "Multiply")
_NORM = "BatchNormalization"


def select(
    graph: Graph,
    *,
    input_layers: Sequence[str] = (),
    output_layers: Sequence[str] = (),
    ignore_layers: Sequence[str] = (),
    vitis_compat: bool = False,
) -> Graph:
    """Mark the candidates of a partial model.

    Everything that some output layer needs is a candidate, except what lies before an input layer
    (the named layers themselves are in) and what is ignored.

    Args:
        graph: as lowered from the user's model, so that names are the user's.
        input_layers: where quantization starts.
        output_layers: where it stops.
        ignore_layers: what is left float in between.
        vitis_compat: as in the reference, unknown names are dropped instead of being errors, and whatever
            feeds any call of a layer is taken to feed all its calls.

    Returns:
        The graph with `candidates` set; None where nothing was selected.

    Raises:
        StrategyError: a name is no layer of the model.
    """
    names = {"input_layers": input_layers, "output_layers": output_layers, "ignore_layers": ignore_layers}
    known = {key: _known(graph, key, given, vitis_compat) for key, given in names.items()}
    graph = graph.copy()
    if not any(known.values()):
        return graph
    chosen = _needed_by(graph, known["output_layers"], vitis_compat)
    chosen -= _before(graph, known["input_layers"])
    graph.candidates = {n for n in chosen if n not in known["ignore_layers"]}
    return graph


def leave_float(graph: Graph, model: Graph, ignore_layers: Sequence[str]) -> Graph:
    """Take what became of ignored layers out of the candidates, with their batch norm and activation.

    An ignored layer is folded and equalized like any other, which changes no function; left out of that, it
    would cost the layers around it more than it saves. What it was folded with and the activation that alone
    reads it would be quantized together with it, so they stay float with it.

    Args:
        graph: the model with all layers as candidates, at any point of the optimize pipeline.
        model: as lowered from the user's model.
        ignore_layers: names in the model.

    Returns:
        The graph with fewer `candidates`; they are its `ignored`.

    Raises:
        StrategyError: a name is no layer of the model.
    """
    named = _known(model, "ignore_layers", ignore_layers, False)
    apart = {n.layer for n in model.nodes if n.name not in named or model.kind(n) in DROPOUTS}
    whole = {n.layer for n in model.nodes} - apart
    norms = {name for name, layer in model.layers.items() if layer.kind == _NORM}
    left = {n.name for n in graph.nodes if n.name in named or whole & set(n.origin)}
    chains, calls = Chains(graph), graph.calls()
    for node in graph.nodes:
        kind = _NORM if node.layer in norms else graph.kind(node)
        if node.name in left and kind in (*_BEFORE_ACTIVATIONS, _NORM):
            reader = chains.only_reader(node)
            if reader is None or calls[reader.layer] > 1:
                continue
            if graph.kind(reader) in _ACTIVATIONS or (kind in WEIGHTED and reader.layer in norms):
                left.add(reader.name)
    graph = graph.copy()
    every = {n.name for n in graph.nodes} | set(graph.inputs)
    graph.candidates = (every if graph.candidates is None else graph.candidates) - left - named
    graph.ignored = frozenset(left)
    return graph


def _known(graph: Graph, key: str, given: Sequence[str], drop_unknown: bool) -> set[str]:
    layers = {name for n in graph.nodes for name in (n.name, n.layer)} | set(graph.inputs)
    unknown = [name for name in given if name not in layers]
    if unknown and not drop_unknown:
        raise StrategyError(not_allowed(f"/{key}", unknown[0], _in_order(graph), what="layer"))
    found = {name for name in given if name in layers}
    return {n.name for n in graph.nodes if n.layer in found or n.name in found} | (found & set(graph.inputs))


def _in_order(graph: Graph) -> list[str]:
    return [*graph.inputs, *(n.name for n in graph.nodes)]


def _needed_by(graph: Graph, ends: set[str], every_call: bool) -> set[str]:
    values = {v for n in graph.nodes if n.name in ends for v in n.outputs} if ends else set(graph.outputs)
    found = _upstream(graph, values)
    while every_call:
        layers = {n.layer for n in graph.nodes if n.name in found}
        calls = [n for n in graph.nodes if n.layer in layers]
        if {n.name for n in calls} <= found:
            break
        found = _upstream(graph, {v for n in calls for v in n.outputs})
    return found


def _before(graph: Graph, starts: set[str]) -> set[str]:
    named = [n for n in graph.nodes if n.name in starts]
    return _upstream(graph, {v for n in named for v in n.inputs}) - starts


def _upstream(graph: Graph, values: Iterable[int]) -> set[str]:
    needed, found = set(values), set()
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            needed.update(node.inputs)
            found.add(node.name)
    return found | {name for name, v in graph.inputs.items() if v in needed}


def input_nodes(graph: Graph, names: Sequence[str]) -> list[Node]:
    """The nodes that `input_layers` names, in graph order."""
    return [n for n in graph.nodes if n.name in names or n.layer in names or set(n.origin) & set(names)]
